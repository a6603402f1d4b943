"""Attention against loops over NumPy arrays in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.modules.attention import LONG, PROJECTIONS, WEIGHTS, KeysValues, MultiHeadAttention
from seq2seq_jax.modules.position import RotaryConfig
from seq2seq_jax.modules.segments import Segments

BATCH, TARGET, SOURCE, MODEL, MEMORY, HEAD_DIM = 2, 5, 7, 12, 10, 4
QUERY_SEGMENTS = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 3, 0]])
KEY_SEGMENTS = np.array([[1, 2, 2, 1, 2, 0, 0], [2, 1, 1, 1, 3, 3, 0]])
QUERY_POSITIONS = np.array([[0, 1, 0, 1, 2], [0, 1, 2, 0, 0]])
KEY_POSITIONS = np.array([[0, 0, 1, 1, 2, 0, 0], [0, 0, 1, 2, 0, 1, 0]])


def layer(num_heads, num_kv_heads, **settings):
    defaults = {"rotary": None, "biased": PROJECTIONS, "dropout": 0.0, "precision": "float32"}
    return MultiHeadAttention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=HEAD_DIM,
        model_dim=MODEL,
        memory_dim=MEMORY,
        **defaults | settings,
    )


def attend(module, x, memory, *, positions, key_positions, **arguments):
    return module(x, module.keys_values(memory, memory, key_positions), positions=positions, **arguments)


def example(module, seed=0):
    rng = np.random.default_rng(seed)
    inputs = {
        "x": rng.normal(size=(BATCH, TARGET, MODEL)).astype(np.float32),
        "memory": rng.normal(size=(BATCH, SOURCE, MEMORY)).astype(np.float32),
        "positions": QUERY_POSITIONS,
        "key_positions": KEY_POSITIONS,
        "segments": Segments(queries=QUERY_SEGMENTS, keys=KEY_SEGMENTS, max_segments=None, causal=False),
        "bias": rng.normal(size=(BATCH, module.num_heads, TARGET, SOURCE)).astype(np.float32),
    }
    inputs = jax.tree.map(jnp.asarray, inputs)
    return random_parameters(module, method=attend, deterministic=True, **inputs), inputs


def apply(module, params, inputs):
    return jax.jit(
        lambda params, inputs: module.apply({"params": params}, method=attend, deterministic=True, **inputs)
    )(params, inputs)


def turned(vector, position, base):
    """Rotary positions as complex numbers: pair i is turned by position / base^(i / pairs) radians."""
    half = len(vector) // 2
    pairs = vector[:half] + 1j * vector[half:]
    pairs = pairs * np.exp(1j * position * base ** (-np.arange(half) / half))
    return np.concatenate([pairs.real, pairs.imag])


def reference(module, params, inputs):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    result = np.zeros((BATCH, TARGET, MODEL))

    def project(name, vector, head):
        bias = params[name]["bias"][head] if name in module.biased else 0.0
        projected = vector @ params[name]["kernel"][:, head] + bias
        if module.norm is None or name == "value":
            return projected
        scale = params[f"{name}_norm"]["scale"]
        return projected / np.sqrt(np.mean(projected**2) + module.norm_epsilon) * scale

    for batch in range(BATCH):
        for target in range(TARGET):
            for head in range(module.num_heads):
                # Consecutive query heads share a head of keys and values.
                kv_head = head // (module.num_heads // module.num_kv_heads)
                query = project("query", inputs["x"][batch, target], head)
                query = turned(query, QUERY_POSITIONS[batch, target], module.rotary.base) if module.rotary else query
                weights, values = [], []
                for source in range(SOURCE):
                    if QUERY_SEGMENTS[batch, target] != KEY_SEGMENTS[batch, source]:
                        continue
                    key = project("key", inputs["memory"][batch, source], kv_head)
                    key = turned(key, KEY_POSITIONS[batch, source], module.rotary.base) if module.rotary else key
                    scale = 1 / np.sqrt(HEAD_DIM) if module.scale is None else module.scale
                    score = scale * query @ key + inputs["bias"][batch, head, target, source]
                    weights.append(np.exp(score))
                    values.append(project("value", inputs["memory"][batch, source], kv_head))
                context = np.array(weights) @ np.array(values) / np.sum(weights)
                result[batch, target] += context @ params["output"]["kernel"][head]
            if "output" in module.biased:
                result[batch, target] += params["output"]["bias"]
    return result


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_attention_equals_loops(num_kv_heads, rotary):
    # With keys and values of one head, what imported models have otherwise.
    others = {"biased": ("query", "output"), "scale": 0.7, "norm": "rms", "norm_epsilon": 1e-2}
    others = others if num_kv_heads == 1 else {"biased": PROJECTIONS}
    rotary = RotaryConfig(base=100.0 if num_kv_heads == 1 else 10_000.0) if rotary else None
    module = layer(4, num_kv_heads, rotary=rotary, **others)
    params, inputs = example(module)
    found = apply(module, params, inputs)
    np.testing.assert_allclose(found, reference(module, params, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_kv_heads", [6, 3, 2])
def test_grouped_queries_share_keys_and_values(num_kv_heads):
    module = layer(6, num_kv_heads)
    params, inputs = example(module)
    assert params["query"]["kernel"].shape == (MODEL, 6, HEAD_DIM)
    assert params["key"]["kernel"].shape == params["value"]["kernel"].shape == (MEMORY, num_kv_heads, HEAD_DIM)
    assert params["output"]["kernel"].shape == (6, HEAD_DIM, MODEL)
    states, positions = inputs["memory"], inputs["key_positions"]
    memory = module.apply({"params": params}, states, states, positions, method="keys_values")
    assert memory.keys.shape == memory.values.shape == (BATCH, SOURCE, num_kv_heads, HEAD_DIM)


def test_rotary_attention_depends_on_distances_alone():
    module = layer(2, 2, rotary=RotaryConfig())
    params, inputs = example(module)
    shifted = {**inputs, "positions": inputs["positions"] + 30, "key_positions": inputs["key_positions"] + 30}
    stretched = {**inputs, "key_positions": inputs["key_positions"] + 1}
    plain, moved, other = (apply(module, params, each) for each in (inputs, shifted, stretched))
    np.testing.assert_allclose(moved, plain, rtol=1e-4, atol=1e-5)
    assert np.abs(other - plain).max() > 1e-2


def test_a_query_without_any_key_stays_finite_and_so_does_its_gradient():
    module = layer(2, 2)
    params, inputs = example(module)
    nothing = {**inputs, "segments": inputs["segments"].replace(keys=jnp.full((BATCH, SOURCE), 9))}
    value, gradient = jax.value_and_grad(lambda params: jnp.sum(apply(module, params, nothing) ** 2))(params)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_a_forbidden_key_has_no_weight_however_large_it_is():
    module = layer(2, 2)
    params, inputs = example(module)
    loud = inputs["memory"].at[:, -1].multiply(1e4)  # In segment 0, which only the last query of the second row reads.
    plain, changed = (apply(module, params, {**inputs, "memory": memory}) for memory in (inputs["memory"], loud))
    np.testing.assert_array_equal(changed[0], plain[0])
    np.testing.assert_array_equal(changed[1, :-1], plain[1, :-1])


def test_dropout_falls_on_the_weights():
    """With values of one, a context is the sum of the weights that are kept: 0, or multiples of 2 / SOURCE."""
    module = layer(2, 2, dropout=0.5, biased=())
    params, inputs = example(module)
    # Queries of zero give equal weights, and the identity shows the contexts.
    params["query"]["kernel"] = jnp.zeros_like(params["query"]["kernel"])
    params["output"]["kernel"] = jnp.eye(2 * HEAD_DIM, MODEL).reshape(2, HEAD_DIM, MODEL)
    ones = jnp.ones((BATCH, SOURCE, 2, HEAD_DIM))
    contexts = module.apply(
        {"params": params},
        inputs["x"],
        KeysValues(keys=ones, values=ones),
        positions=inputs["positions"],
        segments=jax.tree.map(jnp.ones_like, inputs["segments"]),
        bias=None,
        deterministic=False,
        rngs={"dropout": jax.random.key(0)},
    )[..., : 2 * HEAD_DIM]
    kept = contexts * SOURCE / 2
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-5)
    assert len(np.unique(np.round(kept))) > 2
    # All dims of a head see the same weights.
    heads = kept.reshape(BATCH, TARGET, 2, HEAD_DIM)
    np.testing.assert_allclose(heads, np.broadcast_to(heads[..., :1], heads.shape), atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_products"])
def test_softmax_is_float32_in_low_precision(precision):
    module = layer(2, 2, precision=precision)
    params, inputs = example(module)
    low = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    # No bias, which would bring its own float32.
    inputs |= {"x": inputs["x"].astype(low), "memory": inputs["memory"].astype(low), "bias": None}
    program = str(jax.make_jaxpr(lambda params, inputs: apply(module, params, inputs))(params, inputs))
    exponentials = re.findall(r":(\w+)\[[\d,]*\] = exp ", program)
    assert set(exponentials) == {"f32"}
    found = apply(module, params, inputs)
    assert found.dtype == low
    expected = reference(module, params, inputs | {"bias": np.zeros((BATCH, module.num_heads, TARGET, SOURCE))})
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=0.05, rtol=0.05)


def test_masks_by_hand():
    segments = Segments(queries=jnp.array([[1, 2, 0]]), keys=jnp.array([[1, 1, 2, 0]]), max_segments=None, causal=False)
    read = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(segments.mask(), read[None])
    causal = segments.replace(causal=True)
    np.testing.assert_array_equal(causal.mask(), [read & np.tri(3, 4, dtype=bool)])
    # Queries at places 2 and 3 of their row.
    later = causal.replace(queries=jnp.array([[2, 0]]))
    np.testing.assert_array_equal(later.mask(places=jnp.array([2, 3])), [read[1:] & np.tri(2, 4, 2, dtype=bool)])


@pytest.mark.parametrize(
    ("kernel", "length", "recorded", "blocked"),
    [
        ("auto", LONG - 1, False, False),
        ("auto", LONG, False, True),
        ("auto", LONG, True, False),
        ("plain", LONG, False, False),
        ("blocked", 8, False, True),
        ("blocked", 8, True, False),
    ],
)
def test_which_attention_is_computed_in_blocks(kernel, length, recorded, blocked):
    module = layer(2, 2, kernel=kernel)
    ids = jnp.ones((1, length), jnp.int32)

    def apply(module, x, memory):
        segments = Segments(queries=ids, keys=ids, max_segments=1, causal=False)
        return attend(
            module, x, memory, positions=ids, key_positions=ids, segments=segments, bias=None, deterministic=True
        )

    x, memory = jnp.zeros((1, length, MODEL)), jnp.zeros((1, length, MEMORY))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), x, memory, method=apply))
    options = {"mutable": [WEIGHTS]} if recorded else {}
    trace = jax.make_jaxpr(lambda params: module.apply(params, x, memory, method=apply, **options))(params)
    assert ("scan[" in str(trace)) == blocked
