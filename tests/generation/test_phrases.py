"""Phrases that a text must contain: enumeration, an independent search on lists, and 200 small models."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table_model import END, VOCABULARY, random_model

from seq2seq_jax.generation.constraints import tokens_needed
from seq2seq_jax.generation.controls import Controls
from seq2seq_jax.generation.phrases import Phrases, allocated
from seq2seq_jax.generation.processor import Processor
from seq2seq_jax.generation.search import beam_search

WORDS = (3, 4, 5)


def contains(text, phrase):
    return any(text[start : start + len(phrase)] == tuple(phrase) for start in range(len(text)))


def search(model, limits, phrases, *, prefixes=None, controls=None, **settings):
    """The results of a beam search under phrases, compiled."""
    controls = controls or Controls()
    prefixes = prefixes or [()] * len(limits)
    processor = Processor(
        controls=controls,
        vocabulary=VOCABULARY,
        forbidden=controls.forbidden_ids,
        prefix=jnp.array([[*prefix, *[0] * (3 - len(prefix))] for prefix in prefixes]),
        prefix_lengths=jnp.array([len(prefix) for prefix in prefixes]),
        phrases=jax.tree.map(jnp.asarray, Phrases.of(phrases, number=max(map(len, phrases)), length=4)),
    )
    run = jax.jit(lambda: beam_search(model.context(limits, processor=processor), **settings))
    return jax.tree.map(np.asarray, run())


def texts_of(result, source):
    return [
        (float(score), tuple(tokens[:length].tolist()))
        for tokens, score, length in zip(
            *(leaf[source] for leaf in (result.tokens, result.scores, result.lengths)), strict=True
        )
        if length
    ]


def needed(text, phrases):
    """Tokens that complete the missing phrases one after the other, of which one may have begun where a text ends."""
    missing = [phrase for phrase in phrases if not contains(text, phrase)]
    begun = [
        size for phrase in missing for size in range(len(phrase)) if text[len(text) - size :] == tuple(phrase[:size])
    ]
    return sum(map(len, missing)) - max(begun, default=0)


def plain_search(model, source, limit, phrases, beam, alpha, *, n_best):
    """Dynamic beam allocation on lists: (score, text), best first."""
    live, finished = [(0.0, ())], []
    for length in range(1, limit + 1):
        continuations = []
        for total, text in live:
            following = model.log_probabilities(source, text)
            tokens = (
                [END]
                if length == limit
                else [
                    *(w for w in WORDS if needed((*text, w), phrases) + 1 <= limit - length),
                    *([END] if needed(text, phrases) == 0 else []),
                ]
            )
            continuations += [(total + following[token], (*text, token), text) for token in tokens]
        ranked = sorted(continuations, key=lambda each: -each[0])
        chosen = ranked[: 2 * beam]
        for _, text in live:
            own = [each for each in ranked if each[2] == text]
            following = {
                phrase[size]
                for phrase in phrases
                if not contains(text, phrase)
                for size in [max(s for s in range(len(phrase)) if text[len(text) - s :] == tuple(phrase[:s]))]
            }
            for each in [*own[:1], *(each for each in own if each[1][-1] in following)] if phrases else []:
                chosen += [] if each in chosen else [each]
        finished += [(t / ((5 + length) / 6) ** alpha, text) for t, text, _ in chosen if text[-1] == END]
        finished = sorted(finished, key=lambda each: -each[0])[:n_best]
        banks = {}
        for total, text, _ in sorted(chosen, key=lambda each: -each[0]):
            if text[-1] != END:
                banks.setdefault(needed(text, phrases), []).append((total, text))
        live = []
        while banks and len(live) < beam:
            order, keys = [], sorted(banks)
            while keys:
                order.append(keys.pop(0 if len(order) % 2 == 0 else -1))
            live += [banks[key].pop(0) for key in order][: beam - len(live)]
            banks = {key: bank for key, bank in banks.items() if bank}
        best = max((total for total, _ in live), default=-np.inf)
        if len(finished) == n_best and finished[-1][0] >= best / ((5 + limit) / 6) ** alpha:
            break
    return finished


@pytest.mark.parametrize("beam", [2, 3, 4, 6])
def test_200_small_models_always_contain_their_phrases(beam):
    """50 models for each beam, with phrases that overlap, repeat a token, repeat each other, or just fit; texts and
    scores are those of the search on lists.
    """
    rng = np.random.default_rng(beam)
    model, phrases, limits = random_model(beam, num_sources=50), [], []
    for source in range(50):
        phrases.append(
            [
                [(3, 3, 4), (3, 4, 5)],
                [tuple(rng.choice(WORDS, rng.integers(1, 5)).tolist()) for _ in range(2)],
                [(4, 4, 4)],
                [(5, 3, 5), (5, 3, 5), (3, 5, 3)],
            ][source % 4]
        )
        limits.append([7, 9, 4 + source % 3, 10][source % 4])
    found = search(model, limits, phrases, beam_size=beam, n_best=2, length_penalty=0.8)
    for source in range(50):
        ours = texts_of(found, source)
        assert ours
        for _, text in ours:
            assert text[-1] == END and all(contains(text, phrase) for phrase in phrases[source]), source
        expected = plain_search(model, source, limits[source], phrases[source], beam, 0.8, n_best=2)
        assert [text for _, text in ours] == [text for _, text in expected], source
        np.testing.assert_allclose([score for score, _ in ours], [score for score, _ in expected], rtol=1e-4)


def texts_with(phrases, prefix, limit, *, repeats):
    """Every text within the limit that has the phrases and the prefix; without repeats no word comes twice but where
    the prefix or a phrase needs it.
    """
    found, open_ = [], [()]
    while open_:
        text = open_.pop()
        if len(text) >= len(prefix) and all(contains(text, phrase) for phrase in phrases):
            found.append((*text, END))
        if len(text) == limit - 1:
            continue
        missing = [phrase for phrase in phrases if not contains(text, phrase)]
        following = {
            phrase[max(size for size in range(len(phrase)) if text[len(text) - size :] == phrase[:size])]
            for phrase in missing
        }
        if len(text) < len(prefix):
            open_.append((*text, prefix[len(text)]))
        else:
            open_ += [(*text, word) for word in WORDS if repeats or word not in text or word in following]
    return found


@pytest.mark.parametrize("controls", [Controls(), Controls(no_repeat_ngram=1)], ids=["phrases", "no repetition"])
def test_a_wide_beam_finds_the_best_texts_of_all_that_contain_the_phrases(controls):
    model, limit = random_model(1, num_sources=4), 5
    # Of phrases that overlap, those texts are missing where they would only fit because of that.
    phrases = [[(3, 4), (5, 5)], [(4, 4)], [(5,), (3,)], [(3, 3, 4)]]
    prefixes = [(), (4,), (), (3,)]
    settings = {"prefixes": prefixes, "controls": controls, "beam_size": 70, "n_best": 70, "length_penalty": 0.0}
    found = search(model, [limit] * 4, phrases, **settings)
    for source in range(4):
        texts = texts_with(phrases[source], prefixes[source], limit, repeats=not controls.no_repeat_ngram)
        expected = {text: model.log_probability(source, text) for text in texts}
        ours = texts_of(found, source)
        assert [text for _, text in ours] == sorted(expected, key=lambda text: -expected[text])
        np.testing.assert_allclose([score for score, _ in ours], [expected[text] for _, text in ours], rtol=1e-4)


def test_progress_is_how_much_of_each_phrase_a_text_ends_in():
    rng = np.random.default_rng(0)
    phrases = [[tuple(rng.choice(WORDS[:2], rng.integers(1, 5)).tolist()) for _ in range(3)] for _ in range(20)]
    arrays = Phrases.of(phrases, number=4, length=4)
    progress, texts = arrays.nothing_yet(5), dict.fromkeys(itertools.product(range(20), range(5)), ())
    for _ in range(8):
        tokens = rng.choice(WORDS[:2], (20, 5))
        progress = arrays.advanced(progress, jnp.asarray(tokens))
        for source in range(20):
            for hypothesis in range(5):
                text = texts[source, hypothesis] = (*texts[source, hypothesis], int(tokens[source, hypothesis]))
                for index, phrase in enumerate(phrases[source]):
                    sizes = [s for s in range(len(phrase) + 1) if text[len(text) - s :] == phrase[:s]]
                    expected = len(phrase) if contains(text, phrase) else max(sizes)
                    assert progress[source, hypothesis, index] == expected
                assert arrays.needed(progress)[source, hypothesis] == needed(text, phrases[source])
                assert tokens_needed(text, phrases[source]) == needed(text, phrases[source])
                assert progress[source, hypothesis, 3] == 0


def test_a_beam_is_allocated_from_the_outer_banks_inward():
    scores = jnp.array([[-1.0, -2.0, -3.0, -4.0, -5.0, -jnp.inf, -6.0]])
    banks = jnp.array([[9, 9, 5, 0, 7, 0, 0]])
    # The best of bank 0, of 9, of 5, of 7; then the second of bank 0, of 9.
    assert allocated(scores, banks, 6).tolist() == [[3, 0, 2, 4, 6, 1]]
    one = jnp.zeros((1, 7), jnp.int32)
    assert allocated(scores, one, 3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("beam", [2, 5])
def test_phrases_fit_to_the_last_token(beam):
    """The limit is just what prefix, phrases and the EOS token need."""
    model = random_model(2, num_sources=3)
    phrases, prefixes = [[(3, 4, 5)], [(3, 4), (5, 5)], [(4, 5, 3)]], [(5, 5), (), (5, 4, 5)]
    limits = [len(prefix) + needed(prefix, each) + 1 for prefix, each in zip(prefixes, phrases, strict=True)]
    assert limits == [6, 5, 5]
    found = search(model, limits, phrases, prefixes=prefixes, beam_size=beam, n_best=1, length_penalty=1.0)
    expected = [{(5, 5, 3, 4, 5, END)}, {(3, 4, 5, 5, END), (5, 5, 3, 4, END)}, {(5, 4, 5, 3, END)}]
    for source in range(3):
        assert texts_of(found, source)[0][1] in expected[source]
