//! Failed calls of the API server as errors for users: who is responsible, and the action.

use std::{future::IntoFuture, time::Duration};

use kube::core::Status;
use model::{Problem, clock::Clock, deployment::Deployment, problem::Code, resources::Resources};

/// How long a call may take.
const CALL_TIMEOUT: Duration = model::runtime::CHANGE_MAX;

/// A call of the API server that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The API server rejected it.
    #[error("{0}")]
    Refused(#[source] Box<kube::Error>, Box<Status>),
    /// An unmanaged object has the name of a managed secret.
    #[error("the secret {0} exists and is not managed by Holdfast")]
    Foreign(String),
    /// The API server did not answer, or not in time.
    #[error("{0}")]
    Silent(String),
}

/// Makes a call, with its time limit.
pub(crate) async fn call<T>(
    clock: &dyn Clock,
    call: impl IntoFuture<Output = Result<T, kube::Error>>,
) -> Result<T, Fault> {
    match clock.timeout(CALL_TIMEOUT, call.into_future()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Fault::from(error)),
        Err(_) => Err(Fault::Silent(format!("It did not answer within {} seconds.", CALL_TIMEOUT.as_secs()))),
    }
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) => {
                let status = status.clone();
                Self::Refused(Box::new(error), status)
            }
            other => {
                // The outer message names only the library; the inner ones describe the failure.
                let mut text = other.to_string();
                let mut source = std::error::Error::source(other);
                while let Some(inner) = source {
                    let inner_text = inner.to_string();
                    if !text.contains(&inner_text) {
                        text = format!("{text}: {inner_text}");
                    }
                    source = inner.source();
                }
                Self::Silent(format!("{text}."))
            }
        }
    }
}

impl Fault {
    /// The HTTP status of the answer.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(_, status) => Some(status.code),
            Self::Foreign(_) | Self::Silent(_) => None,
        }
    }

    /// Whether the object does not exist.
    pub(crate) fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the request is not possible at this moment, such as for a log that the node no longer has.
    pub(crate) fn is_refused_as_bad(&self) -> bool {
        self.code() == Some(400)
    }

    /// Whether the object changed since it was read.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(409) && !self.is_taken()
    }

    /// Whether an object of that name exists, which may be being deleted.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Refused(_, status) if status.code == 409 && status.reason == "AlreadyExists")
    }

    /// The error of a write of an object that was rendered from this deployment; `what` names the failed operation.
    pub(crate) fn into_problem_of(self, what: impl Into<String>, deployment: &Deployment) -> Problem {
        match &self {
            Self::Refused(_, status) if is_users(status, deployment) => Problem::new(
                Code::ClusterFieldInvalid,
                what,
                format!("The cluster rejects it as invalid: {}", status.message),
            )
            .not_rolled_out()
            .fix("Change the field that the message names in the deployment."),
            _ => self.into_problem(what),
        }
    }

    /// The error for users; `what` names the failed operation.
    pub(crate) fn into_problem(self, what: impl Into<String>) -> Problem {
        let what = what.into();
        let status = match self {
            Self::Silent(why) => {
                return Problem::new(Code::ClusterUnreachable, what, format!("The API server can't be reached: {why}"))
                    .follows("Jobs in the cluster continue.")
                    .no_action("Holdfast retries. If it persists, the operator checks the connection to the cluster.");
            }
            Self::Foreign(secret) => {
                return Problem::new(
                    Code::SecretUnmanaged,
                    what,
                    format!("The Secret {secret} exists and is not managed by Holdfast."),
                )
                .follows("Holdfast leaves it unchanged, and retries until the name is free.")
                .fix(format!("The operator deletes the Secret {secret}, or finds out who created it."));
            }
            Self::Refused(_, status) => status,
        };
        let message = &status.message;
        let denied_by = denied_by(message);
        let (code, why, fix) = match (status.code, denied_by) {
            (403, _) if message.contains("exceeded quota") => (
                Code::ClusterQuotaExceeded,
                format!("It would exceed a quota of the namespace: {message}"),
                "The operator raises the quota, or removes objects that are not needed.".to_owned(),
            ),
            (403, _) if message.contains("holdfast-fencing") => (
                Code::LeaderEpochOutdated,
                format!("Another instance became leader later: {message}"),
                "No action needed if another instance leads. After a restore of the database, delete the ConfigMap \
                 holdfast-epoch once no former instance runs."
                    .to_owned(),
            ),
            (_, Some(rule)) => (
                Code::ClusterAdmissionDenied,
                format!("{rule} denied it: {message}"),
                format!("The operator changes {rule} or the CronJob template (`kubernetes.template_file`)."),
            ),
            (400 | 422, None) => (
                Code::ClusterObjectInvalid,
                format!("The cluster rejects it as invalid: {message}"),
                "The operator corrects `kubernetes.template_file` and the settings under `kubernetes`.".to_owned(),
            ),
            (401 | 403, None) => (
                Code::ClusterPermissionDenied,
                format!("The cluster does not allow it: {message}"),
                "The operator compares the service's role with charts/holdfast/files/role.yaml.".to_owned(),
            ),
            (404, None) => (
                Code::ClusterObjectMissing,
                format!("An object does not exist: {message}"),
                "If the namespace is missing, the operator creates it; Holdfast recreates its objects.".to_owned(),
            ),
            (status, None) => (
                Code::ClusterError,
                format!("The API server returned {status}: {message}"),
                "No action needed. If it persists, the operator checks the cluster.".to_owned(),
            ),
        };
        Problem::new(code, what, why).follows("Holdfast retries until it succeeds.").fix(fix)
    }
}

