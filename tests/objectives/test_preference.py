"""Preference optimisation: losses by hand from log-probabilities of the model, pairs, the reference model's age."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters, recurrent
from batches import batch
from tiny_policy import LIMIT, TEXTS, TINY, given_samples

from seq2seq_jax.batch import Batch, one_token_batch
from seq2seq_jax.objectives.objective import Prepared, Turn, values_of
from seq2seq_jax.objectives.preference import Preference, PreferenceConfig

MODEL = recurrent(model_dim=8, decoder={"hidden_dim": 8, "attention": None}, encoder={"hidden_dim": 4})
SOURCE, REFERENCE = [3, 4, 3, 2], [4, 4, 2]
LIMITS = {"minimum_length": 0, "maximum_length_ratio": 0.0, "maximum_length_extra": LIMIT}


def reward(tokens, example):
    """The number of words 4, over 10."""
    return jnp.sum(tokens == 4, axis=-1) / 10.0, {}


def objective(**settings) -> Preference:
    config = PreferenceConfig(**{"samples_per_source": 3} | LIMITS | settings)
    return Preference(config, MODEL.build(TINY), reward)


@functools.cache
def params(seed=3):
    return {"model": random_parameters(MODEL.build(TINY), one_token_batch(), seed=seed)}


def rows(texts) -> Batch:
    return jax.tree.map(jnp.asarray, batch([[(SOURCE, list(text))] for text in texts], 4, LIMIT, TINY))


@functools.partial(jax.jit, static_argnums=1)
def log_probabilities(params, texts):
    """Of whole texts, from the logits of the model alone."""
    found = rows(texts)
    logits = MODEL.build(TINY).apply({"params": params}, found)
    logits = jnp.where(jnp.isin(jnp.arange(5), jnp.array([TINY.pad_id, TINY.bos_id])), -jnp.inf, logits)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), found.target.tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(found.target.mask, picked, 0.0), axis=1)


SAMPLES = (TEXTS[3], TEXTS[6], TEXTS[4])
"""3 3, 4 4 and 3 4, each with its end: rewards 0, 0.2 and 0.1."""


def softplus(value):
    return np.log1p(np.exp(value))


LOSSES = {
    "dpo": {"beta": 0.5},
    "cpo": {"loss": "cpo", "beta": 0.3, "likelihood_weight": 0.7},
    "self_play": {"pairs": "self_play", "beta": 0.5, "reference_weight": 0.2},
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_by_hand(name):
    settings = LOSSES[name]
    own = objective(**settings)
    old = params(4)["model"]
    found = own.pairs({"reference": old}, rows([REFERENCE]), given_samples([SAMPLES]), jnp.array([[0.0, 0.2, 0.1]]))
    loss, logged = own.loss(Turn(0, "model"), params(), Prepared(rows=found), step=jnp.int32(0), rng=None)
    texts = (SAMPLES[1], SAMPLES[0]) if name != "self_play" else (tuple(REFERENCE), SAMPLES[0])
    now, before = (np.asarray(log_probabilities(each, texts)) for each in (params()["model"], old))
    ratios = now if name == "cpo" else now - before
    expected = softplus(-settings["beta"] * (ratios[0] - ratios[1]))
    expected -= settings.get("likelihood_weight", 0.0) * now[0]
    if name == "self_play":
        everything = MODEL.build(TINY).apply({"params": params()["model"]}, rows([REFERENCE]))
        picked = jnp.take_along_axis(jax.nn.log_softmax(everything), jnp.array([REFERENCE])[..., None], axis=-1)
        expected -= 0.2 * float(jnp.sum(picked))
    assert float(loss.mean) == pytest.approx(expected, rel=1e-4)
    values = values_of(logged)
    assert values["preferred_log_ratio"] == pytest.approx(ratios[0], abs=1e-4)
    assert values["other_log_ratio"] == pytest.approx(ratios[1], abs=1e-4)
    assert values["pair_fraction"] == 1.0 and values["preference_accuracy"] == float(ratios[0] > ratios[1])


def test_a_source_without_a_pair_has_no_loss():
    own = objective(margin=0.15)
    rewards = jnp.array([[0.0, 0.1, 0.05], [0.0, 0.2, 0.1]])
    samples = given_samples([SAMPLES, SAMPLES])
    state = {"reference": params(4)["model"]}
    found = own.pairs(state, rows([REFERENCE, REFERENCE]), samples, rewards)
    assert found.is_pair.tolist() == [False, True]
    gradient = jax.grad(
        lambda p: own.loss(Turn(0, "model"), {"model": p}, Prepared(rows=found), step=jnp.int32(0), rng=None)[0].sum
    )
    alone = own.pairs(state, rows([REFERENCE]), given_samples([SAMPLES]), rewards[1:])
    of_one = jax.grad(
        lambda p: own.loss(Turn(0, "model"), {"model": p}, Prepared(rows=alone), step=jnp.int32(0), rng=None)[0].sum
    )
    for left, right in zip(
        *map(jax.tree.leaves, (gradient(params()["model"]), of_one(params()["model"]))), strict=True
    ):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.long
def test_the_reference_model_is_refreshed_and_plays():
    """Self-play draws from the reference model, which becomes the generator after this number of steps."""
    own = objective(pairs="self_play", reference_steps=3, samples_per_source=1)
    prepare = jax.jit(own.prepare)
    state, key = own.initial_state(params(4)), jax.random.key(0)
    found, other = [], []
    for step in range(1, 5):
        prepared, state = prepare(params(), state, rows([REFERENCE] * 16), step=jnp.int32(step), rng=key)
        found.append(np.asarray(prepared.rows.tokens[:, 1]))
        other.append(np.asarray(state["reference"]["target_embedding"]["table"]))
    old, new = (np.asarray(params(seed)["model"]["target_embedding"]["table"]) for seed in (4, 3))
    assert [np.array_equal(each, old) for each in other] == [True, True, False, False]
    assert [np.array_equal(each, new) for each in other] == [False, False, True, True]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert not np.array_equal(found[1], found[2])


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("at least 2", {"samples_per_source": 1}),
        ("needs a judge", {"reward": None}),
        ("has no reference model", {"loss": "cpo", "reference_steps": 10}),
        ("set loss to dpo", {"pairs": "self_play", "loss": "cpo"}),
        ("must be positive", {"beta": 0.0}),
    ],
)
def test_mistakes_of_a_config_are_one_line(message, settings):
    with pytest.raises(ValueError) as raised:
        PreferenceConfig(**settings)
    assert message in str(raised.value) and "\n" not in str(raised.value)
