#!/usr/bin/env bash
# packages.sh build|run [list] — sees to the programs that the test cluster needs to be built, or only to run: what is
# missing is installed where this may be done, else named. With `list`, the missing packages are printed and nothing is done.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
purpose=$1

[ "$(uname -s)" = Linux ] || fail "the test cluster needs Linux; name another cluster in HOLDFAST_TEST_KUBECONFIG"

# A program or a file, and the Debian package that brings it. Programs are looked for, not packages: Docker's containerd
# is as good as Debian's, and must not be replaced by it.
needed=(
  "containerd containerd"
  "ctr containerd"
  "runc runc"
  "docker-registry docker-registry"
  "/usr/lib/cni/bridge containernetworking-plugins"
  "iptables iptables"
  "ip iproute2"
  "unshare util-linux"
  "pgrep procps"
  "openssl openssl"
  "curl curl"
  "python3 python3"
  "skopeo skopeo"
)
if [ "$purpose" = build ]; then
  needed+=(
    "mmdebstrap mmdebstrap"
    "gcc gcc"
    "/usr/include/stdio.h libc6-dev"
    "/usr/bin/python3 python3"
    "/usr/lib/python3.*/ensurepip/__init__.py python3-venv"
  )
fi

is_there() {
  case $1 in
    /*) compgen -G "$1" ;;
    # Some are where only root's search path looks.
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" ;;
  esac >/dev/null
}

missing_packages() {
  local entry
  for entry in "${needed[@]}"; do
    is_there "${entry% *}" || echo "${entry#* }"
  done | sort -u
}

if [ "${2:-}" = list ]; then
  missing_packages
  exit
fi

go_release() {
  go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p'
}

if [ "$purpose" = build ]; then
  release=$(go_release || true)
  # From 1.21 on, Go fetches the version that a module asks for.
  [ "${release:-0}" -ge 21 ] ||
    fail "the test cluster needs Go 1.21 or later, to compile Kubernetes; install it and put it into PATH"
fi

missing=$(missing_packages)
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  fail "the test cluster needs programs that are not installed here; as root: apt-get install" $missing
fi
say "installing" $missing
# Debian starts services as it installs them. Here their programs alone are wanted.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 $missing
installed=$missing
missing=$(missing_packages)
[ -z "$missing" ] || fail "apt-get installed these packages, but not what is needed of them:" $missing
for package in containerd docker-registry; do
  if grep -qx "$package" <<<"$installed" && command -v systemctl >/dev/null; then
    systemctl disable --quiet "$package" || true
  fi
done
