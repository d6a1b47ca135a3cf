//! Problems as responses. This is the one place that knows which status code a problem has.

use std::any::Any;

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use model::{
    Problem,
    name::excerpt,
    problem::{Code, Fault, Kind},
};
use serde::Serialize;
use utoipa::ToSchema;

/// How long a client is asked to wait before it tries again.
const RETRY_AFTER_SECONDS: u64 = 5;

/// Marks a response that no operation gave: it counts as a request without a route, so that strangers can't make a series
/// for each method of each route.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unrouted;

/// A request that was not carried out.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    problem: Box<Problem>,
    details: serde_json::Map<String, serde_json::Value>,
    retry_after_seconds: Option<u64>,
}

/// The error body: the reason why a request failed, the next step, and a code for programs.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ErrorBody<'a> {
    /// The failure, with the name of the object.
    #[schema(example = "The data job \"daily-sales\" was not found in the team \"my-team\".")]
    what: &'a str,
    /// The cause of the failure.
    #[schema(example = "Jobs of other teams are not searched.")]
    why: &'a str,
    /// The consequences of the failure.
    #[schema(example = "The request has no result.")]
    consequences: &'a str,
    /// The next step.
    #[schema(example = "List the jobs of a team with `vdk list -t <team>`, or create the job.")]
    countermeasures: &'a str,
    /// Which problem it is. A code never changes its meaning. All codes are in docs/errors.md.
    #[schema(value_type = String, example = "job_not_found")]
    code: Code,
    #[schema(ignore)]
    #[serde(flatten)]
    details: &'a serde_json::Map<String, serde_json::Value>,
}

/// The status code of the responses with this code.
pub fn status_of(code: Code) -> StatusCode {
    match code {
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
        Code::MediaTypeUnsupported => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        code => match code.kind() {
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::Forbidden => StatusCode::FORBIDDEN,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Kind::IdempotencyConflict => StatusCode::UNPROCESSABLE_ENTITY,
            Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Kind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        },
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::refused(status_of(problem.code), problem)
    }
}

impl ApiError {
    /// A refusal that only HTTP knows.
    pub(crate) fn refused(status: StatusCode, problem: Problem) -> Self {
        Self { status, problem: Box::new(problem), details: serde_json::Map::new(), retry_after_seconds: None }
    }

    /// The same failure, after which the client is asked to wait for so long.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The same failure with one more member of its body, for clients that read it.
    pub(crate) fn with(mut self, name: &str, value: serde_json::Value) -> Self {
        self.details.insert(name.to_owned(), value);
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Problem { code, what, why, consequences, countermeasures, kind, fault } = &*self.problem;
        if *fault == Fault::Platform {
            tracing::warn!(status = self.status.as_u16(), code = code.as_str(), what, why, "a request failed");
        } else {
            // Not why: that may quote the body, and a body may be a secret.
            tracing::debug!(status = self.status.as_u16(), code = code.as_str(), what, "a request was refused");
        }
        let body = ErrorBody { what, why, consequences, countermeasures, code: *code, details: &self.details };
        let mut response = (self.status, Json(body)).into_response();
        if matches!(kind, Kind::Overloaded | Kind::Unavailable) {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(self.retry_after_seconds.unwrap_or(RETRY_AFTER_SECONDS)));
        }
        response
    }
}

/// The result of a handler.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// No operation has this address.
pub(crate) async fn unknown_route(request: Request) -> ApiError {
    ApiError::from(
        Problem::new(
            Code::RouteNotFound,
            format!("The path {} was not found.", excerpt(request.uri().path())),
            "No operation has this path.",
        )
        .nothing_changed()
        .fix("Check the path; the client's --rest-api-url has no path, only scheme, host and port."),
    )
}

/// An operation has this address, but not with this method.
pub(crate) async fn wrong_method(request: Request) -> Response {
    let mut response = ApiError::from(
        Problem::new(
            Code::MethodNotAllowed,
            format!("{} {} was rejected.", request.method(), excerpt(request.uri().path())),
            "The path exists, but has no operation with this method.",
        )
        .nothing_changed()
        .fix("See the methods of the path on /data-jobs/swagger-ui.html."),
    )
    .into_response();
    response.extensions_mut().insert(Unrouted);
    response
}

/// A handler panicked: a fault of the service, and of this one request only.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer asks for")]
pub(crate) fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("without a message"), "a handler panicked");
    ApiError::from(
        Problem::new(
            Code::InternalError,
            "The request failed.",
            "A handler failed unexpectedly: this is a bug in Holdfast.",
        )
        .follows("A change may or may not have been made.")
        .fix("The operator finds the details in the log under this operation id."),
    )
    .into_response()
}
