//! Links from an answer to the operations that come next: which of its values are parameters of which operation. A program
//! that knows the document alone gets with them from a new job to its deployment, its executions and their logs.

use serde_json::{Value, json};
use utoipa::openapi::{RefOr, link::LinkBuilder, path::Operation};

const TEAM: (&str, &str) = ("team_name", "$request.path.team_name");
const JOB: (&str, &str) = ("job_name", "$request.path.job_name");
const NEW_JOB: (&str, &str) = ("job_name", "$request.body#/job_name");
/// The id that every deployment answers to.
const DEPLOYMENT: (&str, &str) = ("deployment_id", "production");
const THIS_DEPLOYMENT: (&str, &str) = ("deployment_id", "$request.path.deployment_id");
const LISTED_DEPLOYMENT: (&str, &str) = ("deployment_id", "$response.body#/0/id");
const LISTED_REVISION: &str = "$response.body#/revisions/0/revision";
const LISTED_EXECUTION: (&str, &str) = ("execution_id", "$response.body#/0/id");
const THIS_EXECUTION: (&str, &str) = ("execution_id", "$request.path.execution_id");

/// A link: the operation and the status that it starts from, its name, the operation that it leads to with the parameters,
/// and what it is for.
struct Link {
    from: (&'static str, &'static str),
    name: &'static str,
    to: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    about: &'static str,
}

const fn link(
    from: (&'static str, &'static str),
    name: &'static str,
    to: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    about: &'static str,
) -> Link {
    Link { from, name, to, parameters, about }
}

#[rustfmt::skip]
const LINKS: &[Link] = &[
    link(("dataJobCreate", "201"), "read", "dataJobRead", &[TEAM, NEW_JOB], "The new job."),
    link(("dataJobCreate", "201"), "update", "dataJobUpdate", &[TEAM, NEW_JOB], "Changes the new job."),
    link(("dataJobCreate", "201"), "upload", "sourcesUpload", &[TEAM, NEW_JOB], "Uploads the source of the new job."),
    link(("dataJobCreate", "201"), "deploy", "deploymentUpdate", &[TEAM, NEW_JOB], "Deploys the new job, once it has a source."),
    link(("dataJobCreate", "201"), "audit", "dataJobAuditEventList", &[TEAM, NEW_JOB], "The changes of the new job."),
    link(("dataJobCreate", "201"), "delete", "dataJobDelete", &[TEAM, NEW_JOB], "Deletes the new job."),
    link(("dataJobDelete", "200"), "undelete", "dataJobUndelete", &[TEAM, JOB], "Restores the deleted job."),
    link(("dataJobUndelete", "200"), "read", "dataJobRead", &[TEAM, JOB], "The restored job."),

    link(("sourcesUpload", "200"), "deploy", "deploymentUpdate", &[TEAM, JOB], "Deploys the uploaded version."),
    link(("sourcesUpload", "200"), "download", "dataJobSourcesDownload", &[TEAM, JOB], "The uploaded source."),

    link(("deploymentUpdate", "202"), "rollout", "deploymentRolloutRead", &[TEAM, JOB, DEPLOYMENT], "How far the rollout is."),
    link(("deploymentUpdate", "202"), "list", "deploymentList", &[TEAM, JOB], "The deployment, once it runs."),
    link(("deploymentUpdate", "202"), "revisions", "deploymentRevisionList", &[TEAM, JOB, DEPLOYMENT], "The revisions that were deployed so far."),
    link(("deploymentUpdate", "202"), "start", "dataJobExecutionStart", &[TEAM, JOB, DEPLOYMENT], "Starts an execution."),
    link(("deploymentPatch", "202"), "rollout", "deploymentRolloutRead", &[TEAM, JOB, THIS_DEPLOYMENT], "How far the rollout is."),
    link(("deploymentRollback", "202"), "rollout", "deploymentRolloutRead", &[TEAM, JOB, THIS_DEPLOYMENT], "How far the rollout is."),
    link(("deploymentList", "200"), "read", "deploymentRead", &[TEAM, JOB, LISTED_DEPLOYMENT], "The deployment."),
    link(("deploymentList", "200"), "change", "deploymentPatch", &[TEAM, JOB, LISTED_DEPLOYMENT], "Changes the deployment."),
    link(("deploymentList", "200"), "start", "dataJobExecutionStart", &[TEAM, JOB, LISTED_DEPLOYMENT], "Starts an execution."),
    link(("deploymentList", "200"), "remove", "deploymentDelete", &[TEAM, JOB, LISTED_DEPLOYMENT], "Removes the deployment."),
    link(("deploymentRevisionList", "200"), "revision", "deploymentRevisionRead", &[TEAM, JOB, THIS_DEPLOYMENT, ("revision", LISTED_REVISION)], "The newest generation."),
    link(("deploymentRevisionList", "200"), "diff", "deploymentRevisionDiff", &[TEAM, JOB, THIS_DEPLOYMENT, ("revision", "$response.body#/revisions/1/revision"), ("other", LISTED_REVISION)], "The changes of the newest revision."),
    link(("deploymentRevisionList", "200"), "rollback", "deploymentRollback", &[TEAM, JOB, THIS_DEPLOYMENT, ("revision", LISTED_REVISION)], "Makes the revision the wanted one."),

    link(("dataJobExecutionStart", "202"), "list", "dataJobExecutionList", &[TEAM, JOB], "The executions of the job, the new one among them."),
    link(("dataJobExecutionList", "200"), "read", "dataJobExecutionRead", &[TEAM, JOB, LISTED_EXECUTION], "The first execution of the list."),
    link(("dataJobExecutionList", "200"), "log", "dataJobLogsDownload", &[TEAM, JOB, LISTED_EXECUTION], "The log of the first execution of the list."),
    link(("dataJobExecutionList", "200"), "cancel", "dataJobExecutionCancel", &[TEAM, JOB, LISTED_EXECUTION], "Cancels the first execution of the list."),
    link(("dataJobDeploymentExecutionList", "200"), "read", "dataJobExecutionRead", &[TEAM, JOB, LISTED_EXECUTION], "The first execution of the list."),
    link(("dataJobExecutionRead", "200"), "log", "dataJobLogsDownload", &[TEAM, JOB, THIS_EXECUTION], "The log of the execution."),
    link(("dataJobExecutionRead", "200"), "cancel", "dataJobExecutionCancel", &[TEAM, JOB, THIS_EXECUTION], "Cancels the execution."),

    link(("dataJobPropertiesUpdate", "204"), "read", "dataJobPropertiesRead", &[TEAM, JOB, THIS_DEPLOYMENT], "The stored properties."),
    link(("dataJobSecretsUpdate", "202"), "read", "dataJobSecretsRead", &[TEAM, JOB, THIS_DEPLOYMENT], "The stored secrets."),
    link(("oauthCredentialsPut", "202"), "read", "oauthCredentialsGet", &[TEAM], "The stored application."),
    link(("oauthCredentialsPut", "202"), "client", "clientIdGet", &[TEAM], "The id of the stored application."),
];

