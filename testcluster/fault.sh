#!/usr/bin/env bash
# fault.sh STATE FAULT — does harm to a test cluster. up.sh brings back what was killed.
#
#   api-kill, api-freeze, api-thaw                   the API server
#   etcd-kill, controllers-kill, scheduler-kill      the rest of the control plane
#   kubelet-stop, kubelet-start, kubelet-restart     the kubelet; containers go on
#   kubelet-freeze, kubelet-thaw
#   net-cut, net-join                                the link between host and node
#   node-kill                                        the node with all its containers, at once
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
STATE=$(cd "$1" && pwd)
load_settings

running() {
  pid_of "$1" || fail "there is no $1 in this cluster, or it has ended already"
}

kubelet() {
  pgrep --ns "$(running node-init)" --nslist pid -x kubelet
}

case $2 in
  api-kill) stop api-server KILL ;;
  api-freeze) kill -STOP "$(running api-server)" ;;
  api-thaw) kill -CONT "$(running api-server)" ;;
  etcd-kill) stop etcd KILL ;;
  controllers-kill) stop controller-manager KILL ;;
  scheduler-kill) stop scheduler KILL ;;
  kubelet-stop)
    touch "$STATE/node/kubelet.stop"
    kill "$(kubelet)"
    ;;
  kubelet-start) rm -f "$STATE/node/kubelet.stop" ;;
  kubelet-restart) kill "$(kubelet)" ;;
  kubelet-freeze) kill -STOP "$(kubelet)" ;;
  kubelet-thaw) kill -CONT "$(kubelet)" ;;
  net-cut) ip link set "$LINK" down ;;
  net-join)
    ip link set "$LINK" up
    add_routes
    ;;
  node-kill)
    stop node KILL
    rm -f "$STATE/pids/node-init"
    ;;
  *) fail "there is no fault $2; the comment at the top of $0 has all of them" ;;
esac
