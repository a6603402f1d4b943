"""The attention of recurrent decoders against loops over NumPy arrays in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters
from differences import gradients, in_double

from seq2seq_jax.modules.attention import WEIGHTS
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig, DotAttentionConfig, GeneralAttentionConfig
from seq2seq_jax.modules.global_attention.additive import additive_scores
from seq2seq_jax.modules.global_attention.base import attend
from seq2seq_jax.modules.global_attention.dot import DotAttention
from seq2seq_jax.modules.recurrence import projection, scan_with_products
from seq2seq_jax.modules.segments import segment_mask

KINDS = ("additive", "general", "dot", "scaled_dot")
TARGET_SEGMENTS, SOURCE_SEGMENTS = np.array([[1, 1, 2], [1, 2, 0]]), np.array([[2, 2, 1, 2], [1, 1, 2, 0]])
MEMORY, ATTENTION = 3, 5


def attention(kind, *, coverage=False, precision="float32"):
    configs = {
        "additive": AdditiveAttentionConfig(attention_dim=ATTENTION, coverage=coverage),
        "general": GeneralAttentionConfig(),
        "dot": DotAttentionConfig(),
        "scaled_dot": DotAttentionConfig(scaled=True),
    }
    query_dim = 4 if kind in ("additive", "general") else MEMORY
    return configs[kind].build(query_dim=query_dim, memory_dim=MEMORY, precision=precision)


def score(kind, params, query, state, coverage):
    if kind == "additive":
        inner = state @ params["memory"]["kernel"] + params["memory"]["bias"] + query @ params["query"]
        if coverage is not None:
            inner = inner + coverage * params["coverage_vector"]
        return np.tanh(inner) @ params["vector"]
    if kind == "general":
        return query @ (state @ params["memory"]["kernel"])
    return query @ state / (np.sqrt(MEMORY) if kind == "scaled_dot" else 1.0)


def reference(kind, arguments, target_segments, source_segments, *, coverage=False):
    """Contexts and weights; every target place of a row sees the weights of those before it."""
    queries, states, values = arguments["queries"], arguments["states"], arguments["values"]
    contexts = np.zeros((*queries.shape[:2], values.shape[-1]))
    weights = np.zeros((*queries.shape[:2], states.shape[1]))
    for row in range(len(queries)):
        for target in range(queries.shape[1]):
            seen = weights[row, :target].sum(axis=0)
            places = np.flatnonzero(source_segments[row] == target_segments[row, target])
            exponentials = np.exp(
                [
                    score(
                        kind,
                        arguments["params"],
                        queries[row, target],
                        states[row, place],
                        seen[place] if coverage else None,
                    )
                    for place in places
                ]
            )
            weights[row, target, places] = exponentials / exponentials.sum()
            contexts[row, target] = weights[row, target] @ values[row]
    return contexts, weights


def all_targets(module, queries, states, values):
    mask = segment_mask(jnp.asarray(TARGET_SEGMENTS), jnp.asarray(SOURCE_SEGMENTS))
    return module(queries, module.keys(states), values, mask)


def example(module, call, batch, target, seed=0):
    rng = np.random.default_rng(seed)
    source = SOURCE_SEGMENTS.shape[1]
    shapes = {
        "queries": (batch, target, module.query_dim),
        "states": (len(SOURCE_SEGMENTS), source, MEMORY),
        "values": (len(SOURCE_SEGMENTS), source, MEMORY),
    }
    inputs = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    has_parameters = not isinstance(module, DotAttention)
    return {"params": random_parameters(module, method=call, **inputs) if has_parameters else {}, **inputs}


def apply(module, call, arguments, **settings):
    inputs = {name: value for name, value in arguments.items() if name != "params"}
    return module.apply({"params": arguments["params"]}, method=call, **inputs, **settings)


def assert_gradients(found, by_differences):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, by_differences)


@pytest.mark.parametrize("kind", KINDS)
def test_contexts_and_weights_and_gradients_equal_loops(kind):
    module = attention(kind)
    arguments = example(module, all_targets, *TARGET_SEGMENTS.shape)
    factors = np.random.default_rng(1).normal(size=(*TARGET_SEGMENTS.shape, MEMORY))

    def objective(arguments):
        contexts, recorded = apply(module, all_targets, arguments, mutable=[WEIGHTS])
        return jnp.sum(contexts * factors), (contexts, recorded[WEIGHTS]["weights"])

    gradient, (contexts, weights) = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    expected, expected_weights = reference(kind, in_double(arguments), TARGET_SEGMENTS, SOURCE_SEGMENTS)
    np.testing.assert_allclose(contexts, expected, rtol=1e-5, atol=1e-6)
    # One layer and one head.
    assert weights.shape == (1, 2, 1, 3, 4)
    np.testing.assert_allclose(weights[0, :, 0], expected_weights, rtol=1e-5, atol=1e-6)
    may = TARGET_SEGMENTS[:, :, None] == SOURCE_SEGMENTS[:, None]
    assert np.all((np.asarray(weights[0, :, 0]) > 0) == may)
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1.0, rtol=1e-6)
    assert_gradients(
        gradient,
        gradients(
            lambda arguments: np.sum(reference(kind, arguments, TARGET_SEGMENTS, SOURCE_SEGMENTS)[0] * factors),
            arguments,
        ),
    )


STEPS, BEAM = 3, 2
STEP_SEGMENTS, BEAM_SEGMENTS = np.array([[1] * STEPS] * 4), np.repeat([[1, 1, 0, 1], [1, 1, 1, 0]], BEAM, axis=0)
"""Of two sources, and of two hypotheses of each."""


def one_after_the_other(module, queries, states, values):
    """As a decoder attends, hypothesis by hypothesis: [hypotheses, steps, ...] of contexts and weights."""
    keys = module.keys(states)
    mask = jnp.asarray(BEAM_SEGMENTS == 1)

    def step(project, constants, coverage, query):
        context, weights = attend(
            module.step_scores, project, constants["attention"], query, constants["keys"], mask, coverage
        )
        return None if coverage is None else coverage + weights, (context, weights)

    _, results = scan_with_products(
        step,
        module.kernels(keys, values),
        {"keys": keys, "attention": module.constants()},
        jnp.zeros(mask.shape) if getattr(module, "coverage", False) else None,
        jnp.swapaxes(queries, 0, 1),
        precision=module.precision,
    )
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), results)


def reference_of_hypotheses(kind, arguments, *, coverage):
    repeated = {name: np.repeat(arguments[name], BEAM, axis=0) for name in ("states", "values")}
    return reference(kind, arguments | repeated, STEP_SEGMENTS, BEAM_SEGMENTS, coverage=coverage)


@pytest.mark.parametrize(("kind", "coverage"), [("additive", True), *((kind, False) for kind in KINDS)])
def test_steps_of_hypotheses_and_their_gradients_equal_loops(kind, coverage):
    module = attention(kind, coverage=coverage)
    arguments = example(module, one_after_the_other, len(STEP_SEGMENTS), STEPS)
    rng = np.random.default_rng(1)
    factors = rng.normal(size=(4, STEPS, MEMORY)), rng.normal(size=(4, STEPS, 4))

    def objective(arguments):
        results = apply(module, one_after_the_other, arguments)
        return sum(jnp.sum(part * factor) for part, factor in zip(results, factors, strict=True)), results

    def expected(arguments):
        results = reference_of_hypotheses(kind, arguments, coverage=coverage)
        return sum(np.sum(part * factor) for part, factor in zip(results, factors, strict=True))

    gradient, results = jax.jit(jax.grad(objective, has_aux=True))(arguments)
    found = reference_of_hypotheses(kind, in_double(arguments), coverage=coverage)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), results, found)
    weights = np.asarray(results[1])
    assert not weights[np.broadcast_to((BEAM_SEGMENTS != 1)[:, None], weights.shape)].any()
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-6)
    assert_gradients(gradient, gradients(expected, arguments))


def test_scores_of_all_pairs_have_the_gradients_of_the_plain_formula():
    rng = np.random.default_rng(0)
    keys, queries, vector, factors = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 4, 5), (2, 3, 5), (5,), (2, 3, 4))
    )

    def plain(keys, queries, vector):
        return jnp.tanh(keys[:, None] + queries[:, :, None]) @ vector

    def values_and_gradients(scores):
        objective = jax.grad(lambda *inputs: jnp.sum(scores(*inputs) * factors), argnums=(0, 1, 2))
        return jax.jit(lambda *inputs: (scores(*inputs), objective(*inputs)))(keys, queries, vector)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        values_and_gradients(additive_scores),
        values_and_gradients(plain),
    )


@pytest.mark.parametrize("precision", ["bfloat16", "bfloat16_products"])
@pytest.mark.parametrize("kind", ["additive", "general"])
def test_softmax_is_float32_in_low_precision(kind, precision):
    module = attention(kind, precision=precision)
    arguments = example(module, all_targets, *TARGET_SEGMENTS.shape)
    low = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    inputs = {name: value if name == "params" else value.astype(low) for name, value in arguments.items()}
    program = jax.jit(lambda inputs: apply(module, all_targets, inputs))
    assert set(re.findall(r":(\w+)\[[\d,]*\] = exp ", str(jax.make_jaxpr(program)(inputs)))) == {"f32"}
    contexts = program(inputs)
    assert contexts.dtype == low
    expected, _ = reference(kind, in_double(inputs), TARGET_SEGMENTS, SOURCE_SEGMENTS)
    np.testing.assert_allclose(np.asarray(contexts, np.float64), expected, rtol=0.03, atol=0.03)


def test_a_query_without_any_key_stays_finite_and_so_does_its_gradient():
    module = attention("additive", coverage=True)
    arguments = example(module, one_after_the_other, len(STEP_SEGMENTS), STEPS)

    def objective(arguments):
        def call(module, queries, states, values):
            keys, mask = module.keys(states), jnp.zeros((4, 4), bool)
            at_once = module(queries[::BEAM], keys, values, jnp.zeros((2, STEPS, 4), bool))
            project = projection(module.kernels(keys, values), precision="float32")
            context, _ = attend(
                module.step_scores, project, module.constants(), queries[:, 0], keys, mask, jnp.ones((4, 4))
            )
            return jnp.sum(at_once**2) + jnp.sum(context**2)

        return apply(module, call, arguments)

    value, gradient = jax.jit(jax.value_and_grad(objective))(arguments)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_parameters_of_each_kind():
    def parameters(kind, coverage=False):
        module, sizes = attention(kind, coverage=coverage), (*TARGET_SEGMENTS.shape, 4)
        queries, states = jnp.ones((*sizes[:2], module.query_dim)), jnp.ones((sizes[0], sizes[2], MEMORY))
        made = jax.eval_shape(lambda: module.init(jax.random.key(0), queries, states, states, method=all_targets))
        boxes = jax.tree_util.tree_leaves_with_path(made.get("params", {}), is_leaf=lambda leaf: hasattr(leaf, "names"))
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): (box.names, box.value.shape) for path, box in boxes
        }

    additive = {
        "memory.kernel": (("model", "hidden"), (MEMORY, ATTENTION)),
        "memory.bias": (("hidden",), (ATTENTION,)),
        "query": (("model", "hidden"), (4, ATTENTION)),
        "vector": (("hidden",), (ATTENTION,)),
    }
    assert parameters("additive") == additive
    assert parameters("additive", coverage=True) == additive | {"coverage_vector": (("hidden",), (ATTENTION,))}
    assert parameters("general") == {"memory.kernel": (("model", "hidden"), (MEMORY, 4))}
    assert parameters("dot") == parameters("scaled_dot") == {}
