#!/usr/bin/env bash
# Train on a Cloud TPU, got as a queued resource: run these one after the other.
#
#   ./launch/tpu_vm.sh create NAME ACCELERATOR [--spot ...]    ask for it, such as v5p-256; further flags are gcloud's
#   ./launch/tpu_vm.sh status NAME                             WAITING_FOR_RESOURCES ... ACTIVE
#   ./launch/tpu_vm.sh install NAME SHARE                      the committed code to all workers; SHARE as 10.0.0.2:/share
#   ./launch/tpu_vm.sh start NAME CONFIG --run-dir /mnt/shared/... [--part.field value ...]
#   ./launch/tpu_vm.sh watch NAME                              the log of worker 0
#   ./launch/tpu_vm.sh stop NAME                               save, and stop; `start` continues
#   ./launch/tpu_vm.sh delete NAME                             give the TPU back
#
# With --dry-run before the command it shows what it would run. Project and zone are gcloud's settings:
# gcloud config set project PROJECT; gcloud config set compute/zone ZONE
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/arguments.sh

dry_run=""
if [ "${1:-}" = --dry-run ]; then
    dry_run=yes
    shift
fi

run() {
    if [ -n "$dry_run" ]; then show "$@"; else "$@"; fi
}

# What tpu_worker.sh does with these arguments, on one worker or on all.
on_worker() {
    local worker=$1
    shift
    run gcloud compute tpus tpu-vm ssh "$name" --worker="$worker" \
        --command="cd seq2seq_jax && $(show launch/tpu_worker.sh "$@")"
}

# The image that Google publishes for a generation of TPUs (https://cloud.google.com/tpu/docs/runtimes).
runtime_version() {
    case $1 in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) refuse "expected an accelerator such as v4-32, v5litepod-16, v5p-256 or v6e-64, got '$1'." ;;
    esac
}

create() {
    local version
    version=$(runtime_version "${1:-}")
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$1" \
        --runtime-version="$version" "${@:2}"
}

install() {
    local archive=build/seq2seq_jax.tar.gz
    [ -n "${1:-}" ] || refuse "expected the share that all workers mount, as 10.0.0.2:/share; got nothing."
    git diff --quiet HEAD || echo "seq2seq: what is not committed is not copied" >&2
    run mkdir -p build
    run git archive --format=tar.gz --prefix=seq2seq_jax/ --output="$archive" HEAD
    run gcloud compute tpus tpu-vm scp "$archive" "$name": --worker=all
    run gcloud compute tpus tpu-vm ssh "$name" --worker=all --command="tar --extract --gzip --file=seq2seq_jax.tar.gz"
    on_worker all install "$1"
}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
}

case ${1:-} in
create | status | install | start | watch | stop | delete) ;;
--help | -h)
    usage
    exit
    ;;
*) refuse "expected create, status, install, start, watch, stop or delete, got '${1:-}'; --help explains them." ;;
esac
command=$1
name=${2:-}
case $name in "" | -*) refuse "expected the NAME of a TPU after $command, got '$name'." ;; esac
shift 2

case $command in
create) create "$@" ;;
status) run gcloud compute tpus queued-resources describe "$name" --format="value(state.state)" ;;
install) install "$@" ;;
start)
    demand_config_and_run_directory "launch/tpu_vm.sh start NAME CONFIG --run-dir /mnt/shared/DIRECTORY" "$@"
    case $(run_directory "$@") in
    /mnt/shared/*) ;;
    *) refuse "--run-dir expects a directory below /mnt/shared, where all workers see the share, got '$(run_directory "$@")'." ;;
    esac
    on_worker all start "$@"
    ;;
watch) on_worker 0 watch ;;
stop) on_worker all stop ;;
delete) run gcloud compute tpus queued-resources delete "$name" --force ;;
esac
