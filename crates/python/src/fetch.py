"""Fetches the source of a package: argument 1 is JSON, {"name", "version", "hashes"}. Prints {"file", "sha256"}.

The index names the file on the package's page. Its hash must be one of "hashes"; the file is not kept otherwise.
Ends with 3 when the index has no such source.
"""
import glob
import hashlib
import html.parser
import json
import os
import re
import sys
import urllib.parse
import urllib.request

SIZE_MAX_BYTES = 256 * 1024 * 1024
PAGE_MAX_BYTES = 64 * 1024 * 1024
TRIES = 3
PAGE_TYPES = "application/vnd.pypi.simple.v1+html, text/html;q=0.9, application/vnd.pypi.simple.v1+json;q=0.5"
ENDINGS = (".tar.gz", ".zip")
NO_SOURCE = 3


def default_index():
    """The index that pip uses when none is set: that of the installed pip, or of the one that makes environments."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        import ensurepip

        folders = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), "/usr/share/python-wheels"]
        sys.path[:0] = [wheel for folder in folders for wheel in glob.glob(os.path.join(folder, "pip-*.whl"))]
        from pip._internal.models.index import PyPI
    return PyPI.simple_url


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        if tag == "a" and dict(attrs).get("href"):
            self.found.append(dict(attrs)["href"])


def opened(url, accept="*/*"):
    if urllib.parse.urlsplit(url).scheme not in ("https", "http"):
        raise ValueError("not a web address: " + url)
    request = urllib.request.Request(url, headers={"Accept": accept})
    return urllib.request.urlopen(request, timeout=60)


def tried(what):
    for left in reversed(range(TRIES)):
        try:
            return what()
        except OSError as error:
            if not left:
                raise OSError("Failed to fetch: %s: %s" % (getattr(error, "url", "the source"), error)) from None


def page(url):
    with opened(url, PAGE_TYPES) as answer:
        text = answer.read(PAGE_MAX_BYTES + 1)
        if len(text) > PAGE_MAX_BYTES:
            raise ValueError("the page is too large: " + url)
        base = answer.geturl()
        if "json" in answer.headers.get("Content-Type", ""):
            files = json.loads(text.decode())["files"]
            return base, [(f["url"], f.get("hashes", {}).get("sha256")) for f in files]
    links = Links()
    links.feed(text.decode("utf-8", "replace"))
    hash_of = lambda link: dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(link).fragment)).get("sha256")
    return base, [(link, hash_of(link)) for link in links.found]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def download(url, path):
    digest, size = hashlib.sha256(), 0
    with opened(url) as answer, open(path, "wb") as out:
        for piece in iter(lambda: answer.read(1 << 16), b""):
            size += len(piece)
            if size > SIZE_MAX_BYTES:
                raise ValueError("too large: " + url)
            digest.update(piece)
            out.write(piece)
    return digest.hexdigest()


def main():
    wanted = json.loads(sys.argv[1])
    index = os.environ.get("UV_DEFAULT_INDEX") or default_index()
    base, links = tried(lambda: page("%s/%s/" % (index.rstrip("/"), normal(wanted["name"]))))
    for link, sha256 in links:
        url = urllib.parse.urldefrag(urllib.parse.urljoin(base, link))[0]
        name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
        if not name.endswith(ENDINGS) or not re.match(r"^[A-Za-z0-9][A-Za-z0-9._+!-]*$", name):
            continue
        stem = name[: -len(".tar.gz" if name.endswith(".tar.gz") else ".zip")]
        if sha256 is None and normal(stem) != normal(wanted["name"] + "-" + wanted["version"]):
            continue
        if sha256 is not None and sha256 not in wanted["hashes"]:
            continue
        found = tried(lambda: download(url, name))
        if found in wanted["hashes"]:
            print(json.dumps({"file": name, "sha256": found}))
            return
        os.unlink(name)
        if sha256 is not None:
            raise ValueError("the file is not the one that the index promised: " + url)
    sys.exit(NO_SOURCE)


try:
    main()
except (OSError, ValueError, KeyError) as error:
    sys.exit(str(error))
