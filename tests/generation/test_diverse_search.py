"""Diverse beam search and the sibling penalty against plain implementations on lists."""

import jax
import numpy as np
import pytest
from table_model import END, PADDING, START, VOCAB_SIZE, random_model

from seq2seq_jax.generation.diverse_search import diverse_beam_search
from seq2seq_jax.generation.methods import DiverseBeamSearch
from seq2seq_jax.generation.search import beam_search

WORDS = (3, 4, 5)


def search(model, limits, **settings):
    run = jax.jit(lambda: diverse_beam_search(model.context(limits), **settings))
    return jax.tree.map(np.asarray, run())


def plain_beam(model, source, limit, beam, alpha, *, n_best, penalties, sibling=0.0):
    """One step after the other of one beam on lists; `penalties[t]` is what a token loses at step t, by token.

    Yields the live tokens chosen at each step; returns the finished (score, text), best first.
    """
    live, finished = [(0.0, ())], []
    for step in range(limit):
        candidates = []
        for total, text in live:
            log_probabilities = model.log_probabilities(source, text)
            allowed = [END] if step + 1 == limit else [*WORDS, END]
            scored = [(total + log_probabilities[token] - penalties[step].get(token, 0), token) for token in allowed]
            ranked = sorted(scored, key=lambda each: -each[0])
            for rank, (score, token) in enumerate(ranked):
                candidates.append((score - sibling * rank, total + log_probabilities[token], (*text, token)))
        candidates = sorted(candidates, key=lambda each: -each[0])[: 2 * beam if beam > 1 else 1]
        ended = [(total / ((5 + len(text)) / 6) ** alpha, text) for _, total, text in candidates if text[-1] == END]
        finished = sorted(finished + ended, key=lambda each: -each[0])[:n_best]
        live = [(total, text) for _, total, text in candidates if text[-1] != END][:beam]
        best = max((total for total, _ in live), default=-np.inf)
        if len(finished) == n_best and finished[-1][0] >= best / ((5 + limit) / 6) ** alpha:
            live = []
        yield [text[-1] for _, text in live]
    return finished


def plain_diverse(model, source, limit, beam, groups, strength, alpha, *, n_best):
    """The finished texts of every group."""
    penalties, results = [{} for _ in range(limit)], []
    for _ in range(groups):
        steps, chosen = plain_beam(model, source, limit, beam // groups, alpha, n_best=n_best, penalties=penalties), []
        while True:
            try:
                chosen.append(next(steps))
            except StopIteration as stop:
                results.append(stop.value)
                break
        for step, tokens in enumerate(chosen):
            penalties[step] = dict(penalties[step])
            for token in tokens:
                penalties[step][token] = penalties[step].get(token, 0) + strength
    return results


def texts_of(result, source):
    return [
        (score, tuple(tokens[:length].tolist()))
        for tokens, score, length in zip(
            *(leaf[source] for leaf in (result.tokens, result.scores, result.lengths)), strict=True
        )
        if length
    ]


def in_turns(groups):
    """The best of every group, best first, then the second of every group."""
    ranks = max(map(len, groups))
    return [
        text
        for rank in range(ranks)
        for text in sorted((group[rank] for group in groups if len(group) > rank), key=lambda each: -each[0])
    ]


@pytest.mark.parametrize("n_best", [1, 3])
def test_one_group_is_the_beam_bit_for_bit(n_best):
    model, limits = random_model(1), [6, 4, 7]
    settings = {"beam_size": 3, "n_best": n_best, "length_penalty": 0.8}
    found = search(model, limits, groups=1, diversity=3.0, **settings)
    expected = jax.jit(lambda: beam_search(model.context(limits), **settings))()
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, expected))


