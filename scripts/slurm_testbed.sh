#!/usr/bin/env bash
# A real SLURM with several nodes on one Debian machine, for tests:   slurm_testbed.sh up|down|cut NODE|mend NODE
# Needs root. A node is a network, host name and mount namespace on a private bridge; all share the file system.
# No systemd, no containers, no accounting database. Partitions: test; low, which high preempts.
set -euo pipefail

BASE="${MVIT_VIDEO_SLURM_TESTBED:-/tmp/mvit_video-slurm}"
NODES="${NODES:-2}" CPUS="${CPUS:-8}" GPUS="${GPUS:-4}"
KILL_WAIT="${KILL_WAIT:-5}"        # seconds from SIGTERM to SIGKILL
NODE_TIMEOUT="${NODE_TIMEOUT:-10}" # seconds after which a silent node is down
GRACE="${GRACE:-20}"               # seconds a preempted job has to save
SUBNET=10.78.0
BRIDGE=mvslurm0
CONTROLLER=mvslurmctl
CONF="$BASE/etc/slurm.conf"
export SLURM_CONF="$CONF"

log() { echo "slurm_testbed: $*" >&2; }
die() { log "$*"; exit 1; }
namespace() { echo "mvslurm-node$1"; }

runs() { # runs PIDFILE NAME: the process of that name is alive
    local pid
    pid="$(cat "$1" 2>/dev/null)" || return 1
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] && ! grep -q '^State:.Z' "/proc/$pid/status"
}

packages() {
    local tool
    for tool in slurmctld slurmd munged ip; do
        command -v "$tool" >/dev/null && continue
        log "installing slurm-wlm, munge and iproute2"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 >"$BASE/log/apt.log" 2>&1 ||
            { apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2; } \
                >>"$BASE/log/apt.log" 2>&1 || die "cannot install the packages; see $BASE/log/apt.log"
        return
    done
}

