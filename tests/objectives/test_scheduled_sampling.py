"""Scheduled sampling: the schedule of its probability, and the tokens that a decoder reads."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import ARCHITECTURES, VOCABULARY, parameters
from batches import batch, random_pairs

from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Prepared, Turn

SCHEDULED = {"sampling_schedule": "linear", "sampling_limit": 0.5, "sampling_steps": 10, "sampling_choice": "argmax"}
PAIRS = random_pairs(np.random.default_rng(0), (5, 3, 4, 7), (6, 4, 1, 7), VOCABULARY)
PACKED = jax.tree.map(jnp.asarray, batch([PAIRS[:3], PAIRS[3:]], 14, 12, VOCABULARY))
RECURRENT = ("gru_additive_feeding", "lstm_coverage", "gru_general_feeding", "recurrent-recurrent_none")
IN_TWO_PASSES = ("transformer", "convolutional-transformer", "recurrent-convolutional")


@functools.cache
def built(name):
    model = ARCHITECTURES[name].config.build(VOCABULARY)
    return model, parameters(model)


def scheduled_inputs(name, rows, *, probability, argmax=True, seed=0):
    model, params = built(name)

    @jax.jit
    def predict(params, rows, probability, key):
        memory = model.apply({"params": params}, rows.source, deterministic=True, method="encode")
        return model.apply(
            {"params": params},
            rows.target,
            memory,
            probability=probability,
            argmax=argmax,
            rngs={"sampling": key},
            method="scheduled_inputs",
        )

    return np.asarray(predict(params, rows, jnp.float32(probability), jax.random.key(seed)))


def labels_moved(rows):
    """The BOS token, then the labels except for the last, of each segment."""
    tokens, positions = np.asarray(rows.target.tokens), np.asarray(rows.target.positions)
    moved = np.concatenate([tokens[:, -1:], tokens[:, :-1]], axis=1)
    return np.where(positions == 0, VOCABULARY.bos_id, moved)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", {0: 0.0, 5: 0.2, 10: 0.4, 25: 0.4}),
        ("exponential", {0: 0.0, 5: 0.4 * (1 - math.exp(-0.5)), 10: 0.4 * (1 - math.exp(-1.0))}),
        ("inverse_sigmoid", {0: 0.4 / 11, 10: 0.4 * (1 - 10 / (10 + math.e)), 200: 0.4}),
    ],
)
def test_the_probability_follows_its_schedule(schedule, expected):
    config = MaximumLikelihoodConfig(**SCHEDULED | {"sampling_schedule": schedule, "sampling_limit": 0.4})
    for step, probability in expected.items():
        assert config.sampling_probability(jnp.int32(step)) == pytest.approx(probability, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"sampling_limit": None},
            "objective.sampling_limit must be set if and only if objective.sampling_schedule is not none",
        ),
        ({"sampling_schedule": "none"}, "must be set if and only if .*; they are 0.5 and none"),
        ({"sampling_limit": 0.0}, r"sampling_limit must lie in \(0, 1\], not 0.0"),
        ({"sampling_limit": 1.5}, r"sampling_limit must lie in \(0, 1\], not 1.5"),
        ({"sampling_steps": 0}, "sampling_steps must be at least 1 update, not 0"),
    ],
)
def test_settings_that_do_not_fit(wrong, message):
    with pytest.raises(ValueError, match=message):
        MaximumLikelihoodConfig(**SCHEDULED | wrong)


@pytest.mark.parametrize("name", [RECURRENT[0], IN_TWO_PASSES[0]])
def test_a_probability_of_zero_keeps_the_labels(name):
    mask = np.asarray(PACKED.target.mask)
    np.testing.assert_array_equal(scheduled_inputs(name, PACKED, probability=0.0)[mask], labels_moved(PACKED)[mask])


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_decoder_reads_its_own_predictions_one_after_the_other(name):
    model, params = built(name)
    found = scheduled_inputs(name, PACKED, probability=1.0)
    segment_ids = np.asarray(PACKED.target.segment_ids)
    apply = functools.partial(model.apply, {"params": params})
    step = jax.jit(functools.partial(apply, method="step"))
    for row, segment, pair in ((0, 1, 0), (0, 2, 1), (0, 3, 2), (1, 1, 3)):
        alone = jax.tree.map(jnp.asarray, batch([[PAIRS[pair]]], 8, 8, VOCABULARY))
        memory = apply(alone.source, deterministic=True, method="encode")
        state = apply(memory, max_length=8, beam_size=1, method="start")
        token, expected = jnp.array([VOCABULARY.bos_id]), []
        for _ in PAIRS[pair][1]:
            expected.append(int(token[0]))
            logits, state = step(token, state)
            token = jnp.argmax(logits, axis=-1)
        assert found[row, segment_ids[row] == segment].tolist() == expected


@pytest.mark.parametrize("name", IN_TWO_PASSES)
def test_other_decoders_predict_in_a_first_pass_over_the_labels(name):
    model, params = built(name)
    logits = np.asarray(jax.jit(model.apply)({"params": params}, PACKED))
    most_probable = PACKED.replace(target=PACKED.target.replace(tokens=jnp.asarray(logits.argmax(axis=-1))))
    mask = np.asarray(PACKED.target.mask)
    np.testing.assert_array_equal(
        scheduled_inputs(name, PACKED, probability=1.0)[mask], labels_moved(most_probable)[mask]
    )


@pytest.mark.long
@pytest.mark.parametrize("name", [RECURRENT[1], IN_TWO_PASSES[0]])
def test_samples_follow_the_model_and_replace_with_the_probability(name):
    rows = 4_000
    pair = (PAIRS[0][0][-3:], PAIRS[0][1][-2:])
    many = jax.tree.map(lambda leaf: jnp.tile(leaf, (rows, 1)), batch([[pair]], 3, 2, VOCABULARY))
    model, params = built(name)
    logits = model.apply({"params": params}, jax.tree.map(lambda leaf: leaf[:1], many))
    expected = np.asarray(jax.nn.softmax(logits[0, 0]))
    drawn = scheduled_inputs(name, many, probability=1.0, argmax=False)
    assert np.all(drawn[:, 0] == VOCABULARY.bos_id)
    frequencies = np.bincount(drawn[:, 1], minlength=VOCABULARY.target_size) / rows
    # Four standard deviations of a frequency.
    np.testing.assert_array_less(np.abs(frequencies - expected), 4 * np.sqrt(expected * (1 - expected) / rows) + 1e-9)
    label = pair[1][0]
    kept = np.mean(scheduled_inputs(name, many, probability=0.3, argmax=False)[:, 1] == label)
    assert kept == pytest.approx(0.7 + 0.3 * expected[label], abs=0.03)


@pytest.mark.long
@pytest.mark.parametrize("name", [RECURRENT[0], IN_TWO_PASSES[0]])
def test_the_loss_is_that_of_the_chosen_inputs(name):
    model, params = built(name)
    plain = MaximumLikelihoodConfig().build(model)
    sampling = MaximumLikelihoodConfig(**SCHEDULED | {"sampling_limit": 1.0}).build(model)

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def loss(objective, params, step, train):
        key = jax.random.key(3) if train else None
        return jax.value_and_grad(
            lambda params: (
                objective.loss(Turn(0, "model"), {"model": params}, Prepared(rows=PACKED), step=step, rng=key)[0].mean
            )
        )(params)

    evaluated = [loss(objective, params, jnp.int32(10), False)[0] for objective in (plain, sampling)]
    assert evaluated[0] == evaluated[1]
    unsampled, _ = loss(plain, params, jnp.int32(10), True)
    at_first, _ = loss(sampling, params, jnp.int32(0), True)
    sampled, gradient = loss(sampling, params, jnp.int32(10), True)
    assert float(at_first) == pytest.approx(float(unsampled), rel=1e-6)
    assert abs(float(sampled) - float(unsampled)) > 1e-3
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