def test_groups_without_a_penalty_are_the_same_beam():
    model, limits = random_model(2), [6, 5, 7]
    found = search(model, limits, beam_size=6, groups=3, diversity=0.0, n_best=6, length_penalty=1.0)
    beam = jax.jit(lambda: beam_search(model.context(limits), beam_size=2, n_best=2, length_penalty=1.0))()
    for source in range(3):
        expected = texts_of(jax.tree.map(np.asarray, beam), source)
        assert [text for _, text in texts_of(found, source)] == [text for _, text in expected for _ in range(3)]


@pytest.mark.long
def test_penalised_groups_equal_a_plain_implementation_on_many_models():
    """200 tiny models: four sources of each of 50 seeds, of other limits, groups and strengths."""
    cases = [(4, 2, 0.7, 1.0), (6, 3, 2.0, 0.0), (3, 3, 0.3, 0.6)]
    for seed in range(50):
        beam, groups, strength, alpha = cases[seed % 3]
        model, limits = random_model(seed, num_sources=4), [5, 3, 6, 1]
        n_best = beam
        found = search(
            model, limits, beam_size=beam, groups=groups, diversity=strength, n_best=n_best, length_penalty=alpha
        )
        for source, limit in enumerate(limits):
            expected = in_turns(
                plain_diverse(model, source, limit, beam, groups, strength, alpha, n_best=n_best // groups)
            )
            ours = texts_of(found, source)
            assert [text for _, text in ours] == [text for _, text in expected], (seed, source)
            np.testing.assert_allclose([score for score, _ in ours], [score for score, _ in expected], rtol=1e-4)


def test_a_stronger_penalty_makes_texts_more_different():
    model, limits = random_model(7, num_sources=30), [8] * 30
    shared = []
    for strength in (0.0, 0.5, 5.0):
        found = search(model, limits, beam_size=4, groups=4, diversity=strength, n_best=4, length_penalty=1.0)
        texts = [[text for _, text in texts_of(found, source)] for source in range(30)]
        shared.append(np.mean([len(set(of_source)) for of_source in texts]))
    assert shared[0] == 1 and shared[0] < shared[1] < shared[2]


def test_sources_that_are_done_leave_the_batch():
    model, limits = random_model(3, num_sources=40), [1 + index % 9 for index in range(40)]
    settings = {"beam_size": 4, "groups": 2, "diversity": 0.5, "n_best": 4, "length_penalty": 1.0}
    whole, shrinking = search(model, limits, **settings), search(model, limits, **settings, max_compactions=2)
    jax.tree.map(np.testing.assert_array_equal, whole, shrinking)


@pytest.mark.parametrize("strength", [0.4, 2.0])
def test_the_sibling_penalty_equals_a_plain_implementation(strength):
    model, limits = random_model(4, num_sources=20), [3 + index % 4 for index in range(20)]
    run = jax.jit(
        lambda: beam_search(model.context(limits), beam_size=3, n_best=3, length_penalty=1.0, sibling_penalty=strength)
    )
    found = jax.tree.map(np.asarray, run())
    for source, limit in enumerate(limits):
        steps = plain_beam(model, source, limit, 3, 1.0, n_best=3, penalties=[{}] * limit, sibling=strength)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                expected = stop.value
                break
        assert [text for _, text in texts_of(found, source)] == [text for _, text in expected]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"groups": 3}, "groups must divide beam_size, got 3 groups and beam_size 4"),
        ({"groups": 0}, "groups must be at least 1"),
        ({"diversity": -1.0}, "diversity must be finite, 0 or more"),
        ({"n_best": 5}, "n_best must be at most beam_size"),
    ],
)
def test_groups_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        DiverseBeamSearch(**settings)


def test_no_special_token_is_generated():
    model, limits = random_model(5, num_sources=5), [6] * 5
    found = search(model, limits, beam_size=4, groups=2, diversity=9.0, n_best=4, length_penalty=0.0)
    for source in range(5):
        for _, text in texts_of(found, source):
            assert text[-1] == END and not set(text) & {PADDING, START} and max(text) < VOCAB_SIZE
