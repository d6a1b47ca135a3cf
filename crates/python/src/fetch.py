"""Fetches files: argument 1 is a JSON list of [url, sha256, path]. A file whose hash differs is not kept."""
import base64
import concurrent.futures
import hashlib
import json
import netrc
import os
import sys
import urllib.parse
import urllib.request

SIZE_MAX_BYTES = 256 * 1024 * 1024
TRIES = 3


def credentials(url):
    """The ones of the index when the file is on the same host, else those of a netrc file that was named."""
    index = urllib.parse.urlsplit(os.environ.get("UV_DEFAULT_INDEX", ""))
    if index.username and index.hostname == url.hostname and index.scheme == url.scheme:
        return urllib.parse.unquote(index.username), urllib.parse.unquote(index.password or "")
    if os.environ.get("NETRC"):
        found = netrc.netrc(os.environ["NETRC"]).authenticators(url.hostname)
        if found:
            return found[0], found[2]
    return None


def fetch(item):
    url, sha256, path = item
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("https", "http"):
        raise ValueError("not a web address: " + url)
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")))
    found = credentials(parts)
    if found:
        # Unredirected, so that another host never sees it.
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(":".join(found).encode()).decode())
    for left in reversed(range(TRIES)):
        try:
            digest, size = hashlib.sha256(), 0
            with urllib.request.urlopen(request, timeout=60) as answer, open(path, "wb") as out:
                for piece in iter(lambda: answer.read(1 << 16), b""):
                    size += len(piece)
                    if size > SIZE_MAX_BYTES:
                        raise ValueError("too large: " + url)
                    digest.update(piece)
                    out.write(piece)
            break
        except OSError as error:
            if not left:
                raise OSError("Failed to fetch: %s: %s" % (url, error)) from None
    if digest.hexdigest() != sha256:
        os.unlink(path)
        raise ValueError("the file is not the one that the index promised: " + url)


with concurrent.futures.ThreadPoolExecutor(8) as pool:
    try:
        list(pool.map(fetch, json.load(open(sys.argv[1]))))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
