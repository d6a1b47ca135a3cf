//! CronJobs and secrets that others edit, and the writes that follow.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use k8s_openapi::api::batch::v1::CronJob;
use kube::Api;
use model::{
    artifact::LastApplied,
    runtime::{Observed, Target},
};
use serde_json::{Value, json};

use super::{
    apply::{Content, EqualCronJobs, Writer},
    fake::{FakeServer, HeldClock, NAMESPACE},
    fence::Fence,
    manifest::{
        self,
        tests::{deployment_spec, options},
    },
    names,
    view::CronJobView,
    watch::Namespace,
};

const NAME: &str = "daily-sales";
const PATH: &str = "cronjobs/daily-sales";

struct Place {
    server: FakeServer,
    namespace: Namespace,
    writer: Writer,
    last_applied: Option<LastApplied>,
    /// The number of accepted deployments, one per minute.
    accepted: i64,
}

impl Place {
    fn new(controller_zone: &str) -> Self {
        let (server, clock) = (FakeServer::default(), Arc::new(HeldClock::new()));
        let client = server.client();
        let writer = Writer {
            cron_jobs: Api::namespaced(client.clone(), NAMESPACE),
            secrets: Api::namespaced(client.clone(), NAMESPACE),
            ignored: Vec::new(),
            adopts: true,
            controller_zone: controller_zone.into(),
            clock: clock.clone(),
            fence: Fence::new(Api::namespaced(client, NAMESPACE), clock),
            equal: EqualCronJobs::default(),
        };
        Self { server, namespace: Namespace::default(), writer, last_applied: None, accepted: 0 }
    }

    fn target(&self) -> Target {
        let deployment_spec = deployment_spec();
        Target {
            job_id: deployment_spec.deployment.job_id,
            job_name: deployment_spec.job_name,
            inputs_hash: None,
            artifact: None,
            last_applied: self.last_applied.clone(),
        }
    }

    /// The CronJob of the deployment, which runs in `Europe/Sofia`.
    fn wanted(image: &str) -> CronJob {
        manifest::cron_job(&options(), &deployment_spec(), image, "inputs").unwrap()
    }

    async fn apply(&mut self, image: &str) {
        let deployment = deployment_spec().deployment;
        self.accepted += 1;
        let since = deployment.schedule_since + jiff::SignedDuration::from_mins(self.accepted);
        let (target, wanted) = (self.target(), Self::wanted(image));
        let applied = self.writer.apply(&target, &wanted, &deployment, since);
        self.last_applied = Some(Box::pin(applied).await.unwrap().0);
        self.is_heard_of();
    }

    /// Delivers the CronJob by the watch.
    fn is_heard_of(&self) {
        let object: CronJob = serde_json::from_value(self.object()).unwrap();
        self.namespace.notify_of_cron_job(NAME, CronJobView::of(&object.metadata));
    }

    fn object(&self) -> Value {
        self.server.objects(|objects| objects.get(PATH).unwrap().clone())
    }

    fn edit(&self, patch: &Value) {
        self.server.objects(|objects| objects.merge(PATH, patch));
        self.is_heard_of();
    }

    async fn observe(&self) -> Observed {
        self.writer.observe(&self.namespace, &self.target()).await.unwrap()
    }

    fn looks(&self) -> usize {
        self.server.calls().iter().filter(|call| call.method == Method::GET).count()
    }
}

fn is_as_written(observed: &Observed) -> bool {
    matches!(observed, Observed::Present { .. })
}

#[tokio::test]
async fn a_cron_job_without_the_controllers_time_zone_is_one_in_that_zone() {
    for (zone, expected) in [("Europe/Sofia", true), ("UTC", false)] {
        let mut place = Place::new(zone);
        // Another Control Service made it, without a time zone.
        let mut theirs = serde_json::to_value(Place::wanted("image")).unwrap();
        theirs["metadata"] = json!({});
        theirs["spec"]["timeZone"] = Value::Null;
        place.server.objects(|objects| objects.put(PATH, theirs));
        place.apply("image").await;
        assert_eq!(place.object()["metadata"]["labels"][names::NAME], NAME, "it is taken over");
        let adopting = place.server.writes().len();
        place.edit(&json!({"spec": {"timeZone": null}}));
        assert_eq!(is_as_written(&place.observe().await), expected, "{zone}");
        assert_eq!(place.server.writes().len(), adopting);
        // Another change is written, which does not change when it runs.
        place.apply("another").await;
        let of_status = place.server.writes()[adopting..].iter().filter(|write| write.ends_with("/status")).count();
        assert_eq!(of_status, usize::from(!expected), "{zone}: {:?}", place.server.writes());
        assert_eq!(place.object()["spec"]["timeZone"], "Europe/Sofia");
        place.edit(&json!({"spec": {"timeZone": "Asia/Kathmandu"}}));
        assert!(!is_as_written(&place.observe().await));
    }
}

#[tokio::test]
async fn a_cron_job_that_was_edited_and_reverted_is_read_once() {
    let mut place = Place::new("UTC");
    place.apply("image").await;
    let generation = place.object()["metadata"]["generation"].as_i64().unwrap();
    assert!(is_as_written(&place.observe().await));
    let known = place.looks();
    place.edit(&json!({"spec": {"suspend": true}}));
    assert!(!is_as_written(&place.observe().await));
    place.edit(&json!({"spec": {"suspend": false}}));
    assert_eq!(place.object()["metadata"]["generation"], generation + 2);
    for _ in 0..5 {
        assert!(is_as_written(&place.observe().await));
    }
    assert_eq!(place.looks(), known + 2, "one for each edit");
    place.edit(&json!({"spec": {"suspend": true}}));
    assert!(!is_as_written(&place.observe().await), "what was found holds for that generation alone");
}

#[tokio::test]
async fn an_unmanaged_secret_under_the_name_of_a_managed_one_is_named_and_left_alone() {
    let place = Place::new("UTC");
    let (path, theirs) = ("secrets/holdfast-token-daily-sales", json!({"metadata": {}, "data": {"KEY": "dmFsdWU="}}));
    place.server.objects(|objects| objects.put(path, theirs));
    let token = BTreeMap::from([("VDK_API_TOKEN".to_owned(), "token".to_owned())]);
    let keep = async |data| {
        let content = Content { data, keeps_more: false };
        place.writer.keep_secret(&place.target(), "holdfast-token-daily-sales", content).await
    };
    let problem = keep(Some(&token)).await.unwrap_err().into_problem("The secrets were not written.");
    assert!(problem.why.contains("holdfast-token-daily-sales"), "{problem}");
    assert_eq!(problem.fault, model::problem::Fault::Platform);
    // A secret that others may fill can be unmanaged.
    assert!(!keep(None).await.unwrap());
    let content = Content { data: None, keeps_more: false };
    place.writer.touch_secret(&place.target(), "holdfast-token-daily-sales", content).await.unwrap();
    assert_eq!(place.server.writes(), ["POST secrets"], "which finds the name taken");
    place.server.objects(|objects| objects.remove(path));
    assert!(keep(Some(&token)).await.unwrap());
}
