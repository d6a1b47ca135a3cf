#!/usr/bin/env bash
# up.sh STATE — brings up the test cluster whose folder is STATE, or what is missing of it. Progress goes to the error
# output; the last line of the output is the path of the KUBECONFIG.
#
# In the environment:
#   KUBERNETES, KWOK          the folders that build-kubernetes.sh and build-kwok.sh made
#   PAUSE_IMAGE, JOB_IMAGE    the folders that build-pause-image.sh and build-job-image.sh made
#   PORT_BASE                 the first of ten ports; a free one is chosen when it is not set
#   WITH_NODE                 0 leaves out the real node, which needs root; 1 by default
#   NODE_GRACE_SECONDS        how long a silent node stays Ready; 40 by default
#   CONTROLLERS_QPS           how many calls a second each controller makes at most; 20 by default, as Kubernetes has it
#   KEEP_CLIENTS              1 leaves the clients of an API server that is started again as they are
#
# Ports, network and WITH_NODE are chosen once and kept in STATE/settings until the cluster is taken down.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
mkdir -p "$1"
STATE=$(cd "$1" && pwd)
: "${KUBERNETES:?}" "${KWOK:?}" "${PAUSE_IMAGE:?}" "${JOB_IMAGE:?}"

READY_SECONDS=300

# Nothing here is asked for outside of this machine.
unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
# kubectl would keep what it discovers in the user's home.
export KUBECACHEDIR=$STATE/kubectl
# The path of a socket has 107 characters at most.
[ "${#STATE}" -le 75 ] || fail "the path $STATE is too long; name a shorter one (--state)"

main() {
  forget_what_ended_with_the_machine
  mkdir -p "$STATE"/{pids,logs,pki,registry}
  choose_settings
  load_settings
  hold_network
  make_certificates
  export KUBECONFIG=$STATE/kubeconfig
  start_etcd
  start_api_server
  start_controllers
  start_fake_node
  start_registry
  if [ "$WITH_NODE" = 1 ]; then
    start_node
  fi
  write_addresses
  echo "$KUBECONFIG"
}

# The requests of the cluster's users.
write_addresses() {
  cat >"$STATE/addresses.new" <<EOF
API_SERVER_URL=https://$HOST_IP:$API_PORT
REGISTRY=localhost:$REGISTRY_PORT
HOST_IP=$HOST_IP
EOF
  mv "$STATE/addresses.new" "$STATE/addresses"
}

# After a restart of the machine nothing of the cluster is left but files, and they name ports that others may have now.
forget_what_ended_with_the_machine() {
  if [ -e "$STATE/boot" ] && [ "$(cat "$STATE/boot")" != "$(boot_id)" ]; then
    find "$STATE" -mindepth 1 -delete
  fi
  boot_id >"$STATE/boot"
}

# --- ports and network

is_free_port() {
  ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

are_free_ports() {
  local offset
  for offset in {0..9}; do
    is_free_port $(($1 + offset)) || return 1
  done
}

# The address of the host's side is the claim on a whole network: it can be added once on a machine.
claim_network() {
  [[ $(ip -4 route show table all) != *" $1."* ]] || return 1
  ip address add "$1.1/32" dev lo 2>/dev/null
}

# Networks are taken from the range for measurements of networks (198.18.0.0/15), which is unused otherwise.
choose_settings() {
  local with_node=${WITH_NODE:-1} begin number base network=
  if [ -e "$STATE/settings" ]; then
    load_settings
    [ "$WITH_NODE" = "$with_node" ] || fail "this cluster came up with WITH_NODE=$WITH_NODE; take it down first"
    return
  fi
  if [ "$with_node" = 1 ] && [ "$(id -u)" != 0 ]; then
    fail "the node of the test cluster needs root, for namespaces and cgroups; without a node it goes without: --no-node"
  fi
  # Not in order, so that two that choose at the same time seldom meet.
  begin=$((RANDOM % 250))
  for number in {1..250}; do
    number=$(((begin + number) % 250))
    # Below the ports that the system gives to connections.
    base=${PORT_BASE:-$((20000 + 40 * number))}
    if ! are_free_ports "$base"; then
      [ -z "${PORT_BASE:-}" ] || fail "the ports $base to $((base + 9)) are not all free"
      continue
    fi
    if [ "$with_node" = 1 ]; then
      network=198.18.$number
      claim_network "$network" || continue
    fi
    printf 'WITH_NODE=%s\nPORT_BASE=%s\nNETWORK=%s\n' "$with_node" "$base" "$network" >"$STATE/settings.new"
    mv "$STATE/settings.new" "$STATE/settings"
    say "ports $base to $((base + 9))${network:+, network $network.0/24}"
    return
  done
  fail "no free ports and network were found for the test cluster"
}

# While the link to the node is away, nothing that is meant for it may leave by the machine's default route: a gateway
# there may answer in the node's place.
hold_network() {
  [ "$WITH_NODE" = 1 ] || return 0
  ip address add "$HOST_IP/32" dev lo 2>/dev/null || true
  ip route replace unreachable "$NETWORK.0/24" metric 4000
}

# --- certificates

new_key() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
}