/// Whether the API server rejects a field that the user set. A denial by an admission rule, which may have any code and causes,
/// is always a platform error, because the operator may change the rule at any time.
fn is_users(status: &Status, deployment: &Deployment) -> bool {
    let fields = status.details.iter().flat_map(|details| &details.causes).map(|cause| cause.field.as_str());
    status.code == 422
        && denied_by(&status.message).is_none()
        && fields.into_iter().any(|field| is_set_by_user(field, deployment))
}

/// Whether a field of a CronJob or of a Job has its value from the user.
fn is_set_by_user(field: &str, deployment: &Deployment) -> bool {
    if matches!(field, "spec.schedule" | "spec.timeZone") {
        return deployment.schedule_cron.is_some();
    }
    // The first container is the job's; the operator adds the others.
    let of_run = field.strip_prefix("spec.jobTemplate.").unwrap_or(field);
    of_run.starts_with("spec.template.spec.containers[0].resources") && deployment.resources != Resources::default()
}

/// The admission rule that denied a write, from the message of the API server.
fn denied_by(message: &str) -> Option<String> {
    let named = |before: &str, quote: char, after: &str| {
        let (_, rest) = message.split_once(before)?;
        let (name, rest) = rest.split_once(quote)?;
        rest.contains(after).then(|| name.to_owned())
    };
    named("admission webhook \"", '"', " denied the request")
        .map(|name| format!("the admission webhook {name}"))
        .or_else(|| {
            let name = named("ValidatingAdmissionPolicy '", '\'', "denied request")?;
            Some(format!("the ValidatingAdmissionPolicy {name}"))
        })
}

#[cfg(test)]
mod tests {
    use model::problem::Fault as Whose;
    use serde_json::{Value, json};

    use super::*;
    use crate::kubernetes::manifest::tests::deployment_spec;

    /// A status as an API server answers it; `fields` are those that its causes name.
    fn refused(code: u16, message: &str, fields: &[&str]) -> Fault {
        let causes: Vec<Value> = fields
            .iter()
            .map(|field| json!({"reason": "FieldValueInvalid", "message": "odd", "field": field}))
            .collect();
        let status: Status = serde_json::from_value(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid",
            "message": message, "code": code, "details": {"name": "daily", "kind": "CronJob", "causes": causes},
        }))
        .unwrap();
        Fault::from(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn only_a_field_that_the_user_set_is_the_users_fault() {
        const SCHEDULE: &str = "CronJob.batch \"daily\" is invalid: spec.schedule: Invalid value: \"odd\"";
        const LIMIT: &str = "spec.jobTemplate.spec.template.spec.containers[0].resources.requests";
        const OF_JOB: &str = "spec.template.spec.containers[0].resources.requests[cpu]";
        let webhook = |said: &str| format!("admission webhook \"rules.example.com\" denied the request: {said}");
        let policy = "cronjobs.batch \"daily\" is forbidden: ValidatingAdmissionPolicy 'no-latest' with binding 'all' denied \
                      request: the image must have a digest";
        let deployment = deployment_spec().deployment;
        let (of_webhook, of_policy) = ("rules.example.com", "no-latest");
        for (code, message, fields, fault, names) in [
            (422, SCHEDULE.to_owned(), &["spec.schedule"][..], Whose::User, "spec.schedule"),
            (422, "is invalid".into(), &[LIMIT], Whose::User, "is invalid"),
            (422, "is invalid".into(), &["spec.jobTemplate.spec.backoffLimit", OF_JOB], Whose::User, "is invalid"),
            (422, "is invalid".into(), &["spec.jobTemplate.spec.backoffLimit"], Whose::Platform, "is invalid"),
            (422, "is invalid".into(), &["spec.template.spec.containers[1].resources"], Whose::Platform, "is invalid"),
            (422, "is invalid".into(), &[], Whose::Platform, "is invalid"),
            (400, "the object is malformed".into(), &["spec.schedule"], Whose::Platform, "malformed"),
            (400, webhook("no"), &[], Whose::Platform, of_webhook),
            (403, webhook("[require-labels] no"), &[], Whose::Platform, of_webhook),
            (422, webhook("no"), &["spec.schedule"], Whose::Platform, of_webhook),
            (422, policy.into(), &[""], Whose::Platform, of_policy),
            (403, policy.into(), &[], Whose::Platform, of_policy),
            (403, "pods is forbidden: exceeded quota: compute".into(), &[], Whose::Platform, "quota"),
            (500, "failed calling webhook \"rules.example.com\": no answer".into(), &[], Whose::Platform, of_webhook),
        ] {
            let problem = refused(code, &message, fields).into_problem_of("It was not written.", &deployment);
            assert_eq!(problem.fault, fault, "{code} {message} {fields:?}");
            assert!(problem.why.contains(names), "{code}: {problem}");
        }
        let bare = Deployment { resources: Resources::default(), schedule_cron: None, ..deployment };
        for field in [LIMIT, OF_JOB, "spec.schedule"] {
            let problem = refused(422, "is invalid", &[field]).into_problem_of("It was not written.", &bare);
            assert_eq!(problem.fault, Whose::Platform, "the operator's own value: {field}");
        }
    }
}
