"""Beam search over a decoder's one-token step: one while-loop of fixed shapes, which ends when all sources have."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from seq2seq_jax.batch import DecodeState, Sequence
from seq2seq_jax.data.source import LONGEST_ROW
from seq2seq_jax.generation.compaction import extend_until_done

# Configs name it by this module.
from seq2seq_jax.generation.config import GenerationConfig as GenerationConfig
from seq2seq_jax.parallel.mesh import on_each_shard

Step = Callable[
    [Int[Array, "hypotheses"], DecodeState],
    tuple[Float[Array, "hypotheses vocab"], DecodeState],
]
"""One token: the last token of every hypothesis and the state before it to the next logits and the state after it."""

BLOCK = 64
"""Ids that are looked through together for the likeliest continuation."""


def longest_output(source_length: int, *, ratio: float, extra: int, position_limit: int | None) -> int:
    """The limit of generated tokens, the end mark counted, for a source of that many; see `length_limits`."""
    room = ratio * source_length + extra
    if position_limit is None and room > LONGEST_ROW:
        raise ValueError(
            f"a source of {source_length} tokens could become {room:,.0f} generated ones, of at most {LONGEST_ROW:,}: "
            "lower maximum_length_ratio or maximum_length_extra"
        )
    room = int(room)
    return room if position_limit is None else min(room, position_limit)


def length_limits(
    source: Sequence, *, ratio: float, extra: int, position_limit: int | None
) -> tuple[Int[Array, "batch"], int]:
    """The limit of generated tokens for each row of sources, the end mark counted, and the room that all of them need.

    Args:
        source: one example a row.
        ratio: this many tokens for each source token, ...
        extra: ... and this many more.
        position_limit: most tokens that the decoder has positions for; None = any number.

    Returns:
        Limits, 0 for a row without a source, and the room for a row full of source tokens.
    """
    lengths = jnp.sum(source.mask, axis=1)
    room = longest_output(source.tokens.shape[1], ratio=ratio, extra=extra, position_limit=position_limit)
    limits = jnp.floor(ratio * lengths).astype(jnp.int32) + extra
    return jnp.where(lengths == 0, 0, jnp.minimum(limits, room)), room


@flax.struct.dataclass
class SearchResult:
    """Finished hypotheses of every source, best first.

    Where fewer exist than were asked for (a limit of one token allows only the empty text), the places left over
    have score and log-probability -inf, length 0 and nothing but padding.

    Attributes:
        tokens: ids up to and including the end id, then the padding id.
        scores: log-probability over the length penalty; descending.
        log_probabilities: natural logarithm of the probability that the model gives to the tokens, end mark included.
        lengths: tokens of the hypothesis, the end mark counted.
    """

    tokens: Int[Array, "batch n_best max_length"]
    scores: Float[Array, "batch n_best"]
    log_probabilities: Float[Array, "batch n_best"]
    lengths: Int[Array, "batch n_best"]


@flax.struct.dataclass
class BeamState:
    """What the loop carries. Live and finished hypotheses are apart: a live one never pushes a finished one out.

    Attributes:
        position: tokens that every live hypothesis has, and so the index of the next one.
        last_tokens: the decoder's next inputs.
        live_tokens: ids so far, then padding.
        live_log_probabilities: their sums, descending; -inf where there is no hypothesis. A source is done when all
            of its are.
        decoder: the decoder's state.
        finished: the best hypotheses so far that have ended.
    """

    position: Int[Array, ""]
    last_tokens: Int[Array, "batch beam"]
    live_tokens: Int[Array, "batch beam max_length"]
    live_log_probabilities: Float[Array, "batch beam"]
    decoder: DecodeState
    finished: SearchResult


def beam_search(
    step: Step,
    state: DecodeState,
    *,
    batch_size: int,
    beam_size: int,
    n_best: int,
    max_lengths: Int[Array, "batch"],
    max_length: int,
    start_id: int,
    end_id: int,
    padding_id: int,
    length_penalty: float,
    halvings: int = 0,
) -> SearchResult:
    """The likeliest continuations of start_id that a beam finds, for every source.

    Each step extends the live hypotheses by every token and keeps the 2 * beam_size best candidates: those that end
    compete for the finished places by score, the best beam_size others live on. A source is done when no live
    hypothesis can reach a score above the worst of its n_best finished ones, however it goes on; its result is
    then fixed, whatever else is in the batch. With beam_size 1 there is one candidate, so that the search is greedy
    decoding: the likeliest token each time, until that is the end.

    At the last position that a source's limit allows, the end id is the only token allowed, so every hypothesis that
    is returned has ended. The start and padding ids are never generated; probabilities are not renormalised for it,
    so that log_probabilities are those of teacher forcing. Of equal candidates the one of the better hypothesis, then
    of the lower token id, comes first.

    Pure, and fit for `jax.jit`; nothing mixes the batch dimension, so a sharded batch stays sharded with its mesh in
    use (`jax.set_mesh`).

    Args:
        step: the decoder's next-token logits and next state, with all that it reads bound but the state.
        state: the decoder's state before the first token, the same for all hypotheses of a source. Leaves of
            `per_source` lead with batch, those of `history` too, those of `per_hypothesis`
            with batch * beam.
        batch_size: number of sources.
        beam_size: number of live hypotheses for each.
        n_best: number of finished hypotheses kept for each, at most beam_size; the fewer, the sooner a source is done.
        max_lengths: limit of each source in tokens, the end mark counted; brought into 1..max_length.
        max_length: tokens that the arrays have room for.
        start_id: first input of the decoder.
        end_id: ends a hypothesis.
        padding_id: fills the tokens after the end.
        length_penalty: exponent alpha >= 0 of the length normalisation.
        halvings: see `extend_until_done`.

    Returns:
        Finished hypotheses, at most n_best for each source, best first.

    Raises:
        ValueError: end_id is also the start or padding id, or length_penalty is negative.

    Source: Wu et al. 2016, arXiv:1609.08144, equation 14 (length penalty, without its coverage term). The
    arrangement follows `beam_search` of tensor2tensor and of t5x (decoding.py).
    """
    if end_id in (start_id, padding_id):
        raise ValueError(
            f"end_id must differ from start_id and padding_id, got end_id {end_id}, start_id {start_id} and "
            f"padding_id {padding_id}: give the end mark an id of its own"
        )
    if length_penalty < 0:
        raise ValueError(f"length_penalty must not be negative, got {length_penalty}: set it to 0 or more")

    # Two candidates for each place suffice, as only one extension of each hypothesis ends.
    num_candidates = 2 * beam_size if beam_size > 1 else 1

    def penalty(length: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        return ((5.0 + length.astype(jnp.float32)) / 6.0) ** length_penalty

    def is_live(beams: BeamState) -> Bool[Array, "batch"]:
        return jnp.any(beams.live_log_probabilities > -jnp.inf, axis=1)

    def extend(beams: BeamState, shared: tuple[PyTree, Int[Array, "batch"]]) -> BeamState:
        # From outside of the loop, so that nothing the step does can copy or change what sources share.
        per_source, limits = shared
        logits, after = step(beams.last_tokens.reshape(-1), beams.decoder.replace(per_source=per_source))
        vocab_size = logits.shape[-1]
        logits = logits.astype(jnp.float32).reshape(-1, beam_size, vocab_size)
        length = beams.position + 1
        ids = jnp.arange(vocab_size)
        allowed = jnp.where((length >= limits)[:, None], ids == end_id, (ids != start_id) & (ids != padding_id))
        totals, candidates = _likeliest(logits, allowed, beams.live_log_probabilities, num_candidates)
        parents, last_tokens = candidates // vocab_size, candidates % vocab_size
        tokens = jax.lax.dynamic_update_index_in_dim(
            _pick(beams.live_tokens, parents), last_tokens, beams.position, axis=2
        )
        ended = last_tokens == end_id

        # The finished come first: they keep their places against equal newcomers, and empty places stay empty.
        ended_totals = jnp.where(ended, totals, -jnp.inf)
        newcomers = SearchResult(
            tokens=tokens,
            scores=ended_totals / penalty(length),
            log_probabilities=ended_totals,
            lengths=jnp.full_like(last_tokens, length),
        )
        contenders = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), beams.finished, newcomers)
        finished = _pick(contenders, _top_k(contenders.scores, n_best)[1])

        live_log_probabilities, survivors = _top_k(jnp.where(ended, -jnp.inf, totals), beam_size)
        # Log-probabilities only fall and the penalty only grows: at best, all tokens up to the limit are certain.
        attainable = live_log_probabilities[:, 0] / penalty(limits)
        done = finished.scores[:, -1] >= attainable
        return BeamState(
            position=length,
            last_tokens=_pick(last_tokens, survivors),
            live_tokens=_pick(tokens, survivors),
            live_log_probabilities=jnp.where(done[:, None], -jnp.inf, live_log_probabilities),
            decoder=after.replace(
                per_source=None, per_hypothesis=_reorder(after.per_hypothesis, _pick(parents, survivors))
            ),
            finished=finished,
        )

    no_tokens = jnp.full((batch_size, beam_size, max_length), padding_id, dtype=jnp.int32)
    nothing = jnp.full((batch_size, beam_size), -jnp.inf, dtype=jnp.float32)
    beams = BeamState(
        position=jnp.zeros((), dtype=jnp.int32),
        last_tokens=jnp.full((batch_size, beam_size), start_id, dtype=jnp.int32),
        live_tokens=no_tokens,
        # One hypothesis each to begin with, or the first step would find every candidate beam_size times.
        live_log_probabilities=nothing.at[:, 0].set(0.0),
        decoder=state.replace(per_source=None),
        finished=SearchResult(
            tokens=no_tokens[:, :n_best],
            scores=nothing[:, :n_best],
            log_probabilities=nothing[:, :n_best],
            lengths=jnp.zeros((batch_size, n_best), dtype=jnp.int32),
        ),
    )
    return extend_until_done(
        extend,
        beams,
        (state.per_source, jnp.clip(max_lengths, 1, max_length)),
        is_live=is_live,
        result=lambda beams: beams.finished,
        halvings=halvings,
    )


def _likeliest(
    logits: Float[Array, "batch beam vocab"],
    allowed: Bool[Array, "batch vocab"],
    live_log_probabilities: Float[Array, "batch beam"],
    k: int,
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """Log-probabilities of the k likeliest continuations, descending, and their indices in [beam * vocab].

    A block of ids that holds one of the k has one of the k highest maxima, so that only k blocks are looked through,
    and only their logits are normalised. Equal ones come in the order of their indices, as from `_top_k`.
    """

    def of_rows(logits, allowed, live):
        batch, beam, vocab = logits.shape
        highest = jnp.max(logits, axis=-1)
        log_sums = jnp.log(jnp.sum(jnp.exp(logits - highest[:, :, None]), axis=-1))
        masked = jnp.where(allowed[:, None], logits, -jnp.inf)
        blocks = jnp.pad(masked, ((0, 0), (0, 0), (0, -vocab % BLOCK)), constant_values=-jnp.inf)
        blocks = blocks.reshape(batch, beam, -1, BLOCK)
        num_blocks = blocks.shape[2]

        def totals(logits, parents):
            of_parents = (jnp.take_along_axis(each, parents, axis=1) for each in (live, highest, log_sums))
            before, highest_logit, log_sum = (
                each.reshape(each.shape + (1,) * (logits.ndim - 2)) for each in of_parents
            )
            return before + ((logits - highest_logit) - log_sum)

        maxima = jnp.max(blocks, axis=-1)
        every = jnp.broadcast_to(jnp.arange(beam), (batch, beam))
        maxima = totals(maxima, every).reshape(batch, beam * num_blocks)
        # In the order of their indices, so that equal candidates are found in theirs.
        found = jnp.sort(jax.lax.top_k(maxima, min(k, maxima.shape[1]))[1], axis=1)
        parents, block = found // num_blocks, found % num_blocks
        pick = jax.vmap(lambda blocks, parents, block: blocks.at[parents, block].get(mode="promise_in_bounds"))
        candidates = totals(pick(blocks, parents, block), parents)
        values, places = jax.lax.top_k(candidates.reshape(batch, -1), k)
        # What fills the last block up is impossible, but must not be taken for another hypothesis's.
        ids = jnp.minimum((block * BLOCK)[:, :, None] + jnp.arange(BLOCK), vocab - 1)
        indices = (parents * vocab)[:, :, None] + ids
        return values, jnp.take_along_axis(indices.reshape(batch, -1), places, axis=1)

    return on_each_shard(of_rows, logits, allowed, live_log_probabilities)


def _top_k(values: Float[Array, "batch candidates"], k: int) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """The k largest values of each source, descending, and their indices; of equal ones the lower index is first.

    Each device does the rows it has: XLA would gather the logits of the whole batch on all.
    """
    return on_each_shard(lambda rows: tuple(jax.lax.top_k(rows, k)), values)


def _pick(tree: PyTree, indices: Int[Array, "batch picked"]) -> PyTree:
    """Leaves [batch, candidates, ...] to [batch, picked, ...]; per source, so that a sharded batch stays sharded."""
    pick = jax.vmap(lambda leaf, index: leaf.at[index].get(mode="promise_in_bounds"))
    return jax.tree.map(lambda leaf: pick(leaf, indices), tree)


def _reorder(per_hypothesis: PyTree, parents: Int[Array, "batch beam"]) -> PyTree:
    """Leaves [batch * beam, ...], each hypothesis replaced by its parent among those of its source."""
    by_source = jax.tree.map(lambda leaf: leaf.reshape(*parents.shape, *leaf.shape[1:]), per_hypothesis)
    return jax.tree.map(lambda leaf, picked: picked.reshape(leaf.shape), per_hypothesis, _pick(by_source, parents))
