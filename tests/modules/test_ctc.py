"""CTC over packed rows: against all paths of tiny cases, optax, and jiwer; packed equals unpacked."""

import itertools

import jax
import jax.numpy as jnp
import jiwer
import numpy as np
import optax
import pytest

from seq2seq_jax.batch import TokenRows
from seq2seq_jax.modules.ctc import ctc_losses, greedy_edits

BLANK, END, VOCABULARY = 0, 3, 6
TARGETS = ([4, 5], [4, 4], [], [5], [1, 2, 1], [4, 5, 4, 5, 4])
LENGTHS = (4, 3, 2, 1, 5, 4)
"""Positions of each target's source. Two equal labels need a blank between them, so that 3 are just enough; the last
target has no path."""


def rows_of(lengths, segments):
    """Segment ids and positions of one row."""
    ids = np.concatenate([np.full(length, segment) for length, segment in zip(lengths, segments, strict=True)])
    return ids, np.concatenate([np.arange(length) for length in lengths])


def row(chosen, source_length, target_length):
    """One row with the chosen targets, and its segment ids of the source."""
    targets = [[*TARGETS[index], END] for index in chosen]
    segments = range(1, len(chosen) + 1)
    ids, positions = rows_of([len(target) for target in targets], segments)
    padded = [np.pad(each, (0, target_length - len(ids))) for each in (np.concatenate(targets), ids, positions)]
    source, _ = rows_of([LENGTHS[index] for index in chosen], segments)
    return padded, np.pad(source, (0, source_length - len(source)))


def batch(rows, source_length=20, target_length=22):
    arrays, sources = zip(*(row(chosen, source_length, target_length) for chosen in rows), strict=True)
    tokens, ids, positions = (jnp.asarray(np.stack(each), jnp.int32) for each in zip(*arrays, strict=True))
    return TokenRows(tokens=tokens, segment_ids=ids, positions=positions), jnp.asarray(np.stack(sources), jnp.int32)


@pytest.fixture(scope="module")
def scores():
    """Of each target's source."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(length, VOCABULARY)).astype(np.float32) * 2 for length in LENGTHS]


def placed(rows, scores, source_length=20):
    """The scores of the sources of rows, with something at padding that must not be read."""
    found = np.full((len(rows), source_length, VOCABULARY), 7.0, np.float32)
    for index, chosen in enumerate(rows):
        joined = np.concatenate([scores[each] for each in chosen])
        found[index, : len(joined)] = joined
    return jnp.asarray(found)


def by_brute_force(scores, target):
    """-log of the sum over all paths that stand for the target."""
    log_probabilities = np.asarray(jax.nn.log_softmax(jnp.asarray(scores, jnp.float32)), np.float64)
    total = -np.inf
    for path in itertools.product(range(VOCABULARY), repeat=len(scores)):
        text = [token for token, _ in itertools.groupby(path) if token != BLANK]
        if text == target:
            total = np.logaddexp(total, sum(log_probabilities[place, token] for place, token in enumerate(path)))
    return -total


PACKED = ([0, 1, 2, 3, 4, 5],)
ALONE = tuple([index] for index in range(len(TARGETS)))


def losses_of(rows, scores):
    target, segment_ids = batch(rows)

    def total(given):
        losses, without = ctc_losses(jax.nn.log_softmax(given), segment_ids, target, blank=BLANK)
        return losses.sum(), (losses, without)

    (_, (losses, without)), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(placed(rows, scores))
    ends = np.asarray((target.tokens == END) & (target.segment_ids > 0))
    return np.asarray(losses)[ends], np.asarray(without)[ends], np.asarray(gradient)


def test_losses_are_those_of_all_paths(scores):
    losses, without, _ = losses_of(PACKED, scores)
    expected = [by_brute_force(scores[index], target) for index, target in enumerate(TARGETS)]
    assert np.isinf(expected[-1])
    np.testing.assert_array_equal(without, [False] * 5 + [True])
    np.testing.assert_allclose(losses, [*expected[:-1], 0.0], rtol=1e-5)


def test_gradients_are_finite_and_those_of_differences(scores):
    _, _, gradient = losses_of(PACKED, scores)
    assert np.isfinite(gradient).all()
    begin = 0
    for index, length in enumerate(LENGTHS[:5]):
        for place, token in ((0, 4), (length - 1, BLANK)):
            moved = [scores[index].astype(np.float64).copy() for _ in range(2)]
            moved[0][place, token] += 1e-2
            moved[1][place, token] -= 1e-2
            slope = (by_brute_force(moved[0], TARGETS[index]) - by_brute_force(moved[1], TARGETS[index])) / 2e-2
            np.testing.assert_allclose(gradient[0, begin + place, token], slope, atol=2e-4)
        begin += length
    # Neither the source without a path nor padding has a gradient.
    assert not gradient[0, begin:].any()


def test_packed_equals_unpacked(scores):
    (packed, _, gradient), (alone, _, gradients) = losses_of(PACKED, scores), losses_of(ALONE, scores)
    np.testing.assert_allclose(packed, alone, rtol=1e-6)
    parts = np.concatenate([each[:length] for each, length in zip(gradients, LENGTHS, strict=True)])
    np.testing.assert_allclose(gradient[0, : len(parts)], parts, atol=1e-6)


def test_losses_and_gradients_equal_optax(scores):
    chosen = [0, 1, 2, 3, 4]
    rows = tuple([index] for index in chosen)
    losses, _, gradient = losses_of(rows, scores)
    longest = max(len(TARGETS[index]) for index in chosen)
    labels = np.array([TARGETS[index] + [0] * (longest - len(TARGETS[index])) for index in chosen])
    label_padding = np.array(
        [[0] * (size := len(TARGETS[index])) + [1] * (longest - size) for index in chosen], np.float32
    )
    padding = np.array([[0] * LENGTHS[index] + [1] * (20 - LENGTHS[index]) for index in chosen], np.float32)

    def of_optax(given):
        found = optax.ctc_loss(
            given, padding.astype(np.float32), labels, label_padding.astype(np.float32), blank_id=BLANK
        )
        return found.sum(), found

    (_, expected), slopes = jax.value_and_grad(of_optax, has_aux=True)(placed(rows, scores))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes, atol=1e-5)


def test_greedy_edits_are_those_of_jiwer(scores):
    """Three rows of segments, so that distances start anew between them."""
    rng = np.random.default_rng(1)
    rows = ([0, 4, 1], [5, 2, 3], [4, 5, 0])
    target, segment_ids = batch(rows)
    # Targets without a text have no words for jiwer, so that all insertions into them are counted here.
    drawn = rng.normal(size=(3, 20, VOCABULARY)).astype(np.float32)
    edits, tokens = jax.jit(lambda given: greedy_edits(given, segment_ids, target, blank=BLANK))(drawn)
    expected = 0
    for row_index, chosen in enumerate(rows):
        best = drawn[row_index].argmax(-1)
        begin = 0
        for index in chosen:
            path = best[begin : begin + LENGTHS[index]]
            begin += LENGTHS[index]
            text = " ".join(str(token) for token, _ in itertools.groupby(path) if token != BLANK)
            reference = " ".join(map(str, TARGETS[index]))
            if not reference:
                expected += len(text.split())
            else:
                found = jiwer.process_words([reference], [text])
                expected += found.insertions + found.deletions + found.substitutions
    assert float(edits) == expected > 0
    assert float(tokens) == sum(len(TARGETS[index]) for chosen in rows for index in chosen)
