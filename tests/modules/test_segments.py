"""Borders of segments and one vector a segment, against loops in Python."""

import jax.numpy as jnp
import numpy as np

from seq2seq_jax.modules.segments import (
    Segments,
    at_first_positions,
    is_first,
    is_last,
    mean_of_segments,
    sum_of_segments,
)

SEGMENTS = np.array([[1, 1, 2, 3, 3, 3, 0, 0], [1, 2, 2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0]])
VALUES = np.random.default_rng(0).normal(size=(3, 8, 4)).astype(np.float32)


def places(row, segment):
    return [index for index, found in enumerate(SEGMENTS[row]) if found == segment]


def test_a_window_leaves_the_keys_at_a_distance_below_it():
    ids = jnp.asarray(SEGMENTS)
    for causal in (False, True):
        segments = Segments(queries=ids, keys=ids, max_segments=None, causal=causal, window=jnp.int32(3))
        mask = np.asarray(segments.mask())
        for row, query, key in np.ndindex(mask.shape):
            distance = query - key
            is_near = 0 <= distance < 3 if causal else abs(distance) < 3
            assert mask[row, query, key] == (SEGMENTS[row, query] == SEGMENTS[row, key] and is_near)
        some = segments.replace(queries=ids[:, 2:5]).mask(places=jnp.arange(2, 5))
        np.testing.assert_array_equal(some, mask[:, 2:5])


def test_borders():
    first, last = np.asarray(is_first(jnp.asarray(SEGMENTS))), np.asarray(is_last(jnp.asarray(SEGMENTS)))
    for row in range(3):
        for segment in set(SEGMENTS[row].tolist()):
            where = places(row, segment)
            assert first[row, where].tolist() == [True] + [False] * (len(where) - 1)
            assert last[row, where].tolist() == [False] * (len(where) - 1) + [True]


def test_sums_and_means_of_segments():
    segments = jnp.asarray(SEGMENTS)
    ends = sum_of_segments(jnp.asarray(VALUES), is_last(segments), segments)
    means = mean_of_segments(jnp.asarray(VALUES), segments)
    assert ends.shape == means.shape == (3, 8, 4)
    for row in range(3):
        for segment in range(1, 9):
            where = places(row, segment)
            np.testing.assert_array_equal(ends[row, segment - 1], VALUES[row, where[-1]] if where else np.zeros(4))
            expected = VALUES[row, where].mean(axis=0) if where else np.zeros(4)
            np.testing.assert_allclose(means[row, segment - 1], expected, rtol=1e-6, atol=1e-6)


def test_each_first_place_gets_the_vector_of_its_segment():
    found = np.asarray(at_first_positions(jnp.asarray(VALUES), jnp.asarray(SEGMENTS)))
    for row in range(3):
        for index, segment in enumerate(SEGMENTS[row]):
            is_start = segment > 0 and places(row, segment)[0] == index
            np.testing.assert_array_equal(found[row, index], VALUES[row, segment - 1] if is_start else np.zeros(4))
