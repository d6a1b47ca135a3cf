//! What an answer of the API server means for people: whose fault it is, and what to do.

use std::{future::IntoFuture, time::Duration};

use model::{Problem, clock::Clock};

/// How long a call may take.
const CALL_TIMEOUT: Duration = model::runtime::CHANGE_MAX;

/// A call of the API server that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It answered no.
    #[error("{0}")]
    Refused(#[source] Box<kube::Error>, u16, String, String),
    /// It did not answer, or not in time.
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
                let (code, reason, message) = (status.code, status.reason.clone(), status.message.clone());
                Self::Refused(Box::new(error), code, reason, message)
            }
            other => {
                // The outer words name the library alone; the inner ones say what failed.
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
            Self::Refused(_, code, _, _) => Some(*code),
            Self::Silent(_) => None,
        }
    }

    /// Whether the object is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether it makes no sense of the request at this moment: a log that the node does not have any more.
    pub(crate) fn is_refused_as_bad(&self) -> bool {
        self.code() == Some(400)
    }

    /// Whether the object moved since it was read.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(_, 409, reason, _) if reason != "AlreadyExists")
    }

    /// Whether an object of that name is there already, which may be on its way out.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self, Self::Refused(_, 409, reason, _) if reason == "AlreadyExists")
    }

    /// The fault for people; `what` says what was not done.
    pub(crate) fn into_problem(self, what: impl Into<String>) -> Problem {
        let what = what.into();
        match self {
            Self::Silent(why) => {
                Problem::unavailable(what, format!("The cluster's API server can't be reached: {why}"))
                    .follows("Jobs in the cluster go on by themselves; this is tried again until it succeeds.")
                    .fix("Nothing, when the cluster is known to be away; else ask the operator to check the way to it.")
            }
            Self::Refused(_, 422 | 400, _, message) => {
                Problem::invalid(what, format!("The cluster refuses it as not valid: {message}"))
                    .follows("The last good version, if there is one, goes on running.")
                    .fix("Change what it names in the deployment; if it names none of yours, ask the operator.")
            }
            Self::Refused(_, 403, _, message) if message.contains("exceeded quota") => {
                Problem::unavailable(what, format!("It would exceed a quota of the namespace: {message}"))
                    .follows("This is tried again until it succeeds.")
                    .fix("Ask the operator to raise the quota, or to remove what is not needed.")
            }
            Self::Refused(_, 403, _, message) if message.contains("holdfast-fencing") => Problem::unavailable(
                what,
                format!("Another instance has led since: {message}"),
            )
            .follows("This is tried again until it succeeds.")
            .fix(
                "Nothing, when another instance leads. If the database was restored from a backup, ask the operator \
                 to delete the ConfigMap holdfast-epoch, once no instance with the former one is left.",
            ),
            Self::Refused(_, 403 | 401, _, message) => Problem::unavailable(
                what,
                format!("The cluster does not allow it: {message}"),
            )
            .follows("This is tried again until it succeeds.")
            .fix("Ask the operator to compare the service's role in the cluster with the one that is documented."),
            Self::Refused(_, 404, _, message) => Problem::unavailable(what, format!("It is not there: {message}"))
                .follows("This is tried again until it succeeds.")
                .fix(
                    "If the namespace is gone, ask the operator to create it; the service then makes all in it again.",
                ),
            Self::Refused(_, code, _, message) => {
                Problem::unavailable(what, format!("The cluster's API server answers {code}: {message}"))
                    .follows("This is tried again until it succeeds.")
                    .fix("Nothing; if it goes on, ask the operator to check the cluster.")
            }
        }
    }
}