# new_certificate NAME SUBJECT [SUBJECT_ALTERNATIVE_NAMES]
new_certificate() {
  new_key "$1"
  {
    echo extendedKeyUsage=serverAuth,clientAuth
    echo keyUsage=digitalSignature,keyEncipherment
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  } >"$1.extensions"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.request"
  openssl x509 -req -in "$1.request" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.extensions" \
    -out "$1.crt"
}

# write_kubeconfig USER FILE
write_kubeconfig() {
  cat >"$2" <<EOF
apiVersion: v1
kind: Config
current-context: test
clusters:
  - name: test
    cluster:
      server: https://$HOST_IP:$API_PORT
      certificate-authority-data: $(base64 -w0 ca.crt)
users:
  - name: $1
    user:
      client-certificate-data: $(base64 -w0 "$1.crt")
      client-key-data: $(base64 -w0 "$1.key")
contexts:
  - name: test
    context:
      cluster: test
      user: $1
EOF
  chmod 600 "$2"
}

make_certificates() {
  [ ! -e "$STATE/pki/complete" ] || return 0
  (
    umask 077
    cd "$STATE/pki"
    new_key ca
    openssl req -x509 -new -key ca.key -subj /CN=test-ca -days 3650 -out ca.crt
    new_certificate api-server /CN=kube-apiserver \
      "DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default,DNS:kubernetes,IP:127.0.0.1,IP:10.96.0.1,IP:$HOST_IP"
    new_certificate api-server-to-kubelet /O=system:masters/CN=api-server-to-kubelet
    new_certificate admin /O=system:masters/CN=admin
    new_certificate controller-manager /CN=system:kube-controller-manager
    new_certificate scheduler /CN=system:kube-scheduler
    for user in admin controller-manager scheduler; do
      write_kubeconfig "$user" "$user.kubeconfig"
    done
    if [ "$WITH_NODE" = 1 ]; then
      new_certificate kubelet /O=system:nodes/CN=system:node:node-0
      new_certificate kubelet-server /O=system:nodes/CN=system:node:node-0 "DNS:node-0,IP:$NODE_IP,IP:127.0.0.1"
      write_kubeconfig kubelet kubelet.kubeconfig
    fi
    openssl genrsa -out service-accounts.key 2048
    openssl rsa -in service-accounts.key -pubout -out service-accounts.pub
    cp admin.kubeconfig "$STATE/kubeconfig"
    touch complete
  ) >>"$STATE/logs/pki.log" 2>&1 || fail "no certificates: $(tail -3 "$STATE/logs/pki.log")"
  say "certificates made"
}

# --- control plane

start_etcd() {
  local peer=http://127.0.0.1:$ETCD_PEER_PORT client=http://127.0.0.1:$ETCD_PORT
  start etcd "$KUBERNETES/etcd" --name test --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "test=$peer"
}

api_server_is_ready() {
  # A wait for a process that has ended returns at once.
  pid_of api-server >/dev/null || fail "the API server ended: $(tail -5 "$STATE/logs/api-server.log")"
  pid_of etcd >/dev/null || fail "etcd ended: $(tail -5 "$STATE/logs/etcd.log")"
  curl -sf --noproxy '*' --max-time 5 --cacert "$STATE/pki/ca.crt" "https://$HOST_IP:$API_PORT/readyz"
}

