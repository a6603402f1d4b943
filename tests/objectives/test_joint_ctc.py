"""Joint CTC and attention over models of speech: packed equals unpacked, sums, gradients, what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters
from speech import MODELS, VOCABULARY, of_segments, spoken_batch, spoken_pairs

from seq2seq_jax.objectives.joint_ctc import JointCtcConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Prepared, Turn

FRAMES = (13, 8, 21, 4)
ORDER = (2, 0, 1, 3)
TURN = Turn(0, "model")


@functools.cache
def case(name):
    pairs = spoken_pairs(name, np.random.default_rng(0), FRAMES)
    alone, packed = (
        spoken_batch(name, rows, source_length=12, target_length=12)
        for rows in ([[pair] for pair in pairs], [[pairs[2], pairs[0]], [pairs[1], pairs[3]]])
    )
    model = MODELS[name].build(VOCABULARY)
    return model, random_parameters(model, model.smallest_batch), alone, packed


@functools.cache
def differentiated(name):
    model = case(name)[0]
    objective = JointCtcConfig(ctc_weight=0.4, label_smoothing=0.0).build(model)

    def loss(params, batch):
        found, logged = objective.loss(TURN, {"model": params}, Prepared(rows=batch), step=jnp.int32(0), rng=None)
        memory = model.apply({"params": params}, batch.source, deterministic=True, method="encode")
        return found.sum, (found, logged, memory)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_packed_equals_unpacked(name):
    _, params, alone, packed = case(name)
    (total, (_, logged, memory)), gradient = differentiated(name)(params, alone)
    (packed_total, (_, packed_logged, packed_memory)), packed_gradient = differentiated(name)(params, packed)
    np.testing.assert_allclose(packed_total, total, rtol=1e-5)
    for key in ("nll", "ctc", "ctc_token_error_rate", "ctc_without_path"):
        np.testing.assert_allclose(packed_logged[key].mean, logged[key].mean, rtol=1e-5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-4), packed_gradient, gradient)
    states = of_segments(memory.states, memory.segment_ids, [[0]] * 4)
    packed_states = of_segments(packed_memory.states, packed_memory.segment_ids, [[0, 0], [0, 0]])
    for index, found in zip(ORDER, packed_states, strict=True):
        # A state for each position of four frames.
        assert len(found) == -(-FRAMES[index] // 4)
        np.testing.assert_allclose(found, states[index], atol=1e-5)


def test_the_loss_is_the_weighted_sum_and_all_parameters_learn():
    _, params, _, packed = case("transformer")
    (_, (found, logged, _)), gradient = differentiated("transformer")(params, packed)
    expected = 0.6 * logged["nll"].sum + 0.4 * logged["ctc"].sum
    np.testing.assert_allclose(found.sum, expected, rtol=1e-5)
    assert float(found.weight) == float(logged["nll"].weight) == float(jnp.sum(packed.target.mask))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_with_all_weight_on_ctc_the_decoder_is_not_trained():
    model, params, _, packed = case("transformer")
    objective = JointCtcConfig(ctc_weight=1.0).build(model)

    def loss(params):
        return objective.loss(TURN, {"model": params}, Prepared(rows=packed), step=jnp.int32(0), rng=None)[0].sum

    gradient = jax.jit(jax.grad(loss))(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient["decoder"]))
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient["ctc_output"]))


def test_targets_that_have_no_path_are_left_out_and_counted():
    _, params, *_ = case("transformer")
    rng = np.random.default_rng(1)
    [(source, _), (other, target)] = spoken_pairs("transformer", rng, (8, 13))
    batch = spoken_batch(
        "transformer", [[(source, [4, 5, 6, 7, 3]), (other, target)]] * 2, source_length=12, target_length=12
    )
    (_, (found, logged, _)), gradient = differentiated("transformer")(params, batch)
    assert float(logged["ctc_without_path"].mean) == 0.5
    assert np.isfinite(float(found.sum)) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_flops_count_frames_where_the_work_is():
    """Front end and lower layers of a pyramid work on more vectors than there are positions."""
    pyramid = MODELS["pyramid"]
    layers, states = (pyramid.encoder.layer_flops(20, input_dim=12), pyramid.encoder.layer_flops(5, input_dim=32))
    middle = pyramid.encoder.layer_flops(10, input_dim=32)
    assert pyramid.encoder.forward_flops(5) == 2 * (layers + middle + states)
    assert pyramid.frames_per_position == pyramid.source_stride == 4
    assert MODELS["transformer"].source_stride == 320
    plain = dataclasses.replace(MODELS["transformer"], ctc=False)
    of_ctc = MODELS["transformer"].encoder_flops(5, vocabulary=VOCABULARY) - plain.encoder_flops(
        5, vocabulary=VOCABULARY
    )
    assert of_ctc == 2 * 5 * 16 * 9


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"ctc_weight must lie in \(0, 1\]"):
        JointCtcConfig(ctc_weight=0.0)
    without = dataclasses.replace(MODELS["transformer"], ctc=False)
    with pytest.raises(ValueError, match="set model.ctc to True"):
        JointCtcConfig().check(without, accumulation=1)
    with pytest.raises(ValueError, match="needs sources of tokens"):
        dataclasses.replace(without, tied_embeddings="all")
    with pytest.raises(ValueError, match="makes one state of 4 vectors"):
        dataclasses.replace(MODELS["pyramid"], front_end=None, ctc=False)
    MaximumLikelihoodConfig().check(without, accumulation=1)
