"""The convolutional decoder against its layers one after the other, and stepwise against teacher-forced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters
from batches import sequence

from seq2seq_jax.batch import Memory
from seq2seq_jax.decoders.convolutional import ConvolutionalDecoderConfig
from seq2seq_jax.modules.convolution import Attended, GatedConvolution, MultiStepAttention
from seq2seq_jax.modules.segments import segment_mask

SETTINGS = {"num_layers": 3, "model_dim": 6, "hidden_dim": 10, "max_positions": 12, "dropout": 0.2}
BATCH, BEAM, LENGTH, SOURCE = 2, 3, 7, 5
HALF = 0.5**0.5


def memory_of(rng, width, segments):
    states, values = (jnp.asarray(rng.normal(size=(*segments.shape, width)), jnp.float32) for _ in range(2))
    return Memory(states=states, values=values, summary=states, segment_ids=jnp.asarray(segments))


def linear(params, x):
    kernel = params["kernel"] * params["scale"] / np.linalg.norm(params["kernel"], axis=0)
    return x @ kernel + params["bias"]


@pytest.mark.parametrize("memory_dim", [6, 8])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_hidden_states_are_those_of_the_paper(scan_layers, memory_dim):
    config = ConvolutionalDecoderConfig(**SETTINGS, scan_layers=scan_layers)
    decoder = config.build(memory_dim=memory_dim, summary_dim=1, precision="float32")
    rng = np.random.default_rng(0)
    memory = memory_of(rng, memory_dim, np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]]))
    target = jax.tree.map(jnp.asarray, sequence([[[4, 5, 3], [6, 7, 5, 3]], [[5, 3]]], LENGTH, 0))
    inputs = jnp.asarray(rng.normal(size=(2, LENGTH, 6)), jnp.float32)
    params = random_parameters(decoder, inputs, target, memory, deterministic=True)
    apply = jax.jit(functools.partial(decoder.apply, deterministic=True, mutable=["attention_weights"]))
    found, recorded = apply({"params": params}, inputs, target, memory)

    frame = params["frame"]
    embeddings = 0.1 * (inputs + frame["positions"]["table"][target.positions] * 6**0.5)
    keys, values = memory.states, memory.values
    if memory_dim != 6:
        keys, values = linear(params["key"], keys), linear(params["value"], values)
    attended = Attended(keys, values, segment_mask(target.segment_ids, memory.segment_ids))
    convolution = GatedConvolution(hidden_dim=10, kernel_size=3, causal=True, dropout=0.2, precision="float32")
    attention = MultiStepAttention(model_dim=6, hidden_dim=10, precision="float32")
    x = linear(frame["expand"], embeddings)
    all_weights = recorded["attention_weights"]["layer"]["cross_attention"]["weights"]
    assert all_weights.shape == (3, 2, 1, LENGTH, SOURCE)
    for index in range(3):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["layer"])
        branch = convolution.apply({"params": layer["convolution"]}, x, target.segment_ids)
        context, weights = attention.apply(
            {"params": layer["cross_attention"]}, branch, embeddings, attended, mutable=["attention_weights"]
        )
        np.testing.assert_allclose(all_weights[index], weights["attention_weights"]["weights"], rtol=1e-4, atol=1e-5)
        x = (x + (branch + context) * HALF) * HALF
    np.testing.assert_allclose(found, linear(frame["contract"], x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@pytest.mark.parametrize("memory_dim", [6, 8])
def test_a_step_keeps_the_window_alone_and_equals_teacher_forcing(memory_dim, kernel_size, precision):
    config = ConvolutionalDecoderConfig(**SETTINGS, kernel_size=kernel_size, scan_layers=True)
    decoder = config.build(memory_dim=memory_dim, summary_dim=1, precision=precision)
    rng = np.random.default_rng(0)
    memory = memory_of(rng, memory_dim, np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]))
    inputs = jnp.asarray(rng.normal(size=(BATCH * BEAM, LENGTH, 6)), jnp.float32)
    target = jax.tree.map(jnp.asarray, sequence([[[4] * LENGTH]] * BATCH * BEAM, LENGTH, 0))
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, BEAM, axis=0), memory)
    params = random_parameters(decoder, inputs, target, repeated, deterministic=True)
    apply = functools.partial(decoder.apply, {"params": params})
    expected = jax.jit(functools.partial(apply, deterministic=True))(inputs, target, repeated)

    state = apply(memory, max_length=LENGTH, beam_size=BEAM, method="start")
    before = state.per_hypothesis["before"]
    assert before.shape == (BATCH * BEAM, 3, kernel_size - 1, 10)
    assert before.dtype == (jnp.bfloat16 if precision == "bfloat16" else jnp.float32)
    assert state.per_source["keys"].shape == state.per_source["values"].shape == (BATCH, SOURCE, 6)
    step = jax.jit(functools.partial(apply, method="step"))
    for place in range(LENGTH):
        hidden, after = step(inputs[:, place], state)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        jax.tree.map(np.testing.assert_array_equal, after.per_source, state.per_source)
        state = after
        tolerance = 1e-5 if precision == "float32" else 0.02
        np.testing.assert_allclose(
            np.asarray(hidden, np.float32), np.asarray(expected[:, place], np.float32), rtol=tolerance, atol=tolerance
        )


@pytest.mark.long
def test_dropout_falls_on_the_output_too():
    config = ConvolutionalDecoderConfig(**SETTINGS | {"dropout": 0.5})
    decoder = config.build(memory_dim=6, summary_dim=1, precision="float32")
    memory = memory_of(np.random.default_rng(0), 6, np.ones((1, 5), np.int32))
    target = jax.tree.map(jnp.asarray, sequence([[[4] * LENGTH]], LENGTH, 0))
    inputs = jnp.ones((1, LENGTH, 6))
    params = random_parameters(decoder, inputs, target, memory, deterministic=True)
    hidden = decoder.apply(
        {"params": params}, inputs, target, memory, deterministic=False, rngs={"dropout": jax.random.key(0)}
    )
    assert 0.2 < np.mean(np.asarray(hidden) == 0.0) < 0.8
