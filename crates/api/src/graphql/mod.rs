//! The list of jobs and runs, as GraphQL in the address of a GET.
//!
//! The answer is the page that the query names, without the query's name around it, and an empty list of errors. What
//! can't be answered is 400 with the four sentences beside `errors`, so that the command line client and GraphQL clients
//! each find what they look for. [`post`] has the same schema in the shape that other GraphQL clients know.

mod answer;
mod document;
mod executions;
mod jobs;
mod large;
mod parsed;
pub(crate) mod post;
mod resolve;
mod types;

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use app::memory::RequestMemory;
use async_graphql::{
    Context, EmptyMutation, EmptySubscription, Enum, InputValueError, InputValueResult, Name, Object, Request,
    Response, Scalar, ScalarType, Schema, ServerError, Value, Variables, parser::types::DocumentOperations,
};
use axum::{extract::State, response::Response as HttpResponse};
use jiff::Timestamp;
use model::{Problem, access::Caller, problem::Code};
use tokio::sync::Mutex;
use utoipa::ToSchema;

use crate::{
    Api,
    caller::RequestCaller,
    error::{ApiError, ApiResult},
    input::{Path, Query as Parameters},
};

use answer::Parts;
use document::Size;
use executions::{DataJobExecutionFilter, DataJobExecutionOrder, DataJobExecutionResponse};
use jobs::{DataJobPage, Predicate};

/// The longest query, and the longest variables.
const TEXT_MAX_BYTES: usize = 32 * 1024;

/// How deep a query may be nested: the deepest of the operations page has 7 levels, introspection 13.
const DEPTH_MAX: usize = 20;

/// How many directives a field may have.
const DIRECTIVES_MAX: usize = 50;

/// The memory that one request may hold: its rows, its answer, and the answer as text.
const MEMORY_MAX_BYTES: usize = 64 * 1024 * 1024;

/// How many predicates the pages of a request may have.
const PREDICATES_MAX: usize = 16;

/// The query of a URL without one.
const DEFAULT_QUERY: &str = "{ jobs(pageNumber: 1, pageSize: 20, filter: []) { content { jobName config { team description \
     schedule { scheduleCron } } } totalPages totalItems } }";

type JobsSchema = Schema<Query, EmptyMutation, EmptySubscription>;

static SCHEMA: LazyLock<JobsSchema> = LazyLock::new(|| {
    Schema::build(Query, EmptyMutation, EmptySubscription)
        .limit_depth(DEPTH_MAX)
        .limit_directives(DIRECTIVES_MAX)
        .finish()
});

/// The schema in GraphQL's own language.
pub fn sdl() -> String {
    SCHEMA.sdl()
}

struct Query;

#[Object]
impl Query {
    /// A page of data jobs. If several predicates sort, the last one applies.
    async fn jobs(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "Some(0)")] page_number: Option<i32>,
        #[graphql(default_with = "Some(20)")] page_size: Option<i32>,
        filter: Option<Vec<Option<Predicate>>>,
        search: Option<String>,
    ) -> async_graphql::Result<Option<DataJobPage>> {
        let page = jobs::page(ctx, page_number, page_size, filter.unwrap_or_default(), search).await;
        page.map(Some).map_err(async_graphql::Error::new_with_source)
    }

    /// A page of executions of all jobs, the latest first unless an order is given.
    async fn executions(
        &self,
        ctx: &Context<'_>,
        page_number: Option<i32>,
        page_size: Option<i32>,
        filter: Option<DataJobExecutionFilter>,
        order: Option<DataJobExecutionOrder>,
    ) -> async_graphql::Result<Option<DataJobExecutionResponse>> {
        let page = executions::page(ctx, page_number, page_size, filter, order).await;
        page.map(Some).map_err(async_graphql::Error::new_with_source)
    }
}

/// The direction of a sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
enum Direction {
    /// Smallest first.
    Asc,
    /// Largest first.
    Desc,
}

/// An instant in the format of RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DateTime(Timestamp);

