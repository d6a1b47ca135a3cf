//! Puts layers upon a base image: the configuration, the manifest and the index of what comes of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    digest::Digest,
    layer::LayerBlob,
    manifest::{self, Descriptor, Index, Manifest, Platform, canonical},
};

/// The date of every image: equal inputs give an equal digest on any day.
const CREATED: &str = "2020-01-01T00:00:00Z";
/// Fields that Docker wrote into configurations and that speak of the base's own build.
const FIELDS_OF_A_BUILD: [&str; 5] = ["id", "container", "container_config", "docker_version", "parent"];

/// A base image for one platform.
#[derive(Debug, Clone, PartialEq)]
pub struct BaseImage {
    /// The digest of the manifest; none of a base without layers, which is in no registry.
    pub digest: Option<Digest>,
    /// The manifest.
    pub manifest: Manifest,
    /// The configuration.
    pub config: Value,
}

/// How the new image differs from its base beside its layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Environment variables; they replace those of the base with the same name.
    pub environment: BTreeMap<String, String>,
    /// Folders that come first in `PATH`.
    pub path_first: Vec<String>,
    /// The user, as `uid:gid`.
    pub user: String,
    /// The working directory.
    pub working_directory: String,
    /// The entry point.
    pub entry_point: Vec<String>,
    /// The command, or the arguments of the entry point.
    pub command: Vec<String>,
    /// Labels beside those of the base.
    pub labels: BTreeMap<String, String>,
}

/// A document that is pushed: a configuration, a manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its media type.
    pub media_type: &'static str,
    /// Its digest.
    pub digest: Digest,
    /// Its content.
    pub content: Vec<u8>,
}

impl Document {
    fn new(media_type: &'static str, value: &impl serde::Serialize) -> Self {
        let content = canonical(value);
        Self { media_type, digest: Digest::of(&content), content }
    }

    /// How a manifest or an index refers to it.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.into(),
            digest: self.digest.clone(),
            size: self.content.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// The configuration.
    pub config: Document,
    /// The manifest.
    pub manifest: Document,
    /// The layers of the base, with OCI's media types.
    pub base_layers: Vec<Descriptor>,
    /// The platform of the image.
    pub platform: Platform,
}

impl BaseImage {
    /// A base without layers for this processor, such as `amd64`.
    pub fn empty(architecture: &str) -> Self {
        Self {
            digest: None,
            manifest: Manifest {
                schema_version: 2,
                media_type: Some(manifest::MANIFEST.into()),
                config: Document::new(manifest::CONFIG, &json!({})).descriptor(),
                layers: Vec::new(),
                annotations: BTreeMap::new(),
            },
            config: json!({
                "architecture": architecture, "os": "linux", "config": {},
                "rootfs": {"type": "layers", "diff_ids": []},
            }),
        }
    }

    /// The platform that the configuration names.
    pub fn platform(&self) -> Platform {
        let text = |name: &str| self.config[name].as_str().map(str::to_owned);
        Platform {
            architecture: text("architecture").unwrap_or_else(|| "amd64".into()),
            os: text("os").unwrap_or_else(|| "linux".into()),
            variant: text("variant"),
        }
    }

    /// The value of an environment variable of the image.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let all = self.config["config"]["Env"].as_array()?.iter().filter_map(Value::as_str);
        all.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// Assembles an image.
///
/// # Errors
/// Why the base can't be used.
pub fn assemble(base: &BaseImage, layers: &[(LayerBlob, &str)], settings: &Settings) -> Result<Assembled, String> {
    let base_layers: Vec<Descriptor> = base
        .manifest
        .layers
        .iter()
        .map(|layer| {
            let media_type = manifest::oci_layer(&layer.media_type)
                .ok_or_else(|| format!("it has a layer of the type {}", layer.media_type))?;
            Ok(Descriptor { media_type, platform: None, annotations: BTreeMap::new(), ..layer.clone() })
        })
        .collect::<Result<_, String>>()?;
    let config = Document::new(manifest::CONFIG, &config(base, layers, settings)?);
    let own = layers.iter().map(|(blob, _)| Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.clone(),
        size: blob.bytes,
        platform: None,
        annotations: BTreeMap::new(),
    });
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(manifest::MANIFEST.into()),
        config: config.descriptor(),
        layers: base_layers.iter().cloned().chain(own).collect(),
        annotations: base
            .digest
            .iter()
            .map(|digest| ("org.opencontainers.image.base.digest".to_owned(), digest.to_string()))
            .collect(),
    };
    Ok(Assembled {
        config,
        manifest: Document::new(manifest::MANIFEST, &manifest),
        base_layers,
        platform: base.platform(),
    })
}

