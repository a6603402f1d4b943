"""The linear map against einsum, and its initial values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.modules.linear import Linear, Lora, merge_lora


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


@pytest.mark.parametrize(("input_dims", "output_dims"), [((6,), (3, 4)), ((3, 4), (6,))])
def test_a_change_of_low_rank_is_that_of_the_merged_kernel(input_dims, output_dims):
    """kernel + scale * in @ out, with both sides of the kernel as one dim each."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *input_dims)), jnp.float32)
    lora = Lora(rank=2, scale=0.5)
    changed = linear(input_dims, output_dims, lora=lora)
    params = random_parameters(changed, x)
    assert params["lora_in"].shape == (*input_dims, 2) and params["lora_out"].shape == (2, *output_dims)
    merged = merge_lora(params, lora, num_layers=None)
    assert set(merged) == {"kernel", "bias"}
    by_hand = params["kernel"].reshape(math.prod(input_dims), -1) + 0.5 * params["lora_in"].reshape(-1, 2) @ params[
        "lora_out"
    ].reshape(2, -1)
    np.testing.assert_allclose(merged["kernel"].reshape(by_hand.shape), by_hand, rtol=1e-5, atol=1e-6)
    plain = linear(input_dims, output_dims)
    np.testing.assert_allclose(
        changed.apply({"params": params}, x), plain.apply({"params": merged}, x), rtol=1e-5, atol=1e-5
    )
    stacked = {name: jnp.stack([values, 2 * values]) for name, values in params.items()}
    both = merge_lora(stacked, lora, num_layers=2)["kernel"]
    np.testing.assert_allclose(both[0], merged["kernel"], rtol=1e-5, atol=1e-6)
    twice = 2 * params["kernel"] + 4 * (merged["kernel"] - params["kernel"])
    np.testing.assert_allclose(both[1], twice, rtol=1e-4, atol=1e-5)


def test_a_new_change_of_low_rank_is_none():
    x = jnp.ones((1, 40))
    params = linear((40,), (5,), lora=Lora(rank=3, scale=2.0), bias=False).init(jax.random.key(0), x)["params"]
    assert params["lora_in"].names == ("axis0", None) and params["lora_out"].names == (None, "axis1")
    assert not np.any(params["lora_out"].value)
    bound = 40**-0.5
    assert 0.9 * bound < np.abs(params["lora_in"].value).max() <= bound
