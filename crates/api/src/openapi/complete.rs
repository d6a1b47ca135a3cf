//! The parts that many operations have in common: path parameters, the operation id, and the responses of the layers around a
//! handler.

use serde_json::{Value, json};
use utoipa::openapi::{
    Content, ContentBuilder, Header, HeaderBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Required, ResponseBuilder,
    Schema, SchemaFormat,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn},
    response::Response,
    schema::{SchemaType, Type},
};

use super::links;

/// The media type of what the service says about itself and its things.
const JSON: &str = "application/json";

/// Responses of the layers around a handler, and for its input: status, name in the OpenAPI document, and text. A handler's own
/// description takes precedence.
const REFUSALS: [(u16, &str, &str); 11] = [
    (400, "Invalid", "A part of the request can't be read or breaks a rule; the body names it."),
    (401, "Unauthenticated", "Authentication is on, and the request has no valid bearer token."),
    (403, "Forbidden", "The caller may not do this, or the request names a foreign host or origin."),
    (408, "BodyTooSlow", "The body did not arrive in time; the response names the limit. Nothing was changed."),
    (
        414,
        "AddressTooLong",
        "The URL is longer than 64 KiB. The response has no body and no operation id, because no operation received the request.",
    ),
    (
        431,
        "HeadTooLarge",
        "URL and headers together are longer than 128 KiB. The response has no body and no operation id, because no \
         operation received the request.",
    ),
    (413, "TooLarge", "The body is larger than the limit of this operation; the response names the limit."),
    (415, "WrongMediaType", "The body's media type is neither `application/json` nor `application/octet-stream`."),
    (429, "Overloaded", "Too many requests are in progress. Nothing was changed."),
    (500, "Internal", "An internal error of the service; its log has the details under the operation id."),
    (503, "Unavailable", "A dependency of the service, such as its database, can't be reached at the moment."),
];

/// The statuses of a URL that is too long, alone or with all headers. Such requests never reach the service's own layers.
const ADDRESS_TOO_LONG: [&str; 2] = ["414", "431"];

/// `*`, or a list of at most 64 entity tags (RFC 9110) with or without quotes, as [`crate::preconditions`] reads it.
const ENTITY_TAGS: &str =
    r#"^(\*|((W/)?"[!#-~]*"|[!#-)+\--~]+)([ \t]*,[ \t]*((W/)?"[!#-~]*"|[!#-)+\--~]+)){0,63}([ \t]*,)?)$"#;

/// An idempotency key as [`crate::preconditions`] reads it: with or without quotes.
const IDEMPOTENCY_KEY: &str = r#"^("[ !#-\[\]-~]{1,255}"|[!#-\[\]-~]([ !#-\[\]-~]{0,253}[!#-\[\]-~])?)$"#;

/// The format of a parameter that holds a JSON object as text.
const JSON_OBJECT: &str = "json-object";

/// The status of an answer that the caller has already. It has no body.
const UNCHANGED: &str = "304";

/// The operations that say which version they show.
const TAGGED: [&str; 3] = ["dataJobRead", "deploymentRead", "deploymentRolloutRead"];

/// The operations that change what has a tag, if it is the one that the caller knows.
const CONDITIONAL: [&str; 7] = [
    "dataJobUpdate",
    "dataJobDelete",
    "dataJobTeamUpdate",
    "deploymentUpdate",
    "deploymentPatch",
    "deploymentDelete",
    "deploymentRollback",
];

/// The operation that can be asked to change nothing that exists.
const ONLY_FIRST: &str = "deploymentUpdate";

/// The layers around the operations of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layers {
    /// Checks of callers and hosts, and limits of concurrent requests.
    Guarded,
    /// None: every client may send requests at any time.
    Open,
}

/// Completes what a handler says of its operation.
pub(super) fn operation(address: &str, method: &str, layers: Layers, operation: &mut Operation) {
    if let Some(id) = &mut operation.operation_id {
        *id = camel(id);
    }
    let parts: Vec<&str> = address.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}')).collect();
    parameters(&parts, operation);
    preconditions(operation);
    links::add(operation);
    let reads_body = operation.request_body.is_some();
    let comes = |status: u16| match status {
        400 => !parts.is_empty() || reads_body,
        408 | 413 => reads_body,
        414 | 431 => true,
        415 => method != "GET" && layers == Layers::Guarded,
        _ => layers == Layers::Guarded,
    };
    if layers == Layers::Open {
        operation.security = Some(Vec::new());
    }
    for (status, name, _) in REFUSALS.into_iter().filter(|(status, ..)| comes(*status)) {
        let shared = || RefOr::Ref(Ref::from_response_name(name));
        operation.responses.responses.entry(status.to_string()).or_insert_with(shared);
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response {
            answer(status, response);
        }
    }
}

