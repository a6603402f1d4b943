"""The feed-forward layer against NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.modules.feed_forward import FeedForward

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.float32)

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    # The approximation by a tanh (Hendrycks and Gimpel 2016), which is what T5 1.1 and GPT-2 use.
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_exact": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward(activation, gated):
    module = FeedForward(
        hidden_dim=10, activation=activation, gated=gated, bias=not gated, dropout=0.3, precision="float32"
    )
    params = random_parameters(module, X, deterministic=True)
    hidden = X @ params["expand"]["kernel"]
    if gated:
        assert {name: set(leaves) for name, leaves in params.items()} == {
            "expand": {"kernel"},
            "gate": {"kernel"},
            "contract": {"kernel"},
        }
        expected = (ACTIVATIONS[activation](hidden) * (X @ params["gate"]["kernel"])) @ params["contract"]["kernel"]
    else:
        assert set(params) == {"expand", "contract"}
        hidden = ACTIVATIONS[activation](hidden + params["expand"]["bias"])
        expected = hidden @ params["contract"]["kernel"] + params["contract"]["bias"]
    found = module.apply({"params": params}, X, deterministic=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_dropout_falls_on_the_hidden_layer():
    """With an output kernel of ones, the output is the sum of what is kept of 8 ones: 0, or multiples of 2."""
    module = FeedForward(hidden_dim=8, activation="relu", gated=False, bias=True, dropout=0.5, precision="float32")
    params = {
        "expand": {"kernel": jnp.zeros((6, 8)), "bias": jnp.ones(8)},
        "contract": {"kernel": jnp.ones((8, 6)), "bias": jnp.zeros(6)},
    }
    found = module.apply({"params": params}, X, deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert set(np.unique(found)) <= {0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0}
    assert len(np.unique(found)) > 2
    np.testing.assert_array_equal(found, np.broadcast_to(found[..., :1], found.shape))
