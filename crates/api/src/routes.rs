//! Every route of the service, in one table.

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post, put},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    Api, caller, error, guard, home, limits, metrics, probes,
    rest::{credentials, deployments, executions, history, info, jobs, keytab, properties, secrets, sources},
};

/// The service as a router.
pub fn router(api: Arc<Api>) -> Router {
    let job = "/data-jobs/for-team/{team_name}/jobs/{job_name}";
    let deployment = format!("{job}/deployments/{{deployment_id}}");
    let at = |tail: &str| format!("{job}{tail}");
    let below = |tail: &str| format!("{deployment}{tail}");

    #[rustfmt::skip]
    let public = Router::new()
        .route("/", get(home::home))
        .route("/data-jobs/for-team/{team_name}/info", get(info::info))
        .route("/data-jobs/for-team/{team_name}/jobs", get(crate::graphql::jobs_query).post(jobs::data_job_create))
        .route(job, get(jobs::data_job_read).put(jobs::data_job_update).delete(jobs::data_job_delete))
        .route(&at("/keytab"), get(keytab::data_job_keytab_download))
        .route(&at("/team/{new_team}"), put(jobs::data_job_team_update))
        .route(&at("/sources"), get(sources::data_job_sources_download).post(sources::sources_upload).delete(sources::sources_delete))
        .route(&at("/deployments"), get(deployments::deployment_list).post(deployments::deployment_update))
        .route(&deployment, get(deployments::deployment_read).patch(deployments::deployment_patch).delete(deployments::deployment_delete))
        .route(&below("/rollout"), get(deployments::deployment_rollout_read))
        .route(&below("/revisions"), get(history::deployment_revision_list))
        .route(&below("/revisions/{generation}"), get(history::deployment_revision_read))
        .route(&below("/revisions/{generation}/diff/{other}"), get(history::deployment_revision_diff))
        .route(&below("/revisions/{generation}/rollback"), post(history::deployment_rollback))
        .route(&at("/audit-events"), get(history::data_job_audit_event_list))
        .route(&below("/executions"), get(executions::data_job_deployment_execution_list).post(executions::data_job_execution_start))
        .route(&below("/properties"), get(properties::data_job_properties_read).put(properties::data_job_properties_update))
        .route(&below("/secrets"), get(secrets::data_job_secrets_read).put(secrets::data_job_secrets_update))
        .route(&at("/executions"), get(executions::data_job_execution_list))
        .route(&at("/executions/{execution_id}"), get(executions::data_job_execution_read).delete(executions::data_job_execution_cancel))
        .route(&at("/executions/{execution_id}/logs"), get(executions::data_job_logs_download))
        .route("/data-jobs/teams/{team_name}/oauth-credentials", get(credentials::oauth_credentials_get).put(credentials::oauth_credentials_put))
        .route("/data-jobs/teams/{team_name}/oauth-credentials/client-id", get(credentials::client_id_get))
        .route("/data-jobs/oauth-credentials/client-ids", post(credentials::get_team_ids_for_client_ids))
        .route("/data-jobs/graphql", get(crate::graphql::explorer).post(crate::graphql::graphql))
        .route("/data-jobs/debug/prometheus", get(metrics::prometheus))
        .fallback(error::unknown_route)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&api), limits::admit))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guard::guard));

    // Probes answer under any load and to any host: they say nothing that a stranger may not know.
    #[rustfmt::skip]
    let probes = Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/data-jobs/debug/health", get(probes::readyz))
        .route("/data-jobs/debug/health/liveness", get(probes::livez))
        .route("/data-jobs/debug/health/readiness", get(probes::readyz))
        .method_not_allowed_fallback(error::wrong_method);

    public
        .merge(probes)
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), caller::identify))
        .with_state(api)
}
