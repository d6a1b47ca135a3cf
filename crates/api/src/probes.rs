//! Whether the service lives, and whether it is ready.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::IntoResponse,
};
use serde::Serialize;
use tower::ServiceExt;
use utoipa::ToSchema;

use crate::Api;

/// How long the database may take to answer a probe.
const PING_TIMEOUT_SECONDS: u64 = 2;

/// The statuses of upstream's health endpoints.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Health {
    Up,
    Down,
}

/// The process answers.
#[derive(Serialize, ToSchema)]
struct Liveness {
    status: Health,
}

/// Whether the service can carry out requests.
#[derive(Serialize, ToSchema)]
struct Readiness {
    status: Health,
    components: Components,
}

/// The dependencies of the service.
#[derive(Serialize, ToSchema)]
#[schema(as = ReadinessComponents)]
struct Components {
    database: Component,
    service: Component,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<Component>,
    /// Present when the key that secrets are stored with is missing. Everything else is carried out, so the service is
    /// ready all the same: if it were not, a key that is missing everywhere would take all instances away.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Component>,
}

/// A dependency of the service.
#[derive(Serialize, ToSchema)]
#[schema(as = ReadinessComponent)]
struct Component {
    status: Health,
    /// The problem; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'static str>,
}

impl Component {
    fn unless(reason: Option<&'static str>) -> Self {
        Self { status: if reason.is_none() { Health::Up } else { Health::Down }, reason }
    }
}

/// Whether a router answers the liveness probe: what a watchdog asks from within.
pub async fn answers(router: axum::Router) -> bool {
    let request = Request::get("/livez").body(Body::empty()).expect("a request");
    let Ok(response) = router.oneshot(request).await;
    response.status() == StatusCode::OK
}

/// Whether the process lives.
///
/// Restart the process only if this probe fails. A database that is down does not make it fail.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((status = 200, description = "The process is alive.", body = Liveness))
)]
pub(crate) async fn livez() -> impl IntoResponse {
    Json(Liveness { status: Health::Up })
}

/// Whether the service is ready.
///
/// Whether the service can carry out requests. If not, the body names the missing component.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses(
        (status = 200, description = "The service is ready.", body = Readiness),
        (status = 503, description = "The service is not ready; the body has the problem.", body = Readiness),
    )
)]
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let database = match api.clock.timeout(Duration::from_secs(PING_TIMEOUT_SECONDS), api.db.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some("it does not respond"),
        Err(_) => Some("it did not respond in time"),
    };
    let service = (!*api.readiness.borrow()).then_some("it is starting or stopping");
    let ready = database.is_none() && service.is_none();
    // This instance does all that it can do: it is ready.
    let elsewhere = ready && {
        let db = api.db.for_sync();
        let asked = api
            .clock
            .timeout(Duration::from_secs(PING_TIMEOUT_SECONDS), app::executions::are_elsewhere(&db, &*api.runtime));
        matches!(asked.await, Ok(Ok(true)))
    };
    let runs = elsewhere.then_some(Component {
        status: Health::Up,
        reason: Some("executions run on another host; this instance serves requests and never leads"),
    });
    let keys = api.keys.lacks_active().then_some(Component {
        status: Health::Down,
        reason: Some(
            "the file of the active encryption key is missing here; secrets under other keys can be read, and none can be stored",
        ),
    });
    let body = Readiness {
        status: if ready { Health::Up } else { Health::Down },
        components: Components {
            database: Component::unless(database),
            service: Component::unless(service),
            runs,
            keys,
        },
    };
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

/// Reports whether the service is ready, at upstream's path.
///
/// The same as `/readyz`.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses(
        (status = 200, description = "The service is ready.", body = Readiness),
        (status = 503, description = "The service is not ready; the body has the problem.", body = Readiness),
    )
)]
pub(crate) async fn health(api: State<Arc<Api>>) -> impl IntoResponse {
    readyz(api).await
}

/// Reports whether the process is alive, at upstream's path.
///
/// The same as `/livez`.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((status = 200, description = "The process is alive.", body = Liveness))
)]
pub(crate) async fn health_liveness() -> impl IntoResponse {
    livez().await
}

/// Reports whether the service is ready, at upstream's second path.
///
/// The same as `/readyz`.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses(
        (status = 200, description = "The service is ready.", body = Readiness),
        (status = 503, description = "The service is not ready; the body has the problem.", body = Readiness),
    )
)]
pub(crate) async fn health_readiness(api: State<Arc<Api>>) -> impl IntoResponse {
    readyz(api).await
}
