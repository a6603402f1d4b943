"""Beam search: one while-loop of fixed shapes over a decoder's one-token step, until all sources are finished."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from seq2seq_jax.batch import DecodeState, Vocabulary
from seq2seq_jax.generation.compaction import extend_until_done
from seq2seq_jax.generation.context import GenerationContext, GenerationResult
from seq2seq_jax.generation.phrases import PAD, Phrases, allocated
from seq2seq_jax.generation.processor import Processor
from seq2seq_jax.parallel.mesh import on_each_shard

BLOCK = 64
"""Token ids per block in the search for the most probable continuations."""


@flax.struct.dataclass
class Hypotheses:
    """A beam. Live and finished hypotheses are separate: a live one never replaces a finished one.

    Attributes:
        last_tokens: the decoder's next inputs.
        live_tokens: token ids so far, then padding.
        live_log_probabilities: of the live hypotheses; -inf where there is none. A source without a live hypothesis is
            finished.
        finished: the best finished hypotheses so far.
        live_scores: what live hypotheses are ranked by, after the repetition penalty; None = their log-probabilities.
        attended: attention weights summed over the tokens so far, for a coverage penalty; None = there is none.
        progress: how much each has of the phrases that it must contain, see `Phrases`; None = there are none.
    """

    last_tokens: Int[Array, "batch beam"]
    live_tokens: Int[Array, "batch beam max_length"]
    live_log_probabilities: Float[Array, "batch beam"]
    finished: GenerationResult
    live_scores: Float[Array, "batch beam"] | None = None
    attended: Float[Array, "batch beam source"] | None = None
    progress: Int[Array, "batch beam phrases"] | None = None

    @classmethod
    def none_yet(
        cls,
        batch_size: int,
        beam_size: int,
        n_best: int,
        max_length: int,
        vocabulary: Vocabulary,
        processor: Processor | None = None,
    ) -> "Hypotheses":
        """Before the first token."""
        no_tokens = jnp.full((batch_size, beam_size, max_length), vocabulary.pad_id, dtype=jnp.int32)
        nothing = jnp.full((batch_size, beam_size), -jnp.inf, dtype=jnp.float32)
        controls = {}
        if processor is not None and processor.penalises:
            controls["live_scores"] = nothing.at[:, 0].set(0.0)
        if processor is not None and processor.source_mask is not None:
            controls["attended"] = jnp.zeros((batch_size, beam_size, processor.source_mask.shape[1]), jnp.float32)
        if processor is not None and processor.phrases is not None:
            controls["progress"] = processor.phrases.nothing_yet(beam_size)
        return cls(
            last_tokens=jnp.full((batch_size, beam_size), vocabulary.bos_id, dtype=jnp.int32),
            live_tokens=no_tokens,
            # One live hypothesis at first, or the first step would find every candidate beam_size times.
            live_log_probabilities=nothing.at[:, 0].set(0.0),
            finished=GenerationResult(
                tokens=no_tokens[:, :n_best],
                scores=nothing[:, :n_best],
                log_probabilities=nothing[:, :n_best],
                lengths=jnp.zeros((batch_size, n_best), dtype=jnp.int32),
            ),
            **controls,
        )


@flax.struct.dataclass
class BeamState:
    """The loop's carry.

    Attributes:
        position: length of every live hypothesis, and so the index of the next token.
        hypotheses: of every source.
        decoder: the decoder's state.
    """

    position: Int[Array, ""]
    hypotheses: Hypotheses
    decoder: DecodeState


def beam_search(
    context: GenerationContext,
    *,
    beam_size: int,
    n_best: int,
    length_penalty: float,
    sibling_penalty: float = 0.0,
    max_compactions: int = 0,
) -> GenerationResult:
    """Beam search: approximately the most probable continuations of the BOS token for every source.

    Each step extends the live hypotheses by every token and keeps the 2 * beam_size best candidates: those that end
    compete with the finished hypotheses by score, and the best beam_size others stay live. A source is finished when no
    live hypothesis can reach a score above the worst of its n_best finished ones; its result then does not change, and
    does not depend on the rest of the batch. With beam_size 1 there is one candidate, so that the search is greedy
    decoding: the most probable token in every step, until that is the EOS token.

    At the last position that a source's limit allows, only the EOS token is allowed, so every returned hypothesis has
    ended. Suppressed tokens (BOS, pad) are never generated, nor what the context's controls rule out; probabilities are
    not renormalised for it, so that log_probabilities are those of teacher forcing. Ties are broken in favour of the
    better hypothesis, then of the lower token id.

    Pure, and compatible with `jax.jit`; sources do not interact, so a sharded batch stays sharded with its mesh in use
    (`jax.set_mesh`).

    Args:
        context: its limits are clipped to 1..max_length.
        beam_size: number of live hypotheses for each source.
        n_best: number of finished hypotheses kept for each, at most beam_size; with fewer, sources finish earlier.
        length_penalty: exponent alpha >= 0 of the length normalisation.
        sibling_penalty: taken from a continuation, when continuations are chosen, for every more probable one of the
            same hypothesis (Li et al. 2016, arXiv:1611.08562); 0 = none.
        max_compactions: see `extend_until_done`.

    Returns:
        Finished hypotheses, at most n_best for each source, best first.

    Raises:
        ValueError: the EOS token is the pad token, or length_penalty is negative.

    Source: Wu et al. 2016, arXiv:1609.08144, equation 14 (length penalty, without its coverage term). The
    arrangement follows `beam_search` of tensor2tensor and of t5x (decoding.py).
    """
    vocabulary, max_length = context.vocabulary, context.max_length
    if vocabulary.eos_id == vocabulary.pad_id:
        raise ValueError(
            f"eos_id must differ from pad_id, and both are {vocabulary.eos_id}: give the EOS token its own id"
        )
    if length_penalty < 0:
        raise ValueError(f"length_penalty must not be negative, got {length_penalty}: set it to 0 or more")

    state, batch_size = context.start(beam_size), context.limits.shape[0]

    def is_live(beams: BeamState) -> Bool[Array, "batch"]:
        return jnp.any(beams.hypotheses.live_log_probabilities > -jnp.inf, axis=1)

    def extend(beams: BeamState, shared: Shared) -> BeamState:
        # Taken from outside of the loop, so that the step can neither copy nor change it.
        per_source, limits, processor = shared
        logits, attention, after = step(
            context, beams.hypotheses.last_tokens, beams.decoder.replace(per_source=per_source)
        )
        hypotheses, parents = extended(
            logits,
            beams.hypotheses,
            position=beams.position,
            limits=limits,
            vocabulary=vocabulary,
            length_penalty=length_penalty,
            sibling_penalty=sibling_penalty,
            processor=processor,
            attention=attention,
        )
        return BeamState(
            position=beams.position + 1,
            hypotheses=hypotheses,
            decoder=after.replace(per_source=None, per_hypothesis=reordered(after.per_hypothesis, parents)),
        )

    beams = BeamState(
        position=jnp.zeros((), dtype=jnp.int32),
        hypotheses=Hypotheses.none_yet(batch_size, beam_size, n_best, max_length, vocabulary, context.processor),
        decoder=state.replace(per_source=None),
    )
    return extend_until_done(
        extend,
        beams,
        (state.per_source, jnp.clip(context.limits, 1, max_length), context.processor),
        is_live=is_live,
        result=lambda beams: beams.hypotheses.finished,
        max_compactions=max_compactions,
    )


Shared = tuple[PyTree, Int[Array, "batch"], Processor | None]
"""What no step of a search changes: the decoder's state per source, limits, and controls."""


