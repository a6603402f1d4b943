"""Responsibilities by brute force; two modes that two experts learn; one expert is maximum likelihood."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from architectures import ARCHITECTURES, VOCABULARY, parameters, transformer
from batches import batch, random_pairs

from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.modules.flops import TRAINING
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.mixture_of_experts import PATIENCE, MixtureOfExpertsConfig
from seq2seq_jax.objectives.objective import Prepared, Turn, values_of

EXPERTS = 3
TARGETS = (6, 4, 1, 7, 3)
PAIRS = random_pairs(np.random.default_rng(0), (5, 3, 4, 7, 2), TARGETS, VOCABULARY)
PACKED = jax.tree.map(jnp.asarray, batch([PAIRS[:3], PAIRS[3:]], 14, 12, VOCABULARY))
ALONE = jax.tree.map(jnp.asarray, batch([[pair] for pair in PAIRS], 14, 12, VOCABULARY))
TURN = Turn(0, "model")
FAMILIES = {
    "transformer": "transformer",
    "recurrent": "gru_additive_feeding",
    "convolutional": "convolutional_widths",
    "copying": "copying_transformer",
}


@functools.cache
def mixture(name, **settings):
    config = dataclasses.replace(ARCHITECTURES[name].config, num_experts=EXPERTS)
    model = config.build(VOCABULARY)
    return MixtureOfExpertsConfig(**settings).build(model), parameters(model)


def loss_and_metrics(objective, params, rows, rng=None):
    loss, logged = jax.jit(
        lambda params, rows, rng: objective.loss(
            TURN, {"model": params}, Prepared(rows=rows), step=jnp.int32(0), rng=rng
        )
    )(params, rows, rng)
    return values_of({"loss": loss, **logged})


@functools.cache
def by_brute_force(name):
    """Negative log-likelihood of each pair under each expert, by decoding token after token from the start token."""
    objective, params = mixture(name)
    model = objective.model
    apply = functools.partial(model.apply, {"params": params})
    step = jax.jit(functools.partial(apply, method="step"))
    found = np.zeros((len(PAIRS), EXPERTS))
    for index, (_, target) in enumerate(PAIRS):
        memory = apply(ALONE.source, deterministic=True, method="encode")
        memory = jax.tree.map(lambda leaf, index=index: leaf[index : index + 1], memory)
        for expert in range(EXPERTS):
            state = apply(memory, max_length=12, beam_size=1, method="start")
            token = VOCABULARY.bos_id if expert == 0 else VOCABULARY.target_size + expert - 1
            for label in target:
                logits, state = step(jnp.array([token]), state)
                found[index, expert] -= jax.nn.log_softmax(logits[0])[label]
                token = label
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_each_pair_goes_to_the_expert_under_which_it_is_most_probable(name):
    objective, params = mixture(name, label_smoothing=0.0)
    expected = by_brute_force(name)
    # Experts differ, and no pair is a tie, so that there is something to choose.
    chosen = expected.argmin(axis=1)
    assert len(set(chosen)) > 1 and np.diff(np.sort(expected, axis=1)).min() > 1e-3
    losses = jax.jit(objective.losses_by_expert)(params, PACKED)
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    np.testing.assert_allclose([losses[place] for place in places], expected, rtol=1e-4)
    assert not np.asarray(losses[0, 3:]).any() and not np.asarray(losses[1, 2:]).any()

    mean_probabilities = np.exp(-expected).mean(axis=1)
    posterior = np.exp(-expected) / np.exp(-expected).sum(axis=1, keepdims=True)
    for rows in (PACKED, ALONE):
        found = loss_and_metrics(objective, params, rows)
        assert found["loss"] == pytest.approx(expected.min(axis=1).sum() / sum(TARGETS), rel=1e-4)
        assert found["nll"] == pytest.approx(-np.log(mean_probabilities).sum() / sum(TARGETS), rel=1e-4)
        entropy = -(posterior * np.log(posterior)).sum(axis=1).mean()
        assert found["responsibility_entropy"] == pytest.approx(entropy, rel=1e-3)
        for expert in range(EXPERTS):
            assert found[f"expert_{expert}_fraction"] == pytest.approx((chosen == expert).mean())


@pytest.mark.long
def test_packed_rows_and_micro_batches_change_no_gradient_and_an_expert_that_is_not_chosen_has_none():
    objective, params = mixture("transformer")

    @jax.jit
    def gradient(params, rows):
        return jax.grad(lambda params: objective.evaluate({"model": params}, rows)[0].sum)(params)

    packed = gradient(params, PACKED)
    rows = [jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], ALONE) for row in range(len(PAIRS))]
    parts = [gradient(params, row) for row in rows]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4), packed, summed)

    for part, chosen in zip(parts, by_brute_force("transformer").argmin(axis=1), strict=True):
        learns = [bool(np.any(offset)) for offset in part["start_offsets"]]
        assert learns == [expert == chosen for expert in range(1, EXPERTS)]


@pytest.mark.long
def test_responsibilities_are_computed_without_dropout_and_the_loss_with_it():
    objective, params = mixture("transformer")
    off, one, other = (loss_and_metrics(objective, params, PACKED, rng) for rng in (None, *map(jax.random.key, (1, 2))))
    assert off.pop("loss") != one.pop("loss") != other.pop("loss")
    assert off == pytest.approx(one, rel=1e-6) and one == other


@pytest.mark.long
def test_one_expert_is_maximum_likelihood_bit_for_bit():
    model = transformer().build(VOCABULARY)
    settings = {"label_smoothing": 0.1, "loss_chunk": 4}
    programs = []
    for config in (MixtureOfExpertsConfig(**settings), MaximumLikelihoodConfig(**settings)):
        objective = config.build(model)

        def update(params, rows, rng, objective=objective):
            def loss_sum(params):
                loss, logged = objective.loss(TURN, {"model": params}, Prepared(rows=rows), step=jnp.int32(0), rng=rng)
                return loss.sum, logged

            return jax.grad(loss_sum, has_aux=True)(params)

        programs.append(str(jax.make_jaxpr(update)(parameters(model), PACKED, jax.random.key(0))))
        assert float(objective.pair_flops(5, 6)) == 3 * model.config.forward_flops(5, 6, vocabulary=VOCABULARY)
    # Functions are printed with their addresses.
    first, second = ("".join(part for part in program.split() if "0x" not in part) for program in programs)
    assert first == second


def test_the_flops_of_the_e_step_are_those_of_one_encoder_and_all_decoders():
    objective, _ = mixture("transformer")
    config = objective.model.config
    encoder = config.encoder.forward_flops(5)
    forward = config.forward_flops(5, 6, vocabulary=VOCABULARY)
    expected = TRAINING * forward + encoder + EXPERTS * (forward - encoder)
    assert objective.pair_flops(5, 6) == pytest.approx(expected - _shared_keys(config), rel=1e-9)


def _shared_keys(config):
    """The keys and values of the source that a forward pass counts once for all hypotheses."""
    once = config.forward_flops(5, 6, vocabulary=VOCABULARY, hypotheses=0) - config.encoder.forward_flops(5)
    return (EXPERTS - 1) * once


@pytest.mark.long
def test_two_modes_are_learned_by_two_experts():
    """A source is translated in one of two ways, in other tokens. A single expert cannot know which; of two, each takes
    one way of each source, and both know their texts.
    """
    size, first, eos = 8, VOCABULARY.eos_id + 1, VOCABULARY.eos_id
    pairs = [
        ([first + source, eos], [first + source + way * size] * 2 + [eos]) for source in range(size) for way in (0, 1)
    ]
    # The two ways of a source are in one row, now the one first and now the other.
    rows = [pairs[place : place + 2][:: 1 if place % 4 else -1] for place in range(0, len(pairs), 2)]
    rows = jax.tree.map(jnp.asarray, batch(rows, 4, 6, VOCABULARY))
    config = transformer(num_layers=1, model_dim=32, dropout=0.1, attention_dropout=0.0, hidden_dropout=0.0)
    model = dataclasses.replace(config, num_experts=2).build(VOCABULARY)
    objective = MixtureOfExpertsConfig(label_smoothing=0.0).build(model)
    params = nn.meta.unbox(objective.players[0].initialize(jax.random.key(0)))
    optimizer = optax.adam(5e-3)

    @jax.jit
    def train(params):
        def update(carry, step):
            params, state = carry
            rng = jax.random.fold_in(jax.random.key(1), step)

            def mean_loss(params):
                return objective.loss(TURN, {"model": params}, Prepared(rows=rows), step=step, rng=rng)[0].mean

            updates, state = optimizer.update(jax.grad(mean_loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(update, (params, optimizer.init(params)), jnp.arange(160))[0][0]

    params = train(params)
    chosen = np.asarray(jax.jit(objective.losses_by_expert)(params, rows))[:, :2].argmin(axis=-1)
    assert (chosen.sum(axis=1) == 1).all()
    found = loss_and_metrics(objective, params, rows)
    assert found["expert_0_fraction"] == found["expert_1_fraction"] == 0.5
    # The mixture knows the text but for its way: log 2 nats per pair of 3 tokens.
    assert found["loss"] < 0.1 and found["responsibility_entropy"] < 0.1
    assert found["nll"] == pytest.approx(math.log(2) / 3 + found["loss"], abs=0.03)


def test_a_warning_when_one_expert_takes_all_for_long():
    objective, _ = mixture("transformer")
    shared = {"expert_0_fraction": 0.5, "expert_1_fraction": 0.3, "expert_2_fraction": 0.2}
    taken = {"expert_0_fraction": 0.97, "expert_1_fraction": 0.02, "expert_2_fraction": 0.01}
    idle = {"expert_0_fraction": 0.5, "expert_1_fraction": 0.5, "expert_2_fraction": 0.0}
    for one_sided in (taken, idle):
        assert objective.warnings(shared) == {}
        for _ in range(PATIENCE - 1):
            assert objective.warnings(one_sided) == {}
        found = objective.warnings(one_sided)["experts"]
        assert f"for {PATIENCE} records" in found and "\n" not in found
    assert "97.0%, 2.0%, 1.0%" in objective.warnings(taken)["experts"]
    assert objective.warnings({}) == {}


def test_what_makes_no_sense_is_refused():
    message = "^objective.sampling_schedule = linear is not supported with a mixture of experts. Set it to none.$"
    with pytest.raises(ValueError, match=message):
        MixtureOfExpertsConfig(
            sampling_schedule="linear", sampling_limit=0.5, sampling_steps=10, sampling_choice="argmax"
        )
    with pytest.raises(ValueError, match="^model.num_experts must be at least 1, not 0.$"):
        dataclasses.replace(transformer(), num_experts=0)
    base = load_config_by_name("dates/transformer")
    model = dataclasses.replace(base.model, num_experts=3)
    message = "^objective MaximumLikelihoodConfig trains the first expert alone, and model.num_experts is 3.[^\n]*$"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(base, model=model)
    assert dataclasses.replace(base, model=model, objective=MixtureOfExpertsConfig()).model.num_experts == 3