#[Scalar]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => text
                .parse()
                .map(Self)
                .map_err(|_| InputValueError::custom(format!("{text:?} is no instant like \"2024-03-09T10:00:00Z\""))),
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// The context of a request's resolvers.
struct RequestData {
    api: Arc<Api>,
    caller: Caller,
    /// The rows, counted in the memory of the request.
    db: app::Db,
    memory: RequestMemory,
    /// Held while a page is read: pages are read one after the other.
    turn: Mutex<()>,
    predicates: AtomicUsize,
    /// The parts of the answer that are written already.
    parts: Arc<Parts>,
    /// Whether a page is selected twice under one name.
    merges: bool,
}

impl RequestData {
    fn new(api: Arc<Api>, caller: Caller, memory: RequestMemory) -> Self {
        let db = api.db.metered(Arc::new(memory.clone()));
        Self {
            api,
            caller,
            db,
            memory,
            turn: Mutex::default(),
            predicates: AtomicUsize::default(),
            parts: Arc::default(),
            merges: false,
        }
    }

    fn of<'a>(ctx: &Context<'a>) -> &'a Self {
        ctx.data_unchecked::<Self>()
    }

    /// Counts the predicates of a page.
    fn count_predicates(&self, predicates: usize) -> Result<(), Problem> {
        let before = self.predicates.fetch_add(predicates, Ordering::Relaxed);
        if before + predicates > PREDICATES_MAX {
            return Err(refused(format!("filter: the query has too many predicates (limit {PREDICATES_MAX}).")));
        }
        Ok(())
    }
}

/// Measures a request before it is validated, and charges the caller with it. A text that is no query has no size: its
/// execution reports the error.
fn measure(api: &Api, caller: &Caller, request: &mut Request) -> Result<Size, ApiError> {
    let variables = std::mem::take(&mut request.variables);
    let measured = parsed::parse(request).map(|document| document::measure(document, &variables));
    request.variables = variables;
    let Ok(measured) = measured else { return Ok(Size::default()) };
    let size = measured.map_err(|problem| {
        let errors = serde_json::json!([{ "message": problem.why, "extensions": { "code": problem.code } }]);
        ApiError::from(problem).with("data", serde_json::Value::Null).with("errors", errors)
    })?;
    api.principals.charge_query(caller, size.cost())?;
    Ok(size)
}

/// Carries a query out and makes its HTTP answer. When the request is given up, so is what it does to the database.
async fn carry_out(
    api: Arc<Api>,
    caller: Caller,
    mut request: Request,
    respond: fn(Response, &Parts, RequestMemory) -> ApiResult<HttpResponse>,
) -> ApiResult<HttpResponse> {
    let size = measure(&api, &caller, &mut request)?;
    let memory = api.memory.for_request(MEMORY_MAX_BYTES);
    // The library makes these values, and counts none of them.
    memory.add(size.introspected.saturating_mul(resolve::VALUE_BYTES))?;
    let clock = Arc::clone(&api.clock);
    let turns = Arc::clone(&api.transfers.large_answers);
    let merges = request.parsed_query().is_ok_and(document::merges);
    let asked = RequestData { merges, ..RequestData::new(api, caller, memory.clone()) };
    let parts = Arc::clone(&asked.parts);
    let answering = async move {
        let mut response = SCHEMA.execute(request.data(asked)).await;
        add_codes(&mut response);
        respond(response, &parts, memory)
    };
    if size.answers <= large::AT_ONCE_MAX {
        return answering.await;
    }
    large::apart(&turns, &clock, large::WAIT_MAX, answering).await?
}

/// Gives each error the code of its problem, as `extensions.code`.
fn add_codes(response: &mut Response) {
    for error in &mut response.errors {
        let code = error.source::<Problem>().map_or(Code::GraphqlQueryInvalid, |problem| problem.code);
        error.extensions.get_or_insert_default().set("code", code.as_str());
    }
}

/// A page as rows are counted: how many come before it, and how many it has at most.
struct Window {
    offset: i64,
    limit: i64,
}

