#!/usr/bin/env bash
# Install into .venv, train, evaluate on the test split, show samples: all on this machine.
#
#   ./launch/local.sh                                  the embedded default, dates/transformer
#   ./launch/local.sh CONFIG [--part.field value ...]  another config, with overrides
#   ./launch/local.sh --dry-run [CONFIG ...]           show what would run
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/arguments.sh
. launch/environment.sh

dry_run=""
if [ "${1:-}" = --dry-run ]; then
    dry_run=yes
    shift
fi
config=dates/transformer
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
    config=$1
    shift
fi
run=$(run_directory "$@")

train=(seq2seq train "$config" "$@")
if [ -n "$dry_run" ]; then
    show . launch/environment.sh
    show prepare_environment ""
    show "${train[@]}"
    # Without --run-dir it is training that names RUN.
    show seq2seq evaluate "${run:-RUN}" --json "${run:-RUN}/test.json"
    exit
fi
prepare_environment ""
"${train[@]}"
if [ -z "$run" ]; then
    # Each start of a run writes its experiment.json.
    newest=""
    for file in runs/*/*/*/*/experiment.json; do
        if [ "$file" -nt "$newest" ]; then newest=$file; fi
    done
    run=$(dirname "$newest")
fi
seq2seq evaluate "$run" --json "$run/test.json"
echo
echo "samples of the last validation (all are in $run/samples):"
echo
samples=("$run"/samples/*.txt)
head -n 15 "${samples[${#samples[@]} - 1]}"
