"""Relaxed adversarial training: soft tokens are samples, and the gradient goes through them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters, recurrent, transformer
from batches import batch
from tiny_policy import TINY

from seq2seq_jax.batch import one_token_batch
from seq2seq_jax.discriminators.two_towers import PooledConvolutionConfig, TwoTowersConfig
from seq2seq_jax.objectives.objective import Turn, values_of
from seq2seq_jax.objectives.relaxed import RelaxedConfig

SMALL = PooledConvolutionConfig(model_dim=4, widths=(1, 2), filters=(4, 4), dropout=0.0)
JUDGE = TwoTowersConfig(source=SMALL, target=SMALL, hidden_dim=4)
MODELS = {
    "recurrent": recurrent(model_dim=8, decoder={"hidden_dim": 8, "attention": None}, encoder={"hidden_dim": 4}),
    "transformer": transformer(num_layers=1),
}
LENGTH = 4


def objective(model="recurrent", **settings):
    return RelaxedConfig(length=LENGTH, discriminator=JUDGE, **settings).build(MODELS[model].build(TINY))


@functools.cache
def params(model="recurrent"):
    own = objective(model)
    return {
        "model": random_parameters(own.model, one_token_batch(), seed=3),
        "discriminator": random_parameters(own.discriminator.module, one_token_batch(), seed=4),
    }


def rows():
    pairs = [([3, 4, 3, 2], [4, 4, 3, 3, 2]), ([4, 2], [3, 4, 3, 4, 2]), ([3, 2], [3, 3, 3, 4, 2])]
    return jax.tree.map(jnp.asarray, batch([[pair] for pair in pairs], 4, LENGTH + 1, TINY))


def prepared(own):
    return own.prepare(params(), {}, rows(), step=jnp.int32(0), rng=jax.random.key(0))[0]


@pytest.mark.parametrize("model", MODELS)
def test_tokens_are_the_samples_that_the_noise_draws(model):
    """Checked with teacher forcing: each is the most probable one after the noise, given those before it; none ends."""
    own = objective(model)
    found = prepared(own)
    draw = jax.jit(lambda p: own.draw(p, found.rows, jnp.float32(0.1), key=None)[0])
    soft = np.asarray(draw(params(model)["model"]))
    tokens = soft.argmax(axis=-1)
    np.testing.assert_allclose(soft, np.eye(TINY.target_size)[tokens], atol=1e-6)
    whole = rows().replace(target=rows().target.replace(tokens=jnp.pad(jnp.asarray(tokens), ((0, 0), (0, 1)))))
    logits = jax.jit(own.model.apply)({"params": params(model)["model"]}, whole)[:, :LENGTH]
    perturbed = np.where(np.arange(5) >= 3, jax.nn.log_softmax(logits) + found.rows.noise, -np.inf)
    np.testing.assert_array_equal(perturbed.argmax(axis=-1), tokens)
    assert len(np.unique(tokens)) == 2


@pytest.mark.long
def test_the_gradient_goes_through_soft_tokens():
    """The derivative along the gradient is its norm, by finite differences of the loss."""
    own = objective(straight_through=False, initial_temperature=1.0)
    found = prepared(own)

    @jax.jit
    @jax.value_and_grad
    def loss(model):
        everyone = {**params(), "model": model}
        return own.loss(Turn(1, "model"), everyone, found, step=jnp.int32(0), rng=None)[0].sum

    _, gradient = loss(params()["model"])
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))
    assert norm > 1e-2
    values = [
        float(loss(jax.tree.map(lambda x, g, s=sign: x + s * 1e-2 * g / norm, params()["model"], gradient))[0])
        for sign in (1, -1)
    ]
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(norm, rel=0.05)
    of_encoder = jax.tree.leaves(gradient["encoder"])
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in of_encoder) > 1e-5


def test_the_losses_of_both_are_exchanged():
    """Relativistic: softplus of differences of opposite sign, for the same samples."""
    own = objective()
    found = prepared(own)
    losses = {}
    for player in own.turns:
        losses[player], logged = own.loss(Turn(0, player), params(), found, step=jnp.int32(0), rng=None)
        if player == "discriminator":
            assert 0.0 <= values_of(logged)["accuracy"] <= 1.0
    # softplus(x) - softplus(-x) = x, and the sum over pairs is that of the differences.
    soft, _ = own.draw(params()["model"], found.rows, jnp.float32(1.0), key=None)
    judge, own_params = own.discriminator, params()["discriminator"]
    encoded = judge.encode(own_params, rows().source)
    cut = jax.tree.map(lambda leaf: leaf[:, :LENGTH], rows().target)
    real = judge.logits(own_params, cut, encoded)[:, -1]
    fake = judge.logits(own_params, cut.replace(tokens=jnp.argmax(soft, axis=-1)), encoded)[:, -1]
    difference = float(losses["discriminator"].sum - losses["model"].sum)
    assert difference == pytest.approx(float(jnp.sum(fake - real)), abs=1e-4)


def test_the_temperature_falls_exponentially():
    config = RelaxedConfig(initial_temperature=1.0, final_temperature=0.01, temperature_steps=100)
    found = [float(config.temperature(jnp.int32(step))) for step in (0, 50, 100, 200)]
    assert found == pytest.approx([1.0, 0.1, 0.01, 0.01])


def test_mistakes_of_a_config_are_one_line():
    with pytest.raises(ValueError, match="at most initial_temperature"):
        RelaxedConfig(final_temperature=2.0)
    with pytest.raises(ValueError, match="copies and experts do not"):
        RelaxedConfig().check(dataclasses.replace(MODELS["transformer"], num_experts=2), accumulation=1)
