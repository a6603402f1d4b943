"""The convolutional encoder against its layers one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters
from batches import sequence

from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.modules.convolution import GatedConvolution

SETTINGS = {"num_layers": 3, "model_dim": 6, "hidden_dim": 10, "max_positions": 8, "dropout": 0.2}
SOURCE = jax.tree.map(jnp.asarray, sequence([[[4, 5, 3], [6, 3]], [[3]]], 6, 0))
INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6)), jnp.float32)
HALF = 0.5**0.5


def linear(params, x):
    kernel = params["kernel"] * params["scale"] / np.linalg.norm(params["kernel"], axis=0)
    return x @ kernel + params["bias"]


@pytest.mark.parametrize(("scan_layers", "remat"), [(False, "none"), (True, "none"), (True, "full")])
def test_states_and_values_are_those_of_the_paper(scan_layers, remat):
    config = ConvolutionalEncoderConfig(**SETTINGS, scan_layers=scan_layers, remat=remat)
    encoder = config.build(precision="float32")
    params = random_parameters(encoder, INPUTS, SOURCE, deterministic=True)
    memory = jax.jit(lambda params: encoder.apply({"params": params}, INPUTS, SOURCE, deterministic=True))(params)

    frame = params["frame"]
    embeddings = 0.1 * (INPUTS + frame["positions"]["table"][SOURCE.positions] * 6**0.5)
    x = linear(frame["expand"], embeddings)
    convolution = GatedConvolution(hidden_dim=10, kernel_size=3, causal=False, dropout=0.2, precision="float32")
    for index in range(3):
        layer = jax.tree.map(lambda leaf, index=index: leaf[index], params["layer"]["convolution"])
        x = (x + convolution.apply({"params": layer}, x, SOURCE.segment_ids)) * HALF
    states = linear(frame["contract"], x)
    np.testing.assert_allclose(memory.states, states, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(memory.values, (states + embeddings) * HALF, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(memory.summary[0, 0], states[0, :3].mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(memory.summary[0, 1], states[0, 3:5].mean(axis=0), rtol=1e-5, atol=1e-5)
    assert (config.memory_dim, config.summary_dim, config.position_limit) == (6, 6, 8)


def test_each_token_reads_as_far_as_the_kernels_of_all_layers_and_dropout_is_drawn():
    config = ConvolutionalEncoderConfig(**SETTINGS | {"num_layers": 2, "max_positions": 16})
    encoder = config.build(precision="float32")
    source = jax.tree.map(jnp.asarray, sequence([[[4] * 11 + [3]]], 12, 0))
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 6)), jnp.float32)
    params = random_parameters(encoder, inputs, source, deterministic=True)
    apply = jax.jit(lambda inputs: encoder.apply({"params": params}, inputs, source, deterministic=True).states)
    moved = np.abs(apply(inputs.at[0, 5].add(1.0)) - apply(inputs)).max(axis=(0, 2))
    assert np.flatnonzero(moved > 1e-6).tolist() == [3, 4, 5, 6, 7]
    first, second = (
        encoder.apply({"params": params}, inputs, source, deterministic=False, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 1)
    )
    assert np.abs(first.states - second.states).max() > 1e-3