/// The index of images for several platforms, in the order of these.
pub fn index(images: &[Assembled]) -> Document {
    let mut manifests: Vec<Descriptor> = images
        .iter()
        .map(|image| Descriptor { platform: Some(image.platform.clone()), ..image.manifest.descriptor() })
        .collect();
    manifests.sort_by(|a, b| a.platform.cmp(&b.platform));
    let index =
        Index { schema_version: 2, media_type: Some(manifest::INDEX.into()), manifests, annotations: BTreeMap::new() };
    Document::new(manifest::INDEX, &index)
}

fn config(base: &BaseImage, layers: &[(LayerBlob, &str)], settings: &Settings) -> Result<Value, String> {
    let mut config = base.config.clone();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len);
    if diff_ids != base.manifest.layers.len() {
        return Err(format!("its configuration has {diff_ids} layers, its manifest {}", base.manifest.layers.len()));
    }
    if !config["config"].is_object() {
        config["config"] = json!({});
    }
    if !config["history"].is_array() {
        config["history"] = json!([]);
    }
    let push = |list: &mut Value, value: Value| {
        if let Some(list) = list.as_array_mut() {
            list.push(value);
        }
    };
    for (blob, what) in layers {
        push(&mut config["rootfs"]["diff_ids"], json!(blob.diff_id));
        push(&mut config["history"], json!({ "created": CREATED, "created_by": what }));
    }
    config["created"] = json!(CREATED);
    let run = &mut config["config"];
    run["Env"] = json!(environment(base, settings));
    run["User"] = json!(settings.user);
    run["WorkingDir"] = json!(settings.working_directory);
    for (field, value) in [("Entrypoint", &settings.entry_point), ("Cmd", &settings.command)] {
        run[field] = if value.is_empty() { Value::Null } else { json!(value) };
    }
    for (name, value) in &settings.labels {
        if !run["Labels"].is_object() {
            run["Labels"] = json!({});
        }
        run["Labels"][name] = json!(value);
    }
    if let Some(fields) = config.as_object_mut() {
        for field in FIELDS_OF_A_BUILD {
            fields.remove(field);
        }
    }
    if let Some(run) = config["config"].as_object_mut() {
        run.retain(|_, value| !value.is_null());
        // The identifier of the base's last image, and the host of its build.
        run.remove("Image");
        run.remove("Hostname");
    }
    Ok(config)
}