/// Describes the preconditions that a request can have, and the answers that come of them.
fn preconditions(operation: &mut Operation) {
    let id = operation.operation_id.clone().unwrap_or_default();
    let mut accepted = Vec::new();
    let mut refused = Vec::new();
    if TAGGED.contains(&&*id) {
        accepted.push((
            "If-None-Match",
            "A tag, or several, that the caller has: when one is still right, the answer is 304.",
            text(),
        ));
        refused.push((304, "Not modified: the client has this version."));
        if let Some(RefOr::T(response)) = operation.responses.responses.get_mut("200") {
            response.headers.insert("ETag".into(), header("The version of the resource.", text()));
        }
    }
    if CONDITIONAL.contains(&&*id) {
        accepted.push((
            "If-Match",
            "The `ETag` of the job, or of the rollout for a deployment, as the client read it. Several tags or `*` are possible. \
             The change is made only if one of the tags is current.",
            text().pattern(Some(ENTITY_TAGS)).examples([json!("*")]),
        ));
        refused.push((412, "A precondition of the request's headers does not hold. Nothing was changed."));
    }
    if id == ONLY_FIRST {
        accepted.push((
            "If-None-Match",
            "`*` requires that there is no deployment yet. Other tags have no effect.",
            text().pattern(Some(ENTITY_TAGS)).examples([json!("*")]),
        ));
    }
    for (name, description, schema) in accepted {
        accepts(operation, name, description, schema);
    }
    for (status, description) in refused {
        let response = ResponseBuilder::new().description(description).build();
        operation.responses.responses.insert(status.to_string(), RefOr::T(response));
    }
}

/// Describes the idempotency key of an operation that is carried out once per key.
pub(super) fn idempotency(operation: &mut Operation) {
    accepts(
        operation,
        "Idempotency-Key",
        "A name for the request, 1 to 255 printable ASCII characters, such as a random UUID. A repetition within 24 hours \
         gets the same response and changes nothing.",
        text().pattern(Some(IDEMPOTENCY_KEY)),
    );
    let mut response = ResponseBuilder::new()
        .description("The idempotency key was sent before, with another request. Nothing was changed.")
        .build();
    answer("422", &mut response);
    operation.responses.responses.insert("422".into(), RefOr::T(response));
}

fn accepts(operation: &mut Operation, name: &str, description: &str, schema: ObjectBuilder) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build();
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
}

/// The answers that operations share, by name.
pub(super) fn shared_answers() -> impl Iterator<Item = (String, RefOr<Response>)> {
    REFUSALS.into_iter().map(|(status, name, text)| {
        let mut response = ResponseBuilder::new().description(text).build();
        answer(&status.to_string(), &mut response);
        (name.to_owned(), RefOr::T(response))
    })
}

/// Describes the parts of the address, unless the handler does, and what every request may bring along.
fn parameters(parts: &[&str], operation: &mut Operation) {
    let given = operation.parameters.get_or_insert_default();
    let mut all: Vec<RefOr<Parameter>> = Vec::new();
    for name in parts {
        let by_handler = given
            .iter()
            .position(|p| matches!(p, RefOr::T(p) if p.name == *name && matches!(p.parameter_in, ParameterIn::Path)));
        all.push(match by_handler {
            Some(at) => given.remove(at),
            None => RefOr::T(part(name)),
        });
    }
    // Parameters of a URL are text and never null; an optional one is not required.
    for parameter in given.iter_mut() {
        if let RefOr::T(parameter) = parameter {
            json_content(parameter);
        }
        if let RefOr::T(Parameter { schema: Some(RefOr::T(Schema::Object(schema))), .. }) = parameter {
            if let SchemaType::Array(types) = &schema.schema_type
                && let [one] = types.iter().filter(|t| **t != Type::Null).collect::<Vec<_>>()[..]
            {
                schema.schema_type = one.clone().into();
            }
            if schema.schema_type == SchemaType::Type(Type::Integer) {
                schema.minimum.get_or_insert(number(i64::MIN));
                schema.maximum.get_or_insert(number(i64::MAX));
            }
        }
    }
    all.append(given);
    all.push(RefOr::T(
        ParameterBuilder::new()
            .name("X-OPID")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "An operation id of the client's choice, 1 to 100 printable ASCII characters. The response, the service's \
                 log, audit events and executions that the request started contain this id. The service generates one if \
                 the header is absent or not valid.",
            ))
            .schema(Some(text()))
            .build(),
    ));
    operation.parameters = Some(all);
}

