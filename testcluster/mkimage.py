#!/usr/bin/env python3
"""Makes an image out of layers: an archive in OCI layout that `ctr images import` loads under exactly the given name.

Layers are tar files, taken as they are. The same input gives the same digests. Standard library only.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile

CREATED = "2026-01-01T00:00:00Z"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
PLATFORM = {"architecture": MACHINES.get(os.uname().machine, os.uname().machine), "os": "linux"}


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def digest_of_file(path):
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            seen.update(part)
    return "sha256:" + seen.hexdigest()


def encoded(value):
    return json.dumps(value, sort_keys=True).encode()


def descriptor(media_type, digest, size):
    return {"mediaType": media_type, "digest": digest, "size": size}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("name", help="name:tag")
    parser.add_argument("layers", nargs="+", metavar="layer.tar")
    parser.add_argument("--entrypoint", type=json.loads, help="a JSON list")
    parser.add_argument("--cmd", type=json.loads, help="a JSON list")
    parser.add_argument("--user", help="uid")
    parser.add_argument("--workdir")
    given = parser.parse_args()

    run = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    choices = {"Entrypoint": given.entrypoint, "Cmd": given.cmd, "User": given.user, "WorkingDir": given.workdir}
    run.update({name: value for name, value in choices.items() if value})
    layers = [descriptor(LAYER, digest_of_file(path), os.path.getsize(path)) for path in given.layers]
    config = encoded({
        **PLATFORM,
        "created": CREATED,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        "history": [{"created": CREATED, "created_by": os.path.basename(path)} for path in given.layers],
    })
    manifest = encoded({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, digest_of(config), len(config)),
        "layers": layers,
    })
    index = encoded({
        "schemaVersion": 2,
        "manifests": [{
            **descriptor(MANIFEST, digest_of(manifest), len(manifest)),
            "platform": PLATFORM,
            "annotations": {"io.containerd.image.name": given.name},
        }],
    })

    with tarfile.open(given.out, "w") as archive:
        for name, content in [
            ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
            ("index.json", index),
            (blob_path(digest_of(config)), config),
            (blob_path(digest_of(manifest)), manifest),
        ]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for path, layer in zip(given.layers, layers):
            entry = tarfile.TarInfo(blob_path(layer["digest"]))
            entry.size = layer["size"]
            with open(path, "rb") as file:
                archive.addfile(entry, file)
    print(given.name, digest_of(manifest))


def blob_path(digest):
    return "blobs/" + digest.replace(":", "/")


if __name__ == "__main__":
    main()