def step(
    context: GenerationContext, last_tokens: Int[Array, "batch beam"], decoder: DecodeState
) -> tuple[Float[Array, "batch beam vocab"], Float[Array, "batch beam source"] | None, DecodeState]:
    """The next logits of all hypotheses, float32, their attention where a coverage penalty needs it, and the next
    state.
    """
    attention, inputs = None, last_tokens.reshape(-1)
    if context.attending_step is None:
        logits, after = context.step(inputs, decoder)
    else:
        logits, weights, after = context.attending_step(inputs, decoder)
        attention = weights.astype(jnp.float32).reshape(*last_tokens.shape, -1)
    return logits.astype(jnp.float32).reshape(*last_tokens.shape, logits.shape[-1]), attention, after


def extended(
    logits: Float[Array, "batch beam vocab"],
    hypotheses: Hypotheses,
    *,
    position: Int[Array, ""],
    limits: Int[Array, "batch"],
    vocabulary: Vocabulary,
    length_penalty: float,
    sibling_penalty: float = 0.0,
    token_penalties: Float[Array, "batch vocab"] | None = None,
    processor: Processor | None = None,
    attention: Float[Array, "batch beam source"] | None = None,
) -> tuple[Hypotheses, Int[Array, "batch beam"]]:
    """One step of a beam: the next hypotheses, and the index of the one that each live one continues.

    Args:
        logits: of the next token.
        hypotheses: so far.
        position: index of the next token.
        limits: of tokens, EOS token included.
        length_penalty: see `beam_search`.
        sibling_penalty: see `beam_search`.
        token_penalties: what is taken from the log-probability of a continuation by a token when continuations are
            chosen, and never from the log-probabilities of hypotheses; None = nothing.
        processor: controls of the texts; None = none.
        attention: weights with which the next token was predicted, for a coverage penalty; None = there is none.
    """
    beam_size, vocab_size = logits.shape[1:]
    # Twice the beam size suffices, as only one extension of each hypothesis ends.
    num_candidates = 2 * beam_size if beam_size > 1 else 1
    eos_id = vocabulary.eos_id

    def penalty(length: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
        return ((5.0 + length.astype(jnp.float32)) / 6.0) ** length_penalty

    length = position + 1
    ids = jnp.arange(vocab_size)
    allowed = ~vocabulary.is_suppressed(ids)[None, None]
    scored = logits
    if processor is not None:
        scored, of_controls = processor(
            logits, hypotheses.live_tokens, position, limits=limits, progress=hypotheses.progress
        )
        allowed = allowed if of_controls is None else allowed & of_controls
    allowed = jnp.where((length >= limits)[:, None, None], ids == eos_id, allowed)
    options = Options(logits, scored, allowed, hypotheses.live_log_probabilities, hypotheses.live_scores)
    found = _candidates(options, num_candidates, sibling_penalty=sibling_penalty, token_penalties=token_penalties)
    if hypotheses.progress is not None:
        found = _with_phrases(found, options, processor.phrases, hypotheses.progress, vocabulary)
    scores, totals = found.scores, found.log_probabilities
    parents, last_tokens = found.indices // vocab_size, found.indices % vocab_size
    tokens = jax.lax.dynamic_update_index_in_dim(pick(hypotheses.live_tokens, parents), last_tokens, position, axis=2)
    ended = last_tokens == eos_id

    # Finished ones come first, so that they win ties against newcomers, and empty entries stay empty.
    final_scores = jnp.where(ended, scores, -jnp.inf) / penalty(length)
    attended = None
    if attention is not None:
        attended = pick(hypotheses.attended + attention, parents)
        final_scores = final_scores + processor.coverage(attended)
    newcomers = GenerationResult(
        tokens=tokens,
        scores=final_scores,
        log_probabilities=jnp.where(ended, totals, -jnp.inf),
        lengths=jnp.full_like(last_tokens, length),
    )
    pool = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), hypotheses.finished, newcomers)
    finished = pick(pool, top_k(pool.scores, hypotheses.finished.scores.shape[1])[1])

    going_on, progress = jnp.where(ended, -jnp.inf, found.ranked), None
    if hypotheses.progress is None:
        of_live, survivors = top_k(going_on, beam_size)
    else:
        progress = processor.phrases.advanced(pick(hypotheses.progress, parents), last_tokens)
        survivors = allocated(going_on, processor.phrases.needed(progress), beam_size)
        progress = pick(progress, survivors)
    is_sorted = hypotheses.progress is None and scores is found.ranked
    if not is_sorted:
        of_live = pick(jnp.where(ended, -jnp.inf, scores), survivors)
    # Log-probabilities only decrease and the penalty only grows: at best, all further tokens have probability 1.
    highest = of_live[:, 0] if is_sorted else jnp.max(of_live, axis=1)
    done = (finished.scores[:, -1] >= highest / penalty(limits))[:, None]
    live_scores = None
    if hypotheses.live_scores is not None:
        live_scores = jnp.where(done, -jnp.inf, of_live)
        of_live = pick(jnp.where(ended, -jnp.inf, totals), survivors)
    following = Hypotheses(
        last_tokens=pick(last_tokens, survivors),
        live_tokens=pick(tokens, survivors),
        live_log_probabilities=jnp.where(done, -jnp.inf, of_live),
        finished=finished,
        live_scores=live_scores,
        attended=None if attended is None else pick(attended, survivors),
        progress=progress,
    )
    return following, pick(parents, survivors)


