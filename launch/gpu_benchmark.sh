#!/usr/bin/env bash
# What one GPU does with this project, compared with PyTorch. Most of the time is compilation: the limits of the parts
# sum up to less than 9 minutes, and a second call takes its programs from the first.
#
#   ./launch/gpu_benchmark.sh [DIR]          measurements as JSON, a log per part and a table go to DIR (benchmark_gpu)
#   ./launch/gpu_benchmark.sh --all [DIR]    beam search too, in up to 12 minutes
#   ./launch/gpu_benchmark.sh --toy [DIR]    everything, small, on a CPU too: to see that it runs
#   ./launch/gpu_benchmark.sh --only PART[,PART...] [DIR]    some parts; --all --dry-run shows their names
#   ./launch/gpu_benchmark.sh --dry-run      show what would run
#
# Every part has a time limit of its own; one that fails is reported, and the rest continues.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
. launch/arguments.sh
. launch/environment.sh

toy="" dry_run="" only="" directory=benchmark_gpu
parts=(attention t5_large transformer_big packing policy_gradient peer_t5 peer_transformer)
# A model that ends its texts has to be trained first.
search_parts=(training_for_search peer_search)
while [ $# -gt 0 ]; do
    case $1 in
    --toy) toy=yes parts+=("${search_parts[@]}") ;;
    --all) parts+=("${search_parts[@]}") ;;
    --dry-run) dry_run=yes ;;
    --only)
        only=,${2:-},
        shift
        ;;
    -*) refuse "expected --all, --toy, --dry-run, --only or a directory, got '$1'." ;;
    *) directory=$1 ;;
    esac
    shift || refuse "expected parts after --only, as ${parts[0]},${parts[1]}; got nothing."
done
for name in ${only//,/ }; do
    case " ${parts[*]} ${search_parts[*]} " in
    *" $name "*) ;;
    *) refuse "expected one of ${parts[*]} ${search_parts[*]} after --only, got '$name'." ;;
    esac
done

[ -n "$only" ] || only=,$(IFS=, && echo "${parts[*]}"),

# An environment that is active and has the project's libraries is used as it is: the machine may have no network.
has() { "${python[@]}" -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))" "$@"; }
python=("${PYTHON:-python3}")
if [ -z "$dry_run" ] && ! has jax flax optax tyro sentencepiece 2>/dev/null; then
    prepare_environment ""
    python=(python)
    pip install --quiet --disable-pip-version-check -e ".[peers]" ||
        echo "gpu_benchmark: PyTorch could not be installed; comparisons with it are left out." >&2
fi

# part NAME SECONDS MODULE ARGUMENTS: the module writes DIR/NAME.json.
failed=0
part() {
    local name=$1 seconds=$2 status started=$SECONDS
    shift 2
    case $only in *,"$name",*) ;; *) return ;; esac
    local command=(timeout --kill-after 5 "$seconds" "${python[@]}" -m "$@" --json "$directory/$name.json")
    if [ -n "$dry_run" ]; then
        show "${command[@]}"
        return
    fi
    rm -f "$directory/$name.json"
    "${command[@]}" >"$directory/$name.log" 2>&1
    status=$?
    case $status in
    0) echo "$name: done in $((SECONDS - started)) s" ;;
    124 | 137) echo "$name: NOT MEASURED, not done in its $seconds s; see $directory/$name.log" ;;
    *) echo "$name: NOT MEASURED, status $status: $(tail -n 1 "$directory/$name.log")" ;;
    esac
    [ "$status" = 0 ] || failed=$((failed + 1))
    return "$status"
}

if [ -z "$dry_run" ]; then
    mkdir -p "$directory"
    # A second call compiles nothing anew; on a CPU the cache can be refused.
    [ -n "$toy" ] || export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$directory/compilation_cache}"
fi
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

