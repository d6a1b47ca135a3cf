#!/usr/bin/env bash
# build-kubernetes.sh OUT — compiles Kubernetes and etcd: one static binary, and a link for each of its programs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1

version=$(sed -n 's|^[[:space:]]*k8s.io/kubernetes v||p' "$here/kubernetes/go.mod")
minor=${version#*.}
minor=${minor%%.*}
flags="-s -w"
# Without these a server says that it is v0.0.0, and clients that compare versions refuse it.
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=" -X $package.gitVersion=v$version -X $package.gitMajor=${version%%.*} -X $package.gitMinor=$minor"
  flags+=" -X $package.gitTreeState=clean"
done

cd "$here/kubernetes"
CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOWORK=off go build -trimpath -ldflags "$flags" -o "$out/kubernetes" .
for program in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kubectl; do
  ln -s kubernetes "$out/$program"
done
"$out/kubectl" version --client