class Options(NamedTuple):
    """All continuations of a beam's live hypotheses."""

    logits: Float[Array, "batch beam vocab"]
    """Of the model."""
    scored: Float[Array, "batch beam vocab"]
    """After the repetition penalty; without one the same."""
    allowed: Bool[Array, "batch #beam vocab"]
    live_log_probabilities: Float[Array, "batch beam"]
    live_scores: Float[Array, "batch beam"] | None

    @property
    def before(self) -> Float[Array, "batch beam"]:
        """What the hypotheses are ranked by."""
        return self.live_log_probabilities if self.live_scores is None else self.live_scores


class Candidates(NamedTuple):
    """Some continuations."""

    ranked: Float[Array, "batch k"]
    """By which they are chosen; without penalties for that alone the scores, as one array."""
    scores: Float[Array, "batch k"]
    """Sum of log-probabilities after the repetition penalty; without one the log-probabilities, as one array."""
    log_probabilities: Float[Array, "batch k"]
    indices: Int[Array, "batch k"]
    """In [beam * vocab]."""


def _candidates(
    options: Options,
    k: int,
    *,
    sibling_penalty: float,
    token_penalties: Float[Array, "batch vocab"] | None,
) -> Candidates:
    """The k best continuations by what they are ranked by, descending."""
    scored, allowed, before = options.scored, options.allowed, options.before
    if not sibling_penalty and token_penalties is None:
        ranked, indices = _most_probable(scored, allowed, before, k)
        scores = ranked
    else:
        vocab = scored.shape[-1]
        totals = before[:, :, None] + jax.nn.log_softmax(scored, axis=-1)
        totals = jnp.where(allowed, totals, -jnp.inf)
        ranked = totals if token_penalties is None else totals - token_penalties[:, None]
        if sibling_penalty:
            # Of one parent no more than k can be chosen, and the penalty keeps their order.
            batch, beam, _ = ranked.shape
            of_parents, tokens = top_k(ranked.reshape(batch * beam, vocab), min(k, vocab))
            ranks = jnp.arange(of_parents.shape[1], dtype=jnp.float32)
            ranked = (of_parents - sibling_penalty * ranks).reshape(batch, -1)
            indices = (tokens.reshape(batch, beam, -1) + vocab * jnp.arange(beam)[:, None]).reshape(batch, -1)
        else:
            ranked = ranked.reshape(len(ranked), -1)
            indices = jnp.broadcast_to(jnp.arange(ranked.shape[1]), ranked.shape)
        ranked, places = top_k(ranked, k)
        indices = pick(indices, places)
        scores = pick(totals.reshape(len(totals), -1), indices)
    if options.live_scores is None:
        return Candidates(ranked, scores, scores, indices)
    return Candidates(ranked, scores, _totals_at(options.logits, options.live_log_probabilities, indices), indices)