impl Window {
    /// Pages count from 1; 0, the default of the schema, means the first as well.
    fn new(page_number: Option<i32>, page_size: Option<i32>, default_size: i64) -> Result<Self, Problem> {
        let most = app::queries::PAGE_MAX;
        let number = i64::from(page_number.unwrap_or(1));
        let size = page_size.map_or(default_size, i64::from);
        if number < 0 {
            return Err(refused(format!("pageNumber is {number}; pages count from 1.")));
        }
        if !(1..=most).contains(&size) {
            return Err(refused(format!("pageSize is {size}; it must be 1 to {most}.")));
        }
        Ok(Self { offset: (number.max(1) - 1) * size, limit: size })
    }

    fn pages(&self, total: i64) -> i64 {
        // An empty list has one page, as upstream counts.
        ((total + self.limit - 1) / self.limit).max(1)
    }
}

fn refused(why: impl Into<String>) -> Problem {
    Problem::new(Code::GraphqlQueryInvalid, "The query was rejected.", why)
        .nothing_returned()
        .fix("Correct this part of the query; `/data-jobs/graphql` shows the schema.")
}

/// The page of a query, without the query's name.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the answer is made by hand")]
struct DataJobQueryResponse {
    /// The requested page.
    data: DataJobPageBody,
    /// An empty list.
    #[schema(value_type = Vec<Object>, max_items = 0)]
    errors: Vec<Value>,
}

/// A page of jobs or executions.
#[derive(ToSchema)]
#[schema(as = DataJobPage, rename_all = "camelCase")]
#[expect(dead_code, reason = "for the document; the answer is made by hand")]
struct DataJobPageBody {
    /// The jobs or executions, each with the selected fields; null if the query selects none.
    #[schema(value_type = Option<Vec<Object>>)]
    content: Option<Vec<Value>>,
    /// The number of jobs or executions on all pages; 0 if the query does not select it.
    #[schema(minimum = 0)]
    total_items: i64,
    /// The number of pages; 0 if the query does not select it.
    #[schema(minimum = 0)]
    total_pages: i64,
}

/// The error of a query: the error body, and the errors in GraphQL's format.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; the answer is made by hand")]
struct DataJobQueryProblem {
    /// The failure, with the name of the object.
    what: String,
    /// The cause of the failure.
    why: String,
    /// The consequences of the failure.
    consequences: String,
    /// The next step.
    countermeasures: String,
    /// The code of the problem. All codes are in docs/errors.md.
    #[schema(example = "graphql_query_invalid")]
    code: String,
    /// Always null.
    #[schema(value_type = Option<Object>, required = false)]
    data: Option<Value>,
    /// The errors of the query, each with `message` and `extensions.code`, and with `locations` and `path` if known. Absent if
    /// the request failed before its query was parsed.
    #[schema(value_type = Vec<Object>, required = false)]
    errors: Option<Vec<Value>>,
}

/// Finds jobs or executions by a GraphQL query.
///
/// The response has the page of the query (`jobs` or `executions`) without that name. Filters, sorts, search
/// and paging are arguments of the query; `/data-jobs/graphql` has a page to explore the schema, and
/// serves the same queries in the standard format of GraphQL. Limits: 32768 bytes of query and of variables; 20 levels; 2000 fields,
/// fragments counted wherever they are spread; 3 pages with 16 predicates in all; 1000 items a page, and 12000 jobs and
/// executions in all; 64 MiB of memory; 10 seconds for the database.
///
/// The team in the path has no effect: filter by `config.team` in the query.
#[utoipa::path(
    get,
    path = "",
    tag = "Data Jobs",
    params(
        (
            "query" = Option<String>, Query, format = "graphql", max_length = 32768,
            description = "The query; an absent one returns the first 20 jobs with team, description and schedule.",
            example = "{ jobs(pageNumber: 1, pageSize: 20, filter: [{ property: \"config.team\", pattern: \"my-team\" }, \
                       { property: \"jobName\", sort: ASC }]) { content { jobName config { team schedule { scheduleCron } } } \
                       totalItems totalPages } }",
        ),
        (
            "operation_name" = Option<String>, Query,
            description = "The operation to execute, if the query has several. `operationName` is accepted as well. With one \
                           operation this parameter has no effect.",
        ),
        (
            "variables" = Option<String>, Query, format = "json-object", max_length = 32768,
            description = "The values of the query's variables: a JSON object of at most 32768 bytes.",
            example = "{}",
        ),
    ),
    responses(
        (status = 200, description = "The page.", body = DataJobQueryResponse),
        (
            status = 400,
            description = "The query is not valid, or exceeds a limit; `errors` has the positions.",
            body = DataJobQueryProblem
        ),
    )
)]
pub(crate) async fn jobs_query(
    State(api): State<Arc<Api>>,
    RequestCaller(caller): RequestCaller,
    Path(_team): Path<String>,
    parameters: Parameters,
) -> ApiResult<HttpResponse> {
    // Nothing of the schema is for those who may not list, either.
    caller.may_list().await?;
    let request = request(&parameters)?;
    carry_out(api, caller, request, |response, parts, memory| {
        if !response.errors.is_empty() {
            return Err(failure(&response));
        }
        let mut body = answer::Body::new(&memory, parts);
        body.raw("{\"data\":");
        body.value(&page_of(response.data));
        body.raw(",\"errors\":[]}");
        Ok(body.response(memory.clone())?)
    })
    .await
}