own=(seq2seq_jax.benchmark.gpu)
peers=(studies.peers) search=(studies.peers generation "$directory/trained")
# What is searched with: a Transformer that has learned to normalise dates well enough to end its texts.
trained=(seq2seq_jax train dates/transformer --run-dir "$directory/trained" --data.validation_examples 32)
if [ -n "$toy" ]; then
    own+=(--toy True --rounds 5)
    peers+=(--rounds 5 --calls 1 --compiled False)
    t5=(--task.rows 2) big=(--task.rows 2)
    trained+=(--data.train_examples 500 --data.test_examples 32 --training.steps 20)
    search+=(--rounds 5 --sentences 16 --our_batches 256 --hugging_face_batches 8 --ctranslate2_batches 256)
else
    peers+=(--rounds 5 --calls 2 --check False --task.precision bfloat16 --task.model_dim 1024 --task.num_heads 16)
    peers+=(--task.feed_forward_dim 4096 --task.scan_layers True --task.remat save_products)
    # Both sides' states and activations share the card: what the compiler says of this side is 18 GB and 18 GB. To
    # compile T5's 48 layers takes PyTorch longer than all of this.
    t5=(--compiled False --task.rows 32 --task.source_length 512 --task.target_length 128 --task.transformer_layers 24)
    t5+=(--task.vocabulary_size 32128 --task.dropout 0 --task.label_smoothing 0)
    t5+=(--task.loss_chunk 64)
    big=(--task.rows 256 --task.source_length 128 --task.target_length 128 --task.transformer_layers 6)
    big+=(--task.vocabulary_size 37000 --task.dropout 0.3 --task.loss_chunk 64)
    trained+=(--data.train_examples 20000 --data.test_examples 2048 --training.steps 300 --training.target_tokens_per_batch 9216 --optimizer.learning_rate 1e-3)
    for stack in encoder decoder; do
        trained+=("--model.$stack.num_layers" 6 "--model.$stack.model_dim" 512 "--model.$stack.num_heads" 8)
        trained+=("--model.$stack.hidden_dim" 2048 "--model.$stack.scan_layers" True)
    done
    # 256 sentences have about 4,000 tokens.
    search+=(--rounds 5 --our_batches 4096 16384 --hugging_face_batches 256 --ctranslate2_batches 4096 16384)
    # What PyTorch allocates beside JAX in one process must have room.
    peer_memory=0.45
fi

# Whether the kernels are right does not depend on which of XLA's are fastest here, whose search takes most of the time.
XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_autotune_level=0" part attention 50 "${own[@]}" --part attention ||
    echo "fused attention is not to be trusted here: train with --model.encoder.attention_kernel plain, the decoder's too."
part t5_large 60 "${own[@]}" --part t5_large
part transformer_big 105 "${own[@]}" --part transformer_big
# Of ratios, both sides by cuBLAS: without a search among XLA's own products, which an H100 has within 6% of these.
by_library="${XLA_FLAGS:-} --xla_gpu_enable_triton_gemm=false"
XLA_FLAGS=$by_library part packing 50 "${own[@]}" --part packing
XLA_FLAGS=$by_library part policy_gradient 80 "${own[@]}" --part policy_gradient
if [ -n "$dry_run" ] || has torch transformers; then
    export XLA_PYTHON_CLIENT_MEM_FRACTION="${peer_memory:-$XLA_PYTHON_CLIENT_MEM_FRACTION}"
    part peer_t5 75 "${peers[@]}" --models t5 "${t5[@]}"
    part peer_transformer 115 "${peers[@]}" --models transformer "${big[@]}"
    has ctranslate2 || [ -n "$dry_run" ] || search+=(--peers hugging_face)
    part training_for_search 75 "${trained[@]}" && part peer_search 70 "${search[@]}"
else
    echo "peer_t5, peer_transformer, peer_search: NOT MEASURED, PyTorch and transformers are not installed."
fi
[ -n "$dry_run" ] && exit
"${python[@]}" -m seq2seq_jax.benchmark.gpu --summary "$directory"
[ "$failed" = 0 ]