start_api_server() {
  local name
  if ! pid_of api-server >/dev/null && [ "${KEEP_CLIENTS:-0}" != 1 ]; then
    # Clients of a server that was away wait longer and longer between their tries, a minute and more. They are started
    # afresh, with it.
    for name in controller-manager scheduler kwok; do
      stop "$name" KILL
    done
    if [ "$WITH_NODE" = 1 ] && pid_of node >/dev/null; then
      "$here/fault.sh" "$STATE" kubelet-restart || true
    fi
  fi
  start api-server "$KUBERNETES/kube-apiserver" \
    --etcd-servers="http://127.0.0.1:$ETCD_PORT" \
    --bind-address="$HOST_IP" \
    --advertise-address="$(advertised)" \
    --secure-port="$API_PORT" \
    --tls-cert-file="$STATE/pki/api-server.crt" \
    --tls-private-key-file="$STATE/pki/api-server.key" \
    --client-ca-file="$STATE/pki/ca.crt" \
    --kubelet-client-certificate="$STATE/pki/api-server-to-kubelet.crt" \
    --kubelet-client-key="$STATE/pki/api-server-to-kubelet.key" \
    --kubelet-certificate-authority="$STATE/pki/ca.crt" \
    --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$STATE/pki/service-accounts.pub" \
    --service-account-signing-key-file="$STATE/pki/service-accounts.key" \
    --service-cluster-ip-range=10.96.0.0/16 \
    --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction \
    --profiling=false
  wait_until_ready "$READY_SECONDS" "the API server" api_server_is_ready
  say "the API server is ready"
}

# Kubernetes refuses to put a loopback address among the endpoints of its own Service.
advertised() {
  if [ "$WITH_NODE" = 1 ]; then
    echo "$HOST_IP"
  else
    echo 192.0.2.1
  fi
}

wait_until_ready() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$what was not ready in time; the logs: $STATE/logs"
    sleep 0.1
  done
}

is_healthy() {
  curl -sfk --noproxy '*' --max-time 5 "https://127.0.0.1:$1/healthz"
}

default_account_exists() {
  "$KUBERNETES/kubectl" -n default get serviceaccount default 2>&1
}

start_controllers() {
  start controller-manager "$KUBERNETES/kube-controller-manager" \
    --kubeconfig="$STATE/pki/controller-manager.kubeconfig" \
    --leader-elect=false \
    --use-service-account-credentials \
    --service-account-private-key-file="$STATE/pki/service-accounts.key" \
    --root-ca-file="$STATE/pki/ca.crt" \
    --cluster-signing-cert-file="$STATE/pki/ca.crt" \
    --cluster-signing-key-file="$STATE/pki/ca.key" \
    --bind-address=127.0.0.1 \
    --secure-port="$CONTROLLER_PORT" \
    --kube-api-qps="${CONTROLLERS_QPS:-20}" \
    --kube-api-burst="$((${CONTROLLERS_QPS:-20} * 3 / 2))" \
    --node-monitor-grace-period="${NODE_GRACE_SECONDS:-40}s"
  start scheduler "$KUBERNETES/kube-scheduler" \
    --kubeconfig="$STATE/pki/scheduler.kubeconfig" \
    --leader-elect=false \
    --bind-address=127.0.0.1 \
    --secure-port="$SCHEDULER_PORT"
  wait_until_ready "$READY_SECONDS" "the controller manager" is_healthy "$CONTROLLER_PORT"
  wait_until_ready "$READY_SECONDS" "the scheduler" is_healthy "$SCHEDULER_PORT"
  wait_until_ready "$READY_SECONDS" "the first service account" default_account_exists
  say "the control plane works"
}

start_fake_node() {
  local fresh=0
  pid_of kwok >/dev/null || fresh=1
  start kwok "$KWOK/kwok" \
    --kubeconfig="$KUBECONFIG" \
    --manage-all-nodes=false \
    --manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake \
    --server-address="127.0.0.1:$KWOK_PORT"
  if [ "$fresh" = 1 ]; then
    "$KUBERNETES/kubectl" apply -f "$here/kwok-node.yaml" >&2
  fi
}

