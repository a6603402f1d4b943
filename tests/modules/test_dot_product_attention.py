"""Attention a block of queries at a time against attention on all scores at once, and what memory it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.modules import dot_product_attention as module
from seq2seq_jax.modules.dot_product_attention import blocked_attention, dot_product_attention
from seq2seq_jax.modules.segments import Segments

BATCH, TARGET, SOURCE, HEADS, HEAD_DIM = 2, 10, 7, 4, 8
QUERY_SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2, 2, 3, 0, 0], [1] * 10])
KEY_SEGMENTS = jnp.array([[1, 1, 2, 2, 2, 3, 0], [1] * 5 + [0] * 2])
SETTINGS = {"bias": None, "dropout": 0.0, "dropout_key": None, "precision": "float32"}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Ten queries are two blocks of 4, and half of one."""
    monkeypatch.setattr(module, "BLOCK", 4)


def arrays(key_length, *, kv_heads):
    rng = np.random.default_rng(0)
    shapes = (TARGET, HEADS), (key_length, kv_heads), (key_length, kv_heads)
    return [jnp.asarray(rng.normal(size=(BATCH, *shape, HEAD_DIM)), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("bias_rows", [None, 1, BATCH])
@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize(("keys", "causal"), [(KEY_SEGMENTS, False), (QUERY_SEGMENTS, True)])
def test_blocks_are_the_same_function_and_have_the_same_gradient(keys, causal, kv_heads, bias_rows):
    check_blocks(keys, causal, kv_heads, bias_rows)


def test_blocks_with_a_window_and_bounded_scores_are_the_same_function():
    check_blocks(QUERY_SEGMENTS, True, HEADS, None, window=jnp.int32(2), cap=0.7)


def test_scores_are_bounded_by_a_tanh():
    """Of a query and two keys with the scores 3 and 0, so that the first weight is sigmoid of the bounded 3."""
    queries, keys = jnp.full((1, 1, 1, 4), 1.5), jnp.array([1.0, 0.0])[None, :, None, None] * jnp.ones((1, 2, 1, 4))
    _, weights = dot_product_attention(queries, keys, keys, jnp.ones((1, 1, 2), bool), **SETTINGS, cap=2.0)
    np.testing.assert_allclose(weights[0, 0, 0, 0], 1 / (1 + np.exp(-2 * np.tanh(1.5))), rtol=1e-6)


def check_blocks(keys, causal, kv_heads, bias_rows, *, window=None, cap=None):
    """Blocks give what all scores at once give, and the same gradient."""
    segments = Segments(queries=QUERY_SEGMENTS, keys=keys, max_segments=None, causal=causal, window=window)
    operands = arrays(keys.shape[1], kv_heads=kv_heads)
    factors = np.random.default_rng(1).normal(size=(BATCH, TARGET, HEADS, HEAD_DIM))
    if bias_rows is not None:
        operands.append(jnp.asarray(np.random.default_rng(2).normal(size=(bias_rows, HEADS, TARGET, keys.shape[1]))))

    def of(attend):
        def total(operands):
            *three, bias = operands if bias_rows is not None else (*operands, None)
            return jnp.sum(attend(*three, SETTINGS | {"bias": bias, "cap": cap}) * factors)

        return jax.jit(jax.value_and_grad(total))(operands)

    whole = of(lambda queries, keys, values, settings: dot_product_attention(
        queries, keys, values, segments.mask(), **settings
    )[0])  # fmt: skip
    blocks = of(lambda queries, keys, values, settings: blocked_attention(queries, keys, values, segments, **settings))
    jax.tree.map(lambda found, expected: np.testing.assert_allclose(found, expected, atol=2e-5), blocks, whole)


def test_dropout_drops_the_same_weights_in_the_backward_pass_and_others_in_every_block():
    """With the identity for values a context is its weights, and the gradient of values shows what was dropped."""
    ones = jnp.ones((1, TARGET), jnp.int32)
    segments = Segments(queries=ones, keys=jnp.ones((1, HEAD_DIM), jnp.int32), max_segments=1, causal=False)
    zeros = jnp.zeros((1, TARGET, 1, HEAD_DIM)), jnp.zeros((1, HEAD_DIM, 1, HEAD_DIM))
    settings = SETTINGS | {"dropout": 0.5, "dropout_key": jax.random.key(3)}
    values = jnp.eye(HEAD_DIM)[None, :, None]
    contexts, backward = jax.vjp(lambda values: blocked_attention(*zeros, values, segments, **settings), values)
    weights = np.asarray(contexts[0, :, 0])
    # Equal weights of 1 / HEAD_DIM, dropped or doubled.
    assert set(np.unique(weights * HEAD_DIM)) == {0.0, 2.0}
    assert 0.25 < np.mean(weights > 0) < 0.75
    assert not np.array_equal(weights[:4], weights[4:8])
    factors = np.random.default_rng(1).normal(size=(TARGET, HEAD_DIM)).astype(np.float32)
    (gradient,) = backward(jnp.asarray(factors)[None, :, None])
    np.testing.assert_allclose(gradient[0, :, 0], weights.T @ factors, rtol=1e-5, atol=1e-6)


def test_memory_of_blocks_is_linear_in_the_length():
    def temporaries(attend, length):
        operand = jax.ShapeDtypeStruct((1, length, 2, HEAD_DIM), jnp.float32)

        def total(queries, keys, values):
            ids = jnp.ones((1, length), jnp.int32)
            return jnp.sum(attend(queries, keys, values, Segments(queries=ids, keys=ids, max_segments=1, causal=True)))

        compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(operand, operand, operand).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def blocks(*operands):
        return blocked_attention(*operands, **SETTINGS)

    def whole(*operands):
        return dot_product_attention(*operands[:3], operands[3].mask(), **SETTINGS)[0]

    assert temporaries(blocks, 2048) < 2.2 * temporaries(blocks, 1024)
    assert 8 * temporaries(blocks, 2048) < temporaries(whole, 2048)