def _with_phrases(
    found: Candidates,
    options: Options,
    phrases: Phrases,
    progress: Int[Array, "batch beam phrases"],
    vocabulary: Vocabulary,
) -> Candidates:
    """For sources with phrases also the continuations that add to a phrase, and the best one of every hypothesis.

    Source: Post and Vilar 2018, arXiv:1804.06609, section 4.1.
    """
    batch, beam, vocab = options.scored.shape
    masked = jnp.where(options.allowed, options.scored, -jnp.inf)
    # A tenth of the time that XLA takes for an argmax on a CPU.
    is_best = masked == jnp.max(masked, axis=-1, keepdims=True)
    best = jnp.min(jnp.where(is_best, jnp.arange(vocab), vocab - 1), axis=-1)
    best = jnp.where(phrases.any[:, None], best, PAD)
    tokens = jnp.concatenate([phrases.continuations(progress), best[:, :, None]], axis=-1)
    is_none = (tokens == PAD).reshape(batch, -1)
    indices = (jnp.maximum(tokens, 0) + vocab * jnp.arange(beam)[:, None]).reshape(batch, -1)
    # Each once.
    is_known = jnp.any(indices[:, :, None] == found.indices[:, None], axis=-1)
    same = (indices[:, :, None] == indices[:, None]) & ~is_none[:, None]
    is_known |= jnp.any(same & jnp.tril(jnp.ones(same.shape[1:], bool), -1), axis=-1)
    allowed = pick(jnp.broadcast_to(options.allowed, options.scored.shape).reshape(batch, -1), indices)
    ruled_out = is_none | is_known | ~allowed

    def added(logits, before):
        return jnp.where(ruled_out, -jnp.inf, _totals_at(logits, before, indices))

    scores = added(options.scored, options.before)
    totals = scores if options.live_scores is None else added(options.logits, options.live_log_probabilities)
    more = Candidates(scores, scores, totals, indices)
    return Candidates(*(jnp.concatenate(pair, axis=1) for pair in zip(found, more, strict=True)))


