"""Texts by CTC: against all paths of tiny sources, and joint scores against the definition, prefix by prefix."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq2seq_jax.batch import DecodeState, Vocabulary
from seq2seq_jax.generation.context import GenerationContext
from seq2seq_jax.generation.ctc import ctc_log_probabilities, greedy, joint_start, joint_step, prefix_search
from seq2seq_jax.generation.methods import BeamSearch, CtcBeamSearch, CtcGreedy
from seq2seq_jax.generation.search import beam_search

PAD, BOS, EOS, A, B, C = range(6)
VOCABULARY = Vocabulary(source_size=6, target_size=6, joint=True, pad_id=PAD, bos_id=BOS, eos_id=EOS)
LENGTHS = (5, 3, 1, 0)
"""Positions of each source; the last row is none."""
ROOM = 8
SCORES = np.random.default_rng(3).normal(size=(4, 5, 6)).astype(np.float32) * 2
# Neither BOS nor EOS are on a path, so that all that is summed are texts.
SCORES[..., [BOS, EOS]] = -40.0
MASK = np.arange(5) < np.array(LENGTHS)[:, None]
FOUND = ctc_log_probabilities(jnp.asarray(SCORES), jnp.asarray(MASK), blank=PAD)


@functools.cache
def texts_of(source):
    """Log-probability of every text, over all of its paths."""
    scores = np.asarray(jax.nn.log_softmax(jnp.asarray(SCORES[source])), np.float64)
    found = {}
    for path in itertools.product((PAD, A, B, C), repeat=LENGTHS[source]):
        text = tuple(token for token, _ in itertools.groupby(path) if token != PAD)
        value = sum(scores[place, token] for place, token in enumerate(path))
        found[text] = np.logaddexp(found.get(text, -np.inf), value)
    return found


def context(**changed):
    limits = jnp.array([ROOM, ROOM, ROOM, 0])
    return GenerationContext(
        **{
            "step": decoder_step,
            "start": decoder_start,
            "limits": limits,
            "max_length": ROOM,
            "vocabulary": VOCABULARY,
            "ctc": lambda: FOUND,
        }
        | changed
    )


def texts_in(result, source):
    lengths = np.asarray(result.lengths[source])
    rows = [
        tuple(np.asarray(result.tokens[source, rank])[:length].tolist())
        for rank, length in enumerate(lengths)
        if length
    ]
    assert all(row[-1] == EOS for row in rows)
    return [row[:-1] for row in rows]


def test_the_greedy_text_is_that_of_the_best_path():
    result = jax.jit(lambda: greedy(context()))()
    for source in range(3):
        best = SCORES[source, : LENGTHS[source]].argmax(axis=-1)
        expected = tuple(token for token, _ in itertools.groupby(best.tolist()) if token != PAD)
        assert texts_in(result, source) == [expected]
        log_probabilities = jax.nn.log_softmax(jnp.asarray(SCORES[source, : LENGTHS[source]]))
        np.testing.assert_allclose(result.scores[source, 0], log_probabilities.max(axis=-1).sum(), rtol=1e-5)
    assert int(result.lengths[3, 0]) == 0 and float(result.scores[3, 0]) == -np.inf


def test_a_beam_that_holds_all_prefixes_finds_the_most_probable_texts():
    result = jax.jit(lambda: prefix_search(context(), beam_size=120, n_best=5))()
    for source in range(3):
        ranked = sorted(texts_of(source).items(), key=lambda item: -item[1])[:5]
        found = texts_in(result, source)
        assert found == [text for text, _ in ranked]
        np.testing.assert_allclose(
            np.asarray(result.scores[source])[: len(ranked)], [value for _, value in ranked], rtol=1e-4
        )
    assert not np.asarray(result.lengths[3]).any()


def test_a_text_is_no_longer_than_its_limit():
    limits = jnp.array([3, 2, 1, 0])
    result = jax.jit(lambda: prefix_search(context(limits=limits), beam_size=8, n_best=1))()
    assert (np.asarray(result.lengths[:, 0]) <= limits).all()
    assert (np.asarray(jax.jit(lambda: greedy(context(limits=limits)))().lengths[:, 0]) <= limits).all()


DECODER = np.random.default_rng(4).normal(size=(4, 6, 6)).astype(np.float32)
"""A decoder whose logits depend on the source and the last token."""


def decoder_step(tokens, state):
    number = len(tokens) // 4
    logits = jnp.asarray(DECODER)[jnp.repeat(jnp.arange(4), number), tokens]
    return logits, state


def decoder_start(number):
    return DecodeState(per_source=jnp.zeros((4, 1)), per_hypothesis=jnp.zeros((4 * number, 1)))


def by_definition(source, text, *, weight):
    """(1 - weight) log p of the decoder, plus weight log p of CTC, of a text with its EOS token."""
    logits = np.asarray(jax.nn.log_softmax(jnp.asarray(DECODER[source])), np.float64)
    total = sum(logits[before, token] for before, token in itertools.pairwise([BOS, *text, EOS]))
    return (1 - weight) * total + weight * texts_of(source).get(text, -np.inf)


@pytest.mark.parametrize("weight", [0.3, 0.9])
def test_joint_search_finds_the_text_with_the_highest_joint_score(weight):
    joint = context(
        step=joint_step(decoder_step, weight=weight, vocabulary=VOCABULARY),
        start=lambda number: joint_start(decoder_start, FOUND, number, blank=PAD),
    )
    result = jax.jit(lambda: beam_search(joint, beam_size=40, n_best=3, length_penalty=0.0))()
    for source in range(3):
        ranked = sorted(texts_of(source), key=lambda text: -by_definition(source, text, weight=weight))[:3]
        assert texts_in(result, source)[:3] == ranked
        expected = [by_definition(source, text, weight=weight) for text in ranked]
        np.testing.assert_allclose(np.asarray(result.log_probabilities[source])[: len(ranked)], expected, rtol=1e-3)


def test_methods_refuse_what_has_no_effect():
    with pytest.raises(ValueError, match="n_best must be at most beam_size"):
        CtcBeamSearch(beam_size=2, n_best=3)
    with pytest.raises(ValueError, match=r"ctc_weight must lie in \[0, 1\)"):
        BeamSearch(ctc_weight=1.0)
    assert CtcGreedy().needs_ctc and BeamSearch(ctc_weight=0.3).needs_ctc and not BeamSearch().needs_ctc
