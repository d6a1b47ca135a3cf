# Shared by the scripts of the test cluster. It is sourced; STATE is the folder of the cluster.

say() {
  printf '%4d s  %s\n' "$SECONDS" "$*" >&2
}

fail() {
  echo "error: $*" >&2
  exit 1
}

# Runs a command again and again until it succeeds, for so many seconds at most.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}

boot_id() {
  cat /proc/sys/kernel/random/boot_id
}

# When a process began; nothing and a failure when there is none, or only its remains.
birth() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The name in brackets may hold blanks; what follows it doesn't.
  read -r -a stat <<<"${stat##*) }"
  case ${stat[0]} in
    Z | X) return 1 ;;
  esac
  echo "$(boot_id)/${stat[19]}"
}

# A process is remembered by its id and the moment of its start: ids are used again, and nothing else may be ended.
record() {
  echo "$2 $(birth "$2" || echo gone)" >"$STATE/pids/$1"
}

# The id of a recorded process, when it is alive.
pid_of() {
  local pid born
  read -r pid born 2>/dev/null <"$STATE/pids/$1" || return 1
  [ "$(birth "$pid")" = "$born" ] || return 1
  echo "$pid"
}

is_gone() {
  ! birth "$1"
}

# Starts a program in a session of its own, unless it runs.
start() {
  local name=$1
  shift
  if pid_of "$name" >/dev/null; then
    return
  fi
  setsid "$@" >>"$STATE/logs/$name.log" 2>&1 </dev/null &
  record "$name" $!
}

# Sends a signal to a recorded process and waits for its end; after five seconds it is killed.
stop() {
  local name=$1 signal=$2 pid
  if pid=$(pid_of "$name"); then
    kill -CONT "$pid" 2>/dev/null || true
    kill "-$signal" "$pid" 2>/dev/null || true
    if ! wait_until 5 is_gone "$pid"; then
      kill -KILL "$pid" 2>/dev/null || true
      wait_until 30 is_gone "$pid" || fail "process $pid ($name) can't be ended"
    fi
  fi
  rm -f "$STATE/pids/$name"
}

# The choices of the cluster's first start, and their consequences.
load_settings() {
  # shellcheck source=/dev/null
  . "$STATE/settings"
  API_PORT=$PORT_BASE
  ETCD_PORT=$((PORT_BASE + 1))
  ETCD_PEER_PORT=$((PORT_BASE + 2))
  CONTROLLER_PORT=$((PORT_BASE + 3))
  SCHEDULER_PORT=$((PORT_BASE + 4))
  KWOK_PORT=$((PORT_BASE + 5))
  REGISTRY_PORT=$((PORT_BASE + 6))
  KUBELET_PORT=$((PORT_BASE + 7))
  KUBELET_HEALTH_PORT=$((PORT_BASE + 8))
  if [ "$WITH_NODE" = 1 ]; then
    HOST_IP=$NETWORK.1
    NODE_IP=$NETWORK.2
    LINK=hf$PORT_BASE
  else
    HOST_IP=127.0.0.1
  fi
}

# The routes to the node and its pods. The system forgets them whenever the link goes down.
add_routes() {
  ip route replace "$NODE_IP/32" dev "$LINK" src "$HOST_IP"
  ip route replace "$NETWORK.128/25" via "$NODE_IP" dev "$LINK" src "$HOST_IP"
}
