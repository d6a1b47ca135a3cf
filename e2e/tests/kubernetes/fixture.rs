//! A service whose jobs run in a namespace of their own.

use std::time::Duration;

use devtools::cluster::{self, Cluster, Namespace};
use e2e::{
    api::Api,
    job::Job,
    kubernetes::{settings, token_of_service},
    service::{Options, Service},
    vdk::Vdk,
    wait,
};
use serde_json::{Value, json};
use testing::{Database, Identity, Proxy};

pub(crate) use e2e::kubernetes::{Node, template_of};

/// How long something in the cluster may take on a machine that is busy with other tests.
pub(crate) const LONGEST: Duration = Duration::from_secs(180);

/// The service and its namespace.
pub(crate) struct Fixture {
    pub(crate) service: Service,
    pub(crate) namespace: Namespace,
}

/// The minute since 1970 of the tick that an execution's id tells.
pub(crate) fn tick(execution: &Value) -> u64 {
    let id = execution["id"].as_str().expect("id");
    id.rsplit_once('-').and_then(|(_, minutes)| minutes.parse().ok()).expect("<job>-<minutes>")
}

/// The credentials with the rights that the service has in production, and no others.
fn way_of_service(namespace: &Namespace) -> anyhow::Result<(String, String)> {
    let token = token_of_service(namespace)?;
    let administrator = namespace.cluster().administrator()?;
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": administrator.url,
            "certificate-authority": "ca.crt",
        }}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    Ok((kubeconfig.to_string(), administrator.ca_certificate))
}

impl Fixture {
    /// A service on a database, with jobs in a new namespace.
    pub(crate) fn new(name: &str, on: Database, node: Node) -> Self {
        Self::with(name, on, node, |options| options)
    }

    /// The same with further settings.
    pub(crate) fn with(name: &str, on: Database, node: Node, more: impl FnOnce(Options) -> Options) -> Self {
        let cluster = cluster::shared().unwrap_or_else(|e| panic!("{e:#}"));
        Self::on(&cluster, name, on, node, more)
    }

    /// The same in this cluster.
    pub(crate) fn on(
        cluster: &Cluster,
        name: &str,
        on: Database,
        node: Node,
        more: impl FnOnce(Options) -> Options,
    ) -> Self {
        let namespace = cluster.namespace(name).unwrap_or_else(|e| panic!("{e:#}"));
        let (kubeconfig, ca_certificate) = way_of_service(&namespace).unwrap_or_else(|e| panic!("{e:#}"));
        let mut options = settings(Options::on(on), &namespace, node)
            .set("KUBECONFIG", "{folder}/kubeconfig")
            .file("kubeconfig", &kubeconfig)
            .file("ca.crt", &ca_certificate)
            .set("HOLDFAST_KUBERNETES_PYTHON_VERSIONS", "3.11")
            .set("HOLDFAST_INSECURE", "true")
            .set("HOLDFAST_ALLOWED_HOSTS", &cluster.host_address)
            .set("HOLDFAST_LOG", "info,sync=debug,runtime=debug");
        options.listen = Some(format!("{}:0", cluster.host_address));
        Self { service: Service::start_with(more(options)), namespace }
    }

    /// A service that reaches the API server through a proxy.
    pub(crate) fn through_proxy(name: &str, on: Database, node: Node) -> (Self, Proxy) {
        Self::through_proxy_with(name, on, node, |options| options)
    }

    /// The same with further settings.
    pub(crate) fn through_proxy_with(
        name: &str,
        on: Database,
        node: Node,
        more: impl FnOnce(Options) -> Options,
    ) -> (Self, Proxy) {
        let administrator =
            cluster::shared().and_then(|cluster| cluster.administrator()).unwrap_or_else(|e| panic!("{e:#}"));
        let proxy = Proxy::start(&Identity {
            url: administrator.url.clone(),
            ca_certificate: administrator.ca_certificate,
            certificate: administrator.certificate,
            private_key: administrator.private_key,
        });
        let fixture = Self::with(name, on, node, |mut options| {
            for (_, content) in options.files.iter_mut().filter(|(name, _)| name == "kubeconfig") {
                *content = content.replace(&administrator.url, &proxy.url());
            }
            more(options)
        });
        (fixture, proxy)
    }

    pub(crate) fn api(&self) -> Api {
        self.service.api()
    }

    pub(crate) fn vdk(&self) -> Vdk {
        self.service.vdk()
    }

    /// Does what a team's own build does: pushes the image of a version.
    pub(crate) fn push(&self, job: &Job, version: &str) {
        let name = format!("{}/{}:{version}", self.namespace.name(), job.name());
        let cluster = self.namespace.cluster();
        cluster.push_job_image(&job.path(), job.name(), &name).unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Creates and deploys a job whose image is there, and waits until the cluster has it.
    pub(crate) async fn deployed(&self, job: &Job) -> String {
        let version = self.asked_for(job).await;
        self.push(job, &version);
        self.api().reached(job.name(), &version).await;
        version
    }

    /// Creates a job and asks for its deployment.
    pub(crate) async fn asked_for(&self, job: &Job) -> String {
        let api = self.api();
        let _ = api.create(job.name()).await.is(201);
        if !job.cron().is_empty() {
            self.reschedule(job.name(), job.cron()).await;
        }
        api.deploy(job).await
    }

    /// Changes the schedule of a job.
    pub(crate) async fn reschedule(&self, job: &str, cron: &str) {
        let schedule = json!({"config": {"schedule": {"schedule_cron": cron}}});
        let _ = self.api().put(&format!("/jobs/{job}"), &schedule).await.is(200);
    }

    /// Creates and deploys jobs for the node in name only, which pulls no image.
    pub(crate) async fn deployed_in_name(&self, jobs: &[Job]) {
        let mut versions = Vec::new();
        for job in jobs {
            versions.push(self.asked_for(job).await);
        }
        for (job, version) in jobs.iter().zip(&versions) {
            self.api().reached(job.name(), version).await;
        }
    }

    /// An object of the namespace.
    pub(crate) fn object(&self, kind: &str, name: &str) -> Option<Value> {
        let text = self
            .namespace
            .ask(&["get", kind, name, "--ignore-not-found", "-o", "json"])
            .unwrap_or_else(|e| panic!("{e:#}"));
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).expect("JSON"))
    }

    /// Waits until an object is as it should be.
    pub(crate) async fn becomes(
        &self,
        what: &str,
        kind: &str,
        name: &str,
        is: impl Fn(Option<&Value>) -> bool,
    ) -> Option<Value> {
        wait::until(what, LONGEST, async || {
            let object = self.object(kind, name);
            is(object.as_ref()).then_some(object)
        })
        .await
    }

    /// A command of `kubectl` that must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.namespace.ask(arguments).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// The execution once it has ended, which takes longer than on a machine: an image is pulled.
    pub(crate) async fn ended(&self, job: &str, id: &str) -> Value {
        let api = self.api();
        wait::until(format!("the end of {id}"), LONGEST, async || {
            let execution = api.execution(job, id).await;
            let status = execution["status"].as_str().unwrap_or_default();
            (!matches!(status, "submitted" | "running")).then_some(execution)
        })
        .await
    }

    /// The execution once its message says this.
    pub(crate) async fn says(&self, job: &str, id: &str, text: &str) -> Value {
        let api = self.api();
        wait::until(format!("{id} says {text:?}"), LONGEST, async || {
            let execution = api.execution(job, id).await;
            execution["message"].as_str().unwrap_or_default().contains(text).then_some(execution)
        })
        .await
    }
}