authentication() {
    munge -n >/dev/null 2>&1 && return
    [ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1 status=none
    chown munge:munge /etc/munge/munge.key && chmod 600 /etc/munge/munge.key
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 700 /var/log/munge /var/lib/munge
    runuser -u munge -- munged
    cp /run/munge/munged.pid "$BASE/run/munged.pid" # ours to stop
    for _ in $(seq 50); do munge -n >/dev/null 2>&1 && return; sleep 0.1; done
    die "munged does not answer"
}

network() {
    local i name
    ip link show "$BRIDGE" >/dev/null 2>&1 || {
        ip link add "$BRIDGE" type bridge
        ip addr add "$SUBNET.254/24" dev "$BRIDGE"
    }
    ip link set "$BRIDGE" up
    printf '127.0.0.1 localhost\n%s.254 %s\n' "$SUBNET" "$CONTROLLER" >"$BASE/etc/hosts"
    for i in $(seq "$NODES"); do
        name="$(namespace "$i")"
        echo "$SUBNET.$i node$i" >>"$BASE/etc/hosts"
        [ -e "/run/netns/$name" ] && continue
        ip netns add "$name"
        ip link add "mvs$i" type veth peer name eth0 netns "$name"
        ip link set "mvs$i" master "$BRIDGE" up
        ip -n "$name" addr add "$SUBNET.$i/24" dev eth0
        ip -n "$name" link set eth0 up
        ip -n "$name" link set lo up
    done
}

configuration() {
    local i gpu
    {
        cat <<EOF
ClusterName=mvit-video-test
SlurmctldHost=$CONTROLLER($SUBNET.254)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=6827
SlurmdPort=6828
AuthType=auth/munge
# How long a requeued job waits before it starts again; 5 is the least that is taken.
AuthInfo=cred_expire=5
# Listen on the bridge only.
CommunicationParameters=NoCtldInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# Nodes may claim more cores than the machine has.
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_min_interval=100000,bf_interval=1
StateSaveLocation=$BASE/state
SlurmdSpoolDir=$BASE/spool/%n
SlurmctldPidFile=$BASE/run/slurmctld.pid
SlurmdPidFile=$BASE/run/slurmd.%n.pid
SlurmctldLogFile=$BASE/log/slurmctld.log
SlurmdLogFile=$BASE/log/slurmd.%n.log
ReturnToService=2
JobRequeue=1
KillWait=$KILL_WAIT
SlurmdTimeout=$NODE_TIMEOUT
MinJobAge=3600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# The job's own warning signal comes at preemption, too.
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
EOF
        for i in $(seq "$NODES"); do
            echo "NodeName=node$i NodeAddr=$SUBNET.$i NodeHostname=node$i CPUs=$CPUS RealMemory=8000 Gres=gpu:$GPUS"
        done
        cat <<EOF
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
EOF
    } >"$CONF"
    for gpu in $(seq 0 $((GPUS - 1))); do # stand-ins: device files, no devices
        [ -e "$BASE/dev/gpu$gpu" ] || mknod "$BASE/dev/gpu$gpu" c 1 3
    done
    echo "Name=gpu File=$BASE/dev/gpu[0-$((GPUS - 1))]" >"$BASE/etc/gres.conf"
    echo "CgroupPlugin=cgroup/v1" >"$BASE/etc/cgroup.conf"
    # SLURM's default place too: some tools drop SLURM_CONF from the environment.
    mkdir -p /etc/slurm
    for i in slurm.conf gres.conf cgroup.conf; do
        if [ -e "/etc/slurm/$i" ] && [ ! -L "/etc/slurm/$i" ]; then
            die "/etc/slurm/$i belongs to another SLURM: this machine is part of a cluster already"
        fi
        ln -sfn "$BASE/etc/$i" "/etc/slurm/$i"
    done
}

in_host() { # in_host NAME COMMAND...: with that host name and our /etc/hosts
    local name="$1"
    shift
    unshare --uts --mount --propagation private -- \
        sh -c "hostname $name && mount --bind '$BASE/etc/hosts' /etc/hosts && exec \"\$@\"" sh "$@"
}

daemons() {
    local i
    runs "$BASE/run/slurmctld.pid" slurmctld || in_host "$CONTROLLER" slurmctld -f "$CONF"
    for i in $(seq "$NODES"); do
        runs "$BASE/run/slurmd.node$i.pid" slurmd && continue
        mkdir -p "$BASE/spool/node$i"
        nsenter --net="/run/netns/$(namespace "$i")" unshare --uts --mount --propagation private -- sh -c "
            hostname node$i && mount --bind '$BASE/etc/hosts' /etc/hosts &&
            mount -t tmpfs -o mode=1777 shm /dev/shm && exec slurmd -N node$i -f '$CONF'"
    done
}

ready() {
    local deadline=$((SECONDS + 60)) up i
    while :; do
        up="$(sinfo -h -p test -N -o '%t' 2>/dev/null | grep -cE '^(idle|mix|alloc)$' || true)"
        [ "$up" -ge "$NODES" ] && return
        [ "$SECONDS" -ge "$deadline" ] && { tail -n 5 "$BASE"/log/*.log >&2; die "the nodes did not come up in 60 s"; }
        for i in $(seq "$NODES"); do
            sinfo -h -n "node$i" -p test -o '%t' 2>/dev/null | grep -qE '^(down|drain)' &&
                scontrol update "nodename=node$i" state=resume 2>/dev/null || true
        done
        sleep 0.25
    done
}

stop() { # stop PIDFILE NAME
    local pid
    if runs "$1" "$2"; then
        pid="$(cat "$1")"
        kill "$pid"
        for _ in $(seq 80); do runs "$1" "$2" || break; sleep 0.1; done
        runs "$1" "$2" && kill -9 "$pid"
    fi
    rm -f "$1"
}

up() {
    [ "$(id -u)" = 0 ] || die "needs root: it makes network namespaces and starts daemons"
    command -v apt-get >/dev/null || command -v slurmctld >/dev/null || die "needs SLURM, or Debian to install it"
    mkdir -p "$BASE"/{etc,run,log,state,spool,dev}
    packages
    authentication
    network
    runs "$BASE/run/slurmctld.pid" slurmctld || configuration
    daemons
    ready
    log "ready: export SLURM_CONF=$CONF"
}

down() {
    local i jobs pids signal
    if runs "$BASE/run/slurmctld.pid" slurmctld; then
        for signal in TERM KILL; do # no job's processes are left behind
            jobs="$(timeout 10 squeue -h -o %A 2>/dev/null | sort -u)"
            [ -z "$jobs" ] && break
            # shellcheck disable=SC2086
            timeout 10 scancel $([ "$signal" = KILL ] && echo --signal=KILL) $jobs || true
            for _ in $(seq 20); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.5; done
        done
    fi
    for i in $(seq "$NODES"); do stop "$BASE/run/slurmd.node$i.pid" slurmd; done
    stop "$BASE/run/slurmctld.pid" slurmctld
    stop "$BASE/run/munged.pid" munged
    for i in $(seq "$NODES"); do
        [ -e "/run/netns/$(namespace "$i")" ] || continue
        pids="$(ip netns pids "$(namespace "$i")")"
        # shellcheck disable=SC2086
        [ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
        ip link del "mvs$i" 2>/dev/null || true
        ip netns del "$(namespace "$i")"
    done
    ip link del "$BRIDGE" 2>/dev/null || true
    for i in slurm.conf gres.conf cgroup.conf; do
        if [ "$(readlink "/etc/slurm/$i" || true)" = "$BASE/etc/$i" ]; then rm -f "/etc/slurm/$i"; fi
    done
    rm -rf "$BASE"
    log "stopped"
}

case "${1:-}" in
up) up ;;
down) down ;;
cut) ip -n "$(namespace "${2#node}")" link set eth0 down ;;
mend) ip -n "$(namespace "${2#node}")" link set eth0 up ;;
*) die "usage: slurm_testbed.sh up|down|cut NODE|mend NODE" ;;
esac
