"""Span corruption against a plain restatement of T5's, one token at a time, with Python's own random numbers."""

import collections
import itertools
import random

import numpy as np
import pytest

from seq2seq_jax.data.transforms.span_corruption import SpanCorruption, corrupt

SENTINELS = tuple(range(900, 1000))
END = 3
T5 = SpanCorruption()
SETTINGS = [
    T5,
    SpanCorruption(density=0.5, mean_span_length=3.0),
    SpanCorruption(density=0.3, mean_span_length=1.0),
    SpanCorruption(density=0.15, mean_span_length=8.0),
]


def reference_counts(length, density, mean_span_length):
    num_tokens = min(max(round(length * density), 1), length - 1)
    return num_tokens, max(round(num_tokens / mean_span_length), 1)


def reference_segments(num_items, num_segments, rng):
    """As many items as the sum, cut at borders that are drawn from all places between two items."""
    borders = sorted(rng.sample(range(1, num_items), num_segments - 1))
    return [end - begin for begin, end in itertools.pairwise([0, *borders, num_items])]


def reference_mask(length, corruption, rng):
    num_tokens, num_spans = reference_counts(length, corruption.density, corruption.mean_span_length)
    taken = reference_segments(num_tokens, num_spans, rng)
    left = reference_segments(length - num_tokens, num_spans, rng)
    mask = []
    for stays, goes in zip(left, taken, strict=True):
        mask += [False] * stays + [True] * goes
    return mask


def reference_sentinels(tokens, mask):
    """Each run of tokens under the mask as one sentinel, the first sentinel for the first run."""
    result, sentinels = [], iter(SENTINELS)
    for token, hidden, before in zip(tokens, mask, [False, *mask[:-1]], strict=True):
        if not hidden:
            result.append(token)
        elif not before:
            result.append(next(sentinels))
    return [*result, END]


def reference_chunk_length(source_length, corruption):
    def source_and_target(length):
        num_tokens = round(length * corruption.density)
        num_spans = round(num_tokens / corruption.mean_span_length)
        return length - num_tokens + num_spans + 1, num_tokens + num_spans + 1

    length = source_length - 1
    while source_and_target(length + 1)[0] <= source_length:
        length += 1
    return length, source_and_target(length)


