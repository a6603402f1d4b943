"""Cross-entropy by hand; the loss of a batch against NumPy; the loss in chunks against the loss at once."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import VOCABULARY, parameters, transformer
from batches import batch, random_pairs

from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig, cross_entropy
from seq2seq_jax.objectives.objective import Prepared, Turn

LN2, LN3, LN6 = math.log(2), math.log(3), math.log(6)
LOGITS = jnp.array([0.0, LN2, LN3])
"""Probabilities 1/6, 2/6 and 3/6; log Z = ln 6; log-probabilities are -ln 6, -ln 3 and -ln 2."""

PAIRS = random_pairs(np.random.default_rng(0), (5, 2, 7, 3), (4, 6, 1, 3), VOCABULARY)
ROWS = jax.tree.map(jnp.asarray, batch([[PAIRS[0], PAIRS[1]], [PAIRS[2]], [PAIRS[3]]], 12, 12, VOCABULARY))
NUM_TOKENS = 4 + 6 + 1 + 3


@pytest.mark.parametrize(
    ("label", "label_smoothing", "z_loss", "expected"),
    [
        (2, 0.0, 0.0, LN2),
        (0, 0.0, 0.0, LN6),
        # -0.7 log p(2) - 0.3 / 3 * (log p(0) + log p(1) + log p(2))
        (2, 0.3, 0.0, 0.7 * LN2 + 0.1 * (LN6 + LN3 + LN2)),
        (1, 0.0, 0.5, LN3 + 0.5 * LN6**2),
        (1, 0.3, 0.1, 0.7 * LN3 + 0.1 * (LN6 + LN3 + LN2) + 0.1 * LN6**2),
    ],
)
def test_cross_entropy_by_hand(label, label_smoothing, z_loss, expected):
    loss, nll = cross_entropy(LOGITS, jnp.array(label), label_smoothing=label_smoothing, z_loss=z_loss)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(nll, [LN6, LN3, LN2][label], rtol=1e-6)


def test_the_gradient_of_cross_entropy_by_hand():
    """p - q for the smoothed label q, and 2 z log Z p for the z-loss."""
    gradient = jax.grad(lambda logits: cross_entropy(logits, jnp.array(1), label_smoothing=0.3, z_loss=0.1)[0])(LOGITS)
    p = np.array([1, 2, 3]) / 6
    expected = p - np.array([0.1, 0.8, 0.1]) + 2 * 0.1 * LN6 * p
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_large_logits_stay_finite():
    loss, nll = cross_entropy(jnp.array([1e4, 0.0, -1e4]), jnp.array(1), label_smoothing=0.1, z_loss=0.0)
    np.testing.assert_allclose([loss, nll], [0.9 * 1e4 + 0.1 * 1e4, 1e4])


@functools.cache
def tiny():
    model = transformer(scan_layers=True).build(VOCABULARY)
    return model, parameters(model)


@functools.cache
def compiled(**settings):
    objective = MaximumLikelihoodConfig(**settings).build(tiny()[0])
    assert objective.turns == ("model",)

    def loss_sum(params, rows, rng):
        loss, logged = objective.loss(
            Turn(0, "model"), {"model": params}, Prepared(rows=rows), step=jnp.int32(0), rng=rng
        )
        return loss.sum, {"loss": loss, **logged}

    return jax.jit(jax.grad(loss_sum, has_aux=True))


def compute(rows, rng=None, **settings):
    """Loss, logged figures and gradient of the summed loss."""
    gradient, totals = compiled(**settings)(tiny()[1], rows, rng)
    return totals, gradient


def test_the_loss_is_the_sum_over_all_target_tokens_and_its_weight_their_number():
    model, params = tiny()
    logits = np.asarray(jax.jit(model.apply)({"params": params}, ROWS), np.float64)
    log_z = np.log(np.exp(logits).sum(axis=-1))
    expected_loss = expected_nll = 0.0
    for row, place in zip(*np.nonzero(ROWS.target.mask), strict=True):
        log_p = logits[row, place] - log_z[row, place]
        nll = -log_p[ROWS.target.tokens[row, place]]
        expected_nll += nll
        expected_loss += 0.8 * nll - 0.2 * log_p.mean() + 0.01 * log_z[row, place] ** 2
    totals, _ = compute(ROWS, label_smoothing=0.2, z_loss=0.01)
    assert float(totals["loss"].weight) == float(totals["nll"].weight) == NUM_TOKENS
    np.testing.assert_allclose(totals["loss"].sum, expected_loss, rtol=1e-5)
    np.testing.assert_allclose(totals["nll"].sum, expected_nll, rtol=1e-5)
    np.testing.assert_allclose(totals["nll"].mean, expected_nll / NUM_TOKENS, rtol=1e-5)


def test_parts_of_a_batch_add_up_to_the_whole():
    """Rows of 10, 1 and 3 tokens: the mean of the rows' means would be another number."""
    settings = {"label_smoothing": 0.2, "z_loss": 0.01}
    whole, gradient = compute(ROWS, **settings)
    rows = [jax.tree.map(lambda rows, row=row: rows[row : row + 1], ROWS) for row in range(3)]
    parts = [compute(row, **settings) for row in rows]
    summed, summed_gradient = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    assert [float(totals["loss"].weight) for totals, _ in parts] == [10, 1, 3]
    np.testing.assert_allclose(summed["loss"].mean, whole["loss"].mean, rtol=1e-6)
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4), summed_gradient, gradient
    )
    assert abs(np.mean([totals["loss"].mean for totals, _ in parts]) - whole["loss"].mean) > 1e-2


