//! The rights that this service needs in the namespace of the jobs, checked by asking the API server.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use model::clock::SharedClock;

use super::connect::Connection;

/// How long the reviews may take. A review changes nothing, but is sent as a POST, which the connection else holds back.
const REVIEWS_MAX: Duration = Duration::from_secs(30);

/// API group, resource, subresource, verbs: the rules of the service's Role.
const RIGHTS: [(&str, &str, &str, &[&str]); 10] = [
    ("batch", "cronjobs", "", &["get", "list", "watch", "create", "update", "delete"]),
    ("batch", "cronjobs", "status", &["get", "patch"]),
    ("batch", "cronjobs", "finalizers", &["update"]),
    ("batch", "jobs", "", &["get", "list", "watch", "create", "patch", "delete"]),
    ("", "pods", "", &["get", "list", "watch"]),
    ("", "pods", "log", &["get"]),
    ("", "configmaps", "", &["create"]),
    ("", "events", "", &["list"]),
    ("", "secrets", "", &["get", "create", "update", "patch", "delete"]),
    ("", "configmaps", EPOCH, &["get", "update"]),
];

/// In the place of a subresource: the object of this name, whose rule names it.
const EPOCH: &str = "=holdfast-epoch";

/// The rights that are missing, such as `patch jobs.batch`.
///
/// # Errors
/// Why the API server did not review them.
pub async fn missing_rights(connection: &Connection, clock: &SharedClock) -> Result<Vec<String>, String> {
    connection.window.open_until(clock.boot() + REVIEWS_MAX);
    let reviewed = clock.timeout(REVIEWS_MAX, missing(&connection.client, &connection.namespace)).await;
    reviewed.map_err(|_| format!("it did not respond within {} seconds", REVIEWS_MAX.as_secs()))?
}

async fn missing(client: &Client, namespace: &str) -> Result<Vec<String>, String> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource, below, verbs) in RIGHTS {
        let (name, subresource) = below.strip_prefix('=').map_or((None, below), |name| (Some(name), ""));
        for verb in verbs {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let attributes = ResourceAttributes {
                group: text(group),
                resource: text(resource),
                subresource: text(subresource),
                name: name.map(str::to_owned),
                verb: text(verb),
                namespace: text(namespace),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let review = reviews.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())?;
            if !review.status.is_some_and(|status| status.allowed) {
                let group = text(group).map(|group| format!(".{group}")).unwrap_or_default();
                let below = text(&below.replace('=', "")).map(|below| format!("/{below}")).unwrap_or_default();
                missing.push(format!("{verb} {resource}{group}{below}"));
            }
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::Full;
    use hyper::body::Bytes;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn rights_that_the_api_server_denies_are_named() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_eq!(request.uri().path(), "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
            let body = request.into_body().collect_bytes().await.unwrap();
            let mut review: Value = serde_json::from_slice(&body).unwrap();
            let asked = &review["spec"]["resourceAttributes"];
            assert_eq!(asked["namespace"], "data");
            let denied = (asked["resource"] == "jobs" && asked["verb"] == "patch")
                || asked["subresource"] == "log"
                || asked["name"] == "holdfast-epoch" && asked["verb"] == "update";
            review["status"] = json!({ "allowed": !denied });
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(review.to_string()))))
        });
        let missing = missing(&Client::new(service, "data"), "data").await.unwrap();
        assert_eq!(missing, ["patch jobs.batch", "get pods/log", "update configmaps/holdfast-epoch"]);
    }
}
