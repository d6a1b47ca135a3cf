#!/usr/bin/env bash
# build-pause-image.sh OUT — the image of the container that keeps a pod's namespaces open.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1

mkdir "$out/root"
gcc -static -Os -s -o "$out/root/pause" "$here/pause.c"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$out/root" -cf "$out/layer.tar" pause
python3 "$here/mkimage.py" "$out/image.tar" localhost/holdfast-test/pause:1 "$out/layer.tar" --entrypoint '["/pause"]'
rm -r "$out/root" "$out/layer.tar"
