"""R-Drop against two passes by hand, its gradient by finite differences, chunks, and no weight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import VOCABULARY, parameters, recurrent, transformer
from batches import batch

from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig, each_row_twice
from seq2seq_jax.objectives.mixture_of_experts import MixtureOfExpertsConfig
from seq2seq_jax.objectives.objective import Prepared, Turn, values_of

EOS = VOCABULARY.eos_id
PAIRS = [([8, 9, EOS], [5, 6, 5, 7, 6, EOS]), ([9, EOS], [5, 7, EOS]), ([10, EOS], [6, 6, 6, EOS])]
PACKED = jax.tree.map(jnp.asarray, batch([PAIRS[:2], PAIRS[2:]], 8, 12, VOCABULARY))
RNG = jax.random.key(7)
WEIGHT = 3.0


@functools.cache
def model(dropout=0.3):
    built = transformer(dropout=dropout, attention_dropout=dropout, hidden_dropout=dropout).build(VOCABULARY)
    # Larger than new ones: their divergence is far from rounding.
    return built, jax.tree.map(lambda leaf: 3 * leaf, parameters(built))


@functools.cache
def compiled(dropout, **settings):
    objective = MaximumLikelihoodConfig(**settings).build(model(dropout)[0])

    def loss_of(params, rng):
        loss, logged = objective.loss(
            Turn(0, "model"), {"model": params}, Prepared(rows=PACKED), step=jnp.int32(0), rng=rng
        )
        return loss.sum / loss.weight, {"loss": loss, **logged}

    return jax.jit(jax.value_and_grad(loss_of, has_aux=True))


def compute(rng=RNG, *, dropout=0.3, **settings):
    (loss, totals), gradient = compiled(dropout, **settings)(model(dropout)[1], rng)
    return float(loss), values_of(totals), gradient


def close(one, other):
    jax.tree.map(lambda *leaves: np.testing.assert_allclose(*leaves, rtol=1e-4, atol=1e-5), one, other)


def test_it_is_the_mean_of_two_passes_and_of_their_divergence():
    loss, logged, _ = compute(r_drop_weight=WEIGHT, label_smoothing=0.0)
    built, params = model()
    twice = jax.tree.map(each_row_twice, PACKED)
    logits = jax.jit(lambda params: built.apply(params, twice, deterministic=False, rngs={"dropout": RNG}))(
        {"params": params}
    )
    scores = np.asarray(logits, np.float64)
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    total = divergences = 0.0
    for row in range(len(PACKED.target.tokens)):
        first, second = p[2 * row], p[2 * row + 1]
        for place in np.flatnonzero(np.asarray(PACKED.target.mask)[row]):
            label = int(PACKED.target.tokens[row, place])
            total += -np.log(first[place, label]) - np.log(second[place, label])
            kl = np.sum(first[place] * np.log(first[place] / second[place]))
            kl += np.sum(second[place] * np.log(second[place] / first[place]))
            divergences += kl / 2
    count = sum(len(target) for _, target in PAIRS)
    assert divergences / count > 0.01
    np.testing.assert_allclose(logged["nll"], total / (2 * count), rtol=1e-5)
    np.testing.assert_allclose(logged["divergence"], divergences / count, rtol=1e-4)
    # Half of equation 4 of the paper, whose negative log-likelihood is the sum of both passes.
    np.testing.assert_allclose(loss, (total + WEIGHT * divergences) / (2 * count), rtol=1e-5)


def test_chunks_change_nothing():
    loss, logged, gradient = compute(r_drop_weight=WEIGHT)
    chunked, logged_too, gradient_too = compute(r_drop_weight=WEIGHT, loss_chunk=4)
    np.testing.assert_allclose(chunked, loss, rtol=1e-6)
    np.testing.assert_allclose(logged_too["divergence"], logged["divergence"], rtol=1e-5)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), gradient, gradient_too
    )


def test_its_gradient_is_that_of_finite_differences():
    _, params = model()
    _, _, gradient = compute(r_drop_weight=WEIGHT)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    direction = tree.unflatten([jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])
    slope = sum(jax.tree.leaves(jax.tree.map(lambda one, other: float(jnp.vdot(one, other)), gradient, direction)))

    def at(step):
        moved = jax.tree.map(lambda leaf, along: leaf + step * along, params, direction)
        return float(compiled(0.3, r_drop_weight=WEIGHT)(moved, RNG)[0][0])

    step = 3e-5
    assert slope == pytest.approx((at(step) - at(-step)) / (2 * step), rel=2e-2)


def test_without_dropout_or_in_evaluation_it_is_maximum_likelihood():
    for rng, dropout in ((RNG, 0.0), (None, 0.3)):
        loss, logged, gradient = compute(rng, dropout=dropout, r_drop_weight=WEIGHT)
        expected, _, expected_gradient = compute(rng, dropout=dropout)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert logged.get("divergence", 0.0) == pytest.approx(0.0, abs=1e-6)
        close(gradient, expected_gradient)


def test_a_step_computes_twice_as_much():
    built = recurrent().build(VOCABULARY)
    once, twice = (MaximumLikelihoodConfig(r_drop_weight=weight).build(built) for weight in (0.0, 1.0))
    assert twice.pair_flops(7, 9) == 2 * once.pair_flops(7, 9)


def test_mistakes():
    with pytest.raises(ValueError, match="r_drop_weight must not be negative, and is -1.0"):
        MaximumLikelihoodConfig(r_drop_weight=-1.0)
    with pytest.raises(
        ValueError, match=r"r_drop_weight = 1.0 is not supported with a mixture of experts. Set it to 0.0"
    ):
        MixtureOfExpertsConfig(r_drop_weight=1.0)
    with pytest.raises(ValueError, match=r"r_drop_weight = 1.0 is not supported with model.copying"):
        MaximumLikelihoodConfig(r_drop_weight=1.0).check(
            dataclasses.replace(transformer(), copying=True), accumulation=1
        )
    still = recurrent()
    still = dataclasses.replace(
        still,
        encoder=dataclasses.replace(still.encoder, dropout=0.0),
        decoder=dataclasses.replace(still.decoder, dropout=0.0),
    )
    with pytest.raises(ValueError, match=r"^objective.r_drop_weight = 1.0 has no effect without dropout[^\n]*$"):
        MaximumLikelihoodConfig(r_drop_weight=1.0).check(still, accumulation=1)
    MaximumLikelihoodConfig().check(still, accumulation=1)
    for side in ("encoder", "decoder"):
        part = dataclasses.replace(getattr(still, side), dropout=0.1)
        MaximumLikelihoodConfig(r_drop_weight=1.0).check(dataclasses.replace(still, **{side: part}), accumulation=1)
