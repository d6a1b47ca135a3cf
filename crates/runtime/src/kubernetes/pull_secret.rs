//! The Secret with which nodes pull the images of jobs: the content of a Docker configuration file, in the namespace of the jobs.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, api::PostParams};
use model::{Problem, clock::SharedClock, problem::Code};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    MANAGER,
    fault::{Fault, call},
    names,
};

const KIND: &str = "kubernetes.io/dockerconfigjson";
const KEY: &str = ".dockerconfigjson";
/// The largest Secret of Kubernetes.
const FILE_MAX_BYTES: u64 = 1024 * 1024;
const WHAT: &str = "The Secret with the credentials for pulling images was not written.";

/// Keeps the Secret equal to a file.
#[derive(Debug)]
pub(crate) struct PullSecret {
    secrets: Api<Secret>,
    file: PathBuf,
    clock: SharedClock,
    /// The last write, so that nothing is written while neither the file nor the Secret changes.
    last: Mutex<Option<Written>>,
}

/// A state of the Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    resource_version: Option<String>,
    hash: Vec<u8>,
}

impl PullSecret {
    pub(crate) fn new(secrets: Api<Secret>, file: PathBuf, clock: SharedClock) -> Self {
        Self { secrets, file, clock, last: Mutex::default() }
    }

    /// Writes the Secret, unless it is as it was written last. The file is read each time, so that rotated credentials are used.
    pub(crate) async fn keep(&self) -> Result<(), Problem> {
        let content = read(&self.file).map_err(|why| {
            Problem::new(Code::PullCredentialsUnusable, WHAT, format!("{} {why}.", self.file.display()))
                .follows("The former credentials stay in the cluster.")
                .fix("The operator corrects the file of `image.pull_credentials_file`.")
        })?;
        self.write(content).await.map_err(|fault| fault.into_problem(WHAT))
    }

    async fn write(&self, content: Vec<u8>) -> Result<(), Fault> {
        let hash = Sha256::digest(&content).to_vec();
        let name = names::PULL_SECRET;
        let live = call(&*self.clock, self.secrets.get_metadata_opt(name)).await?;
        if let Some(live) = &live {
            let labels = live.metadata.labels.as_ref();
            if labels.and_then(|labels| labels.get(names::MANAGED_BY)).map(String::as_str) != Some(MANAGER) {
                return Err(Fault::Foreign(name.to_owned()));
            }
            let now = Written { resource_version: live.metadata.resource_version.clone(), hash: hash.clone() };
            if self.last.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&now) {
                return Ok(());
            }
        }
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([(names::MANAGED_BY.to_owned(), MANAGER.to_owned())].into()),
                // A change since the read fails, and the next full resync tries again.
                resource_version: live.as_ref().and_then(|live| live.metadata.resource_version.clone()),
                uid: live.as_ref().and_then(|live| live.metadata.uid.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(content))])),
            type_: Some(KIND.into()),
            ..Secret::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match live {
            Some(_) => call(&*self.clock, self.secrets.replace(name, &params, &secret)).await?,
            None => call(&*self.clock, self.secrets.create(&params, &secret)).await?,
        };
        let written = Written { resource_version: written.metadata.resource_version, hash };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
        tracing::info!(secret = name, "wrote the credentials for pulling images");
        Ok(())
    }
}

/// The content of a Docker configuration file. The error says nothing of the content.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| format!("can't be read: {error}"))?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut content).map_err(|error| format!("can't be read: {error}"))?;
    if content.len() as u64 > FILE_MAX_BYTES {
        return Err(format!("has more than {FILE_MAX_BYTES} bytes"));
    }
    let parsed: Option<Value> = serde_json::from_slice(&content).ok();
    if parsed.is_none_or(|parsed| !parsed["auths"].is_object()) {
        return Err("is no Docker configuration file: it has no object `auths`".to_owned());
    }
    Ok(content)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::super::fake::{FakeServer, HeldClock, NAMESPACE};
    use super::*;

    const PATH: &str = "secrets/holdfast-pull-credentials";

    #[tokio::test]
    async fn the_secret_follows_the_file_and_is_written_only_when_one_of_them_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let server = FakeServer::default();
        let keep =
            PullSecret::new(Api::namespaced(server.client(), NAMESPACE), file.clone(), Arc::new(HeldClock::new()));
        let writes = || server.writes().len();
        let object = || server.objects(|objects| objects.get(PATH).cloned());
        let missing = keep.keep().await.unwrap_err();
        assert_eq!(missing.code, Code::PullCredentialsUnusable);
        std::fs::write(&file, r#"{"auths": "secret-word"}"#).unwrap();
        let wrong = keep.keep().await.unwrap_err();
        assert!(!format!("{wrong:?}").contains("secret-word"), "{wrong:?}");
        assert_eq!(writes(), 0);

        let config = json!({"auths": {"registry.example.com": {"auth": "b25lOnR3bw=="}}}).to_string();
        std::fs::write(&file, &config).unwrap();
        for _ in 0..3 {
            keep.keep().await.unwrap();
        }
        assert_eq!(writes(), 1);
        let written: Secret = serde_json::from_value(object().unwrap()).unwrap();
        assert_eq!(written.type_.as_deref(), Some(KIND));
        assert_eq!(written.data.unwrap()[KEY].0, config.as_bytes());

        // Rotated credentials, a change by others, and a removal.
        std::fs::write(&file, config.replace("b25l", "dHdv")).unwrap();
        keep.keep().await.unwrap();
        assert_eq!(writes(), 2);
        server.objects(|objects| objects.merge(PATH, &json!({"data": {KEY: null}})));
        keep.keep().await.unwrap();
        assert!(object().unwrap()["data"][KEY].is_string());
        server.objects(|objects| objects.remove(PATH));
        keep.keep().await.unwrap();
        assert!(object().is_some());

        // A Secret of another program stays unchanged.
        server.objects(|objects| objects.merge(PATH, &json!({"metadata": {"labels": null}})));
        let taken = keep.keep().await.unwrap_err();
        assert_eq!(taken.code, Code::SecretUnmanaged);
    }
}
