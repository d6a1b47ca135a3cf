//! The description of every operation, as OpenAPI 3.1: made from the table of routes, the handlers and their types.
//!
//! A handler says what is its own ([`utoipa::path`]); what many have in common is added by [`complete`]. The document is
//! served to machines as JSON and to people as a page to try it on, and `holdfast openapi` prints it.

mod complete;
mod links;
pub(crate) mod names;
pub(crate) mod pages;
mod table;

use utoipa::{
    PartialSchema,
    openapi::{
        InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, SecurityRequirement, ServerBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
        tag::{Tag, TagBuilder},
    },
};

pub(crate) use complete::Layers;
pub(crate) use pages::Served;
pub(crate) use table::{KeyedBody, RouteMarks, Table};

use crate::error::ErrorBody;

/// The name of the security scheme in the document.
const BEARER: &str = "bearerAuth";

const ABOUT: &str = "\
Keeps, deploys and runs data jobs of the Versatile Data Kit.

A **data job** is a folder of Python and SQL steps. Create it, upload its source, deploy a version of it, and it runs on its \
schedule or when it is started. A 202 means that what was asked for is stored; it becomes true a little later, and \
`…/deployments/{deployment_id}/rollout` tells how far it is.

**Names.** A job's name has 6 to 50 characters of `a-z`, `0-9` and `-`, and is unique across all teams. Job and team in an \
address must belong together, else the job is not found.

**Times** are RFC 3339 in UTC. **Sizes** have their unit in the description.

**Refusals** have one body, [Problem]: what happened, why, what follows and what to do now. A status of 4xx waits for a change \
of the request; 429 and 503 say in `Retry-After` when to try again. Any address may also answer 405 to a method that it does \
not have. Members of a JSON body that an operation does not know are ignored, and a member that is `null` counts as left out.";

/// The document of these tables of routes.
pub(crate) fn document(parts: impl IntoIterator<Item = Table>) -> OpenApi {
    let mut document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Holdfast Control Service")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(ABOUT))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
                .build(),
        )
        .servers(Some([ServerBuilder::new().url("/").description(Some("This service")).build()]))
        .tags(Some(tags()))
        // Either without a token, when authentication is off, or with one.
        .security(Some([SecurityRequirement::default(), SecurityRequirement::new(BEARER, Vec::<String>::new())]))
        .build();
    for part in parts {
        document.merge(part.document());
    }
    let components = document.components.get_or_insert_default();
    components.schemas.insert("Problem".into(), ErrorBody::schema());
    components.responses.extend(complete::shared_answers());
    components.security_schemes.insert(
        BEARER.into(),
        RefOr::T(SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .description(Some(
                    "An access token of an issuer that this service trusts; not asked for where authentication is off.",
                ))
                .build(),
        )),
    );
    document
}

fn tags() -> Vec<Tag> {
    [
        ("Data Jobs", "Create, find, read, change, move and delete data jobs."),
        ("Data Jobs Sources", "Upload and download the source of a job as a ZIP archive."),
        (
            "Data Jobs Deployment",
            "Deploy a job, follow the rollout, read and compare former generations, and roll back.",
        ),
        ("Data Jobs Execution", "Start, list, read and cancel executions of a job, and read their logs."),
        ("Data Jobs Properties", "Properties that a job keeps between its executions."),
        ("Data Jobs Secrets", "Secrets of a job, and the OAuth application of a team. Stored encrypted."),
        ("Data Jobs Service", "The service: its description, the OpenAPI document, pages, probes and metrics."),
    ]
    .into_iter()
    .map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build())
    .collect()
}
