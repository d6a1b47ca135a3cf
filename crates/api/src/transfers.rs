//! Places and temporary files that requests share while large bodies are received and sent.

use std::{sync::Arc, time::Duration};

use app::{
    logs::LiveLogs,
    memory::MemoryBudget,
    places::{PlaceLimits, Places},
    scratch::Scratch,
    sources::Uploads,
};
use model::clock::SharedClock;
use tokio::sync::Semaphore;

use crate::streams;

/// How many large answers of GraphQL are made at the same time.
pub(crate) const LARGE_ANSWERS_MAX: usize = 2;

/// Places and temporary files of large bodies, and each caller's share of the requests in progress.
#[derive(Debug)]
pub struct Transfers {
    /// Uploads in progress.
    pub(crate) uploads: Uploads,
    /// Responses that are sent piece by piece.
    pub(crate) streams: Places,
    /// Reads the logs of running executions.
    pub(crate) live_logs: LiveLogs,
    /// Of the requests in progress, each caller may have half, and callers without any get the last ones.
    pub(crate) shares: Places,
    /// Large answers of GraphQL that are made at the same time.
    pub(crate) large_answers: Arc<Semaphore>,
}

impl Transfers {
    /// With temporary files in `scratch`, for at most `requests_max` requests at once and logs of at most `log_max_bytes`.
    pub fn new(
        scratch: &Scratch,
        memory: &MemoryBudget,
        clock: &SharedClock,
        requests_max: usize,
        log_max_bytes: usize,
    ) -> Self {
        let shares =
            PlaceLimits { what: "requests", at_once_max: requests_max, waiting_max: 0, wait_max: Duration::ZERO };
        Self {
            uploads: Uploads::new(scratch.clone(), clock),
            streams: streams::places(Arc::clone(clock)),
            live_logs: LiveLogs::new(scratch.clone(), memory.clone(), Arc::clone(clock), log_max_bytes),
            shares: Places::new(shares, Arc::clone(clock)),
            large_answers: Arc::new(Semaphore::new(LARGE_ANSWERS_MAX)),
        }
    }
}
