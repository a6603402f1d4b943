#!/usr/bin/env bash
# Install into .venv, train, evaluate on the test split, show samples: all on this machine.
#
#   ./launch/local.sh                                  the embedded default, dates/transformer
#   ./launch/local.sh CONFIG [--part.field value ...]  another config, with overrides
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
prepare_environment ""

config=dates/transformer
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    config=$1
    shift
fi
run=""
previous=""
for argument in "$@"; do
    case $previous in --run-dir | --run_dir) run=$argument ;; esac
    case $argument in --run-dir=* | --run_dir=*) run=${argument#*=} ;; esac
    previous=$argument
done

seq2seq train "$config" "$@"
# Each start of a run writes its experiment.json.
[ -n "$run" ] || run=$(dirname "$(ls -t runs/*/*/*/*/experiment.json | head -n 1)")
seq2seq evaluate "$run" --json "$run/test.json"
echo
echo "samples of the last validation (all are in $run/samples):"
echo
head -n 15 "$(ls "$run"/samples/*.txt | tail -n 1)"
