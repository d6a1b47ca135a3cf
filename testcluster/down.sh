#!/usr/bin/env bash
# down.sh STATE — ends what up.sh started, and undoes what it did to the machine's network and cgroups. Files are kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
[ -d "$1/pids" ] || exit 0
STATE=$(cd "$1" && pwd)

# All processes of the node end with this one.
stop node KILL
rm -f "$STATE/pids/node-init"
# When asked to end, the API server waits a minute for open watches; etcd has all that counts.
stop api-server KILL
for name in kwok scheduler controller-manager registry-for-node registry etcd; do
  stop "$name" TERM
done

# cgroups can be removed once their last process is gone, the inner ones first.
remove_cgroups() {
  local folder
  while read -r folder; do
    [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + || return 1
  done <"$STATE/cgroups"
}
if [ -e "$STATE/cgroups" ]; then
  wait_until 20 remove_cgroups || fail "cgroups of the test cluster can't be removed: $(cat "$STATE/cgroups")"
  rm "$STATE/cgroups"
fi

[ -e "$STATE/settings" ] || exit 0
load_settings
# After a restart of the machine this network may be another cluster's.
if [ "$WITH_NODE" = 1 ] && [ "$(cat "$STATE/boot")" = "$(boot_id)" ]; then
  ip link delete "$LINK" 2>/dev/null || true
  ip route delete unreachable "$NETWORK.0/24" metric 4000 2>/dev/null || true
  ip address delete "$HOST_IP/32" dev lo 2>/dev/null || true
fi
rm "$STATE/settings"
