#!/usr/bin/env bash
# build-job-image.sh OUT REQUIREMENT CONSTRAINTS — the image that tests run data jobs in: Python of this machine's Debian
# release, and the released vdk client of that requirement under the constraints in that file. Jobs go into /job and run
# as uid 1000.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$1 requirement=$2 constraints=$3
. "$here/lib.sh"

# The system's own Python, whatever else is on the search path: the image has the same one.
python=/usr/bin/python3
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?this release of Debian has no name}")

# Wheels of pandas and numpy need the library of C++.
say "the system: $suite"
mmdebstrap --quiet --variant=extract --aptopt='APT::Install-Recommends "false"' \
  --include=python3,bash,dash,coreutils,grep,sed,base-files,tzdata,libstdc++6 "$suite" - |
  mmtarfilter --path-exclude='/usr/share/doc/*' --path-exclude='/usr/share/man/*' --path-exclude='/usr/share/locale/*' \
    --path-exclude='/usr/share/info/*' --path-exclude='/usr/share/lintian/*' --path-exclude='/var/cache/*' \
    --path-exclude='/var/lib/apt/*' --path-exclude='/dev/*' >"$out/system.tar"

say "the client: $requirement"
"$python" -m venv "$out/venv"
packages=$out/layer/usr/local/lib/python$version/dist-packages
mkdir -p "$packages" "$out/layer/usr/local/bin"
# Older installers build under the first variable, newer ones under the second.
PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints PYTHONPATH= "$out/venv/bin/python" -m pip install \
  --no-input --disable-pip-version-check --root-user-action=ignore --quiet --target "$packages" "$requirement"
# The command was written for the Python that installed it.
sed '1s|.*|#!/usr/bin/python3|' "$packages/bin/vdk" >"$out/layer/usr/local/bin/vdk"
chmod 755 "$out/layer/usr/local/bin/vdk"
rm -r "$packages/bin"
# Tests of libraries are most of their size.
find "$packages" -type d -name tests -prune -exec rm -r {} +

# A user for uid 1000, with a home that it may write to: the client asks for both.
mkdir -p "$out/layer/etc" "$out/layer/job" "$out/layer/home/job"
cat >"$out/layer/etc/passwd" <<'USERS'
root:x:0:0:root:/root:/bin/bash
job:x:1000:1000::/home/job:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
USERS
cat >"$out/layer/etc/group" <<'GROUPS'
root:x:0:
job:x:1000:
nogroup:x:65534:
GROUPS
tar --sort=name --owner=0 --group=0 --numeric-owner -C "$out/layer" -cf "$out/layer.tar" etc usr
tar --owner=1000 --group=1000 --numeric-owner -C "$out/layer" -rf "$out/layer.tar" job home/job

python3 "$here/mkimage.py" "$out/image.tar" localhost/holdfast-test/vdk:base "$out/system.tar" "$out/layer.tar" \
  --user 1000 --workdir /job --cmd '["vdk", "version"]'
rm -r "$out/venv" "$out/layer" "$out/layer.tar" "$out/system.tar"
say "$(du -h "$out/image.tar" | cut -f1)"
