"""Texts by connectionist temporal classification: of the most probable path, by search over prefixes, and as a part of
the score of a beam search.

Everywhere, padding of a source has the blank with probability 1, which changes no text.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from seq2seq_jax.batch import DecodeState, Memory, Vocabulary
from seq2seq_jax.generation.context import DecodeStep, GenerationContext, GenerationResult
from seq2seq_jax.modules.ctc import IMPOSSIBLE


def ctc_log_probabilities(
    scores: Float[Array, "batch source vocab"], mask: Bool[Array, "batch source"], *, blank: int
) -> Float[Array, "batch source vocab"]:
    """Log-probabilities of tokens at each position of a source; at padding the blank's is 0.

    Args:
        scores: of the model.
        mask: True where the source is.
    """
    silent = jnp.where(jnp.arange(scores.shape[-1]) == blank, 0.0, IMPOSSIBLE)
    return jnp.where(mask[..., None], jax.nn.log_softmax(scores), silent)


def greedy(context: GenerationContext) -> GenerationResult:
    """The text of the most probable path; scores are the path's log-probability."""
    found, vocabulary = context.ctc(), context.vocabulary
    best, highest = jnp.argmax(found, axis=-1), jnp.max(found, axis=-1)
    previous = jnp.pad(best, ((0, 0), (1, 0)), constant_values=vocabulary.pad_id)[:, :-1]
    kept = (best != vocabulary.pad_id) & (best != previous) & ~vocabulary.is_suppressed(best)
    kept &= best != vocabulary.eos_id
    places = jnp.cumsum(kept, axis=1) - 1
    chosen = kept[..., None] & (places[..., None] == jnp.arange(context.max_length))
    tokens = jnp.sum(jnp.where(chosen, best[..., None], 0), axis=1)
    lengths = jnp.minimum(jnp.sum(kept, axis=1), jnp.maximum(context.limits - 1, 0))
    total = jnp.sum(highest, axis=1)
    return _ended(tokens[:, None], lengths[:, None], total[:, None], context)


def _ended(tokens, lengths, totals, context: GenerationContext) -> GenerationResult:
    """Results of texts without their EOS tokens; of a row without a source there is none."""
    vocabulary, places = context.vocabulary, jnp.arange(context.max_length)
    tokens = jnp.where(places < lengths[..., None], tokens, vocabulary.pad_id)
    tokens = jnp.where(places == lengths[..., None], vocabulary.eos_id, tokens)
    is_there = (context.limits > 0)[:, None] & (totals > IMPOSSIBLE / 2)
    totals = jnp.where(is_there, totals, -jnp.inf)
    return GenerationResult(
        tokens=jnp.where(is_there[..., None], tokens, vocabulary.pad_id),
        scores=totals,
        log_probabilities=totals,
        lengths=jnp.where(is_there, lengths + 1, 0),
    )


@flax.struct.dataclass
class Prefixes:
    """The beam of a search over prefixes.

    Attributes:
        tokens: of each prefix, padded.
        lengths: tokens.
        blank, label: log-probability of the paths so far that stand for the prefix and end in the blank, or in its last
            token.
    """

    tokens: Int[Array, "batch beam max_length"]
    lengths: Int[Array, "batch beam"]
    blank: Float[Array, "batch beam"]
    label: Float[Array, "batch beam"]


