#!/usr/bin/env bash
# build-kwok.sh OUT — compiles kwok, which plays nodes that run pods in name only. A module of its own: what it asks of
# shared libraries would move those of Kubernetes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1

version=$(sed -n 's|^[[:space:]]*sigs.k8s.io/kwok v\([0-9.]*\).*|\1|p' "$here/kwok/go.mod")
flags="-s -w -X sigs.k8s.io/kwok/pkg/consts.Version=v$version"

cd "$here/kwok"
CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off go build -trimpath -ldflags "$flags" -o "$out/kwok" \
  sigs.k8s.io/kwok/cmd/kwok
"$out/kwok" --version
