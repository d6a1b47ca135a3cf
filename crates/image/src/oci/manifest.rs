//! Manifests and indexes, as far as they are read and written here.
//!
//! The configuration of a base image is kept as the JSON that it is, so that fields which are not known here survive.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::Digest;

/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer without compression; with one, `+gzip` or `+zstd` follows.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Docker's media type of a manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's media type of an index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's media type of a layer without compression.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// A blob or manifest that another document names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The platform of a manifest in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The platform of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// The processor, such as `amd64`.
    pub architecture: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// The variant of the processor, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index of manifests for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The manifest for Linux on a processor. Attestations, whose platform is `unknown/unknown`, never count.
    pub fn for_architecture(&self, architecture: &str) -> Option<&Descriptor> {
        self.manifests.iter().find(|manifest| {
            manifest.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture)
        })
    }

    /// The processors that have a manifest for Linux.
    pub fn architectures(&self) -> Vec<&str> {
        let platforms = self.manifests.iter().filter_map(|m| m.platform.as_ref());
        platforms.filter(|p| p.os == "linux").map(|p| p.architecture.as_str()).collect()
    }
}

/// Whether a media type is that of an index.
pub fn is_index(media_type: &str) -> bool {
    matches!(media_type, INDEX | DOCKER_INDEX)
}

/// The OCI media type of a layer, for OCI's or Docker's; none for layers that can't be part of another image.
pub fn oci_layer(media_type: &str) -> Option<String> {
    let compression = media_type.strip_prefix(LAYER).or_else(|| {
        // Docker writes the compression after a dot.
        let rest = media_type.strip_prefix(DOCKER_LAYER)?;
        Some(if rest == ".gzip" { "+gzip" } else { rest })
    })?;
    matches!(compression, "" | "+gzip" | "+zstd").then(|| format!("{LAYER}{compression}"))
}

/// JSON with sorted keys and no blanks: the same bytes for the same value.
pub fn canonical(value: &impl Serialize) -> Vec<u8> {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let map: BTreeMap<String, Value> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
                Value::Object(map.into_iter().collect())
            }
            Value::Array(all) => Value::Array(all.into_iter().map(sorted).collect()),
            other => other,
        }
    }
    // Maps with text as keys, lists, numbers and text always are JSON.
    let value = serde_json::to_value(value).unwrap_or_default();
    sorted(value).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_docker_become_layers_of_oci_and_foreign_ones_do_not() {
        for (given, oci) in [
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some("application/vnd.oci.image.layer.v1.tar+gzip")),
            ("application/vnd.docker.image.rootfs.diff.tar", Some("application/vnd.oci.image.layer.v1.tar")),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some("application/vnd.oci.image.layer.v1.tar+zstd")),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", None),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", None),
            ("application/octet-stream", None),
        ] {
            assert_eq!(oci_layer(given).as_deref(), oci, "{given}");
        }
    }

    #[test]
    fn equal_values_give_equal_bytes_in_whatever_order_their_keys_were_read() {
        let one: Value = serde_json::from_str(r#"{"b": [{"d": 1, "c": "x"}], "a": null}"#).unwrap();
        let two: Value = serde_json::from_str(r#"{"a": null, "b": [{"c": "x", "d": 1}]}"#).unwrap();
        assert_eq!(canonical(&one), br#"{"a":null,"b":[{"c":"x","d":1}]}"#);
        assert_eq!(canonical(&one), canonical(&two));
    }

    #[test]
    fn attestations_in_an_index_are_no_platform() {
        let digest = Digest::of(b"");
        let manifest = |os: &str, architecture: &str| Descriptor {
            media_type: MANIFEST.into(),
            digest: digest.clone(),
            size: 0,
            platform: Some(Platform { architecture: architecture.into(), os: os.into(), variant: None }),
            annotations: BTreeMap::new(),
        };
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![manifest("unknown", "unknown"), manifest("windows", "amd64"), manifest("linux", "arm64")],
            annotations: BTreeMap::new(),
        };
        assert_eq!(index.architectures(), ["arm64"]);
        assert!(index.for_architecture("amd64").is_none());
        assert!(index.for_architecture("arm64").is_some());
    }
}