def prefix_search(context: GenerationContext, *, beam_size: int, n_best: int) -> GenerationResult:
    """The texts with the most probable paths, of those whose prefixes stay in the beam; scores are log-probabilities.

    Source: Graves 2008; Hannun et al. 2014, algorithm 1.
    """
    found, vocabulary = context.ctc(), context.vocabulary
    batch, _, vocab = found.shape
    room = context.max_length
    ids = jnp.arange(vocab)
    is_token = ~vocabulary.is_suppressed(ids) & (ids != vocabulary.eos_id) & (ids != vocabulary.pad_id)
    places = jnp.arange(room)

    def advance(beam: Prefixes, scores: Float[Array, "batch vocab"]) -> tuple[Prefixes, None]:
        last_place = jnp.maximum(beam.lengths - 1, 0)[..., None]
        last = jnp.take_along_axis(beam.tokens, last_place, axis=2)[..., 0]
        last = jnp.where(beam.lengths > 0, last, -1)
        both = jnp.logaddexp(beam.blank, beam.label)
        by_last = jnp.sum(jnp.where(ids == last[..., None], scores[:, None], 0.0), axis=-1)
        blank = both + scores[:, vocabulary.pad_id, None]
        label = jnp.where(beam.lengths > 0, beam.label + by_last, IMPOSSIBLE)
        # A repeated token needs a blank before it.
        before = jnp.where(ids == last[..., None], beam.blank[..., None], both[..., None])
        may_grow = (beam.lengths + 1 < context.limits[:, None])[..., None] & is_token
        extended = jnp.where(may_grow, before + scores[:, None], IMPOSSIBLE)
        # Where prefix i and the last token of prefix j make prefix j, both are one.
        start = jnp.where(places < beam.lengths[:, :, None, None], beam.tokens[:, None], vocabulary.pad_id)
        is_same = jnp.all(start == beam.tokens[:, :, None], axis=-1)
        grows_to = is_same & (beam.lengths[:, None] == beam.lengths[:, :, None] + 1)
        of_pair = jnp.take_along_axis(extended, jnp.maximum(last, 0)[:, None], axis=2)
        gained = jax.nn.logsumexp(jnp.where(grows_to, of_pair, IMPOSSIBLE), axis=1)
        label = jnp.logaddexp(label, gained)
        is_merged = jnp.any(grows_to[..., None] & (ids == last[:, None, :, None]), axis=2)
        extended = jnp.where(is_merged, IMPOSSIBLE, extended)

        candidates = jnp.concatenate([jnp.logaddexp(blank, label), extended.reshape(batch, -1)], axis=1)
        _, chosen = jax.lax.top_k(jnp.maximum(candidates, IMPOSSIBLE), beam_size)
        grown = chosen >= beam_size
        parents = jnp.where(grown, (chosen - beam_size) // vocab, chosen)
        token = (chosen - beam_size) % vocab

        def of_parents(array):
            return jnp.take_along_axis(array, parents.reshape(*parents.shape, *[1] * (array.ndim - 2)), axis=1)

        lengths, tokens = of_parents(beam.lengths), of_parents(beam.tokens)
        is_new = grown[..., None] & (places == lengths[..., None])
        score = jnp.take_along_axis(extended.reshape(batch, -1), jnp.maximum(chosen - beam_size, 0), axis=1)
        return Prefixes(
            tokens=jnp.where(is_new, token[..., None], tokens),
            lengths=lengths + grown,
            blank=jnp.maximum(jnp.where(grown, IMPOSSIBLE, of_parents(blank)), IMPOSSIBLE),
            label=jnp.maximum(jnp.where(grown, score, of_parents(label)), IMPOSSIBLE),
        ), None

    is_empty = jnp.broadcast_to(jnp.arange(beam_size) == 0, (batch, beam_size))
    beam = Prefixes(
        tokens=jnp.full((batch, beam_size, room), vocabulary.pad_id, jnp.int32),
        lengths=jnp.zeros((batch, beam_size), jnp.int32),
        blank=jnp.where(is_empty, 0.0, IMPOSSIBLE),
        label=jnp.full((batch, beam_size), IMPOSSIBLE),
    )
    beam, _ = jax.lax.scan(advance, beam, jnp.swapaxes(found, 0, 1))
    totals = jnp.logaddexp(beam.blank, beam.label)
    _, order = jax.lax.top_k(totals, n_best)
    pick = functools.partial(jnp.take_along_axis, axis=1)
    return _ended(pick(beam.tokens, order[..., None]), pick(beam.lengths, order), pick(totals, order), context)


@flax.struct.dataclass
class PrefixState:
    """What CTC knows of a hypothesis.

    Attributes:
        decoder: of the decoder.
        blank, label: at each position of the source, the log-probability of the paths up to there that stand for the
            hypothesis and end in the blank, or in its last token.
        last: its last token; -1 = it has none.
        is_started: whether it has had its first step.
    """

    decoder: PyTree
    blank: Float[Array, "hypotheses source"]
    label: Float[Array, "hypotheses source"]
    last: Int[Array, "hypotheses"]
    is_started: Bool[Array, "hypotheses"]


def joint_start(
    start: Callable[[int], DecodeState], found: Float[Array, "batch source vocab"], number: int, *, blank: int
) -> DecodeState:
    """The state before the first token, of decoder and CTC.

    Args:
        start: of the decoder.
        found: see `ctc_log_probabilities`.
        number: hypotheses per source.
    """
    state = start(number)
    paths = jnp.repeat(jnp.cumsum(found[..., blank], axis=1), number, axis=0)
    return state.replace(
        per_source=(state.per_source, found),
        per_hypothesis=PrefixState(
            decoder=state.per_hypothesis,
            blank=paths,
            label=jnp.full_like(paths, IMPOSSIBLE),
            last=jnp.full(len(paths), -1, jnp.int32),
            is_started=jnp.zeros(len(paths), bool),
        ),
    )


def joint_step(step: DecodeStep, *, weight: float, vocabulary: Vocabulary) -> DecodeStep:
    """A decoding step whose log-probabilities are (1 - weight) of the decoder's plus weight of CTC's.

    By CTC, the probability of a token after a prefix is that of all texts that begin with both, over that of all that
    begin with the prefix; of the EOS token, that of the prefix alone. What the mean of the logarithms lacks to 1 is
    given to the pad token, which is never generated, so that a search, which normalises, leaves them as they are.

    Source: Watanabe et al. 2017, section IV-C (one-pass decoding).
    """
    blank, eos_id = vocabulary.pad_id, vocabulary.eos_id

    def joint(tokens, state):
        of_decoder, found = state.per_source
        own: PrefixState = state.per_hypothesis
        logits, after = step(tokens, state.replace(per_source=of_decoder, per_hypothesis=own.decoder))
        number = len(tokens) // len(found)
        blanks, labels, total = _extended(own, tokens, jnp.repeat(found, number, axis=0), blank=blank)
        first = ~own.is_started
        blanks = jnp.where(first[:, None], own.blank, blanks)
        labels = jnp.where(first[:, None], own.label, labels)
        last, total = jnp.where(first, -1, tokens), jnp.where(first, 0.0, total)

        scores = _prefix_scores(blanks, labels, last, found)
        ended = jnp.logaddexp(blanks[:, -1], labels[:, -1])
        scores = jnp.where(jnp.arange(scores.shape[-1]) == eos_id, ended[:, None], scores) - total[:, None]
        by_decoder = jax.nn.log_softmax(logits.astype(jnp.float32))
        mixed = (1.0 - weight) * by_decoder + weight * jnp.clip(scores, IMPOSSIBLE, 0.0)
        is_blank = jnp.arange(mixed.shape[-1]) == blank
        mass = jnp.sum(jnp.where(is_blank, 0.0, jnp.exp(mixed)), axis=-1, keepdims=True)
        mixed = jnp.where(is_blank, jnp.log(jnp.maximum(1.0 - mass, 1e-30)), mixed)
        following = PrefixState(
            decoder=after.per_hypothesis, blank=blanks, label=labels, last=last, is_started=jnp.ones_like(first)
        )
        return mixed, after.replace(per_source=(of_decoder, found), per_hypothesis=following)

    return joint


def _before(own_blank, own_label, last, tokens):
    """Of paths that may go on with a token: those up to the position before, [hypotheses, source]."""
    both = jnp.where((tokens == last)[:, None], own_blank, jnp.logaddexp(own_blank, own_label))
    at_start = jnp.where(last < 0, 0.0, IMPOSSIBLE)
    return jnp.concatenate([at_start[:, None], both[:, :-1]], axis=1)


def _extended(own: PrefixState, tokens, found, *, blank):
    """Paths of hypotheses with one more token, at each position, and the log-probability of all texts that begin so."""
    of_tokens = jnp.take_along_axis(found, tokens[:, None, None], axis=2)[..., 0]
    before = _before(own.blank, own.label, own.last, tokens)

    def advance(carry, inputs):
        blanks, labels = carry
        by_token, by_blank, begin = inputs
        blanks, labels = jnp.logaddexp(blanks, labels) + by_blank, jnp.logaddexp(labels, begin) + by_token
        carry = jnp.maximum(blanks, IMPOSSIBLE), jnp.maximum(labels, IMPOSSIBLE)
        return carry, carry

    nothing = jnp.full(len(tokens), IMPOSSIBLE)
    _, (blanks, labels) = jax.lax.scan(advance, (nothing, nothing), (of_tokens.T, found[..., blank].T, before.T))
    return blanks.T, labels.T, jax.nn.logsumexp(jnp.maximum(before + of_tokens, IMPOSSIBLE), axis=1)


def _prefix_scores(blanks, labels, last, found):
    """Log-probability of all texts that begin with a hypothesis and each token, [hypotheses, vocab].

    A sum over positions, as a product with the probabilities of tokens there. A repeated token has paths of its own.
    """
    batch, length, vocab = found.shape
    number = len(blanks) // batch

    def summed(before):
        highest = jnp.maximum(jnp.max(before, axis=1, keepdims=True), IMPOSSIBLE)
        by_source = jnp.exp(before - highest).reshape(batch, number, length)
        sums = jnp.einsum("bnt,btv->bnv", by_source, jnp.exp(found), precision=jax.lax.Precision.HIGHEST)
        return jnp.log(jnp.maximum(sums.reshape(-1, vocab), 1e-37)) + highest

    other = summed(_before(blanks, labels, last, jnp.full_like(last, -2)))
    again = summed(_before(blanks, labels, last, last))
    return jnp.where(jnp.arange(vocab) == last[:, None], again, other)


def ctc_of(model_apply: Callable, memory: Memory, mask: Bool[Array, "batch source"], *, blank: int):
    """`ctc_log_probabilities` of a model's memory.

    Args:
        model_apply: applies the model.
    """
    return ctc_log_probabilities(model_apply(memory, method="ctc_scores"), mask, blank=blank)
