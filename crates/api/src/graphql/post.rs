//! The same schema for other GraphQL clients, and a page for people to try it.

use std::sync::Arc;

use async_graphql::{Request, Variables};
use axum::{
    extract::State,
    http::{HeaderName, header},
    response::{Html, IntoResponse, Response},
};
use model::{Problem, problem::Fault};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{answer, carry_out, check_length, named_operation};
use crate::{
    Api,
    auth::is_about_the_caller,
    caller::RequestCaller,
    error::{ApiError, ApiResult},
    input::JsonBody,
};

/// A request in GraphQL's standard format. Further fields, such as extensions, are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(expecting = "a JSON object", rename_all = "camelCase")]
pub(crate) struct GraphqlRequest {
    /// The query.
    #[schema(
        format = "graphql",
        max_length = 32768,
        example = "{ jobs(pageNumber: 1, pageSize: 20) { content { jobName } totalItems } }"
    )]
    query: String,
    /// The values of the query's variables; at most 32768 bytes.
    #[schema(value_type = Option<Object>)]
    variables: Option<serde_json::Map<String, serde_json::Value>>,
    /// The operation to execute, if the query has several.
    operation_name: Option<String>,
}

/// A response in GraphQL's standard format.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the library makes the answer")]
struct GraphqlResponse {
    /// The result of the query; null if it was not executed.
    #[schema(value_type = Option<Object>, required = false)]
    data: Option<serde_json::Value>,
    /// The errors of the query, each with `message`, and with `locations` and `path` if known; absent if there are none.
    #[schema(value_type = Vec<Object>, required = false)]
    errors: Option<Vec<serde_json::Value>>,
}

/// Answers a GraphQL query.
///
/// The schema of the query of jobs, in the standard shape: `data` with the query's names in it, and `errors` where there are
/// any.
///
/// Errors of a query are in `errors` with status 200, as clients expect it. A query beyond a limit of its size is 400. An
/// unavailable service and a missing permission have the status that they have everywhere.
#[utoipa::path(
    post,
    path = "",
    tag = "Data Jobs",
    request_body = GraphqlRequest,
    responses((status = 200, description = "The answer, or what is wrong with the query.", body = GraphqlResponse))
)]
pub(crate) async fn graphql(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    JsonBody(body): JsonBody<GraphqlRequest>,
) -> ApiResult<Response> {
    // Nothing of the schema is for those who may not list, either.
    caller.may_list().await?;
    check_length("query", &body.query)?;
    let variables = body.variables.unwrap_or_default();
    check_length("variables", &serde_json::to_string(&variables).unwrap_or_default())?;
    let request = Request::new(body.query).variables(Variables::from_json(variables.into()));
    let named = body.operation_name.as_deref().filter(|name| !name.is_empty());
    carry_out(api, caller, named_operation(request, named), |response, parts, memory| {
        let mut problems = response.errors.iter().filter_map(|error| error.source::<Problem>());
        if let Some(problem) = problems.find(|problem| problem.fault == Fault::Platform || is_about_the_caller(problem))
        {
            return Err(ApiError::from(problem.clone()));
        }
        let mut body = answer::Body::new(&memory, parts);
        body.raw("{\"data\":");
        body.value(&response.data);
        if !response.errors.is_empty() {
            body.raw(",\"errors\":");
            body.json(&response.errors);
        }
        body.raw("}");
        Ok(body.response(memory.clone())?)
    })
    .await
}

/// The content security policy of the page: requests to this service only, with the page's own script and style.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page to explore GraphQL.
///
/// To write queries on, with the schema beside it.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs Service",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html; charset=utf-8"))
)]
pub(crate) async fn graphql_explorer() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ];
    (headers, Html(include_str!("explorer.html")))
}
