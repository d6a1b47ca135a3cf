#!/usr/bin/env bash
# fault.sh STATE FAULT — does harm to a test cluster. up.sh brings back what was killed.
#
#   api-kill, api-freeze, api-thaw                   the API server
#   etcd-kill, controllers-kill, scheduler-kill      the rest of the control plane
#   kubelet-stop, kubelet-start, kubelet-restart     the kubelet; containers keep running
#   kubelet-freeze, kubelet-thaw
#   net-cut, net-join                                the link between host and node
#   node-kill                                        the node with all its containers, at once
#   container-kill=ID                                one container of the node, as a crash of its program
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
STATE=$(cd "$1" && pwd)
load_settings

# send SIGNAL NAME
send() {
  local pid
  pid=$(pid_of "$2") || fail "there is no $2 in this cluster, or it has ended already"
  kill "-$1" "$pid"
}

send_kubelet() {
  local init pid
  init=$(pid_of node-init) || fail "there is no real node in this cluster, or it has ended already"
  pid=$(pgrep --ns "$init" --nslist pid -x kubelet) || fail "no kubelet runs at the moment"
  kill "-$1" $pid
}

case $2 in
  kubelet-* | net-* | node-* | container-*) [ "$WITH_NODE" = 1 ] || fail "this cluster has no real node" ;;
esac

case $2 in
  api-kill) stop api-server KILL ;;
  api-freeze) send STOP api-server ;;
  api-thaw) send CONT api-server ;;
  etcd-kill) stop etcd KILL ;;
  controllers-kill) stop controller-manager KILL ;;
  scheduler-kill) stop scheduler KILL ;;
  kubelet-stop)
    touch "$STATE/node/kubelet.stop"
    send_kubelet TERM
    ;;
  kubelet-start) rm -f "$STATE/node/kubelet.stop" ;;
  kubelet-restart) send_kubelet TERM ;;
  kubelet-freeze) send_kubelet STOP ;;
  kubelet-thaw) send_kubelet CONT ;;
  net-cut) ip link set "$LINK" down ;;
  net-join)
    ip link set "$LINK" up
    add_routes
    ;;
  node-kill)
    stop node KILL
    rm -f "$STATE/pids/node-init"
    ;;
  container-kill=*)
    ctr --address "$STATE/node/containerd.sock" --namespace k8s.io tasks kill --signal SIGKILL "${2#*=}"
    ;;
  *) fail "there is no fault $2; the comment at the top of $0 has all of them" ;;
esac