def merged(source, target):
    """The text that a source and a target were made of."""
    spans = {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    return [piece for token in source[:-1] for piece in spans.get(token, [token])]


def masks(length, number, corruption=T5, first_key=0):
    return corruption.masks(length, np.arange(first_key, first_key + number, dtype=np.uint64))


def test_the_lengths_of_t5():
    """512 and 114 tokens, the lengths of T5's pre-training."""
    assert T5.chunk_length(512) == 568
    assert T5.lengths(568) == (512, 114)
    assert T5.num_noise(568) == (85, 28)


@pytest.mark.parametrize("corruption", SETTINGS, ids=str)
def test_lengths_and_counts_are_those_of_the_reference(corruption):
    for length in range(2, 700):
        assert corruption.num_noise(length) == reference_counts(length, corruption.density, corruption.mean_span_length)
    for source_length in (64, 128, 512, 1024):
        length, lengths = reference_chunk_length(source_length, corruption)
        assert (corruption.chunk_length(source_length), corruption.lengths(length)) == (length, lengths)


@pytest.mark.parametrize("corruption", SETTINGS, ids=str)
@pytest.mark.parametrize("length", [2, 3, 17, 568])
def test_every_mask_has_the_tokens_and_the_spans_of_the_reference(corruption, length):
    for mask in masks(length, 300, corruption).tolist():
        runs = [(hidden, len(list(run))) for hidden, run in itertools.groupby(mask)]
        taken = [tokens for hidden, tokens in runs if hidden]
        assert (sum(taken), len(taken)) == reference_counts(length, corruption.density, corruption.mean_span_length)
        assert not mask[0] and mask[-1]


def test_a_text_of_one_token_stays():
    assert masks(1, 3).tolist() == [[False]] * 3


def test_all_masks_are_equally_likely():
    """Of 9 tokens 4 in 2 spans: 4 ways to divide the 5 that stay, 3 to divide the 4 that go."""
    corruption = SpanCorruption(density=0.45, mean_span_length=2.0)
    assert corruption.num_noise(9) == (4, 2)
    possible = {
        tuple([False] * a + [True] * b + [False] * (5 - a) + [True] * (4 - b)) for a in range(1, 5) for b in range(1, 4)
    }
    drawn = collections.Counter(map(tuple, masks(9, 24_000, corruption).tolist()))
    assert set(drawn) == possible
    expected = 24_000 / len(possible)
    # 11 degrees of freedom: 31.3 is passed once in a thousand.
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 31.3


@pytest.mark.parametrize("corruption", SETTINGS[:3], ids=str)
def test_places_and_span_lengths_are_distributed_as_in_the_reference(corruption):
    draws, length, rng = 8_000, 100, random.Random(5)
    ours = masks(length, draws, corruption)
    theirs = np.array([reference_mask(length, corruption, rng) for _ in range(draws)])
    # Frequencies of two samples: the standard deviation of their difference is at most (0.5 / draws) ** 0.5.
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 5 * (0.5 / draws) ** 0.5

    def length_shares(rows):
        spans = [len(list(run)) for row in rows.tolist() for hidden, run in itertools.groupby(row) if hidden]
        return np.bincount(spans, minlength=length) / len(spans), len(spans)

    (our_shares, num_spans), (their_shares, _) = length_shares(ours), length_shares(theirs)
    assert np.abs(our_shares - their_shares).max() < 5 * (0.5 / num_spans) ** 0.5


def test_a_mask_depends_on_its_key_alone():
    together = masks(568, 50)
    assert np.array_equal(together[20:30], masks(568, 10, first_key=20))
    assert len(np.unique(together, axis=0)) == 50


def test_a_corruption_worked_out_by_hand():
    tokens = np.array([[11, 12, 13, 14, 15, 16, 17], [21, 22, 23, 24, 25, 26, 27]], np.uint16)
    hidden = np.array([[0, 0, 1, 1, 0, 0, 1], [0, 1, 0, 0, 0, 1, 1]], bool)
    sources, targets = corrupt(tokens, hidden, sentinel_ids=(90, 91), eos_id=END)
    assert sources.tolist() == [[11, 12, 90, 15, 16, 91, END], [21, 90, 23, 24, 25, 91, END]]
    assert targets.tolist() == [[90, 13, 14, 91, 17, END], [90, 22, 91, 26, 27, END]]


@pytest.mark.parametrize("corruption", SETTINGS, ids=str)
def test_source_and_target_are_those_of_the_reference_and_hold_the_whole_text(corruption):
    for length in (2, 40, 200):
        hidden = masks(length, 50, corruption)
        tokens = np.random.default_rng(length).integers(4, 900, hidden.shape).astype(np.uint16)
        sources, targets = corrupt(tokens, hidden, sentinel_ids=SENTINELS, eos_id=END)
        assert (sources.shape[1], targets.shape[1]) == corruption.lengths(length)
        for row, mask, source, target in zip(*(x.tolist() for x in (tokens, hidden, sources, targets)), strict=True):
            assert source == reference_sentinels(row, mask)
            assert target == reference_sentinels(row, [not each for each in mask])
            assert merged(source, target) == row


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"density": 0.0}, "density"), ({"density": 1.0}, "density"), ({"mean_span_length": 0.5}, "mean_span_length")],
)
def test_a_mistake_is_named(settings, named):
    with pytest.raises(ValueError, match=f"corruption.{named} must"):
        SpanCorruption(**settings)


def test_a_row_too_short_for_any_chunk_is_refused():
    with pytest.raises(ValueError, match="max_source_length of at least 3; got 2"):
        T5.chunk_length(2)
