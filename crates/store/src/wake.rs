//! Wake-up calls from those who commit to those who work. A lost one costs latency, never work: the work is a query.

use std::sync::Arc;

use tokio::sync::Notify;

/// One bell for each loop of the synchronizer. Clones ring the same bells.
#[derive(Debug, Clone, Default)]
pub struct Wake {
    /// A deployment changed.
    pub deployments: Arc<Notify>,
    /// An execution was accepted, is to be cancelled, or released its job.
    pub executions: Arc<Notify>,
    /// A schedule appeared or changed, or a job became free for a tick that waits.
    pub schedules: Arc<Notify>,
}
