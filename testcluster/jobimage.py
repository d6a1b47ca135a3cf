#!/usr/bin/env python3
"""Puts images into a registry over its HTTP API.

    jobimage.py archive HOST:PORT ARCHIVE REPOSITORY:TAG        an image archive that mkimage.py made
    jobimage.py job HOST:PORT BASE FOLDER NAME REPOSITORY:TAG   BASE (a repository:tag there) with a job's folder in one
                                                                layer on top, at /job/NAME
    jobimage.py bare HOST:PORT BASE FOLDER PATH REPOSITORY:TAG  BASE without what it has in /usr/local, and with a folder at
                                                                PATH

Plain HTTP, no credentials. Standard library only.
"""

import hashlib
import http.client
import io
import json
import os
import sys
import tarfile
import urllib.parse

LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
JOB_USER = 1000
TIMEOUT_SECONDS = 60


class Registry:
    def __init__(self, address):
        self.address = address
        self.connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS, blocksize=1 << 20)

    def ask(self, method, path, expected, body=None, headers=None):
        """The status, the headers and the content of an answer whose status is one of those expected."""
        self.connection.request(method, path, body=body, headers=headers or {})
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status not in expected:
            said = content.decode(errors="replace").strip()
            sys.exit(f"the registry {self.address} answered {method} {path} with {answer.status}: {said}")
        return answer.status, answer.headers, content

    def manifest(self, repository, reference):
        path = f"/v2/{repository}/manifests/{reference}"
        return json.loads(self.ask("GET", path, {200}, headers={"Accept": MANIFEST})[2])

    def blob(self, repository, digest):
        return self.ask("GET", f"/v2/{repository}/blobs/{digest}", {200})[2]

    def has(self, repository, digest):
        return self.ask("HEAD", f"/v2/{repository}/blobs/{digest}", {200, 404})[0] == 200

    def put_blob(self, repository, digest, size, body):
        """`body` is called for the content, when the registry has none of this digest."""
        if self.has(repository, digest):
            return
        self.upload(repository, digest, size, body)

    def upload(self, repository, digest, size, body):
        headers = self.ask("POST", f"/v2/{repository}/blobs/uploads/", {202}, headers={"Content-Length": "0"})[1]
        place = urllib.parse.urlsplit(headers["Location"])
        query = urllib.parse.parse_qsl(place.query) + [("digest", digest)]
        path = f"{place.path}?{urllib.parse.urlencode(query)}"
        about = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        self.ask("PUT", path, {201}, body=body(), headers=about)

    def mount(self, repository, digest, source):
        """Lets a repository have a blob of another one, which moves no content."""
        query = urllib.parse.urlencode({"mount": digest, "from": source})
        path = f"/v2/{repository}/blobs/uploads/?{query}"
        status = self.ask("POST", path, {201, 202}, headers={"Content-Length": "0"})[0]
        if status == 202:
            content = self.blob(source, digest)
            self.upload(repository, digest, len(content), lambda: content)

    def put_manifest(self, repository, tag, content):
        path = f"/v2/{repository}/manifests/{tag}"
        self.ask("PUT", path, {201}, body=content, headers={"Content-Type": MANIFEST})


def split(name):
    """The repository and the tag of a name."""
    repository, colon, tag = name.rpartition(":")
    if not colon or not repository or "/" in tag:
        sys.exit(f"{name!r} is not of the form repository:tag")
    return repository, tag


def digest_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def push_archive(address, path, name):
    repository, tag = split(name)
    registry = Registry(address)
    with tarfile.open(path) as archive:

        def blob(digest):
            return archive.extractfile("blobs/" + digest.replace(":", "/"))

        index = json.load(archive.extractfile("index.json"))
        manifest = blob(index["manifests"][0]["digest"]).read()
        parts = json.loads(manifest)
        for part in [parts["config"], *parts["layers"]]:
            registry.put_blob(repository, part["digest"], part["size"], lambda: blob(part["digest"]))
        registry.put_manifest(repository, tag, manifest)


def layer_of(path, name, user, emptied=()):
    """A file or a folder as a layer: owned by one user, and the same bytes for the same content. What lies in the folders
    `emptied` of the image below is gone."""
    layer = io.BytesIO()

    def normal(entry):
        entry.uid = entry.gid = user
        entry.uname = entry.gname = ""
        entry.mtime = 0
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(path, arcname=name, filter=normal)
        for folder in emptied:
            archive.addfile(tarfile.TarInfo(f"{folder}/.wh..wh..opq"))
    return layer.getvalue()


def push_upon(address, base, layer, about, name):
    """Puts a layer on the image BASE."""
    repository, tag = split(name)
    base_repository, base_tag = split(base)
    registry = Registry(address)
    manifest = registry.manifest(base_repository, base_tag)
    config = json.loads(registry.blob(base_repository, manifest["config"]["digest"]))
    for part in manifest["layers"]:
        if repository != base_repository:
            registry.mount(repository, part["digest"], base_repository)

    digest = digest_of(layer)
    registry.put_blob(repository, digest, len(layer), lambda: layer)
    manifest["layers"].append({"mediaType": LAYER, "digest": digest, "size": len(layer)})
    config["rootfs"]["diff_ids"].append(digest)
    config["history"].append({"created": config["created"], "created_by": about})

    content = json.dumps(config, sort_keys=True).encode()
    registry.put_blob(repository, digest_of(content), len(content), lambda: content)
    manifest["config"].update(digest=digest_of(content), size=len(content))
    registry.put_manifest(repository, tag, json.dumps(manifest, sort_keys=True).encode())


def push_job(address, base, folder, job, name):
    if not os.path.isdir(folder):
        sys.exit(f"{folder} is no folder")
    push_upon(address, base, layer_of(folder, f"job/{job}", JOB_USER), f"the job {job}", name)


def push_bare(address, base, folder, path, name):
    # All that was installed beside the system's own Python is gone.
    layer = layer_of(folder, path.strip("/"), 0, emptied=["usr/local"])
    push_upon(address, base, layer, f"the folder {path}", name)


COMMANDS = {"archive": (push_archive, 3), "job": (push_job, 5), "bare": (push_bare, 5)}


def main(arguments):
    command, count = COMMANDS.get(arguments[0] if arguments else "", (None, 0))
    if command is None or len(arguments) != count + 1:
        sys.exit(__doc__)
    try:
        command(*arguments[1:])
    except OSError as error:
        sys.exit(f"the registry {arguments[1]} can't be reached: {error}. Is the test cluster up?")


if __name__ == "__main__":
    main(sys.argv[1:])
