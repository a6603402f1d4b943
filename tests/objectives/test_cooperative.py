"""Cooperative training: divergences and likelihoods by hand, and who learns from what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters, recurrent
from batches import batch
from tiny_policy import LIMIT, TEXTS, TINY, given_samples

from seq2seq_jax.batch import one_token_batch
from seq2seq_jax.objectives.cooperative import Cooperative, CooperativeConfig, CooperativeRows
from seq2seq_jax.objectives.objective import Prepared, Turn, values_of

MODEL = recurrent(model_dim=8, decoder={"hidden_dim": 8, "attention": None}, encoder={"hidden_dim": 4})
SOURCE, REFERENCE = [3, 4, 3, 2], [4, 4, 2]


def objective(**settings) -> Cooperative:
    limits = {"minimum_length": 0, "maximum_length_ratio": 0.0, "maximum_length_extra": LIMIT}
    return CooperativeConfig(**limits | settings).build(MODEL.build(TINY))


@functools.cache
def params():
    model = MODEL.build(TINY)
    return {
        name: random_parameters(model, one_token_batch(), seed=seed) for seed, name in enumerate(("model", "mediator"))
    }


def rows(text):
    return jax.tree.map(jnp.asarray, batch([[(SOURCE, list(text))]], 4, LIMIT, TINY))


@functools.partial(jax.jit, static_argnums=1)
def log_probabilities(params, text):
    """Of all tokens at each position of a text, [positions, tokens], without those that are never generated."""
    logits = MODEL.build(TINY).apply({"params": params}, rows(text))[0, : len(text)]
    return jax.nn.log_softmax(logits[:, 2:])


def prepared(text):
    return Prepared(rows=CooperativeRows(batch=rows(REFERENCE), samples=given_samples([[text]])))


def test_the_losses_by_hand():
    own, text = objective(likelihood_weight=0.5), TEXTS[4]
    loss, logged = own.loss(Turn(1, "model"), params(), prepared(text), step=jnp.int32(0), rng=None)
    q, m = (np.asarray(log_probabilities(params()[name], text), np.float64) for name in ("model", "mediator"))
    divergence = np.sum(np.exp(q) * (q - m))
    reference = np.asarray(log_probabilities(params()["model"], tuple(REFERENCE)))
    likelihood = sum(reference[place, token - 2] for place, token in enumerate(REFERENCE))
    assert float(loss.mean) == pytest.approx(divergence - 0.5 * likelihood, rel=1e-4)
    assert values_of(logged)["divergence"] == pytest.approx(divergence / len(text), rel=1e-4)
    loss, _ = own.loss(Turn(0, "mediator"), params(), prepared(text), step=jnp.int32(0), rng=None)
    expected = 0.0
    for each in (text, tuple(REFERENCE)):
        found = np.asarray(log_probabilities(params()["mediator"], each))
        expected -= 0.5 * sum(found[place, token - 2] for place, token in enumerate(each))
    assert float(loss.mean) == pytest.approx(expected, rel=1e-4)


@pytest.mark.long
def test_no_player_learns_from_the_gradient_of_the_other():
    own = objective()

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(params, player):
        return jax.grad(lambda p: own.loss(Turn(0, player), p, prepared(TEXTS[4]), step=jnp.int32(0), rng=None)[0].sum)(
            params
        )

    for player in ("model", "mediator"):
        for other, part in gradient(params(), player).items():
            largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(part))
            assert largest > 1e-3 if other == player else largest == 0.0


def test_the_mediator_starts_from_the_generator_and_comes_first():
    own = objective(mediator_updates=2)
    assert own.turns == ("mediator", "mediator", "model")
    started = own.initial_params(params(), given=())
    for left, right in zip(*(jax.tree.leaves(started[name]) for name in ("model", "mediator")), strict=True):
        np.testing.assert_array_equal(left, right)
    assert own.initial_params(params(), given=("mediator",)) is params()
