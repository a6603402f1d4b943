#!/usr/bin/env bash
# A Slurm cluster of two nodes on this machine's loopback, for tests. Needs root, and Debian's packages:
#
#   tests/launch/slurm_cluster.sh install           slurm-wlm and munge, by apt-get
#   tests/launch/slurm_cluster.sh start DIRECTORY   then SLURM_CONF=DIRECTORY/slurm.conf finds it
#   tests/launch/slurm_cluster.sh stop DIRECTORY
#
# All of its files, keys and sockets lie in DIRECTORY; a cluster of the system's own is left alone.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

install_packages() {
    apt-get update --quiet
    apt-get install --quiet --yes --no-install-recommends slurm-wlm munge
}

free_ports() {
    python3 - <<'PYTHON'
import socket

sockets = [socket.socket() for _ in range(3)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PYTHON
}

# The first node has this machine's name, so that processes can look up the first node of a job.
configure() {
    local directory=$1 host controller first second
    host=$(hostname -s)
    read -r controller first second < <(free_ports)
    cat >"$directory/slurm.conf" <<CONFIGURATION
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job starts again when its old credential has expired, by default after 120 seconds.
AuthInfo=socket=$directory/munge.socket,cred_expire=5
# Seconds between SIGTERM and SIGKILL of a job that is cancelled.
KillWait=10
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool/%n
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd.%n.pid
SlurmctldLogFile=$directory/slurmctld.log
SlurmdLogFile=$directory/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 Port=$first CPUs=2 RealMemory=4000
NodeName=$host-second NodeHostname=$host NodeAddr=127.0.0.1 Port=$second CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONFIGURATION
}

start() {
    local directory=$1 node
    mkdir -p "$directory/state" "$directory/spool"
    configure "$directory"
    export SLURM_CONF=$directory/slurm.conf
    (umask 077 && head -c 1024 /dev/urandom >"$directory/munge.key")
    munged --force --key-file="$directory/munge.key" --socket="$directory/munge.socket" \
        --pid-file="$directory/munged.pid" --log-file="$directory/munged.log" --seed-file="$directory/munged.seed"
    slurmctld
    for node in "$(hostname -s)" "$(hostname -s)-second"; do
        mkdir -p "$directory/spool/$node"
        slurmd -N "$node"
    done
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --format='%D %t' 2>/dev/null)" != "2 idle" ] || return 0
        sleep 0.2
    done
    echo "the cluster did not start:" >&2
    tail "$directory"/*.log >&2
    return 1
}

stop() {
    local directory=$1 file process
    export SLURM_CONF=$directory/slurm.conf
    scancel --user=root || true
    for _ in $(seq 150); do
        [ -n "$(squeue --noheader 2>/dev/null)" ] || break
        sleep 0.2
    done
    for file in "$directory"/slurmd.*.pid "$directory/slurmctld.pid" "$directory/munged.pid"; do
        [ -f "$file" ] || continue
        process=$(cat "$file")
        kill "$process" 2>/dev/null || true
        timeout 20 tail --pid="$process" --follow /dev/null || kill -KILL "$process"
    done
}

case ${1:-} in
install) install_packages ;;
start) start "$2" ;;
stop) stop "$2" ;;
*)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
