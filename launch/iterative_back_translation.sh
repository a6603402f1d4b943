#!/usr/bin/env bash
# Iterative back-translation (Hoang et al. 2018): in every round each direction is trained on the real pairs and on what
# the other direction made of monolingual text in the round before. Whatever is finished is not done again: the same
# command continues where it was killed.
#
#   ./launch/iterative_back_translation.sh [--dry-run] DIR ROUNDS DATA SOURCE TARGET MONO_SOURCE MONO_TARGET [options]
#
# DIR is where runs and corpora go, DATA has {train,val}.{SOURCE,TARGET} and the test set of multi30k/transformer_small,
# MONO_SOURCE and MONO_TARGET are files of lines, and options are those of every training (--training.steps 2000).
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/arguments.sh

run="env"
if [ "${1:-}" = --dry-run ]; then
    run="show"
    shift
fi
[ $# -ge 7 ] ||
    refuse "expected seven arguments, got $#; call it as: $0 DIR ROUNDS DATA SOURCE TARGET MONO_SOURCE MONO_TARGET"
directory=$1 rounds=$2 data=$3 source=$4 target=$5 mono_source=$6 mono_target=$7
shift 7

# Train FROM-TO of a round: on the real pairs alone in round 0.
train() {
    local round=$1 from=$2 to=$3
    shift 3
    local given=(--run-dir "$directory/$round/$from-$to" "$@")
    if [ "$round" = 0 ]; then
        $run seq2seq train multi30k/transformer_small --data.directory "$data" \
            --data.source "$from" --data.target "$to" "${given[@]}"
    else
        $run seq2seq train multi30k/back_translation --data.parts.0.source.directory "$data" \
            --data.parts.0.source.source "$from" --data.parts.0.source.target "$to" \
            --data.parts.1.source.directory "$directory/$round/back-$to" "${given[@]}"
    fi
}

train 0 "$source" "$target" "$@"
train 0 "$target" "$source" "$@"
for round in $(seq 1 "$rounds"); do
    before=$((round - 1))
    $run seq2seq translate-corpus "$directory/$before/$target-$source" --input "$mono_target" \
        --output "$directory/$round/back-$target"
    $run seq2seq translate-corpus "$directory/$before/$source-$target" --input "$mono_source" \
        --output "$directory/$round/back-$source"
    train "$round" "$source" "$target" "$@"
    train "$round" "$target" "$source" "$@"
done
