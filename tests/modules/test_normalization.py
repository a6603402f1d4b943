"""Normalisation against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.modules.normalization import Normalization

X = jnp.asarray(np.random.default_rng(0).normal(loc=3.0, scale=2.0, size=(2, 3, 8)), jnp.float32)


def parameters(kind):
    return random_parameters(Normalization(kind), X)


def test_layer_normalisation():
    params = parameters("layer")
    expected = (X - X.mean(axis=-1, keepdims=True)) / X.std(axis=-1, keepdims=True) * params["scale"] + params["bias"]
    np.testing.assert_allclose(Normalization("layer").apply({"params": params}, X), expected, atol=1e-5)


def test_root_mean_square_normalisation():
    params = parameters("rms")
    assert set(params) == {"scale"}
    expected = X / np.sqrt((X**2).mean(axis=-1, keepdims=True)) * params["scale"]
    np.testing.assert_allclose(Normalization("rms").apply({"params": params}, X), expected, atol=1e-5)


def test_a_scale_of_one_plus_the_parameter():
    params = parameters("rms_plus_one")
    expected = X / np.sqrt((X**2).mean(axis=-1, keepdims=True) + 0.5) * (1 + params["scale"])
    found = Normalization("rms_plus_one", epsilon=0.5).apply({"params": params}, X)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms", "rms_plus_one"])
def test_it_starts_without_scale_or_bias(kind):
    params = Normalization(kind).init(jax.random.key(0), X)
    found = np.asarray(Normalization(kind).apply(params, X))
    np.testing.assert_allclose((found**2).mean(axis=-1), 1.0, atol=1e-4)
    assert np.all(np.abs(found.mean(axis=-1)) < 1e-5) == (kind == "layer")


def test_a_large_mean_does_not_drown_the_variance():
    """E[x^2] - E[x]^2 in float32 would lose a variance of 1 beside a mean of 10,000."""
    params = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    found = Normalization("layer").apply({"params": params}, jnp.array([[9_999.0, 10_001.0, 9_999.0, 10_001.0]]))
    np.testing.assert_allclose(found, [[-1, 1, -1, 1]], atol=1e-3)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_zeros_have_finite_gradients(kind):
    params = parameters(kind)
    gradient = jax.grad(lambda x: jnp.sum(Normalization(kind).apply({"params": params}, x) ** 2))(jnp.zeros((1, 8)))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_statistics_are_float32_and_the_result_has_the_dtype_of_the_input(kind):
    """The only error is the rounding of the result, half of 2^-8 of it."""
    x = jnp.asarray(1 + np.random.default_rng(2).normal(size=(3, 2048)), jnp.bfloat16)
    params = Normalization(kind).init(jax.random.key(0), x)
    found = Normalization(kind).apply(params, x)
    assert found.dtype == jnp.bfloat16
    exact = Normalization(kind).apply(params, x.astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(found, np.float32), exact, rtol=2**-8, atol=1e-6)