@pytest.mark.parametrize("chunk", [None, 4])
def test_padding_contributes_nothing(chunk):
    totals, gradient = compute(ROWS, loss_chunk=chunk, label_smoothing=0.2, z_loss=0.01)
    anything = ROWS.target.replace(tokens=jnp.where(ROWS.target.mask, ROWS.target.tokens, 17))
    with_other, other_gradient = compute(
        ROWS.replace(target=anything), loss_chunk=chunk, label_smoothing=0.2, z_loss=0.01
    )
    for found, expected in ((with_other, totals), (other_gradient, gradient)):
        jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6), found, expected)


@pytest.mark.parametrize("chunk", [1, 4, 12])
def test_chunks_change_no_number(chunk):
    settings = {"label_smoothing": 0.2, "z_loss": 0.01}
    rng = jax.random.key(3)
    found, expected = compute(ROWS, rng, loss_chunk=chunk, **settings), compute(ROWS, rng, **settings)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5), found, expected)


def test_a_chunk_that_does_not_divide_the_row_is_refused():
    with pytest.raises(ValueError, match="^objective.loss_chunk must divide the target row of 12 tokens, and 5 does"):
        compute(ROWS, loss_chunk=5)


def elements_with_vocabulary(vocab, rows, chunk, **settings):
    """The largest number of elements of an array with a dim of `vocab` in the program and in what XLA makes of it."""
    model = transformer().build(dataclasses.replace(VOCABULARY, source_size=vocab, target_size=vocab))
    objective = MaximumLikelihoodConfig(loss_chunk=chunk, z_loss=1e-4, **settings).build(model)

    @jax.jit
    def update(params, rows):
        return jax.grad(lambda params: objective.evaluate({"model": params}, rows)[0].sum)(params)

    params = parameters(model)
    program = str(jax.make_jaxpr(update)(params, rows))
    compiled = update.lower(params, rows).compile().as_text()
    found = []
    for text in (program, compiled):
        shapes = [tuple(map(int, dims.split(","))) for dims in re.findall(r"\w\[(\d+(?:,\d+)*)\]", text)]
        found.append(max(math.prod(shape) for shape in shapes if vocab in shape))
    return found


def test_the_logits_of_all_tokens_never_exist_at_once():
    """3 rows of 12 tokens and a vocabulary of 211: the logits would be 7,596 elements, a chunk's are 633, the table
    is 3,376 of them."""
    assert elements_with_vocabulary(211, ROWS, None) == [3 * 12 * 211] * 2
    assert elements_with_vocabulary(211, ROWS, 1) == [16 * 211] * 2
    assert elements_with_vocabulary(211, ROWS, 1, unlikelihood_weight=0.5) == [16 * 211] * 2


def test_dropout_is_on_with_a_key_alone():
    settings = {"label_smoothing": 0.2, "z_loss": 0.01}
    without, _ = compute(ROWS, **settings)
    first, again, other = (compute(ROWS, jax.random.key(seed), **settings)[0]["loss"].sum for seed in (1, 1, 2))
    assert first == again
    assert abs(first - other) > 0.01
    assert abs(first - without["loss"].sum) > 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\), not 1.0"),
        ({"label_smoothing": -0.1}, r"label_smoothing must lie in \[0, 1\), not -0.1"),
        ({"z_loss": -1e-4}, "z_loss must not be negative, and is -0.0001"),
        ({"loss_chunk": 0}, "loss_chunk must be at least 1 position, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=rf"^objective\.{message}[^\n]*$"):
        MaximumLikelihoodConfig(**wrong)
