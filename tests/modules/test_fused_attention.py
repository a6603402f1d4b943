"""Fused attention: which attentions it takes, what it tells cuDNN, and that this means what the mask means."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from seq2seq_jax.batch import TokenRows
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.modules.attention import PROJECTIONS, WEIGHTS, MultiHeadAttention
from seq2seq_jax.modules.fused_attention import (
    LONGEST_MASKED,
    Target,
    _call,
    bounds_of,
    compiling_for,
    fused_attention,
    mask_bias,
    obstacle,
    read_places,
)
from seq2seq_jax.modules.segments import Segments

HEADS, HEAD_DIM = 2, 8

LAYOUTS = {
    "full": ([[1] * 8], [[1] * 6], 1),
    "padded": ([[1] * 5 + [0] * 3, [1] * 8], [[1] * 2 + [0] * 4, [1] * 6], 1),
    "packed": ([[1, 1, 2, 2, 2, 3, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2]], [[1, 2, 2, 2, 3, 3], [1, 1, 1, 1, 2, 0]], 3),
    "one has room for more": ([[1] * 4 + [2] * 4], [[1] * 3 + [2] * 3], 5),
    "an empty row": ([[1, 1, 2, 2, 2, 2, 0, 0], [0] * 8], [[1, 2, 2, 2, 0, 0], [0] * 6], 2),
    "segments on one side alone": ([[1, 1, 2, 2, 3, 3, 3, 3]], [[1, 1, 1, 3, 3, 4]], 4),
}


def segments(query_ids, key_ids, most, causal=False):
    return Segments(queries=jnp.array(query_ids), keys=jnp.array(key_ids), max_segments=most, causal=causal)


def from_bounds(queries, keys, values, given, scale):
    """What cuDNN computes, by its documentation: each pair of segments on its own; nan where it writes nothing."""
    bounds = bounds_of(given)
    rows = []
    for row in range(queries.shape[0]):
        context = jnp.full(queries.shape[1:], jnp.nan)
        parts = [jnp.atleast_1d(jnp.asarray(each)[row]) for each in (bounds.query_lengths, bounds.key_lengths)]
        starts = [
            [0] if each is None else np.asarray(each)[row, :-1] for each in (bounds.query_offsets, bounds.key_offsets)
        ]
        for num_queries, num_keys, query_start, key_start in zip(*parts, *starts, strict=True):
            if num_queries < 0:
                assert num_keys == query_start == key_start == -1
                continue
            own = slice(int(query_start), int(query_start + num_queries))
            read = slice(int(key_start), int(key_start + num_keys))
            scores = jnp.einsum("tnh,snh->nts", queries[row, own], keys[row, read]) * scale
            if given.causal:
                scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, -jnp.inf)
            context = context.at[own].set(
                jnp.einsum("nts,snh->tnh", jax.nn.softmax(scores, axis=-1), values[row, read])
            )
        rows.append(context)
    context = jnp.stack(rows)
    return jnp.where(read_places(given)[0][:, :, None, None], context, 0.0)


def from_mask(queries, keys, values, given, scale):
    mask = given.mask() & (given.queries > 0)[:, :, None]
    scores = jnp.where(mask[:, None], jnp.einsum("btnh,bsnh->bnts", queries, keys) * scale, -1e9)
    context = jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, axis=-1), values)
    return jnp.where(mask.any(axis=2)[:, :, None, None], context, 0.0)


def from_bias(queries, keys, values, given, scale):
    """What cuDNN computes with a bias on the scores, for every query; what no query reads is 0 afterwards."""
    scores = jnp.einsum("btnh,bsnh->bnts", queries, keys) * scale + mask_bias(given).astype(jnp.float32)
    if given.causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[2:], bool)), scores, -jnp.inf)
    context = jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores, axis=-1), values)
    return jnp.where(read_places(given)[0][:, :, None, None], context, 0.0)


def cases():
    for name, (query_ids, key_ids, most) in LAYOUTS.items():
        yield pytest.param(segments(query_ids, key_ids, most), id=name)
        yield pytest.param(segments(query_ids, query_ids, most), id=f"{name}, self")
        yield pytest.param(segments(query_ids, query_ids, most, causal=True), id=f"{name}, causal")


def arrays(given, seed=0):
    generator = np.random.default_rng(seed)
    return [
        jnp.array(generator.normal(size=(*ids.shape, HEADS, HEAD_DIM)), jnp.float32)
        for ids in (given.queries, given.keys, given.keys)
    ]


@pytest.mark.parametrize("kernel", [from_bounds, from_bias])
@pytest.mark.parametrize("given", [*cases()])
def test_what_the_kernel_is_given_means_what_the_mask_means(given, kernel):
    """Values and gradients of what cuDNN is described as computing, compared with attention with a mask."""
    inputs = arrays(given)
    weights = jnp.array(np.random.default_rng(1).normal(size=inputs[0].shape), jnp.float32)

    def graded(attend):
        def total(*inputs):
            context = attend(*inputs, given, HEAD_DIM**-0.5)
            return jnp.sum(context * weights), context

        gradients, context = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return context, *gradients

    for ours, masks in zip(graded(kernel), graded(from_mask), strict=True):
        np.testing.assert_allclose(ours, masks, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [*cases()])
def test_no_segment_sees_another(given):
    keys_before = arrays(given)
    before = from_bounds(*keys_before, given, 1.0)
    queries, keys, values = arrays(given)
    for chosen in range(1, int(given.keys.max()) + 1):
        of_segment = (given.keys == chosen)[:, :, None, None]
        after = from_bounds(
            queries, jnp.where(of_segment, keys + 1.0, keys), jnp.where(of_segment, values - 1.0, values), given, 1.0
        )
        others = np.asarray(given.queries != chosen)
        np.testing.assert_array_equal(np.asarray(after)[others], np.asarray(before)[others])


def test_offsets_by_hand():
    bounds = bounds_of(segments([[1, 1, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1]], [[1, 2, 2, 4], [1, 1, 0, 0]], 4))
    np.testing.assert_array_equal(bounds.query_lengths, [[2, 1, -1, -1], [6, -1, -1, -1]])
    np.testing.assert_array_equal(bounds.key_lengths, [[1, 2, -1, -1], [2, -1, -1, -1]])
    np.testing.assert_array_equal(bounds.query_offsets, [[0, 2, -1, -1, -1], [0, -1, -1, -1, -1]])
    np.testing.assert_array_equal(bounds.key_offsets, [[0, 1, -1, -1, -1], [0, -1, -1, -1, -1]])
    alone = bounds_of(segments([[1, 1, 0], [0, 0, 0]], [[1, 1, 1], [0, 0, 0]], 1))
    np.testing.assert_array_equal(alone.query_lengths, [2, 1])
    np.testing.assert_array_equal(alone.key_lengths, [3, 1])
    assert alone.query_offsets is None and alone.key_offsets is None


def on_gpu(function):
    """Called as on a mesh of one GPU, which need not be there to trace and lower for."""

    @functools.wraps(function)
    def call(*arguments, **options):
        gpu = AbstractDevice(device_kind="NVIDIA H200", num_cores=None, platform="gpu")
        mesh = AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=gpu)
        with jax.sharding.use_abstract_mesh(mesh):
            return function(*arguments, **options)

    return call


SERVED = {"head_dim": 64, "precision": "bfloat16", "relative": False, "dropout": False}
PACKED = segments([[1, 2]], [[1, 2]], 2)


@pytest.mark.parametrize(
    ("given", "changed", "reason"),
    [
        (PACKED, {}, None),
        (PACKED, {"precision": "float32"}, "precision is float32"),
        (PACKED, {"head_dim": 20}, "multiple of 8"),
        (PACKED, {"head_dim": 256}, "128 at most"),
        (PACKED, {"dropout": True}, "attention_dropout to 0"),
        (PACKED, {"relative": True}, "data.packing to False"),
        (PACKED, {"cap": 50.0}, "attention_cap to None"),
        (PACKED.replace(window=jnp.int32(4)), {}, "attention_window to None"),
        (segments([[1, 2]], [[1, 2]], None), {}, "data.max_examples_per_row"),
        (segments([[1, 1]], [[1, 1]], 1), {"relative": True}, None),
        (segments([[1, 1, 1]], [[1, 1, 1]], 1), {"relative": True}, "even lengths"),
    ],
)
def test_which_attentions_it_takes(given, changed, reason):
    told = on_gpu(obstacle)(given, **SERVED | changed)
    assert told is None if reason is None else reason in told
    assert "this is for cpu" in obstacle(given, **SERVED | changed)


def attention(**changed):
    settings = {
        "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "model_dim": 32, "memory_dim": 32, "rotary": None,
        "biased": PROJECTIONS, "dropout": 0.0, "precision": "bfloat16",
    }  # fmt: skip
    return MultiHeadAttention(**settings | changed)


def attend(module, given, **options):
    ids = given.queries
    x = jnp.ones((*ids.shape, 32), jnp.bfloat16)

    def apply(module, x):
        memory = module.keys_values(x, x, jnp.zeros_like(ids))
        return module(x, memory, positions=jnp.zeros_like(ids), segments=given, bias=None, deterministic=False)

    params = jax.eval_shape(lambda: module.init({"params": jax.random.key(0)}, x, method=apply))
    return lambda: jax.jit(
        lambda params: module.apply(params, x, method=apply, rngs={"dropout": jax.random.key(0)}, **options)
    ).trace(params)


@pytest.mark.parametrize(
    ("changed", "options", "fused"),
    [
        ({}, {}, True),
        ({"kernel": "fused"}, {}, True),
        ({"kernel": "plain"}, {}, False),
        ({"precision": "float32"}, {}, False),
        ({"dropout": 0.1}, {}, False),
        ({}, {"mutable": [WEIGHTS]}, False),
        ({"kernel": "fused"}, {"mutable": [WEIGHTS]}, False),
    ],
)
def test_dispatch(changed, options, fused):
    trace = attend(attention(**changed), PACKED, **options)
    assert ("dot_product_attention_fwd" in str(on_gpu(trace)().jaxpr)) == fused
    if changed.get("kernel") != "fused" or options:
        assert "dot_product_attention_fwd" not in str(trace().jaxpr)


def test_asked_for_and_impossible_is_one_line():
    with pytest.raises(ValueError, match="^attention_kernel = fused cannot be: .* and model.precision is float32, or"):
        on_gpu(attend(attention(kernel="fused", precision="float32"), PACKED))()
    with pytest.raises(ValueError, match="NVIDIA GPUs, and this is for cpu"):
        attend(attention(kernel="fused"), PACKED)()


def lowered_gradient(given, *, bias=None, kv_heads=4):
    """The text of a forward and backward pass, for CUDA."""
    shape = given.queries.shape
    queries = jax.ShapeDtypeStruct((*shape, 4, 64), jnp.bfloat16)
    keys = jax.ShapeDtypeStruct((*given.keys.shape, kv_heads, 64), jnp.bfloat16)

    def total(queries, keys, values, bias):
        return jnp.sum(fused_attention(queries, keys, values, given, bias=bias).astype(jnp.float32))

    differentiate = jax.jit(jax.grad(total, argnums=(0, 1, 2) if bias is None else (0, 1, 2, 3)))
    return on_gpu(
        lambda: differentiate.trace(queries, keys, keys, bias).lower(lowering_platforms=("cuda",)).as_text()
    )()


def calls(text, target):
    return [line for line in text.splitlines() if f"@{target}(" in line]


def operands(line):
    return line.split(" : (", 1)[1].split(") -> ", 1)[0]


@pytest.mark.parametrize("causal", [False, True])
def test_packed_rows_lower_for_cuda_with_a_mask(causal):
    length = 128 if causal else 64
    given = segments(np.ones((2, 128), np.int32), np.ones((2, length), np.int32), 3, causal=causal)
    text = lowered_gradient(given, kv_heads=2)
    (forward,) = calls(text, "__cudnn$fmhaScaleBiasSoftmax")
    (backward,) = calls(text, "__cudnn$fmhaScaleBiasSoftmaxBackward")
    queries, keys, mask = "tensor<2x128x4x64xbf16>", f"tensor<2x{length}x4x64xbf16>", f"tensor<2x1x128x{length}xbf16>"
    assert operands(forward).split(", ") == [queries, keys, keys, mask]
    assert operands(backward).split(", ") == [queries, keys, keys, "tensor<2x4x128xf32>", queries, mask, queries]
    assert backward.count(mask) == 1, "a mask has no gradient"
    assert f"mask_type\\22: \\22{'CAUSAL' if causal else 'NO_MASK'}" in forward


@pytest.mark.parametrize("length", [LONGEST_MASKED + 128, 127])
def test_long_packed_rows_and_odd_ones_lower_for_cuda_with_offsets(length):
    given = segments(np.ones((2, length), np.int32), np.ones((2, length), np.int32), 3)
    text = lowered_gradient(given, kv_heads=2)
    (forward,), (backward,) = calls(text, "__cudnn$fmhaSoftmax"), calls(text, "__cudnn$fmhaSoftmaxBackward")
    lengths, offsets = ["tensor<2x3xi32>"] * 2, ["tensor<2x4xi32>"] * 2
    array = f"tensor<2x{length}x4x64xbf16>"
    assert operands(forward).split(", ") == [array, array, array, *lengths, *offsets]
    # Softmax statistics of each segment's queries, then the gradient and the output.
    statistics = f"tensor<6x4x{length}xf32>"
    assert operands(backward).split(", ") == [array, array, array, statistics, array, array, *lengths, *offsets]
    assert "mask_type\\22: \\22NO_MASK" in forward and "max_seg_per_batch\\22: 3" in forward


def test_rows_of_one_example_with_a_bias_lower_for_cuda():
    ids = np.ones((2, 128), np.int32)
    bias = jax.ShapeDtypeStruct((1, 4, 128, 128), jnp.float32)
    text = lowered_gradient(segments(ids, ids, 1, causal=True), bias=bias)
    (forward,) = calls(text, "__cudnn$fmhaScaleBiasSoftmax")
    (backward,) = calls(text, "__cudnn$fmhaScaleBiasSoftmaxBackward")
    lengths, of_bias = ["tensor<2xi32>"] * 2, "tensor<1x4x128x128xbf16>"
    array = "tensor<2x128x4x64xbf16>"
    assert operands(forward).split(", ") == [array, array, array, of_bias, *lengths]
    assert operands(backward).split(", ") == [
        array, array, array, "tensor<2x4x128xf32>", array, of_bias, array, *lengths,
    ]  # fmt: skip
    assert backward.count(of_bias) == 2, "the bias goes in, and its gradient comes out"
    assert "mask_type\\22: \\22PADDING_CAUSAL" in forward


@pytest.mark.parametrize(
    ("remat", "forward_calls"), [("none", 1), ("full", 2), ("save_attention", 1), ("save_products", 1)]
)
def test_what_is_saved_by_name_is_not_computed_again(remat, forward_calls):
    """Calls in the bodies of the loops over layers, forward and backward."""
    config = TransformerEncoderConfig(
        num_layers=2, model_dim=32, num_heads=4, hidden_dim=64, remat=remat, scan_layers=True, dropout=0.0
    )
    encoder = config.build(precision="bfloat16")
    row = jnp.ones((2, 16), jnp.int32)
    source = TokenRows(tokens=row, segment_ids=row, positions=row, max_segments=2)
    x = jnp.ones((2, 16, 32))
    params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, source, deterministic=True))

    def total(params):
        return jnp.sum(encoder.apply(params, x, source, deterministic=True).states.astype(jnp.float32))

    lowered = on_gpu(lambda: jax.jit(jax.grad(total)).trace(params).lower(lowering_platforms=("cuda",)))()
    text = lowered.as_text()
    assert len(calls(text, "__cudnn$fmhaScaleBiasSoftmax")) == forward_calls
    assert len(calls(text, "__cudnn$fmhaScaleBiasSoftmaxBackward")) == 1


class PlainKernel:
    """What the bindings of the kernel are called with, computed in float32; it knows no batch but the first dim."""

    @staticmethod
    def bind(queries, keys, values, bias, query_lengths, key_lengths, *_, variadic_args, scale, **__):
        assert queries.ndim == 4 and queries.shape[0] == keys.shape[0] == key_lengths.shape[0]
        scores = jnp.einsum("btnh,bsnh->bnts", queries, keys) * scale + (bias if variadic_args[0] else 0.0)
        inside = jnp.arange(keys.shape[1]) < key_lengths[:, None]
        weights = jax.nn.softmax(jnp.where(inside[:, None, None], scores, -1e9), axis=-1)
        return (jnp.einsum("bnts,bsnh->btnh", weights, values),)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shards", [1, 2])
def test_samples_that_attend_to_the_same_source_are_one_call(with_bias, axis, shards, monkeypatch):
    """Queries of several samples, keys and lengths of one source; in the order that the mesh calls for."""
    monkeypatch.setattr("seq2seq_jax.modules.fused_attention.shards_of_rows", lambda rows: shards)
    generator = np.random.default_rng(0)
    queries = jnp.array(generator.normal(size=(5, 2, 6, HEADS, HEAD_DIM)))
    keys, values = (jnp.array(generator.normal(size=(2, 4, HEADS, HEAD_DIM))) for _ in range(2))
    bias = jnp.array(generator.normal(size=(1, HEADS, 6, 4))) if with_bias else jnp.zeros(0)
    lengths, none = jnp.array([4, 2]), jnp.zeros(0)
    call = _call(PlainKernel, variadic_args=(with_bias, with_bias), scale=0.3)

    def attend(queries):
        return call(queries, keys, values, bias, jnp.array([6, 6]), lengths, none, none)[0]

    together = jax.vmap(attend, in_axes=axis, out_axes=axis)(jnp.moveaxis(queries, 0, axis))
    apart = jnp.stack([attend(each) for each in queries], axis=axis)
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)
    assert float(jnp.std(apart, axis=axis).min()) > 0


@pytest.mark.parametrize("axis", [0, 1])
def test_the_kernel_is_vectorised_over_samples(axis):
    """JAX 0.10 raises a TypeError for keys that all samples share, and later versions too for another axis than 0."""
    given = segments([[1] * 16] * 2, [[1] * 8] * 2, 1)
    samples = jnp.ones((5, 2, 16, 4, 64), jnp.bfloat16)
    keys = jnp.ones((2, 8, 4, 64), jnp.bfloat16)

    def total(samples, keys):
        def attend(queries, ids):
            return fused_attention(queries, keys, keys, given.replace(queries=ids), bias=None)

        ids = jnp.ones(samples.shape[:3] if axis == 0 else (2, 5, 16), jnp.int32)
        contexts = jax.vmap(attend, in_axes=axis, out_axes=axis)(jnp.moveaxis(samples, 0, axis), ids)
        return jnp.sum(contexts.astype(jnp.float32))

    def lowered():
        with compiling_for(Target(capability="9.0", cudnn_version=91_900)):
            return jax.jit(jax.grad(total, argnums=(0, 1))).trace(samples, keys).lower(lowering_platforms=("cuda",))

    text = on_gpu(lowered)().as_text()
    assert len(calls(text, "__cudnn$fmhaSoftmax")) == len(calls(text, "__cudnn$fmhaSoftmaxBackward")) == 1


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU; launch/gpu_benchmark.sh runs it too")
@pytest.mark.parametrize("given", [*cases()])
def test_the_kernel_agrees_with_the_mask(given):
    wide = dataclasses.replace(
        given, queries=jnp.repeat(given.queries, 16, axis=1), keys=jnp.repeat(given.keys, 16, axis=1)
    )
    inputs = [x.astype(jnp.bfloat16) for x in arrays(wide)]
    weights = jnp.array(np.random.default_rng(1).normal(size=inputs[0].shape), jnp.float32)

    def graded(attend):
        def total(*inputs):
            context = attend(*inputs).astype(jnp.float32)
            return jnp.sum(context * weights), context

        gradients, context = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*inputs)
        return context, *gradients

    fused = graded(lambda *inputs: fused_attention(*inputs, wide, bias=None))
    masked = graded(lambda *inputs: from_mask(*(x.astype(jnp.float32) for x in inputs), wide, HEAD_DIM**-0.5))
    for ours, masks in zip(fused, masked, strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), masks.astype(jnp.float32), rtol=2e-2, atol=3e-2)
