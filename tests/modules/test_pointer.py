"""The pointer against its definition in NumPy, its probabilities of all tokens, and the coverage loss by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import random_parameters

from seq2seq_jax.batch import Memory
from seq2seq_jax.modules.pointer import Pointed, Pointer, coverage_losses, mixed

VOCABULARY, MODEL, MEMORY, PRECEDING = 11, 6, 4, 3
TOKENS = jnp.array([[5, 7, 5, 3, 9, 3, 0], [8, 8, 8, 8, 8, 8, 3]])
SOURCE_SEGMENTS = jnp.array([[1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]])
TARGET_SEGMENTS = jnp.array([[1, 1, 2, 2, 0], [1, 1, 1, 0, 0]])


@functools.cache
def inputs():
    rng = np.random.default_rng(0)
    states, values, hidden, logits = (
        jnp.asarray(rng.normal(size=size), jnp.float32)
        for size in ((2, 7, MEMORY), (2, 7, MEMORY), (2, 5, MODEL), (2, 5, VOCABULARY))
    )
    memory = Memory(
        states=states,
        values=values,
        summary=jnp.zeros((2, 1, 1)),
        segment_ids=SOURCE_SEGMENTS,
        tokens=TOKENS,
        preceding=jnp.asarray(rng.normal(size=(2, 7, PRECEDING)), jnp.float32),
    )
    return memory, hidden, logits


@functools.cache
def pointed(preceding_dim=None):
    memory, hidden, _ = inputs()
    module = Pointer(MODEL, MEMORY, preceding_dim, "float32")

    def point(module, hidden, memory):
        return module(hidden, TARGET_SEGMENTS, module.source(memory))

    params = random_parameters(module, hidden, memory, method=point)
    return params, module.apply({"params": params}, hidden, memory, method=point)


def by_definition(row, place, preceding_dim=None):
    """Weights of the source tokens and p_gen of one target position, in float64."""
    memory, hidden, _ = inputs()
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), pointed(preceding_dim)[0])
    state = np.asarray(hidden[row, place], np.float64)
    query = state @ params["query"]["kernel"] + params["query"]["bias"]
    of_segment = np.flatnonzero(SOURCE_SEGMENTS[row] == TARGET_SEGMENTS[row, place])
    keys = np.asarray(memory.states[row]) @ params["key"]["kernel"]
    if preceding_dim is not None:
        keys += np.asarray(memory.preceding[row]) @ params["preceding_key"]["kernel"]
    scores = keys[of_segment] @ query
    weights = np.zeros(TOKENS.shape[1])
    weights[of_segment] = np.exp(scores / MODEL**0.5) / np.exp(scores / MODEL**0.5).sum()
    context = weights @ np.asarray(memory.values[row], np.float64)
    gate = context @ params["context_gate"]["kernel"] + state @ params["state_gate"]["kernel"]
    return weights, 1.0 / (1.0 + np.exp(-(gate + params["state_gate"]["bias"])[0]))


@pytest.mark.parametrize("preceding_dim", [None, PRECEDING])
def test_weights_and_the_probability_of_the_vocabulary_are_those_of_the_definition(preceding_dim):
    found = pointed(preceding_dim)[1]
    for row, place in np.argwhere(TARGET_SEGMENTS > 0):
        weights, p_gen = by_definition(row, place, preceding_dim)
        np.testing.assert_allclose(np.exp(found.log_weights[row, place]), weights, atol=1e-6)
        np.testing.assert_allclose(np.exp(found.log_generated[row, place]), p_gen, rtol=1e-5)


def test_probabilities_are_those_of_the_mixture_and_sum_to_one():
    memory, _, logits = inputs()
    found = np.exp(mixed(logits, pointed()[1], memory.tokens))
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
    of_vocabulary = np.asarray(jax.nn.softmax(logits), np.float64)
    for row, place in np.argwhere(TARGET_SEGMENTS > 0):
        weights, p_gen = by_definition(row, place)
        for token in range(VOCABULARY):
            copied = sum(weight for weight, each in zip(weights, TOKENS[row], strict=True) if each == token)
            expected = p_gen * of_vocabulary[row, place, token] + (1.0 - p_gen) * copied
            np.testing.assert_allclose(found[row, place, token], expected, rtol=1e-4)


def test_what_a_label_has_from_copying_is_its_part_of_the_mixture():
    """Of each token of the vocabulary as label; those that the source does not have get nothing."""
    memory, _, _ = inputs()
    for token in range(VOCABULARY):
        labels = jnp.full(TARGET_SEGMENTS.shape, token)
        found = np.asarray(pointed()[1].log_copied(labels, memory.tokens[:, None]))
        for row, place in np.argwhere(TARGET_SEGMENTS > 0):
            weights, p_gen = by_definition(row, place)
            expected = (1.0 - p_gen) * weights[np.asarray(TOKENS[row]) == token].sum()
            np.testing.assert_allclose(np.exp(found[row, place]), expected, rtol=1e-4)
            assert np.isfinite(found[row, place])


def test_a_gradient_is_finite_where_nothing_can_be_copied():
    memory, hidden, logits = inputs()
    module = Pointer(MODEL, MEMORY, None, "float32")

    def probability_of_absent(params):
        source = module.apply({"params": params}, memory, method="source")
        found = module.apply({"params": params}, hidden, TARGET_SEGMENTS, source)
        labels = jnp.full(TARGET_SEGMENTS.shape, 10)
        of_label = jnp.logaddexp(found.log_generated, found.log_copied(labels, memory.tokens[:, None]))
        return jnp.sum(of_label) + jnp.sum(mixed(logits, found, memory.tokens)[..., 10])

    gradient = jax.grad(probability_of_absent)(pointed()[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_coverage_is_what_was_attended_to_before():
    """Min(a, c) with c = 0, then (.5, .5, 0), then (.5, 1.25, .25): 0, 0.75 and 0.2 + 0.6 + 0.2."""
    weights = jnp.array([[[0.5, 0.5, 0.0], [0.0, 0.75, 0.25], [0.2, 0.6, 0.2]]])
    found = coverage_losses(Pointed(log_weights=jnp.log(weights), score=jnp.zeros((1, 3))))
    np.testing.assert_allclose(found, [[0.0, 0.5, 1.0]], rtol=1e-6)


def test_coverage_of_packed_segments_is_that_of_each():
    found = coverage_losses(pointed()[1])
    weights = np.stack([by_definition(0, place)[0] for place in range(4)])
    first, second = np.minimum(weights[0], weights[1]).sum(), np.minimum(weights[2], weights[3]).sum()
    np.testing.assert_allclose(found[0, :4], [0.0, first, 0.0, second], atol=1e-5)