# --- registry

registry_answers() {
  curl -sf --noproxy '*' --max-time 5 "http://127.0.0.1:$REGISTRY_PORT/v2/"
}

# start_one_registry NAME ADDRESS
start_one_registry() {
  cat >"$STATE/$1.yml" <<EOF
version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: $STATE/registry
  delete:
    enabled: true
http:
  addr: $2:$REGISTRY_PORT
EOF
  start "$1" docker-registry serve "$STATE/$1.yml"
}

# One folder, served on the loopback address for pushes, and on the node's side for pulls.
start_registry() {
  start_one_registry registry 127.0.0.1
  if [ "$WITH_NODE" = 1 ]; then
    start_one_registry registry-for-node "$HOST_IP"
  fi
  wait_until_ready 60 "the registry" registry_answers
  # Another image of jobs than the one that the registry has is pushed, too.
  local complete
  complete=$STATE/registry/complete-$(basename "$JOB_IMAGE")
  if [ ! -e "$complete" ]; then
    python3 "$here/jobimage.py" archive "127.0.0.1:$REGISTRY_PORT" "$JOB_IMAGE/image.tar" holdfast-test/vdk:base
    touch "$complete"
    say "the job image is in the registry"
  fi
}

# --- real node

write_node_files() {
  local node=$STATE/node
  mkdir -p "$node"/{cni,images,kubelet,cni-state,pod-logs,kubelet-pki}
  cp "$PAUSE_IMAGE/image.tar" "$node/images/pause.tar"
  cp "$JOB_IMAGE/image.tar" "$node/images/job.tar"

  # The address localhost:<port> of pods is the registry on the host's side of the link.
  mkdir -p "$node/registries/localhost:$REGISTRY_PORT"
  cat >"$node/registries/localhost:$REGISTRY_PORT/hosts.toml" <<EOF
server = "http://$HOST_IP:$REGISTRY_PORT"
[host."http://$HOST_IP:$REGISTRY_PORT"]
  capabilities = ["pull", "resolve"]
EOF

  cat >"$node/containerd.toml" <<EOF
version = 2
root = "$node/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "$node/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/holdfast-test/pause:1"
  # Not every root may lower the score by which the system chooses whom to end when memory runs out.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$node/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "$node/registries"
EOF

  cat >"$node/cni/10-bridge.conflist" <<EOF
{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "pods",
      "isGateway": true,
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "$node/addresses",
        "ranges": [[{"subnet": "$NETWORK.128/25"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    }
  ]
}
EOF

  cat >"$node/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
port: $KUBELET_PORT
healthzPort: $KUBELET_HEALTH_PORT
readOnlyPort: 0
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: $STATE/pki/ca.crt
authorization:
  mode: Webhook
tlsCertFile: $STATE/pki/kubelet-server.crt
tlsPrivateKeyFile: $STATE/pki/kubelet-server.key
containerRuntimeEndpoint: unix://$node/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
podLogsDir: $node/pod-logs
volumePluginDir: $node/volume-plugins
resolvConf: ""
maxPods: 100
# Images of tests are not cleaned up, and a full disk of the machine is no reason to end their pods.
imageGCHighThresholdPercent: 100
evictionHard:
  memory.available: 50Mi
  nodefs.available: 1%
  imagefs.available: 1%
  nodefs.inodesFree: 1%
EOF
}

# A v1 hierarchy has its controllers named in the second field.
has_cgroup_v1() {
  grep -q '^[0-9]*:[^:]*memory' /proc/self/cgroup
}

has_cgroup_v2() {
  grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null
}

# Moves this shell into a new cgroup of every v1 hierarchy, below the one that it is in: what limits the caller limits the
# node. Their folders are printed.
enter_cgroups_v1() {
  local own controllers path folder parent file
  # Read at once: it changes with every move.
  own=$(cat /proc/self/cgroup)
  while IFS=: read -r _ controllers path; do
    [ -n "$controllers" ] || continue
    parent=/sys/fs/cgroup/${controllers#name=}${path%/}
    folder=$parent/holdfast-$PORT_BASE
    mkdir -p "$folder"
    if [ -e "$folder/cpuset.cpus" ]; then
      for file in cpuset.cpus cpuset.mems; do
        cat "$parent/$file" >"$folder/$file"
      done
    fi
    echo "$BASHPID" >"$folder/cgroup.procs"
    echo "$folder"
  done <<<"$own"
}

# The controllers of cgroup v2 that the kubelet needs and that exist.
allow_controllers() {
  local controller
  for controller in cpuset cpu io memory pids hugetlb; do
    ! grep -qw "$controller" "$1/cgroup.controllers" || echo "+$controller" >"$1/cgroup.subtree_control" || return 1
  done
}

# The same for v2. Only a group without processes may give controllers to groups below it, and the top one, so the node's
# group is right below the top. The moves were tried alone; a kubelet on a machine with v2 was not.
enter_cgroup_v2() {
  local folder=/sys/fs/cgroup/holdfast-$PORT_BASE
  allow_controllers /sys/fs/cgroup ||
    fail "controllers of cgroup v2 can't be given to a group below /sys/fs/cgroup; in a container it must have no processes"
  # A node that was here before has left its groups, and they give controllers away already.
  [ ! -d "$folder" ] || wait_until 20 find "$folder" -depth -type d -exec rmdir {} + ||
    fail "the groups of an earlier node can't be removed: $folder"
  mkdir -p "$folder/node"
  echo "$BASHPID" >"$folder/cgroup.procs"
  echo "$folder"
}

# Moves all processes out of the node's group, into one below it; fails when there are new ones.
empty_cgroup_v2() {
  local process
  for process in $(cat "$1/cgroup.procs"); do
    # One that has ended meanwhile needs no place.
    echo "$process" >"$1/node/cgroup.procs" 2>/dev/null || true
  done
  [ -z "$(cat "$1/cgroup.procs")" ]
}

# The node's group gets free of processes once the namespace of groups is made, which has it as its top.
leave_top_cgroup_v2() {
  local folder=/sys/fs/cgroup/holdfast-$PORT_BASE
  wait_until 20 empty_cgroup_v2 "$folder" || fail "processes can't be moved out of $folder"
  allow_controllers "$folder" || fail "controllers of cgroup v2 can't be given to the groups of pods"
}

# The first process of the node: the one below `unshare` that has a network of its own.
find_init() {
  local child network
  for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
    network=$(readlink "/proc/$child/ns/net") || continue
    if [ -n "$network" ] && [ "$network" != "$(readlink /proc/self/ns/net)" ]; then
      record node-init "$child"
      return
    fi
  done
  return 1
}

node_is_ready() {
  pid_of node >/dev/null || fail "the node ended: $(tail -5 "$STATE/logs/node.log" "$STATE/logs/kubelet.log" 2>&1)"
  "$KUBERNETES/kubectl" get node node-0 -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null |
    grep -q True
}

start_node() {
  if ! pid_of node >/dev/null; then
    local version
    if has_cgroup_v1; then
      version=v1
    elif has_cgroup_v2; then
      version=v2
    else
      fail "the node of the test cluster needs cgroups that count memory, which this machine has not; --no-node goes without"
    fi
    write_node_files
    export CGROUP_VERSION=$version
    export STATE KUBERNETES HOST_IP NODE_IP API_PORT REGISTRY_PORT
    (
      if [ "$version" = v1 ]; then enter_cgroups_v1; else enter_cgroup_v2; fi >"$STATE/cgroups"
      exec setsid unshare --mount --cgroup --net --pid --fork --kill-child --mount-proc bash "$here/node-init.sh"
    ) >>"$STATE/logs/node.log" 2>&1 </dev/null &
    record node $!
    wait_until 60 find_init $! || fail "the node does not start: $(tail -5 "$STATE/logs/node.log")"
    [ "$version" = v1 ] || leave_top_cgroup_v2
    # One link leads from the host to the node, and nothing else out of it.
    ip link delete "$LINK" 2>/dev/null || true
    ip link add "$LINK" type veth peer name eth0 netns "$(pid_of node-init)"
    ip link set "$LINK" up
    add_routes
  fi
  wait_until_ready "$READY_SECONDS" "the node" node_is_ready
  say "the node is ready"
}

main
