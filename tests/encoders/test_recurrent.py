"""The recurrent encoder against loops over NumPy arrays in float64; a model's contracts are in tests/test_model.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters
from differences import in_double, slopes
from recurrences import outputs_of_layer

from seq2seq_jax.batch import TokenRows
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig

SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 3]])
LAST = {(0, 1): 2, (0, 2): 4, (1, 1): 0, (1, 2): 4, (1, 3): 5}
FIRST = {(0, 1): 0, (0, 2): 3, (1, 1): 0, (1, 2): 1, (1, 3): 5}
"""Row and segment -> place."""

STACK = {"model_dim": 3, "hidden_dim": 2, "dropout": 0.0}
CONFIGS = {
    "two directions": RecurrentEncoderConfig(cell="gru", num_layers=2, **STACK),
    "one direction": RecurrentEncoderConfig(bidirectional_layers=0, num_layers=2, residual_from=2, **STACK),
    "reversed": RecurrentEncoderConfig(
        cell="gru", bidirectional_layers=0, num_layers=2, reverse_source=True, layer_norm=True, **STACK
    ),
    "GNMT": RecurrentEncoderConfig(bidirectional_layers=1, num_layers=4, residual_from=3, **STACK),
    "two above each other, then reversed": RecurrentEncoderConfig(
        cell="gru", bidirectional_layers=2, num_layers=3, reverse_source=True, **STACK
    ),
    "residual in two directions": RecurrentEncoderConfig(num_layers=2, residual_from=2, **STACK),
}


def as_source(segment_ids):
    """Tokens and positions are not read."""
    segment_ids = jnp.asarray(segment_ids)
    return TokenRows(tokens=segment_ids, segment_ids=segment_ids, positions=segment_ids)


def example(config, precision="float32"):
    module = config.build(precision=precision)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(*SEGMENTS.shape, config.model_dim)), jnp.float32)
    return module, {"params": random_parameters(module, x, as_source(SEGMENTS), deterministic=True), "x": x}


def encode(module, arguments, segment_ids=SEGMENTS, **settings):
    settings = {"deterministic": True} | settings
    return module.apply({"params": arguments["params"]}, arguments["x"], as_source(segment_ids), **settings)


def reference(config, arguments):
    """States and summaries."""
    two = config.num_layers if config.bidirectional_layers is None else config.bidirectional_layers
    x = arguments["x"]
    for index in range(config.num_layers):
        reading = [False, True] if index < two else [config.reverse_source]
        outputs = [
            outputs_of_layer(
                config.cell, arguments["params"][f"layers_{index}_{direction}"], x, SEGMENTS, reverse=reverse
            )
            for direction, reverse in enumerate(reading)
        ]
        is_residual = config.residual_from is not None and index + 1 >= config.residual_from
        x = np.concatenate(outputs, axis=-1) + (x if is_residual else 0.0)
    summary = np.zeros((*SEGMENTS.shape, x.shape[-1]))
    for row, segment in LAST:
        ends = [(FIRST if reverse else LAST)[row, segment] for reverse in reading]
        parts = np.split(x, len(reading), axis=-1)
        summary[row, segment - 1] = np.concatenate([part[row, end] for part, end in zip(parts, ends, strict=True)])
    return x, summary


@pytest.mark.parametrize("name", CONFIGS)
def test_states_and_summaries_and_their_gradients_equal_loops(name):
    config = CONFIGS[name]
    module, arguments = example(config)
    rng = np.random.default_rng(1)
    states, summary = reference(config, in_double(arguments))
    factors = rng.normal(size=states.shape), rng.normal(size=summary.shape)

    def objective(arguments):
        memory = encode(module, arguments)
        return jnp.sum(memory.states * factors[0]) + jnp.sum(memory.summary * factors[1]), memory

    gradient, memory = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    np.testing.assert_allclose(memory.states, states, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(memory.summary, summary, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(memory.values, memory.states)
    np.testing.assert_array_equal(memory.segment_ids, SEGMENTS)
    assert config.memory_dim == config.summary_dim == states.shape[-1]

    def expected(arguments):
        return sum(np.sum(part * factor) for part, factor in zip(reference(config, arguments), factors, strict=True))

    directions = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)
    found = jax.tree.map(lambda leaf, direction: np.sum(leaf * direction), gradient, directions)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        found,
        slopes(expected, arguments, directions),
    )


def test_a_summary_is_the_state_after_the_whole_segment():
    module, arguments = example(CONFIGS["two directions"])
    memory = jax.jit(lambda arguments: encode(module, arguments))(arguments)
    forward, backward = np.split(np.asarray(memory.states), 2, axis=-1)
    for row, segment in LAST:
        expected = [*forward[row, LAST[row, segment]], *backward[row, FIRST[row, segment]]]
        np.testing.assert_array_equal(memory.summary[row, segment - 1], expected)
    # The first row has no third segment.
    assert not np.any(memory.summary[0, 2:]) and not np.any(memory.summary[1, 3:])
    assert memory.summary.shape == memory.states.shape


def test_a_reversed_source_is_the_source_read_from_its_end():
    config = dataclasses.replace(CONFIGS["one direction"], reverse_source=True)
    module, arguments = example(config)
    lengths = [6, 4]
    segment_ids = np.array([[1] * 6, [1] * 4 + [0] * 2])
    turned = np.asarray(arguments["x"]).copy()
    for row, length in enumerate(lengths):
        turned[row, :length] = turned[row, :length][::-1]
    memory = jax.jit(lambda arguments: encode(module, arguments, segment_ids))(arguments)
    plain = CONFIGS["one direction"].build(precision="float32")
    encode_plain = jax.jit(lambda arguments: encode(plain, arguments, segment_ids))
    of_turned = encode_plain(arguments | {"x": jnp.asarray(turned)})
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(
            memory.states[row, :length], of_turned.states[row, :length][::-1], rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(memory.summary[:, 0], of_turned.summary[:, 0], rtol=1e-5, atol=1e-6)
    assert np.abs(encode_plain(arguments).summary - memory.summary).max() > 0.01


@pytest.mark.parametrize(("num_layers", "blind"), [(1, ()), (2, (0,)), (2, (0, 1))])
def test_dropout_falls_on_the_inputs_of_every_layer(num_layers, blind):
    """A layer whose input kernel is 0 does not read what is dropped."""
    config = dataclasses.replace(CONFIGS["two directions"], num_layers=num_layers, dropout=0.5)
    module, arguments = example(config)
    for name, layer in arguments["params"].items():
        if int(name.split("_")[1]) in blind:
            layer["input"] = jnp.zeros_like(layer["input"])

    @jax.jit
    def difference_of(arguments):
        dropped = encode(module, arguments, deterministic=False, rngs={"dropout": jax.random.key(0)})
        return jnp.abs(dropped.states - encode(module, arguments).states).max()

    difference = difference_of(arguments)
    assert (difference > 1e-3) == (len(blind) < num_layers)


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", jnp.bfloat16), ("bfloat16_products", jnp.float32)])
def test_an_encoder_in_low_precision(precision, dtype):
    config = CONFIGS["GNMT"]
    module, arguments = example(config, precision)
    memory = jax.jit(lambda arguments: encode(module, arguments))(arguments)
    assert memory.states.dtype == memory.summary.dtype == dtype
    for found, expected in zip((memory.states, memory.summary), reference(config, in_double(arguments)), strict=True):
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0.03, atol=0.03)


BOTH_WAYS = (
    "reverse_source needs unidirectional layers, and all layers are bidirectional. Set bidirectional_layers to 0, or "
    "reverse_source to False."
)
MIXED = "adds the output of a bidirectional layer to that of a unidirectional one. Raise residual_from, or change "


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_layers": 0}, "num_layers must be at least 1, not 0."),
        ({"bidirectional_layers": 3}, "bidirectional_layers must be None or 0 to num_layers = 2, not 3."),
        ({"bidirectional_layers": -1}, "bidirectional_layers must be None or 0 to num_layers = 2, not -1."),
        ({"reverse_source": True}, BOTH_WAYS),
        ({"reverse_source": True, "bidirectional_layers": 2}, BOTH_WAYS),
        (
            {"residual_from": 2, "bidirectional_layers": 1},
            f"residual_from = 2 {MIXED}bidirectional_layers.",
        ),
        (
            {"residual_from": 2, "bidirectional_layers": 3, "num_layers": 4},
            f"residual_from = 2 {MIXED}bidirectional_layers.",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError) as error:
        RecurrentEncoderConfig(**{"num_layers": 2} | wrong)
    assert str(error.value) == f"RecurrentEncoderConfig.{message}"
