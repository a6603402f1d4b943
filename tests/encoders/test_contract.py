"""What every encoder has to keep: a segment's part of the memory is a function of that segment alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from architectures import EVERY_ENCODER, VOCABULARY, random_parameters
from batches import by_example, random_pairs, sequence

from seq2seq_jax.modules.precision import activation_dtype

LENGTHS, ORDER, ROW = (5, 1, 7, 3, 6, 2), (4, 0, 1, 2, 5, 3), 12
"""Tokens of each example; the order in which three and three of them fill a packed row of 12."""
EXAMPLES = [source for source, _ in random_pairs(np.random.default_rng(0), LENGTHS, LENGTHS, VOCABULARY)]
ALONE, PACKED = (
    jax.tree.map(jnp.asarray, sequence(rows, ROW, VOCABULARY.pad_id))
    for rows in (
        [[example] for example in EXAMPLES],
        # Empty rows, so that both have one shape and are one program.
        [*([EXAMPLES[index] for index in ORDER[row : row + 3]] for row in (0, 3)), *[[]] * 4],
    )
)

every_encoder = pytest.mark.parametrize("name", EVERY_ENCODER)


@functools.cache
def compiled(name):
    """A function from a source to the gradient of a loss of the memory, and the memory at each token."""
    row = EVERY_ENCODER[name]
    rng = np.random.default_rng(1)
    table = jnp.asarray(rng.normal(size=(VOCABULARY.source_size, row.config.model_dim)), jnp.float32)
    directions = {
        part: jnp.asarray(rng.normal(size=(VOCABULARY.source_size, dim)), jnp.float32)
        for part, dim in (("states", row.memory_dim), ("values", row.memory_dim), ("summary", row.summary_dim))
    }
    module = row.config.build(precision=row.precision)
    params = random_parameters(module, table[ALONE.tokens], ALONE, deterministic=True)

    def loss(params, source):
        inputs = table[source.tokens].astype(activation_dtype(row.precision))
        memory = module.apply({"params": params}, inputs, source, deterministic=True)
        # Each token weighs its own state and value, and its segment's summary.
        summary = jnp.take_along_axis(memory.summary, jnp.maximum(source.segment_ids - 1, 0)[..., None], axis=1)
        parts = {"states": memory.states, "values": memory.values, "summary": summary}
        weighed = sum(jnp.sum(parts[part] * directions[part][source.tokens], axis=-1) for part in parts)
        total = jnp.sum(jnp.where(source.mask, weighed.astype(jnp.float32), 0.0)) / jnp.sum(source.mask)
        return total, parts | {"segment_ids": memory.segment_ids}

    differentiate = jax.jit(jax.grad(loss, has_aux=True))
    return lambda source: differentiate(params, source)


def of_examples(parts, source):
    """The states, values and summaries at the tokens of each example."""
    return {
        part: by_example(np.asarray(parts[part], np.float32), source.segment_ids)
        for part in ("states", "values", "summary")
    }


def assert_close(found, expected, tolerance):
    jax.tree.map(
        lambda left, right: np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance), found, expected
    )


@every_encoder
def test_packed_equals_unpacked(name):
    tolerance = EVERY_ENCODER[name].tolerance
    alone_gradient, alone = compiled(name)(ALONE)
    packed_gradient, packed = compiled(name)(PACKED)
    np.testing.assert_array_equal(packed["segment_ids"], PACKED.segment_ids)
    expected = {part: [each[index] for index in ORDER] for part, each in of_examples(alone, ALONE).items()}
    assert [len(states) for states in expected["states"]] == [LENGTHS[index] for index in ORDER]
    assert_close(of_examples(packed, PACKED), expected, tolerance)
    assert_close(packed_gradient, alone_gradient, tolerance)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(alone_gradient)) > 5 * tolerance


@every_encoder
def test_what_stands_in_padding_changes_nothing(name):
    for source in (ALONE, PACKED):
        gradient, memory = compiled(name)(source)
        anything = np.random.default_rng(2).integers(0, VOCABULARY.source_size, source.tokens.shape, dtype=np.int32)
        filled = source.replace(tokens=jnp.where(source.mask, source.tokens, anything))
        filled_gradient, filled_memory = compiled(name)(filled)
        assert all(np.all(np.isfinite(np.asarray(filled_memory[part], np.float32))) for part in ("states", "values"))
        jax.tree.map(np.testing.assert_array_equal, of_examples(filled_memory, source), of_examples(memory, source))
        assert_close(filled_gradient, gradient, EVERY_ENCODER[name].tolerance)


@every_encoder
def test_a_token_changes_its_own_segment_alone(name):
    """The first one of each row's second segment: at place 6 of one row and at place 7 of the other."""
    first = (PACKED.segment_ids == 2) & (PACKED.positions == 0)
    assert np.argwhere(first).tolist() == [[0, 6], [1, 7]]
    _, memory = compiled(name)(PACKED)
    _, changed = compiled(name)(PACKED.replace(tokens=jnp.where(first, 28 - PACKED.tokens, PACKED.tokens)))
    segments = np.asarray(PACKED.segment_ids)
    for part in ("states", "values", "summary"):
        moved = np.abs(np.asarray(changed[part], np.float32) - np.asarray(memory[part], np.float32)).max(axis=-1)
        assert np.all(moved[(segments > 0) & (segments != 2)] <= 1e-6)
        assert np.all(moved[np.asarray(first)] > 1e-2)
    # A summary is that of the whole segment.
    assert np.all(moved[segments == 2] > 1e-2)
