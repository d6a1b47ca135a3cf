//! Whether the service lives, and whether it is ready.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;
use tokio::time::timeout;

use crate::Api;

/// How long the database may take to answer a probe.
const PING_TIMEOUT_SECONDS: u64 = 2;

/// The words of the reference's health endpoints.
#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Health {
    Up,
    Down,
}

#[derive(Serialize)]
struct Liveness {
    status: Health,
}

#[derive(Serialize)]
struct Readiness {
    status: Health,
    components: Components,
}

#[derive(Serialize)]
struct Components {
    database: Component,
    service: Component,
    #[serde(skip_serializing_if = "Option::is_none")]
    runs: Option<Component>,
}

#[derive(Serialize)]
struct Component {
    status: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Component {
    fn unless(reason: Option<&'static str>) -> Self {
        Self { status: if reason.is_none() { Health::Up } else { Health::Down }, reason }
    }
}

/// The process answers. A database that is down is no reason to restart it.
pub(crate) async fn livez() -> impl IntoResponse {
    Json(Liveness { status: Health::Up })
}

/// The service can carry out requests; if not, the body says what is in the way.
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let database = match timeout(Duration::from_secs(PING_TIMEOUT_SECONDS), api.db.ping()).await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some("it does not answer"),
        Err(_) => Some("it did not answer in time"),
    };
    let service = (!*api.readiness.borrow()).then_some("it is starting or stopping");
    let ready = database.is_none() && service.is_none();
    // This instance does all that it can do: it is ready.
    let elsewhere = ready && matches!(app::executions::are_elsewhere(&api.db, &*api.runtime).await, Ok(true));
    let runs = elsewhere.then_some(Component {
        status: Health::Up,
        reason: Some("they are on another machine; this instance carries out requests and never leads"),
    });
    let body = Readiness {
        status: if ready { Health::Up } else { Health::Down },
        components: Components { database: Component::unless(database), service: Component::unless(service), runs },
    };
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}
