//! Transport: requests come in as HTTP, become a verb of `app`, and its answer goes out as HTTP. Nothing is decided here
//! but how a thing is said on the wire.
//!
//! A handler is named as the API's operationId, in the file of its noun. [`routes`] lists them all, [`error`] alone knows
//! which status code a problem has, [`guard`] decides which requests a browser may send.

mod access_log;
pub mod auth;
mod caller;
mod error;
mod exposition;
pub mod graphql;
mod guard;
mod home;
mod input;
mod limits;
mod links;
mod memory;
mod metrics;
mod openapi;
mod page;
mod paths;
mod preconditions;
mod principals;
mod probes;
mod rest;
mod routes;
mod seldom;
mod server;
mod streams;
mod transfers;
mod waiting;

use std::sync::Arc;

use model::{clock::SharedClock, deployment::VersionDefaults, runtime::Runtime, source::ArchiveLimits};
use tokio::sync::watch;

pub use app::{memory::MemoryBudget, scratch::Scratch};
pub use error::status_of;
pub use limits::Limits;
pub use links::{DateFormat, LogsUrl, Template};
pub use metrics::{HttpMetrics, MetricsAccess, MetricsPage, MetricsToken, router as metrics_router};
pub use page::WebPage;
pub use principals::{PrincipalLimits, Principals};
pub use probes::answers;
pub use routes::{document as openapi_document, router};
pub use server::{ServerLimits, serve};
pub use transfers::Transfers;
pub use waiting::router as waiting_router;

/// The state that handlers use.
#[derive(Debug)]
pub struct Api {
    /// The rows.
    pub db: app::Db,
    /// Time and identifiers.
    pub clock: SharedClock,
    /// Asked for the log of a run in progress, and for nothing else.
    pub runtime: Arc<dyn Runtime>,
    /// The keys that secrets are encrypted with.
    pub keys: Arc<app::KeyRing>,
    /// The limits of an upload.
    pub archive_limits: ArchiveLimits,
    /// The time zone of schedules that name none.
    pub default_zone: String,
    /// The Python and VDK versions on offer.
    pub versions: Arc<VersionDefaults>,
    /// Names beside loopback that the `Host` header may have; `*` allows any.
    pub hosts: Vec<String>,
    /// Where the log of a run can be looked at, when it is not here.
    pub logs_url: Option<LogsUrl>,
    /// Where the source of a job can be looked at.
    pub source_url_template: Option<Template>,
    /// The web page.
    pub page: Arc<WebPage>,
    /// The version that `info` answers.
    pub api_version: String,
    /// Whether the service is ready for requests; false while it starts and while it stops.
    pub readiness: watch::Receiver<bool>,
    /// The series of the metrics endpoint; absent if the operator disabled it.
    pub metrics_page: Option<MetricsPage>,
    /// Where the metrics endpoint is, and who may read it.
    pub metrics_access: MetricsAccess,
    /// Whether each request gets a line in the log.
    pub access_log: bool,
    /// The part of the registry that is about requests.
    pub metrics: HttpMetrics,
    /// The authentication of callers; absent if authentication is off.
    pub auth: Option<auth::Authentication>,
    /// How much is taken on at once.
    pub limits: Limits,
    /// The limits of each caller per minute.
    pub principals: Principals,
    /// The places and temporary files of uploads and downloads.
    pub transfers: Transfers,
    /// The bytes that all requests may hold at once.
    pub memory: MemoryBudget,
}

impl Api {
    /// The rows, those of lists counted in the memory of all requests while they are read.
    pub(crate) fn metered_db(&self) -> app::Db {
        self.db.metered(Arc::new(self.memory.for_request(usize::MAX)))
    }
}
