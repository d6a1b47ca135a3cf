#!/usr/bin/env bash
# The first process of the node, in namespaces of its own (mounts, cgroups, network, processes). Started by up.sh, with
# the cluster's settings in the environment. When it ends, the system ends everything on the node: containers, their
# supervisors, containerd and the kubelet.
set -euo pipefail
node=$STATE/node
socket=$node/containerd.sock

mount --make-rprivate /

# The cgroup hierarchies again, as this namespace sees them: whatever reads its own path finds "/" there.
controllers=
[ "$CGROUP_VERSION" = v2 ] || controllers=$(awk -F: '$2 != "" { print $2 }' /proc/self/cgroup)
umount -R /sys/fs/cgroup
mount -t sysfs sysfs /sys
if [ "$CGROUP_VERSION" = v2 ]; then
  # up.sh moves all processes out of its top group before it gives this node a network.
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
fi
for each in $controllers; do
  folder=/sys/fs/cgroup/${each#name=}
  mkdir -p "$folder"
  case $each in
    name=*) mount -t cgroup -o "none,$each" cgroup "$folder" ;;
    *) mount -t cgroup -o "$each" cgroup "$folder" ;;
  esac
done

# Folders that can't be chosen: into the cluster's folder, or gone with the node.
mkdir -p /run/containerd /run/netns /var/lib/kubelet /var/lib/cni /var/log/containers
mount -t tmpfs tmpfs /run/containerd
mount -t tmpfs tmpfs /run/netns
mount -t tmpfs tmpfs /var/log/containers
mount --bind "$node/kubelet" /var/lib/kubelet
mount --bind "$node/cni-state" /var/lib/cni
# The kubelet wants mounts to spread; they stay inside this namespace.
mount --make-rshared /

for ((try = 0; try < 600; try++)); do
  ! ip link show eth0 >/dev/null 2>&1 || break
  sleep 0.05
done
ip link set lo up
ip address add "$NODE_IP/32" dev eth0
ip link set eth0 up
ip route add "$HOST_IP/32" dev eth0
ip route add default via "$HOST_IP"
# The one Service that pods need without a proxy for Services: the API server's.
for chain in PREROUTING OUTPUT; do
  iptables -t nat -A "$chain" -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination "$HOST_IP:$API_PORT"
done

containerd --config "$node/containerd.toml" >>"$STATE/logs/containerd.log" 2>&1 &
for ((try = 0; try < 600; try++)); do
  ! ctr --address "$socket" version >/dev/null 2>&1 || break
  sleep 0.05
done
for archive in "$node"/images/*.tar; do
  ctr --address "$socket" --namespace k8s.io images import --digests=false "$archive"
done
ctr --address "$socket" --namespace k8s.io images tag --force localhost/holdfast-test/vdk:base \
  "localhost:$REGISTRY_PORT/holdfast-test/vdk:base"

# A kubelet that ends is started again; its containers keep running. It stays away as long as there is a file kubelet.stop.
while true; do
  if [ ! -e "$node/kubelet.stop" ]; then
    "$KUBERNETES/kubelet" --config="$node/kubelet.yaml" --kubeconfig="$STATE/pki/kubelet.kubeconfig" \
      --hostname-override=node-0 --node-ip="$NODE_IP" --root-dir=/var/lib/kubelet --cert-dir="$node/kubelet-pki" --v=2 \
      >>"$STATE/logs/kubelet.log" 2>&1 || true
  fi
  sleep 0.3
done