fn request(parameters: &Parameters) -> Result<Request, ApiError> {
    let query = parameters.text("query").unwrap_or(DEFAULT_QUERY);
    let variables = parameters.text("variables").unwrap_or("null");
    check_length("query", query)?;
    check_length("variables", variables)?;
    let variables = match serde_json::from_str(variables) {
        Ok(serde_json::Value::Null) => Variables::default(),
        Ok(object @ serde_json::Value::Object(_)) => Variables::from_json(object),
        Ok(_) => return Err(refused("variables: they must be a JSON object.").into()),
        Err(cause) => return Err(refused(format!("variables: they are not JSON: {cause}.")).into()),
    };
    let named = parameters.text("operation_name").or(parameters.text("operationName")).map(|n| n.trim_matches('"'));
    Ok(named_operation(Request::new(query).variables(variables), named))
}

fn check_length(name: &str, text: &str) -> Result<(), Problem> {
    if text.len() > TEXT_MAX_BYTES {
        return Err(refused(format!("{name}: it has {} bytes; at most {TEXT_MAX_BYTES} fit.", text.len())));
    }
    Ok(())
}

/// The name selects one of several operations. Upstream executes a single operation whatever its name is.
fn named_operation(mut request: Request, name: Option<&str>) -> Request {
    if let Some(name) = name
        && let Ok(document) = request.parsed_query()
        && matches!(&document.operations, DocumentOperations::Multiple(operations) if operations.len() > 1)
    {
        request = request.operation_name(name);
    }
    request
}

/// The page itself, without the query's name, and with totals even where they were not asked for.
fn page_of(data: Value) -> Value {
    let Value::Object(mut root) = data else { return Value::Null };
    let named = ["jobs", "executions"].into_iter().find(|name| root.contains_key(*name)).map(Name::new);
    let mut page = match named.or_else(|| root.keys().filter(|name| !name.starts_with("__")).min().cloned()) {
        Some(name) => root.swap_remove(&name).unwrap_or_default(),
        // A query of the schema alone returns an empty page.
        None => Value::Object(root),
    };
    if let Value::Object(members) = &mut page {
        for (member, absent) in [("content", Value::Null), ("totalPages", 0.into()), ("totalItems", 0.into())] {
            members.entry(Name::new(member)).or_insert(absent);
        }
    }
    page
}

fn failure(response: &Response) -> ApiError {
    let problem = response.errors.iter().find_map(|error| error.source::<Problem>().cloned());
    let problem = problem.unwrap_or_else(|| {
        let messages: Vec<_> = response.errors.iter().map(sentence).collect();
        refused(messages.join(" "))
    });
    let errors = serde_json::to_value(&response.errors).unwrap_or_default();
    ApiError::from(problem).with("data", serde_json::Value::Null).with("errors", errors)
}

/// The message and the position of an error, on one line. The parser draws the position above its message.
fn sentence(error: &ServerError) -> String {
    let message = error.message.rsplit("\n  = ").next().unwrap_or_default().trim().trim_end_matches('.');
    match error.locations.first() {
        Some(place) => format!("{message} (line {}, column {}).", place.line, place.column),
        None => format!("{message}."),
    }
}
