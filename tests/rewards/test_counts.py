"""N-grams, subsequences and edits: exact integers, by the plainest Python, and the sizes at which they are counted."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.rewards.edit_distance import edit_distances, longest_common_subsequences
from seq2seq_jax.rewards.ngrams import overlap
from seq2seq_jax.rewards.sizes import bucketed, sizes
from seq2seq_jax.rewards.words import NO_SYMBOL


def symbols(sequences, size, planes):
    """Sequences of small numbers as symbols, the planes equal but for the first symbol's sake shifted."""
    rows = np.full((len(sequences), planes, size), NO_SYMBOL, np.uint32)
    for row, sequence in zip(rows, sequences, strict=True):
        for plane in range(planes):
            row[plane, : len(sequence)] = [(value >> plane) + plane for value in sequence]
    return jnp.asarray(rows)


def random_sequences(seed, longest):
    """200 sequences, some empty, of few or many different symbols."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, rng.choice([1, 3, 40]), rng.integers(0, longest + 1)).tolist() for _ in range(200)]


def table(hypothesis, reference, cell, border):
    """The whole table of dynamic programming, row by row."""
    rows = [[border * column for column in range(len(reference) + 1)]]
    for number, symbol in enumerate(hypothesis, 1):
        row = [border * number]
        for column, other in enumerate(reference, 1):
            row.append(cell(rows[-1][column], row[-1], rows[-1][column - 1], symbol == other))
        rows.append(row)
    return rows[-1][-1]


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("order", [1, 4, 6])
def test_n_grams_are_counted_exactly(order, planes):
    hypotheses, references = random_sequences(0, 12), random_sequences(1, 15)
    if planes == 2:
        hypotheses, references = ([[value * 2 for value in each] for each in side] for side in (hypotheses, references))
    found = overlap(symbols(hypotheses, 12, planes), symbols(references, 15, planes), order=order)
    for row, pair in enumerate(zip(hypotheses, references, strict=True)):
        for n in range(1, order + 1):
            ours, theirs = (
                collections.Counter(tuple(each[place : place + n]) for place in range(len(each) - n + 1))
                for each in pair
            )
            assert found.matches[row, n - 1] == sum((ours & theirs).values())
            assert found.distinct[row, n - 1] == len(ours)
            assert (found.hypothesis[row, n - 1], found.reference[row, n - 1]) == (ours.total(), theirs.total())


def test_edits_and_subsequences_are_counted_exactly():
    hypotheses, references = random_sequences(2, 14), random_sequences(3, 9)
    rows = symbols(hypotheses, 14, 1), symbols(references, 9, 1)
    pairs = list(zip(hypotheses, references, strict=True))
    edits = [
        table(*pair, lambda above, left, corner, equal: min(above + 1, left + 1, corner + (not equal)), 1)
        for pair in pairs
    ]
    subsequences = [
        table(*pair, lambda above, left, corner, equal: corner + 1 if equal else max(above, left), 0) for pair in pairs
    ]
    np.testing.assert_array_equal(edit_distances(*rows), edits)
    np.testing.assert_array_equal(longest_common_subsequences(*rows), subsequences)


def test_sizes_ascend_to_the_worst():
    assert sizes(640, ratio=2, count=3) == (160, 320, 640)
    assert sizes(100, ratio=4, count=3) == (16, 25, 100)
    assert sizes(5, ratio=2, count=3) == (5,)
    assert sizes(0, ratio=2, count=3) == (1,)


def test_the_smallest_size_that_suffices_is_chosen():
    @jax.jit
    def chosen(needed):
        return bucketed(jnp.int32, needed, (4, 8, 16))

    assert [int(chosen(needed)) for needed in (0, 4, 5, 8, 9, 16)] == [4, 4, 8, 8, 16, 16]
