//! An image as one file: a TAR archive in OCI layout, which container engines load and copy.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Read, Write as _},
    path::Path,
};

use serde_json::json;
use tar::{EntryType, Header};

use super::{
    assemble::Assembled,
    digest::Digest,
    layer::TIME_SECONDS,
    manifest::{Descriptor, INDEX, canonical},
};

/// The annotation by which containerd names an image that it imports.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation by which other tools find the tag of an image in an archive.
const REFERENCE_NAME: &str = "org.opencontainers.image.ref.name";
const BUFFER_BYTES: usize = 256 * 1024;

/// Writes an image without a base into a new file. `layers` are the files of its layers by their digests.
///
/// # Errors
/// When a file can't be read or written, or a layer of the image has no file.
pub fn write(image: &Assembled, layers: &BTreeMap<Digest, &Path>, name: &str, to: &Path) -> io::Result<()> {
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let annotations = [(CONTAINERD_NAME, name), (REFERENCE_NAME, tag)];
    let descriptor = Descriptor {
        platform: Some(image.platform.clone()),
        annotations: annotations.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        ..image.manifest.descriptor()
    };
    let index = canonical(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] }));
    let mut archive = tar::Builder::new(BufWriter::with_capacity(BUFFER_BYTES, File::create(to)?));
    archive.mode(tar::HeaderMode::Deterministic);
    append(&mut archive, "oci-layout", 30, br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice())?;
    append(&mut archive, "index.json", index.len() as u64, index.as_slice())?;
    for document in [&image.manifest, &image.config] {
        let bytes = document.content.len() as u64;
        append(&mut archive, &blob(&document.digest), bytes, document.content.as_slice())?;
    }
    for (digest, path) in layers {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        append(&mut archive, &blob(digest), bytes, file)?;
    }
    archive.into_inner()?.flush()
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn append(archive: &mut tar::Builder<BufWriter<File>>, path: &str, bytes: u64, content: impl Read) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mtime(TIME_SECONDS);
    header.set_mode(0o644);
    header.set_size(bytes);
    archive.append_data(&mut header, path, content.take(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::oci::{
        assemble::{BaseImage, Settings, assemble},
        layer::{Compression, Layer},
    };

    #[test]
    fn an_archive_has_every_blob_under_its_digest_and_equal_images_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut layer = Layer::of_owner(0);
        layer.bytes("etc/hello", "text", false).unwrap();
        let file = folder.path().join("layer");
        let layer = layer.write(&file, Compression::Zstd).unwrap();
        let image = assemble(&BaseImage::empty("amd64"), &[(layer.clone(), "a file")], &Settings::default()).unwrap();
        let layers = [(layer.digest.clone(), file.as_path())].into();
        let written = ["one", "two"].map(|name| {
            let path = folder.path().join(name);
            write(&image, &layers, "registry.example.com/holdfast:1.2", &path).unwrap();
            std::fs::read(path).unwrap()
        });
        assert_eq!(written[0], written[1]);
        let mut archive = tar::Archive::new(written[0].as_slice());
        let mut all = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (path, mut bytes) = (entry.path().unwrap().display().to_string(), Vec::new());
            entry.read_to_end(&mut bytes).unwrap();
            all.insert(path, bytes);
        }
        assert_eq!(all["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index: Value = serde_json::from_slice(&all["index.json"]).unwrap();
        let manifest = &index["manifests"][0];
        assert_eq!(manifest["digest"], image.manifest.digest.as_str());
        assert_eq!(manifest["platform"]["architecture"], "amd64");
        assert_eq!(manifest["annotations"][REFERENCE_NAME], "1.2");
        for (path, bytes) in all.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(*path, blob(&Digest::of(bytes)));
        }
        let manifest: Value = serde_json::from_slice(&image.manifest.content).unwrap();
        assert!(manifest["annotations"].is_null(), "an image without a base names none: {manifest}");
        let blobs = [&image.manifest.digest, &image.config.digest, &layer.digest];
        assert!(blobs.iter().all(|digest| all.contains_key(&blob(digest))));
    }
}
