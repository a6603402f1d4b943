"""The settings of a stack, its residual branches, and its loop over layers against a loop in Python."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import RELATIVE, STACK, random_parameters
from batches import sequence

from seq2seq_jax.encoders.transformer import EncoderLayer, TransformerEncoderConfig
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.layers import over_layers
from seq2seq_jax.modules.normalization import Normalization
from seq2seq_jax.modules.position import RotaryConfig, sinusoidal
from seq2seq_jax.modules.transformer import Residual, TransformerConfig


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, not 0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, not 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), not 1.0"),
        ({"attention_dropout": -0.1}, r"attention_dropout must lie in \[0, 1\), not -0.1"),
        ({"hidden_dropout": 2.0}, r"hidden_dropout must lie in \[0, 1\), not 2.0"),
        ({"num_heads": 3}, "num_heads must divide model_dim: 16 is not a multiple of 3"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads: 4 is not a multiple of 3"),
        ({"positions": "rotary", "head_dim": 5}, "rotary needs an even head_dim, not 5"),
        ({"model_dim": 15, "num_heads": 1}, "sinusoidal needs an even model_dim, not 15"),
        ({"positions": "learned"}, "max_positions must be set when positions = learned, and only then"),
        ({"max_positions": 9}, "max_positions must be set when positions = learned, and only then"),
        ({"positions": "relative", "relative_buckets": 8}, "relative_max_distance must be set when"),
        ({"relative_buckets": 8}, "relative_buckets must be set when positions = relative, and only then"),
        (RELATIVE | {"positions": "rotary"}, "relative_buckets must be set when"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be positive, and is 0.0"),
        ({"token_types": -1}, "token_types and position_offset must not be negative; they are -1 and 0"),
        ({"positions": "rotary", "position_offset": 2}, "position_offset has no effect with positions = rotary"),
        ({"rotary": RotaryConfig(base=5e5)}, "rotary has no effect with positions = sinusoidal"),
        ({"attention_bias": False, "biased_projections": ("query",)}, "biased_projections has no effect without"),
        ({"positions": "learned", "max_positions": 2, "position_offset": 2}, "position_offset must be below"),
        ({"attention_cap": 0.0}, "attention_cap must be positive or None, and is 0.0"),
        ({"attention_window": 0}, "attention_window must be at least 1, not 0"),
        ({"full_attention_every": 2}, "full_attention_every has no effect without attention_window"),
        ({"window_rotary": RotaryConfig()}, "window_rotary has no effect without attention_window"),
        ({"attention_window": 3, "window_rotary": RotaryConfig()}, "window_rotary has no effect with positions = sin"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=rf"^TransformerEncoderConfig\.[^\n]*{message}[^\n]*$"):
        TransformerEncoderConfig(**STACK | wrong)


def test_windows_by_layer():
    config = TransformerConfig(num_layers=5, attention_window=7)
    assert config.windows == (7,) * 5
    assert dataclasses.replace(config, full_attention_every=2).windows == (7, None, 7, None, 7)
    assert TransformerConfig(num_layers=2).windows == (None, None) and TransformerConfig().localities() is None


def test_what_follows_from_other_settings():
    config = TransformerConfig(model_dim=48, num_heads=4)
    assert (config.dim_per_head, config.kv_heads) == (12, 4)
    config = TransformerConfig(model_dim=50, num_heads=4, head_dim=8, num_kv_heads=2)
    assert (config.dim_per_head, config.kv_heads) == (8, 2)


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_residual_branch(norm_position):
    config = TransformerConfig(model_dim=8, num_heads=1, norm_position=norm_position, dropout=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)), jnp.float32)
    module = Residual(config)

    def branch(y):
        return y**2 - 3.0

    params = random_parameters(module, x, branch, deterministic=True)

    def norm(values):
        centered = np.asarray(values - np.mean(values, axis=-1, keepdims=True))
        normalized = centered / np.sqrt(np.mean(centered**2, axis=-1, keepdims=True))
        return normalized * params["norm"]["scale"] + params["norm"]["bias"]

    expected = x + branch(norm(x)) if norm_position == "pre" else norm(x + branch(x))
    found = module.apply({"params": params}, x, branch, deterministic=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if norm_position == "pre":
        # Dropout falls on the branch, never on what goes past it.
        dropped = module.apply({"params": params}, x, branch, deterministic=False, rngs={"dropout": jax.random.key(0)})
        added = dropped - x
        kept = np.abs(added) > 1e-6
        assert 0 < kept.mean() < 1
        np.testing.assert_allclose(added[kept], 2.0 * np.asarray(branch(norm(x)))[kept], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_stack_is_its_layers_one_after_the_other_and_a_norm(scan_layers):
    config = TransformerEncoderConfig(**STACK | {"num_layers": 3, "scan_layers": scan_layers})
    source = jax.tree.map(jnp.asarray, sequence([[[4, 5, 3], [6, 3]], [[3]]], 6, 0))
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 16)), jnp.float32)
    encoder = config.build(precision="float32")
    params = random_parameters(encoder, inputs, source, deterministic=True)
    x = inputs + sinusoidal(source.positions, model_dim=16)
    layer = EncoderLayer(config, "float32")
    apply = jax.jit(lambda params, x: layer.apply(params, x, source=source, bias=None, deterministic=True))
    for index in range(3):
        x = apply({"params": jax.tree.map(lambda leaf, index=index: leaf[index], params["layer"])}, x)
    expected = Normalization("layer").apply({"params": params["frame"]["norm"]}, x)
    found = jax.jit(lambda params: encoder.apply({"params": params}, inputs, source, deterministic=True))(params)
    np.testing.assert_allclose(found.states, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.values, found.states)
    means = [expected[0, :3].mean(axis=0), expected[0, 3:5].mean(axis=0)]
    np.testing.assert_allclose(found.summary[0, :2], means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.summary[1, 0], expected[1, 0], rtol=1e-5, atol=1e-5)


def test_layers_start_different_from_each_other():
    encoder = TransformerEncoderConfig(**STACK | {"num_layers": 3, "scan_layers": True}).build(precision="float32")
    source = jax.tree.map(jnp.asarray, sequence([[[3]]], 1, 0))
    initialize = jax.jit(lambda key: encoder.init(key, jnp.zeros((1, 1, 16)), source, deterministic=True))
    params = initialize(jax.random.key(0))["params"]
    kernel = params["layer"]["feed_forward"]["expand"]["kernel"]
    assert kernel.names == ("layers", "model", "hidden")
    first, second, third = kernel.value
    # Independent values of one distribution: their difference is larger than either by the root of two.
    for left, right in ((first, second), (second, third), (first, third)):
        assert np.std(left - right) > 1.2 * np.std(left)
    np.testing.assert_allclose(np.abs(kernel.value).max(), (6 / (16 + 32)) ** 0.5, rtol=0.02)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_each_layer_draws_its_own_dropout_and_reads_its_own_inputs(scan_layers):
    config = TransformerConfig(**STACK | {"num_layers": 3, "scan_layers": scan_layers})

    class Stack(nn.Module):
        """Adds up inputs, and returns what dropout leaves of ones in each layer."""

        @nn.compact
        def __call__(self, per_layer):
            def body(layer, total, own):
                return total + own, layer(jnp.ones((2, 200)), deterministic=False)

            return over_layers(body, Dropout(0.5), jnp.zeros(2), per_layer, config=config)

    per_layer = jnp.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    total, kept = Stack().apply({}, per_layer, rngs={"dropout": jax.random.key(0)})
    assert total.tolist() == [111.0, 222.0]
    assert kept.shape == (2, 3, 200)
    first, second, third = np.moveaxis(np.asarray(kept), 1, 0)
    for left, right in ((first, second), (second, third), (first, third)):
        assert abs(np.mean(left == right) - 0.5) < 0.15