/// The variables of the base and those of the settings, sorted by their names.
fn environment(base: &BaseImage, settings: &Settings) -> Vec<String> {
    const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let given = base.config["config"]["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all: BTreeMap<String, String> = given
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    all.extend(settings.environment.clone());
    let path = all.get("PATH").cloned().unwrap_or_else(|| DEFAULT_PATH.into());
    all.insert("PATH".into(), [settings.path_first.clone(), vec![path]].concat().join(":"));
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(name: &str) -> LayerBlob {
        LayerBlob {
            digest: Digest::of(name.as_bytes()),
            bytes: 7,
            diff_id: Digest::of(&[name.as_bytes(), b"diff"].concat()),
            archive_bytes: 70,
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd".into(),
        }
    }

    fn base() -> BaseImage {
        let layer = Descriptor {
            media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".into(),
            digest: Digest::of(b"base"),
            size: 100,
            platform: None,
            annotations: BTreeMap::new(),
        };
        BaseImage {
            digest: Some(Digest::of(b"manifest")),
            manifest: Manifest {
                schema_version: 2,
                media_type: Some(manifest::DOCKER_MANIFEST.into()),
                config: layer.clone(),
                layers: vec![layer],
                annotations: BTreeMap::new(),
            },
            config: json!({
                "architecture": "arm64", "os": "linux", "variant": "v8", "docker_version": "20", "id": "x",
                "unknown": {"kept": true},
                "config": {"Env": ["PATH=/usr/bin", "LANG=C.UTF-8"], "Entrypoint": ["/entry.sh"], "Cmd": ["python3"],
                           "Labels": {"of": "base"}, "Image": "sha256:1", "ExposedPorts": {"1": {}}},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:base"]},
            }),
        }
    }

    fn settings() -> Settings {
        Settings {
            environment: [("HOME".to_owned(), "/job".to_owned()), ("LANG".to_owned(), "C".to_owned())].into(),
            path_first: vec!["/opt/job/bin".into()],
            user: "1000:1000".into(),
            working_directory: "/job".into(),
            entry_point: Vec::new(),
            command: vec!["vdk".into()],
            labels: [("job".to_owned(), "sales".to_owned())].into(),
        }
    }

    #[test]
    fn an_image_is_its_base_with_layers_on_top_and_other_settings() {
        let image = assemble(&base(), &[(blob("a"), "packages"), (blob("b"), "source")], &settings()).unwrap();
        let config: Value = serde_json::from_slice(&image.config.content).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!(["sha256:base", blob("a").diff_id, blob("b").diff_id]));
        assert_eq!(config["history"][1]["created_by"], "source");
        let run = json!({
            "Env": ["HOME=/job", "LANG=C", "PATH=/opt/job/bin:/usr/bin"], "Cmd": ["vdk"], "User": "1000:1000",
            "WorkingDir": "/job", "Labels": {"of": "base", "job": "sales"}, "ExposedPorts": {"1": {}},
        });
        assert_eq!(config["config"], run);
        assert_eq!(config["unknown"], json!({"kept": true}));
        assert!(config["docker_version"].is_null() && config["id"].is_null());
        let manifest: Manifest = serde_json::from_slice(&image.manifest.content).unwrap();
        assert_eq!(manifest.media_type.as_deref(), Some(manifest::MANIFEST));
        assert_eq!(manifest.config.digest, image.config.digest);
        let types: Vec<_> = manifest.layers.iter().map(|l| l.media_type.rsplit('.').next().unwrap()).collect();
        assert_eq!(types, ["tar+gzip", "tar+zstd", "tar+zstd"]);
        assert_eq!(manifest.annotations["org.opencontainers.image.base.digest"], base().digest.unwrap().to_string());
    }

    #[test]
    fn equal_inputs_give_an_equal_digest_and_every_difference_another() {
        let one = assemble(&base(), &[(blob("a"), "packages")], &settings()).unwrap();
        assert_eq!(assemble(&base(), &[(blob("a"), "packages")], &settings()).unwrap(), one);
        let mut other_base = base();
        other_base.config["config"]["Env"] = json!(["PATH=/bin"]);
        let other_settings = Settings { user: "0".into(), ..settings() };
        for other in [
            assemble(&base(), &[(blob("b"), "packages")], &settings()),
            assemble(&other_base, &[(blob("a"), "packages")], &settings()),
            assemble(&base(), &[(blob("a"), "packages")], &other_settings),
        ] {
            assert_ne!(other.unwrap().manifest.digest, one.manifest.digest);
        }
    }

    #[test]
    fn an_index_names_each_platform_in_an_order_of_its_own() {
        let image = |architecture: &str| {
            let mut base = base();
            base.config["architecture"] = json!(architecture);
            assemble(&base, &[], &settings()).unwrap()
        };
        let (one, two) = (image("amd64"), image("arm64"));
        let both = index(&[one.clone(), two.clone()]);
        assert_eq!(index(&[two.clone(), one.clone()]), both);
        let read: Index = serde_json::from_slice(&both.content).unwrap();
        assert_eq!(read.architectures(), ["amd64", "arm64"]);
        assert_eq!(read.for_architecture("arm64").unwrap().digest, two.manifest.digest);
    }

    #[test]
    fn a_base_that_contradicts_itself_is_refused() {
        let mut broken = base();
        broken.config["rootfs"]["diff_ids"] = json!([]);
        assert!(assemble(&broken, &[], &settings()).unwrap_err().contains("0 layers, its manifest 1"));
        let mut foreign = base();
        foreign.manifest.layers[0].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        assert!(assemble(&foreign, &[], &settings()).unwrap_err().contains("foreign"));
    }
}