/// The body of the request that a link leads to, where the answer decides it.
fn body(link: &Link) -> Option<Value> {
    match (link.from.0, link.to) {
        ("sourcesUpload", "deploymentUpdate") => Some(json!({ "job_version": "$response.body#/version_sha" })),
        _ => None,
    }
}

/// Adds the links that start from the answers of an operation.
pub(super) fn add(operation: &mut Operation) {
    let id = operation.operation_id.clone().unwrap_or_default();
    for link in LINKS.iter().filter(|link| link.from.0 == id) {
        let Some(RefOr::T(response)) = operation.responses.responses.get_mut(link.from.1) else { continue };
        let mut built = LinkBuilder::new().operation_id(link.to).description(link.about).request_body(body(link));
        for (name, value) in link.parameters {
            built = built.parameter(*name, *value);
        }
        response.links.insert(link.name.into(), RefOr::T(built.build()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_link_starts_from_an_answer_and_names_each_part_of_the_address_that_it_leads_to() {
        let document: Value = serde_json::from_str(crate::openapi_document()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let operations: HashMap<&str, &Value> = paths
            .values()
            .flat_map(|item| item.as_object().into_iter().flatten())
            .map(|(_, operation)| (operation["operationId"].as_str().expect("an id"), operation))
            .collect();
        let parameters = |id: &str, of: &str| -> Vec<String> {
            let all = operations[id]["parameters"].as_array().into_iter().flatten();
            all.filter(|p| p["in"] == of).filter_map(|p| p["name"].as_str()).map(Into::into).collect()
        };
        for link in LINKS {
            let place = format!("{} {}", link.from.0, link.name);
            let written = &operations[link.from.0]["responses"][link.from.1]["links"][link.name];
            assert_eq!(written["operationId"], link.to, "{place}: it is not in the document");
            let given: Vec<_> = link.parameters.iter().map(|(name, _)| (*name).to_owned()).collect();
            let parts = parameters(link.to, "path");
            assert!(parts.iter().all(|part| given.contains(part)), "{place}: {parts:?}");
            let known = [parts, parameters(link.to, "query")].concat();
            assert!(given.iter().all(|name| known.contains(name)), "{place}: {known:?}");
            for (_, value) in link.parameters {
                if let Some(name) = value.strip_prefix("$request.path.") {
                    assert!(parameters(link.from.0, "path").contains(&name.to_owned()), "{place}: {value}");
                }
            }
        }
    }
}
