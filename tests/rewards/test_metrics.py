"""Scores from counts: the libraries' own on random words, and by hand where there is no library."""

import jax.numpy as jnp
import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from seq2seq_jax.rewards import metrics
from seq2seq_jax.rewards.ngrams import Overlap, overlap
from seq2seq_jax.rewards.words import NO_SYMBOL


@pytest.fixture(scope="module")
def sequences():
    """Hypotheses and references of up to 9 of 6 words; some are empty, some without matches of some orders."""
    rng = np.random.default_rng(0)
    return [[rng.integers(0, 6, rng.integers(0, 10)).tolist() for _ in range(300)] for _ in range(2)]


def symbols(sequences):
    """Sequences as symbols of one plane."""
    rows = np.full((len(sequences), 1, 10), NO_SYMBOL, np.uint32)
    for row, sequence in zip(rows, sequences, strict=True):
        row[0, : len(sequence)] = sequence
    return jnp.asarray(rows)


@pytest.mark.parametrize("smoothing", ["exp", "floor", "add-k", "none"])
def test_every_smoothing_of_bleu_is_sacrebleu_s(sequences, smoothing):
    counts = overlap(*map(symbols, sequences), order=4)
    library = BLEU(effective_order=True, smooth_method=smoothing)
    texts = [[" ".join(f"word{value}" for value in sequence) for sequence in side] for side in sequences]
    expected = [library.sentence_score(ours, [theirs]).score / 100 for ours, theirs in zip(*texts, strict=True)]
    np.testing.assert_allclose(metrics.bleu(counts, smoothing), expected, atol=1e-6)


def counts(matches, distinct, hypothesis, reference):
    """The counts of one pair."""
    return Overlap(*(jnp.asarray([values], jnp.int32) for values in (matches, distinct, hypothesis, reference)))


def test_diversity_by_hand():
    """a b a b a b: of 6 words 2 differ, of 5 pairs 2, of 3 4-grams 2."""
    repeated = counts([0] * 4, [2, 2, 2, 2], [6, 5, 4, 3], [0] * 4)
    assert metrics.distinct(repeated, 1)[0] == pytest.approx(2 / 6)
    assert metrics.distinct(repeated, 2)[0] == pytest.approx(2 / 5)
    assert metrics.minus_repetition(repeated)[0] == pytest.approx(-1 / 3)


def test_length_agreement_is_best_for_equal_lengths():
    found = [metrics.length_agreement(counts([0], [0], [ours], [8]))[0] for ours in (0, 4, 8, 16)]
    assert found == [0, 0.5, 1, 0.5]


def test_without_text_every_metric_is_finite():
    """An empty hypothesis of an empty reference has the reference's length, and nothing else to be praised for."""
    nothing = counts([0] * 6, [0] * 6, [0] * 6, [0] * 6)
    assert metrics.length_agreement(nothing)[0] == 1
    zero = jnp.zeros(1, jnp.int32)
    scores = (
        metrics.bleu(nothing, "exp"),
        metrics.gleu(nothing),
        metrics.chrf(nothing),
        metrics.f_measure(zero, zero, zero),
        metrics.distinct(nothing, 1),
        metrics.minus_repetition(nothing),
        metrics.minus_error_rate(zero, zero),
    )
    assert [float(score[0]) for score in scores] == [0] * len(scores)


def test_errors_against_an_empty_reference_are_counted():
    assert metrics.minus_error_rate(jnp.array([3]), jnp.array([0]))[0] == -3
