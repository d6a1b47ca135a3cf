//! Every route of the service, in one table. Methods and descriptions are in the handlers.

use std::sync::{Arc, LazyLock};

use axum::{Extension, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::routes;

use crate::{
    Api, auth, caller, error, graphql, guard, home, limits, metrics,
    openapi::{self, KeyedBody, Layers, Served, Table, pages},
    page, paths, preconditions, probes,
    rest::{
        credentials, deleted_jobs, deployments, executions, history, info, jobs, keytab, properties, secrets, sources,
        tokens,
    },
};

/// The routes of clients and users.
#[rustfmt::skip]
pub(crate) fn operations() -> Table {
    let job = "/data-jobs/for-team/{team_name}/jobs/{job_name}";
    let deployment = format!("{job}/deployments/{{deployment_id}}");
    let at = |tail: &str| format!("{job}{tail}");
    let below = |tail: &str| format!("{deployment}{tail}");
    let keyed = KeyedBody::Buffered { max_bytes: limits::JSON_MAX_BYTES };

    Table::new(Layers::Guarded)
        .at("/", routes!(home::home))
            .page()
        .at("/data-jobs/for-team/{team_name}/info", routes!(info::info))
        .at("/data-jobs/for-team/{team_name}/jobs", routes!(graphql::jobs_query, jobs::data_job_create))
            .idempotent(keyed)
        .at(job, routes!(jobs::data_job_read, jobs::data_job_update, jobs::data_job_delete))
        .at(&at("/undelete"), routes!(deleted_jobs::data_job_undelete))
            .idempotent(keyed)
        .at("/data-jobs/for-team/{team_name}/deleted-jobs", routes!(deleted_jobs::data_job_deleted_list))
        .at(&at("/keytab"), routes!(keytab::data_job_keytab_download))
        .at(&at("/team/{new_team}"), routes!(jobs::data_job_team_update))
        .at(&at("/sources"), routes!(sources::data_job_sources_download, sources::sources_upload, sources::sources_delete))
            .idempotent(KeyedBody::Streamed)
        .at(&at("/deployments"), routes!(deployments::deployment_list, deployments::deployment_update))
            .idempotent(keyed)
        .at(&deployment, routes!(deployments::deployment_read, deployments::deployment_patch, deployments::deployment_delete))
        .at(&below("/rollout"), routes!(deployments::deployment_rollout_read))
        .at(&below("/revisions"), routes!(history::deployment_revision_list))
        .at(&below("/revisions/{revision}"), routes!(history::deployment_revision_read))
        .at(&below("/revisions/{revision}/diff/{other}"), routes!(history::deployment_revision_diff))
        .at(&below("/revisions/{revision}/rollback"), routes!(history::deployment_rollback))
            .idempotent(keyed)
        .at(&at("/scheduled-times"), routes!(jobs::data_job_scheduled_time_list))
        .at(&at("/audit-events"), routes!(history::data_job_audit_event_list))
        .at(&below("/executions"), routes!(executions::data_job_deployment_execution_list, executions::data_job_execution_start))
            .idempotent(keyed)
        .at(&below("/properties"), routes!(properties::data_job_properties_read, properties::data_job_properties_update))
        .at(&below("/secrets"), routes!(secrets::data_job_secrets_read, secrets::data_job_secrets_update))
        .at(&at("/executions"), routes!(executions::data_job_execution_list))
        .at(&at("/executions/{execution_id}"), routes!(executions::data_job_execution_read, executions::data_job_execution_cancel))
        .at(&at("/executions/{execution_id}/logs"), routes!(executions::data_job_logs_download))
        .at("/data-jobs/teams/{team_name}/oauth-credentials", routes!(credentials::oauth_credentials_get, credentials::oauth_credentials_put))
        .at("/data-jobs/teams/{team_name}/oauth-credentials/client-id", routes!(credentials::client_id_get))
        .at("/data-jobs/oauth-credentials/client-ids", routes!(credentials::get_team_ids_for_client_ids))
        .at(paths::TOKEN_PATH, routes!(tokens::token_issue))
        .at("/data-jobs/graphql", routes!(graphql::post::graphql_explorer, graphql::post::graphql))
            .page()
        .at("/data-jobs/api-docs", routes!(pages::api_docs))
        .at("/data-jobs/swagger-ui.html", routes!(pages::swagger_ui))
            .page()
        .at("/data-jobs/swagger-ui/{file}", routes!(pages::swagger_ui_file))
        .at(paths::METRICS_PATH, routes!(metrics::prometheus))
        .web_page(page::routes())
}

/// Probes answer under any load and to any host: they say nothing that a stranger may not know.
#[rustfmt::skip]
pub(crate) fn probes() -> Table {
    Table::new(Layers::Open)
        .at("/livez", routes!(probes::livez))
        .at("/readyz", routes!(probes::readyz))
        .at("/data-jobs/debug/health", routes!(probes::health))
        .at("/data-jobs/debug/health/liveness", routes!(probes::health_liveness))
        .at("/data-jobs/debug/health/readiness", routes!(probes::health_readiness))
}

/// The description of all operations, as JSON.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let document = openapi::document([operations(), probes()]);
        document.to_pretty_json().expect("a document of texts and numbers is JSON")
    });
    &DOCUMENT
}

/// The service as a router.
pub fn router(api: Arc<Api>) -> Router {
    let (operations, marks) = operations().into_router();
    let marks = Arc::new(marks);
    let public = operations
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn_with_state((Arc::clone(&api), Arc::clone(&marks)), preconditions::read))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), limits::share))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), auth::authenticate))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), limits::admit))
        .layer(middleware::from_fn_with_state((Arc::clone(&api), marks), guard::guard));

    public
        .merge(probes().into_router().0.method_not_allowed_fallback(error::wrong_method))
        .layer(Extension(Served(document)))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), caller::identify))
        .with_state(api)
}
