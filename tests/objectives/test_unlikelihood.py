"""Unlikelihood against its definition in NumPy, its gradient by finite differences, packed rows, and no weight."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import VOCABULARY, parameters, transformer
from batches import batch

from seq2seq_jax.modules.embedding import Scoring
from seq2seq_jax.objectives.maximum_likelihood import (
    MaximumLikelihoodConfig,
    Negatives,
    _vocabulary_loss,
    negative_candidates,
    unlikelihood,
)
from seq2seq_jax.objectives.objective import Prepared, Turn, values_of

A, B, C, EOS = 5, 6, 7, VOCABULARY.eos_id
TARGETS = [[A, B, A, C, B, EOS], [A, C, EOS], [B, B, B, EOS]]
CANDIDATES = [
    [set(), {A}, {B}, {A, B}, {A, C}, {A, B, C}],
    [set(), {A}, {A, C}],
    [set(), set(), set(), {B}],
]
"""The tokens before each label, but the label itself."""
PAIRS = [([8 + number, 9, EOS], target) for number, target in enumerate(TARGETS)]
PACKED = jax.tree.map(jnp.asarray, batch([PAIRS[:2], PAIRS[2:]], 8, 12, VOCABULARY))
ALONE = jax.tree.map(jnp.asarray, batch([[pair] for pair in PAIRS], 8, 12, VOCABULARY))
NUM_TOKENS = sum(map(len, TARGETS))
PLACES = [(0, 0), (0, 6), (1, 0)]
"""Row and first place of each target in the packed rows."""


@functools.cache
def tiny():
    model = transformer().build(VOCABULARY)
    return model, parameters(model)


@functools.cache
def compiled(**settings):
    objective = MaximumLikelihoodConfig(**settings).build(tiny()[0])

    def loss_sum(params, rows):
        loss, logged = objective.loss(
            Turn(0, "model"), {"model": params}, Prepared(rows=rows), step=jnp.int32(0), rng=None
        )
        return loss.sum, {"loss": loss, **logged}

    return jax.jit(jax.grad(loss_sum, has_aux=True))


def compute(rows, **settings):
    """Logged figures and gradient of the summed loss."""
    gradient, totals = compiled(**settings)(tiny()[1], rows)
    return values_of(totals), gradient


def test_candidates_are_the_earlier_tokens_of_the_segment_but_the_label():
    allowed = np.asarray(negative_candidates(PACKED.target))
    tokens = np.asarray(PACKED.target.tokens)
    for (row, first), expected in zip(PLACES, CANDIDATES, strict=True):
        for offset, candidates in enumerate(expected):
            found = tokens[row, allowed[row, first + offset]].tolist()
            assert sorted(found) == sorted(candidates)


def by_definition():
    """Negative log-likelihood and unlikelihood of all labels together, from all logits."""
    model, params = tiny()
    logits = np.asarray(jax.jit(model.apply)({"params": params}, ALONE), np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    nll = unlikely = 0.0
    for row, (target, candidates) in enumerate(zip(TARGETS, CANDIDATES, strict=True)):
        for place, label in enumerate(target):
            nll -= math.log(probabilities[row, place, label])
            unlikely -= sum(math.log(1.0 - probabilities[row, place, token]) for token in candidates[place])
    return nll, unlikely


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("rows", [PACKED, ALONE], ids=["packed", "alone"])
def test_the_loss_is_that_of_the_definition(rows, chunk):
    nll, unlikely = by_definition()
    assert unlikely > 0.1
    found, _ = compute(rows, label_smoothing=0.0, unlikelihood_weight=0.7, loss_chunk=chunk)
    assert found["nll"] == pytest.approx(nll / NUM_TOKENS, rel=1e-5)
    assert found["unlikelihood"] == pytest.approx(unlikely / NUM_TOKENS, rel=1e-4)
    assert found["loss"] == pytest.approx((nll + 0.7 * unlikely) / NUM_TOKENS, rel=1e-5)


def test_packed_rows_and_chunks_have_the_same_gradient():
    settings = {"label_smoothing": 0.1, "z_loss": 0.01, "unlikelihood_weight": 0.7}
    expected = compute(ALONE, **settings)[1]
    for found in (compute(PACKED, **settings)[1], compute(ALONE, loss_chunk=4, **settings)[1]):
        jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5), found, expected)


@pytest.mark.parametrize("chunk", [None, 6])
def test_the_gradient_is_that_of_finite_differences(chunk):
    config = MaximumLikelihoodConfig(label_smoothing=0.1, unlikelihood_weight=3.0, loss_chunk=chunk)
    rng = np.random.default_rng(0)
    labels, mask, allowed = PACKED.target.tokens, PACKED.target.mask, negative_candidates(PACKED.target)
    with jax.enable_x64(True):
        table, hidden = (jnp.asarray(rng.normal(size=size) / 2) for size in ((29, 8), (2, 12, 8)))

        @jax.jit
        def loss(table, hidden):
            negatives = Negatives(rows=table[labels], allowed=allowed)
            return _vocabulary_loss(config, Scoring("float32"), table, negatives, None, hidden, labels, mask)[0]

        of_table, of_hidden = jax.jit(jax.grad(loss, argnums=(0, 1)))(table, hidden)
        # Along the signs of the gradient, where the difference is far above the rounding of a float32 loss.
        for _ in range(3):
            directions = [
                jnp.sign(gradient) * jnp.abs(rng.normal(size=gradient.shape)) for gradient in (of_table, of_hidden)
            ]
            moved = [
                [array + sign * 1e-3 * each for array, each in zip((table, hidden), directions, strict=True)]
                for sign in (1, -1)
            ]
            expected = (float(loss(*moved[0])) - float(loss(*moved[1]))) / 2e-3
            found = float(jnp.vdot(of_table, directions[0]) + jnp.vdot(of_hidden, directions[1]))
            assert found == pytest.approx(expected, rel=2e-3)


def test_a_certain_candidate_costs_a_finite_loss_without_a_gradient():
    def loss(scores):
        return unlikelihood(scores, scores[:2], jnp.array([True, False]))

    value, gradient = jax.value_and_grad(loss)(jnp.array([80.0, 0.0, 1.0]))
    assert value == pytest.approx(-math.log(1e-5), rel=1e-5) and not np.any(gradient)
    value, gradient = jax.value_and_grad(loss)(jnp.zeros(3))
    # 1 - p = 2/3; the gradient is p for the candidate, and -p/2 for each of the others.
    assert value == pytest.approx(math.log(1.5), rel=1e-5)
    np.testing.assert_allclose(gradient, [1 / 3, -1 / 6, -1 / 6], rtol=1e-5)


def test_no_weight_is_maximum_likelihood():
    (found, gradient), (expected, expected_gradient) = compute(PACKED, unlikelihood_weight=0.0), compute(PACKED)
    assert found == expected and "unlikelihood" not in found
    jax.tree.map(np.testing.assert_array_equal, gradient, expected_gradient)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="^objective.unlikelihood_weight must not be negative, and is -0.1.$"):
        MaximumLikelihoodConfig(unlikelihood_weight=-0.1)
