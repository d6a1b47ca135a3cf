#!/usr/bin/env bash
# build-helm.sh OUT — compiles Helm, by which the chart is rendered, packaged and installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1

version=$(sed -n 's|^.*helm.sh/helm/v3 v\([0-9.]*\).*|\1|p' "$here/helm/go.mod")
package=helm.sh/helm/v3/internal/version
flags="-s -w -X $package.version=v$version -X $package.gitTreeState=clean"
# Without these, `helm template` renders for the Kubernetes of its oldest test, 1.20.
minor=$(sed -n 's|^[[:space:]]*k8s.io/client-go v0\.\([0-9]*\).*|\1|p' "$here/helm/go.mod")
for of in lint/rules chartutil; do
  flags+=" -X helm.sh/helm/v3/pkg/$of.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$of.k8sVersionMinor=$minor"
done

cd "$here/helm"
CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off go build -trimpath -ldflags "$flags" -o "$out/helm" \
  helm.sh/helm/v3/cmd/helm
"$out/helm" version --short
