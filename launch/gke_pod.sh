#!/usr/bin/env bash
# What each pod of gke_jobset.yaml runs: launch/gke_pod.sh CONFIG --run-dir DIRECTORY [--part.field value ...]
# Exit status 75 tells the JobSet that the run was pre-empted and saved: all pods are to start again.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/arguments.sh
. launch/preemption.sh
demand_config_and_run_directory "launch/gke_pod.sh CONFIG --run-dir DIRECTORY" "$@"

# shellcheck disable=SC2329 # run_and_on_sigterm calls it
pass_on() {
    kill -TERM "$1"
}
status=0
run_and_on_sigterm pass_on seq2seq train "$@" || status=$?
if [ "$status" = 0 ] && [ -e "$(run_directory "$@")/preempted" ]; then
    exit 75
fi
exit "$status"
