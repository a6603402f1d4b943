"""The linear map against einsum, and its initial values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.modules.linear import Linear


def linear(input_dims, output_dims, **settings):
    axes = tuple(f"axis{index}" for index in range(len(input_dims) + len(output_dims)))
    return Linear(
        input_dims=input_dims, output_dims=output_dims, axes=axes, **{"bias": True, "precision": "float32"} | settings
    )


@pytest.mark.parametrize(
    ("input_dims", "output_dims", "equation"),
    [((6,), (5,), "btx,xy->bty"), ((6,), (3, 4), "btx,xyz->btyz"), ((3, 4), (6,), "btxy,xyz->btz")],
)
def test_it_contracts_the_last_dims(input_dims, output_dims, equation):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *input_dims)), jnp.float32)
    module = linear(input_dims, output_dims)
    params = random_parameters(module, x)
    assert params["kernel"].shape == input_dims + output_dims
    assert params["bias"].shape == output_dims
    expected = np.einsum(equation, x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


def test_parameters_carry_the_names_of_their_axes():
    params = linear((3, 4), (6,)).init(jax.random.key(0), jnp.zeros((1, 3, 4)))["params"]
    assert params["kernel"].names == ("axis0", "axis1", "axis2")
    assert params["bias"].names == ("axis2",)


@pytest.mark.parametrize(("input_dims", "output_dims"), [((40,), (10, 20)), ((10, 20), (40,))])
def test_initial_kernels_are_uniform_within_the_bound_of_glorot_and_bengio(input_dims, output_dims):
    """Fans are products of all dims of a side: sqrt(6 / (40 + 200))."""
    x = jnp.zeros((1, *input_dims))
    params = linear(input_dims, output_dims, bias=False).init(jax.random.key(0), x)["params"]
    assert set(params) == {"kernel"}
    values = np.asarray(params["kernel"].value)
    bound = math.sqrt(6 / 240)
    assert 0.99 * bound < np.abs(values).max() <= bound
    np.testing.assert_allclose(values.std(), bound / math.sqrt(3), rtol=0.02)
