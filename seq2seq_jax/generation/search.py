"""Beam search: one while-loop of fixed shapes over a decoder's one-token step, until all sources are finished."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from seq2seq_jax.batch import DecodeState
from seq2seq_jax.generation.compaction import extend_until_done
from seq2seq_jax.generation.context import GenerationContext, GenerationResult
from seq2seq_jax.parallel.mesh import on_each_shard

BLOCK = 64
"""Token ids per block in the search for the most probable continuations."""


@flax.struct.dataclass
class BeamState:
    """The loop's carry. Live and finished hypotheses are separate: a live one never replaces a finished one.

    Attributes:
        position: length of every live hypothesis, and so the index of the next token.
        last_tokens: the decoder's next inputs.
        live_tokens: token ids so far, then padding.
        live_log_probabilities: of the live hypotheses, descending; -inf where there is none. A source without a live
            hypothesis is finished.
        decoder: the decoder's state.
        finished: the best finished hypotheses so far.
    """

    position: Int[Array, ""]
    last_tokens: Int[Array, "batch beam"]
    live_tokens: Int[Array, "batch beam max_length"]
    live_log_probabilities: Float[Array, "batch beam"]
    decoder: DecodeState
    finished: GenerationResult


def beam_search(
    context: GenerationContext, *, beam_size: int, n_best: int, length_penalty: float, max_compactions: int = 0
) -> GenerationResult:
    """Beam search: approximately the most probable continuations of the BOS token for every source.

    Each step extends the live hypotheses by every token and keeps the 2 * beam_size best candidates: those that end
    compete with the finished hypotheses by score, and the best beam_size others stay live. A source is finished when no
    live hypothesis can reach a score above the worst of its n_best finished ones; its result then does not change, and
    does not depend on the rest of the batch. With beam_size 1 there is one candidate, so that the search is greedy
    decoding: the most probable token in every step, until that is the EOS token.

    At the last position that a source's limit allows, only the EOS token is allowed, so every returned hypothesis has
    ended. The BOS and pad tokens are never generated; probabilities are not renormalised for it, so that
    log_probabilities are those of teacher forcing. Ties are broken in favour of the better hypothesis, then of the
    lower token id.

    Pure, and compatible with `jax.jit`; sources do not interact, so a sharded batch stays sharded with its mesh in use
    (`jax.set_mesh`).

    Args:
        context: its limits are clipped to 1..max_length.
        beam_size: number of live hypotheses for each source.
        n_best: number of finished hypotheses kept for each, at most beam_size; with fewer, sources finish earlier.
        length_penalty: exponent alpha >= 0 of the length normalisation.
        max_compactions: see `extend_until_done`.

    Returns:
        Finished hypotheses, at most n_best for each source, best first.

    Raises:
        ValueError: the EOS token is the BOS or pad token, or length_penalty is negative.

    Source: Wu et al. 2016, arXiv:1609.08144, equation 14 (length penalty, without its coverage term). The
    arrangement follows `beam_search` of tensor2tensor and of t5x (decoding.py).
    """
    vocabulary, max_length = context.vocabulary, context.max_length
    bos_id, eos_id, pad_id = vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id
    if eos_id in (bos_id, pad_id):
        raise ValueError(
            f"eos_id must differ from bos_id and pad_id, got eos_id {eos_id}, bos_id {bos_id} and "
            f"pad_id {pad_id}: give the EOS token its own id"
        )
    if length_penalty < 0:
        raise ValueError(f"length_penalty must not be negative, got {length_penalty}: set it to 0 or more")

    state, batch_size = context.start(beam_size), context.limits.shape[0]
    # Twice the beam size suffices, as only one extension of each hypothesis ends.
    num_candidates = 2 * beam_size if beam_size > 1 else 1

    def penalty(length: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        return ((5.0 + length.astype(jnp.float32)) / 6.0) ** length_penalty

    def is_live(beams: BeamState) -> Bool[Array, "batch"]:
        return jnp.any(beams.live_log_probabilities > -jnp.inf, axis=1)

    def extend(beams: BeamState, shared: tuple[PyTree, Int[Array, "batch"]]) -> BeamState:
        # Taken from outside of the loop, so that the step can neither copy nor change it.
        per_source, limits = shared
        logits, after = context.step(beams.last_tokens.reshape(-1), beams.decoder.replace(per_source=per_source))
        vocab_size = logits.shape[-1]
        logits = logits.astype(jnp.float32).reshape(-1, beam_size, vocab_size)
        length = beams.position + 1
        ids = jnp.arange(vocab_size)
        allowed = jnp.where((length >= limits)[:, None], ids == eos_id, (ids != bos_id) & (ids != pad_id))
        totals, candidates = _most_probable(logits, allowed, beams.live_log_probabilities, num_candidates)
        parents, last_tokens = candidates // vocab_size, candidates % vocab_size
        tokens = jax.lax.dynamic_update_index_in_dim(
            _pick(beams.live_tokens, parents), last_tokens, beams.position, axis=2
        )
        ended = last_tokens == eos_id

        # Finished ones come first, so that they win ties against newcomers, and empty entries stay empty.
        ended_totals = jnp.where(ended, totals, -jnp.inf)
        newcomers = GenerationResult(
            tokens=tokens,
            scores=ended_totals / penalty(length),
            log_probabilities=ended_totals,
            lengths=jnp.full_like(last_tokens, length),
        )
        pool = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), beams.finished, newcomers)
        finished = _pick(pool, _top_k(pool.scores, n_best)[1])

        live_log_probabilities, survivors = _top_k(jnp.where(ended, -jnp.inf, totals), beam_size)
        # Log-probabilities only decrease and the penalty only grows: at best, all further tokens have probability 1.
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

    no_tokens = jnp.full((batch_size, beam_size, max_length), pad_id, dtype=jnp.int32)
    nothing = jnp.full((batch_size, beam_size), -jnp.inf, dtype=jnp.float32)
    beams = BeamState(
        position=jnp.zeros((), dtype=jnp.int32),
        last_tokens=jnp.full((batch_size, beam_size), bos_id, dtype=jnp.int32),
        live_tokens=no_tokens,
        # One live hypothesis at first, or the first step would find every candidate beam_size times.
        live_log_probabilities=nothing.at[:, 0].set(0.0),
        decoder=state.replace(per_source=None),
        finished=GenerationResult(
            tokens=no_tokens[:, :n_best],
            scores=nothing[:, :n_best],
            log_probabilities=nothing[:, :n_best],
            lengths=jnp.zeros((batch_size, n_best), dtype=jnp.int32),
        ),
    )
    return extend_until_done(
        extend,
        beams,
        (state.per_source, jnp.clip(context.limits, 1, max_length)),
        is_live=is_live,
        result=lambda beams: beams.finished,
        max_compactions=max_compactions,
    )


def _most_probable(
    logits: Float[Array, "batch beam vocab"],
    allowed: Bool[Array, "batch vocab"],
    live_log_probabilities: Float[Array, "batch beam"],
    k: int,
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """Log-probabilities of the k most probable continuations, descending, and their indices in [beam * vocab].

    A block of ids that holds one of the k has one of the k highest maxima, so that only k blocks are searched, and only
    their logits are normalised. Ties are in the order of their indices, as in `_top_k`.
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
        # Sorted by index, so that ties among candidates keep the order of their indices.
        found = jnp.sort(jax.lax.top_k(maxima, min(k, maxima.shape[1]))[1], axis=1)
        parents, block = found // num_blocks, found % num_blocks
        pick = jax.vmap(lambda blocks, parents, block: blocks.at[parents, block].get(mode="promise_in_bounds"))
        candidates = totals(pick(blocks, parents, block), parents)
        values, found = jax.lax.top_k(candidates.reshape(batch, -1), k)
        # The padding of the last block has probability 0, but its ids must not be those of the next hypothesis.
        ids = jnp.minimum((block * BLOCK)[:, :, None] + jnp.arange(BLOCK), vocab - 1)
        indices = (parents * vocab)[:, :, None] + ids
        return values, jnp.take_along_axis(indices.reshape(batch, -1), found, axis=1)

    return on_each_shard(of_rows, logits, allowed, live_log_probabilities)


def _top_k(values: Float[Array, "batch candidates"], k: int) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """The k largest values of each source, descending, and their indices; of ties the lower index is first.

    Each device handles its own rows: XLA would gather the logits of the whole batch on every device.
    """
    return on_each_shard(lambda rows: tuple(jax.lax.top_k(rows, k)), values)


def _pick(tree: PyTree, indices: Int[Array, "batch picked"]) -> PyTree:
    """Leaves [batch, candidates, ...] to [batch, picked, ...]; per source, so that a sharded batch stays sharded."""
    pick = jax.vmap(lambda leaf, index: leaf.at[index].get(mode="promise_in_bounds"))
    return jax.tree.map(lambda leaf: pick(leaf, indices), tree)


def _reorder(per_hypothesis: PyTree, parents: Int[Array, "batch beam"]) -> PyTree:
    """Leaves [batch * beam, ...], each hypothesis replaced by its parent."""
    by_source = jax.tree.map(lambda leaf: leaf.reshape(*parents.shape, *leaf.shape[1:]), per_hypothesis)
    return jax.tree.map(lambda leaf, picked: picked.reshape(leaf.shape), per_hypothesis, _pick(by_source, parents))