def _totals_at(
    logits: Float[Array, "batch beam vocab"], before: Float[Array, "batch beam"], indices: Int[Array, "batch k"]
) -> Float[Array, "batch k"]:
    """Log-probabilities of hypotheses with one more token, by indices in [beam * vocab]."""
    batch, _, vocab = logits.shape
    parents = indices // vocab
    sums = jax.nn.logsumexp(logits, axis=-1)
    return pick(before, parents) + (pick(logits.reshape(batch, -1), indices) - pick(sums, parents))


def _most_probable(
    logits: Float[Array, "batch beam vocab"],
    allowed: Bool[Array, "batch #beam vocab"],
    live_log_probabilities: Float[Array, "batch beam"],
    k: int,
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """Log-probabilities of the k most probable continuations, descending, and their indices in [beam * vocab].

    A block of ids that holds one of the k has one of the k highest maxima, so that only k blocks are searched, and only
    their logits are normalised. Ties are in the order of their indices, as in `top_k`.
    """

    def of_rows(logits, allowed, live):
        batch, beam, vocab = logits.shape
        highest = jnp.max(logits, axis=-1)
        log_sums = jnp.log(jnp.sum(jnp.exp(logits - highest[:, :, None]), axis=-1))
        masked = jnp.where(allowed, logits, -jnp.inf)
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


def top_k(values: Float[Array, "batch candidates"], k: int) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """The k largest values of each source, descending, and their indices; of ties the lower index is first.

    Each device handles its own rows: XLA would gather the logits of the whole batch on every device.
    """
    return on_each_shard(lambda rows: tuple(jax.lax.top_k(rows, k)), values)


def pick(tree: PyTree, indices: Int[Array, "batch picked"]) -> PyTree:
    """Leaves [batch, candidates, ...] to [batch, picked, ...]; per source, so that a sharded batch stays sharded."""
    pick = jax.vmap(lambda leaf, index: leaf.at[index].get(mode="promise_in_bounds"))
    return jax.tree.map(lambda leaf: pick(leaf, indices), tree)


def reordered(per_hypothesis: PyTree, parents: Int[Array, "batch beam"]) -> PyTree:
    """Leaves [batch * beam, ...], each hypothesis replaced by its parent."""
    by_source = jax.tree.map(lambda leaf: leaf.reshape(*parents.shape, *leaf.shape[1:]), per_hypothesis)
    return jax.tree.map(lambda leaf, picked: picked.reshape(leaf.shape), per_hypothesis, pick(by_source, parents))
