"""The recurrent decoder against a loop over NumPy arrays in float64; a model's contracts are in tests/test_model.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters
from differences import in_double, slopes
from recurrences import NUM_STATES, gate_inputs, next_state

from seq2seq_jax.batch import Memory, TokenRows
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.modules.attention import WEIGHTS
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig, DotAttentionConfig, GeneralAttentionConfig

TARGET_SEGMENTS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 2]])
SOURCE_SEGMENTS = np.array([[1, 2, 2, 2, 0], [1, 1, 1, 2, 2]])
MODEL, HIDDEN, SUMMARY = 3, 4, 5


def config_of(**settings):
    return RecurrentDecoderConfig(**{"model_dim": MODEL, "hidden_dim": HIDDEN, "dropout": 0.0} | settings)


CONFIGS = {
    "fixed vector": config_of(attention=None, num_layers=3, residual_from=3),
    "fixed vector, deep output": config_of(attention=None, cell="gru", deep_output=True),
    "additive": config_of(attention=AdditiveAttentionConfig(attention_dim=5), deep_output=True),
    "dot": config_of(cell="gru", attention=DotAttentionConfig(), num_layers=2, residual_from=2),
    "general to the first layer": config_of(
        cell="gru", attention=GeneralAttentionConfig(), attention_layer="first", num_layers=2, layer_norm=True
    ),
    "scaled dot to the first layer": config_of(
        attention=DotAttentionConfig(scaled=True), attention_layer="first", num_layers=3, residual_from=2
    ),
    "input feeding": config_of(input_feeding=True, attention=GeneralAttentionConfig(), num_layers=2, residual_from=2),
    "input feeding, attention to the first layer": config_of(
        cell="gru",
        input_feeding=True,
        attention=DotAttentionConfig(),
        attention_layer="first",
        num_layers=2,
        layer_norm=True,
        deep_output=True,
    ),
    "coverage": config_of(
        attention=AdditiveAttentionConfig(coverage=True), attention_layer="first", num_layers=2, residual_from=2
    ),
    "coverage and input feeding": config_of(
        cell="gru",
        attention=AdditiveAttentionConfig(coverage=True, attention_dim=3),
        input_feeding=True,
        deep_output=True,
        layer_norm=True,
    ),
}


def memory_dim(config):
    return HIDDEN if isinstance(config.attention, DotAttentionConfig) else 3


def memory_of(arguments):
    return Memory(
        states=arguments["states"],
        values=arguments["values"],
        summary=arguments["summary"],
        segment_ids=jnp.asarray(SOURCE_SEGMENTS),
    )


TARGET = TokenRows(tokens=TARGET_SEGMENTS, segment_ids=jnp.asarray(TARGET_SEGMENTS), positions=TARGET_SEGMENTS)
"""Tokens and positions are not read."""


def example(config, precision="float32"):
    module = config.build(memory_dim=memory_dim(config), summary_dim=SUMMARY, precision=precision)
    rng = np.random.default_rng(0)
    shapes = {
        "inputs": (*TARGET_SEGMENTS.shape, MODEL),
        "states": (*SOURCE_SEGMENTS.shape, memory_dim(config)),
        "values": (*SOURCE_SEGMENTS.shape, memory_dim(config)),
        "summary": (*SOURCE_SEGMENTS.shape, SUMMARY),
    }
    arguments = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    params = random_parameters(module, arguments["inputs"], TARGET, memory_of(arguments), deterministic=True)
    return module, {"params": params, **arguments}


def decode(module, arguments, **settings):
    settings = {"deterministic": True} | settings
    return module.apply({"params": arguments["params"]}, arguments["inputs"], TARGET, memory_of(arguments), **settings)


def attended(config, params, query, states, coverage):
    """Weights of the states of a segment."""
    if isinstance(config.attention, AdditiveAttentionConfig):
        attention = params["cross_attention"]
        inner = states @ attention["memory"]["kernel"] + attention["memory"]["bias"] + query @ attention["query"]
        if config.attention.coverage:
            inner = inner + coverage[:, None] * attention["coverage_vector"]
        scores = np.tanh(inner) @ attention["vector"]
    elif isinstance(config.attention, GeneralAttentionConfig):
        scores = states @ params["cross_attention"]["memory"]["kernel"] @ query
    else:
        scores = states @ query / (states.shape[1] ** 0.5 if config.attention.scaled else 1.0)
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum()


def example_by_example(config, arguments):
    """Outputs, and attention weights, of every segment of every row alone."""
    params = arguments["params"]
    outputs = np.zeros((*TARGET_SEGMENTS.shape, MODEL))
    all_weights = np.zeros((*TARGET_SEGMENTS.shape, SOURCE_SEGMENTS.shape[1]))
    for row, segment in ((0, 1), (0, 2), (1, 1), (1, 2)):
        sources = np.flatnonzero(SOURCE_SEGMENTS[row] == segment)
        states, values = arguments["states"][row, sources], arguments["values"][row, sources]
        summary = arguments["summary"][row, segment - 1]
        carried = np.tanh(np.tensordot(summary, params["bridge"]["kernel"], 1) + params["bridge"]["bias"])
        carried = np.split(carried, config.num_layers)
        fed, coverage = np.zeros(MODEL), np.zeros(len(sources))
        for place in np.flatnonzero(TARGET_SEGMENTS[row] == segment):
            x = embedded = arguments["inputs"][row, place]
            context = np.zeros(0)
            for index in range(config.num_layers):
                layer = params[f"layers_{index}"]
                gates = gate_inputs(layer, np.concatenate([x, context]))
                if index == 0 and config.input_feeding:
                    gates = gates + (fed @ params["feeding"]).reshape(gates.shape)
                carried[index] = next_state(config.cell, layer, gates, carried[index])
                is_residual = config.residual_from is not None and index + 1 >= config.residual_from
                x = carried[index][0] + (x if is_residual else 0.0)
                last = index + 1 == config.num_layers
                if config.attention is not None and (index == 0 if config.attention_layer == "first" else last):
                    weights = attended(config, params, x, states, coverage)
                    context = weights @ values
                    coverage = coverage + weights
                    all_weights[row, place, sources] = weights
            read = np.concatenate([x, context, embedded if config.deep_output else np.zeros(0)])
            outputs[row, place] = fed = np.tanh(read @ params["output"] + params["output_bias"])
    return outputs, all_weights


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_and_weights_and_gradients_equal_loops(name):
    config = CONFIGS[name]
    module, arguments = example(config)
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(*TARGET_SEGMENTS.shape, MODEL)) * (TARGET_SEGMENTS > 0)[..., None]

    def objective(arguments):
        outputs, recorded = decode(module, arguments, mutable=[WEIGHTS])
        return jnp.sum(outputs * factors), (outputs, recorded)

    gradient, (outputs, recorded) = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    expected, weights = example_by_example(config, in_double(arguments))
    tokens = TARGET_SEGMENTS > 0
    np.testing.assert_allclose(outputs[tokens], expected[tokens], rtol=1e-5, atol=1e-5)
    if config.attention is None:
        assert not recorded
    else:
        [found] = jax.tree.leaves(recorded)
        # One layer and one head.
        np.testing.assert_allclose(found[0, :, 0][tokens], weights[tokens], rtol=1e-5, atol=1e-6)
    directions = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        jax.tree.map(lambda leaf, direction: np.sum(leaf * direction), gradient, directions),
        slopes(lambda arguments: np.sum(example_by_example(config, arguments)[0] * factors), arguments, directions),
    )


@pytest.mark.parametrize("cell", NUM_STATES)
def test_states_begin_as_a_layer_over_the_summary(cell):
    config = config_of(cell=cell, num_layers=2, attention=AdditiveAttentionConfig(coverage=True), input_feeding=True)
    module, arguments = example(config)
    memory = memory_of(arguments).replace(segment_ids=jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))
    start = module.apply({"params": arguments["params"]}, memory, max_length=9, beam_size=2, method="start")
    carry, shared = start.per_hypothesis, start.per_source
    bridge = in_double(arguments["params"]["bridge"])
    assert bridge["kernel"].shape == (SUMMARY, 2 * NUM_STATES[cell], HIDDEN)
    for hypothesis, row in enumerate((0, 0, 1, 1)):
        summary = np.asarray(arguments["summary"], np.float64)[row, 0]
        for layer, states in enumerate(carry.layers):
            assert len(states) == NUM_STATES[cell]
            for index, found in enumerate(states):
                which = layer * NUM_STATES[cell] + index
                by_hand = np.tanh(summary @ bridge["kernel"][:, which] + bridge["bias"][which])
                np.testing.assert_allclose(found[hypothesis], by_hand, rtol=1e-5, atol=1e-6)
    assert carry.fed.shape == (4, MODEL) and not carry.fed.any()
    assert carry.coverage.shape == (4, 5) and not carry.coverage.any()
    # What all hypotheses of a source share is there once.
    assert shared["keys"].shape == (2, 5, HIDDEN) and shared["values"].shape == (2, 5, 3)
    np.testing.assert_array_equal(shared["mask"], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


def test_a_fixed_vector_is_all_that_a_decoder_without_attention_sees():
    module, arguments = example(CONFIGS["fixed vector"])
    outputs = jax.jit(lambda arguments: decode(module, arguments))
    other = arguments | {name: arguments[name] + 1.0 for name in ("states", "values")}
    np.testing.assert_array_equal(outputs(other), outputs(arguments))
    changed = outputs(arguments | {"summary": arguments["summary"].at[0, 1].add(1.0)})
    # The second summary of the first row is that of places 3 and 4.
    np.testing.assert_array_equal(np.any(changed != outputs(arguments), axis=-1), TARGET_SEGMENTS == [[2], [-1]])
    start = module.apply(
        {"params": arguments["params"]}, memory_of(arguments), max_length=9, beam_size=1, method="start"
    )
    assert start.per_source == {}


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", jnp.bfloat16), ("bfloat16_products", jnp.float32)])
@pytest.mark.parametrize("name", ["additive", "coverage and input feeding"])
def test_a_decoder_in_low_precision(name, precision, dtype):
    module, arguments = example(CONFIGS[name], precision)
    low = {name: value if name == "params" else value.astype(dtype) for name, value in arguments.items()}
    outputs = jax.jit(lambda arguments: decode(module, arguments))(low)
    assert outputs.dtype == dtype
    expected, _ = example_by_example(CONFIGS[name], in_double(low))
    tokens = TARGET_SEGMENTS > 0
    np.testing.assert_allclose(np.asarray(outputs, np.float64)[tokens], expected[tokens], rtol=0.03, atol=0.03)


@pytest.mark.parametrize("coverage", [False, True])
def test_dropout_falls_on_the_inputs_of_every_layer_and_on_the_output(coverage):
    """A layer whose input kernel is 0 reads nothing that is dropped; the output reads both, one by the context."""
    config = config_of(
        cell="gru",
        attention=AdditiveAttentionConfig(coverage=coverage),
        attention_layer="first",
        num_layers=2,
        dropout=0.5,
    )
    module, arguments = example(config)
    layers = {"layers_0", "layers_1"}

    @jax.jit
    def with_and_without(params):
        changed = arguments | {"params": params}
        dropped = decode(module, changed, deterministic=False, rngs={"dropout": jax.random.key(0)})
        return dropped, decode(module, changed)

    for reading in (set(), {"layers_0"}, {"layers_1"}):
        blind = {
            name: arguments["params"][name] | {"input": jnp.zeros_like(arguments["params"][name]["input"])}
            for name in layers - reading
        }
        dropped, plain = map(np.asarray, with_and_without(arguments["params"] | blind))
        # Of the outputs half are dropped, and the others doubled.
        kept = dropped != 0
        assert 0.3 < kept.mean() < 0.7
        assert (np.abs(dropped - 2 * plain)[kept].max() > 1e-3) == bool(reading)


NEEDS = "needs an attention, and attention is None. Choose one, or leave"
FIRST = "attention_layer = first needs an attention and two layers or more, and there are attention ="


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, not 0."),
        ({"attention": None, "input_feeding": True}, f"input_feeding {NEEDS} input_feeding out."),
        ({"attention_layer": "first"}, f"{FIRST} AdditiveAttentionConfig and num_layers = 1. Set it to last."),
        (
            {"attention_layer": "first", "attention": None, "num_layers": 2},
            f"{FIRST} None and num_layers = 2. Set it to last.",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError) as error:
        RecurrentDecoderConfig(**wrong)
    assert str(error.value) == f"RecurrentDecoderConfig.{message}"


def test_additive_attention_has_a_width():
    with pytest.raises(ValueError, match=r"attention_dim must be at least 1, not 0"):
        AdditiveAttentionConfig(attention_dim=0)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_dot_of_states_of_other_widths_is_refused(scaled):
    with pytest.raises(ValueError) as error:
        config_of(attention=DotAttentionConfig(scaled=scaled)).build(memory_dim=6, summary_dim=6, precision="float32")
    assert str(error.value) == (
        "model.decoder.attention of a dot product needs states of equal width, and the encoder's have 6, the decoder's "
        "hidden_dim 4. Change either, or use general_attention."
    )
