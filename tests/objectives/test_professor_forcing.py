"""Professor forcing: losses by hand from the decoder's states, who learns from what, and what an accuracy decides."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import parameters, recurrent, transformer
from batches import batch
from tiny_policy import LIMIT, TEXTS, TINY, given_samples

from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.objectives.objective import Turn, values_of
from seq2seq_jax.objectives.professor_forcing import ProfessorForcing, ProfessorForcingConfig, ProfessorRows

MODEL = recurrent(model_dim=8, decoder={"hidden_dim": 8, "attention": None}, encoder={"hidden_dim": 4})
SOURCES, REFERENCES = [[3, 4, 3, 2], [4, 2]], [[4, 4, 2], [3, 2]]
SAMPLES = [TEXTS[4], TEXTS[9]]
JUDGE = RecurrentEncoderConfig(model_dim=6, hidden_dim=5, dropout=0.0)


@functools.cache
def objective(**settings) -> ProfessorForcing:
    limits = {"minimum_length": 0, "maximum_length_ratio": 0.0, "maximum_length_extra": LIMIT}
    return ProfessorForcingConfig(behaviour=JUDGE, **limits | settings).build(MODEL.build(TINY))


@functools.cache
def players():
    """Parameters of both, random."""
    judge = nn.meta.unbox(objective().players[1].initialize(jax.random.key(0)))
    leaves, tree = jax.tree.flatten(judge)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    judge = [0.7 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return {"model": parameters(MODEL.build(TINY)), "discriminator": jax.tree.unflatten(tree, judge)}


def rows_of(texts):
    pairs = [[pair] for pair in zip(SOURCES, map(list, texts), strict=True)]
    return jax.tree.map(jnp.asarray, batch(pairs, 4, LIMIT, TINY))


@functools.cache
def prepared(**settings):
    """As `prepare` does with samples that are given."""

    class Given(ProfessorForcing):
        def draw(self, params, memory, source, *, rng):
            return given_samples([[text] for text in SAMPLES])

    own = Given(objective(**settings).professor, objective().model)
    key = jax.random.key(0)
    prepare = jax.jit(lambda params: own.prepare(params, {}, rows_of(REFERENCES), step=jnp.int32(0), rng=key)[0])
    return prepare(players())


@functools.cache
def by_hand(which):
    """Logits of the discriminator, a text at a time from the decoder's states; and log-likelihoods."""
    model, params, found, likelihoods = MODEL.build(TINY), players(), [], []

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def of_pair(source, text):
        rows = jax.tree.map(jnp.asarray, batch([[(list(source), list(text))]], 4, len(text), TINY))
        variables = {"params": params["model"]}
        memory = model.apply(variables, rows.source, deterministic=True, method="encode")
        states = model.apply(variables, rows.target, memory, deterministic=True, method="decode")
        scores = jax.nn.log_softmax(model.apply(variables, rows)[0])
        logit = objective().judge.apply({"params": params["discriminator"]}, states, rows.target, deterministic=True)
        return logit[0], sum(scores[place, token] for place, token in enumerate(text))

    for source, text in zip(SOURCES, which, strict=True):
        logit, likelihood = of_pair(tuple(source), tuple(text))
        found.append(float(logit))
        likelihoods.append(float(likelihood))
    return np.array(found), np.array(likelihoods)


def softplus(values):
    return np.log1p(np.exp(values))


def losses(player, **settings):
    own, index = objective(**settings), {"model": 0, "discriminator": 1}[player]
    loss = jax.jit(
        lambda params, rows: own.loss(Turn(index, player), params, rows, step=jnp.int32(0), rng=None),
    )
    return loss(players(), prepared().replace(shared=prepared().shared.replace(is_challenged=jnp.ones(()))))


def test_the_losses_by_hand():
    real, likelihoods = by_hand(tuple(map(tuple, REFERENCES)))
    free, _ = by_hand(tuple(SAMPLES))
    assert np.ptp([*real, *free]) > 0.05
    loss, _ = losses("discriminator")
    assert float(loss.mean) == pytest.approx(0.5 * np.mean(softplus(-real) + softplus(free)), rel=1e-4)
    loss, logged = losses("model", free_running_weight=0.7, teacher_forced_weight=0.3)
    expected = np.mean(0.7 * softplus(-free) + 0.3 * softplus(real) - likelihoods)
    assert float(loss.mean) == pytest.approx(expected, rel=1e-4)
    values = values_of(logged)
    assert values["free_running_loss"] == pytest.approx(np.mean(softplus(-free)), rel=1e-4)
    assert values["nll"] == pytest.approx(-likelihoods.sum() / 5, rel=1e-4)
    right = [*(real > 0), *(free < 0)]
    assert float(prepared().shared.accuracy) == pytest.approx(np.mean(right))


def test_an_accuracy_decides_who_learns_from_the_other():
    own, usual, accuracy = objective(), prepared().shared, float(prepared().shared.accuracy)
    assert (bool(usual.is_challenged), bool(usual.trains_discriminator)) == (accuracy >= 0.75, accuracy < 0.99)
    always = prepared(accuracy_floor=accuracy, accuracy_ceiling=1.0 if accuracy < 1.0 else 0.99).shared
    assert (bool(always.is_challenged), bool(always.trains_discriminator)) == (True, accuracy < 1.0)
    never = prepared(accuracy_floor=1.0, accuracy_ceiling=accuracy).shared
    assert (bool(never.is_challenged), bool(never.trains_discriminator)) == (accuracy == 1.0, False)
    unchallenged = prepared().replace(shared=usual.replace(is_challenged=jnp.zeros(())))
    loss, _ = own.loss(Turn(0, "model"), players(), unchallenged, step=jnp.int32(0), rng=None)
    assert float(loss.mean) == pytest.approx(-by_hand(tuple(map(tuple, REFERENCES)))[1].mean(), rel=1e-4)


@pytest.mark.long
def test_no_player_learns_from_the_gradient_of_the_other():
    own = objective(teacher_forced_weight=0.5)
    rows = prepared().replace(shared=prepared().shared.replace(is_challenged=jnp.ones(())))
    for index, player in enumerate(("model", "discriminator")):
        loss = lambda params, turn: own.loss(turn, params, rows, step=jnp.int32(0), rng=None)[0].sum  # noqa: E731
        gradient = jax.jit(jax.grad(functools.partial(loss, turn=Turn(index, player))))(players())
        for other, part in gradient.items():
            largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(part))
            assert largest > 1e-3 if other == player else largest == 0.0


def test_mistakes_are_one_line():
    with pytest.raises(ValueError, match=r"states of a recurrent decoder, and model\.decoder is TransformerDecoder"):
        ProfessorForcingConfig().check(transformer(), accumulation=1)
    for settings, message in (
        ({"free_running_weight": -1.0}, "free_running_weight must not be negative"),
        ({"accuracy_floor": 1.5}, r"accuracy_floor must lie in \[0, 1\]"),
        ({"minimum_length": -1}, "minimum_length must be at least 0"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"behaviour": dataclasses.replace(JUDGE, num_layers=2, pyramid_layers=1)}, "pyramid_layers to 0"),
    ):
        with pytest.raises(ValueError, match=message):
            ProfessorForcingConfig(**settings)


def test_rows_of_samples_are_texts():
    rows = prepared().rows
    assert isinstance(rows, ProfessorRows)
    np.testing.assert_array_equal(rows.sample.mask.sum(axis=1), [len(text) for text in SAMPLES])