/// Describes a parameter that holds a JSON object by what is in it.
fn json_content(parameter: &mut Parameter) {
    let is_json = matches!(
        &parameter.schema,
        Some(RefOr::T(Schema::Object(schema))) if schema.format == Some(SchemaFormat::Custom(JSON_OBJECT.into()))
    );
    if is_json {
        let object = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Object, Type::Null]));
        let content = ContentBuilder::new().schema(Some(object)).example(Some(json!({}))).build();
        let mut described = ParameterBuilder::new()
            .name(parameter.name.clone())
            .parameter_in(parameter.parameter_in.clone())
            .required(parameter.required.clone())
            .description(parameter.description.clone())
            .build();
        described.content.insert(JSON.into(), RefOr::T(content));
        *parameter = described;
    }
}

/// The path parameter with this name.
fn part(name: &str) -> Parameter {
    let whole_number = || {
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(number(i64::MIN)))
            .maximum(Some(number(i64::MAX)))
    };
    let (description, schema, example): (&str, ObjectBuilder, Value) = match name {
        "team_name" => ("The team that owns the job, percent-encoded; spaces are fine.", storable(), json!("my-team")),
        "job_name" => ("The name of the data job.", storable(), json!("my-first-job")),
        "new_team" => (
            "The new team of the job: 1 to 100 characters without slashes and control characters, no white space \
             at its ends.",
            text().min_length(Some(1)).max_length(Some(100)).pattern(Some(
                r"^[^\s\u0000-\u001f\u007f-\u009f/\\]([^\u0000-\u001f\u007f-\u009f/\\]{0,98}[^\s\u0000-\u001f\u007f-\u009f/\\])?$",
            )),
            json!("other-team"),
        ),
        "deployment_id" => (
            "The id of the deployment. A job has one deployment, with the ids `production` and the job's name.",
            text(),
            json!("production"),
        ),
        "execution_id" => (
            "The id of the execution: the last segment of the `Location` in the response to its start.",
            text(),
            json!("my-first-job-1710000000"),
        ),
        "revision" => ("The number of a revision of the deployment.", whole_number(), json!(1)),
        "other" => ("The number of the revision to compare it with.", whole_number(), json!(2)),
        "file" => ("The name of a file of the page.", text(), json!("swagger-ui.css")),
        unknown => unreachable!("the part {{{unknown}}} of an address is described here"),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(schema))
        .example(Some(example))
        .build()
}

/// Gives a response the headers that all have, and an error its body.
fn answer(status: &str, response: &mut Response) {
    if ADDRESS_TOO_LONG.contains(&status) {
        return;
    }
    response.headers.insert("X-OPID".into(), header("The operation id of the request.", text()));
    if status == UNCHANGED {
        response.headers.insert("ETag".into(), header("The version of the resource.", text()));
    }
    let refused = !status.starts_with('2') && status != UNCHANGED;
    if refused && response.content.is_empty() {
        let body = Content::new(Some(Ref::from_schema_name("Problem")));
        response.content.insert(JSON.into(), RefOr::T(body));
    }
    let whole = || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    match status {
        "429" | "503" => {
            let seconds = header("The number of seconds after which to retry.", whole());
            response.headers.insert("Retry-After".into(), seconds);
        }
        "401" => {
            let challenge = header("The scheme of authentication that is asked for: `Bearer`.", text());
            response.headers.insert("WWW-Authenticate".into(), challenge);
        }
        _ => {}
    }
}

fn header(description: &str, schema: ObjectBuilder) -> RefOr<Header> {
    RefOr::T(HeaderBuilder::new().description(Some(description)).schema(Some(schema.build())).build())
}

/// Text that a row can be looked for by.
fn storable() -> ObjectBuilder {
    text().pattern(Some(r"^[^\u0000]*$"))
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn number(number: i64) -> utoipa::Number {
    utoipa::Number::Int(isize::try_from(number).unwrap_or(isize::MAX))
}

/// A handler's name as the operation's id on the wire.
fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut id, word| {
        let mut letters = word.chars();
        id.extend(letters.next().map(|l| l.to_ascii_uppercase()));
        id.push_str(letters.as_str());
        id
    })
}
