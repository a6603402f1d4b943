"""The table as embedding and as output projection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.modules.embedding import Embedding

TABLE = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
PARAMS = {"params": {"table": jnp.asarray(TABLE)}}


def test_rows_are_scaled_by_the_root_of_the_model_dim():
    tokens = jnp.array([[6, 0, 6], [1, 2, 3]])
    found = Embedding(7, 4, "float32").apply(PARAMS, tokens)
    np.testing.assert_allclose(found, 2.0 * TABLE[tokens], rtol=1e-6)


@pytest.mark.parametrize("dims", [(), (3,), (2, 3)])
def test_logits_multiply_with_the_unscaled_table(dims):
    hidden = jnp.asarray(np.random.default_rng(1).normal(size=(*dims, 4)), jnp.float32)
    found = Embedding(7, 4, "float32").apply(PARAMS, hidden, method="logits")
    np.testing.assert_allclose(found, hidden @ TABLE.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", jnp.float32), ("bfloat16", jnp.bfloat16), ("bfloat16_products", jnp.float32)],
)
def test_logits_are_float32_in_every_precision(precision, dtype):
    module = Embedding(7, 4, precision)
    embedded = module.apply(PARAMS, jnp.array([1, 5]))
    assert embedded.dtype == dtype
    logits = module.apply(PARAMS, embedded, method="logits")
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, 2.0 * TABLE[[1, 5]] @ TABLE.T, atol=0.1)


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_products"])
def test_logits_of_bfloat16_operands_are_not_rounded(precision):
    """Around 30 bfloat16 goes in steps of an eighth."""
    hidden = 20.0 * jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.bfloat16)
    found = Embedding(7, 4, precision).apply(PARAMS, hidden, method="logits")
    operands = np.asarray(hidden, np.float32), np.asarray(jnp.asarray(TABLE, jnp.bfloat16), np.float32)
    np.testing.assert_allclose(found, operands[0] @ operands[1].T, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda x: jnp.sum(Embedding(7, 4, precision).apply(PARAMS, x, method="logits")))(hidden)
    assert gradient.dtype == hidden.dtype


def test_embedded_tokens_start_with_a_variance_of_one():
    params = Embedding(400, 64, "float32").init(jax.random.key(0), jnp.array([0]))
    found = Embedding(400, 64, "float32").apply(params, jnp.arange(400))
    np.testing.assert_allclose(np.std(found), 1.0, atol=0.02)
    assert params["params"]["table"].names == ("vocab", "model")
