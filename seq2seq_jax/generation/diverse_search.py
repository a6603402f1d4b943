"""Diverse beam search: groups of hypotheses, each of which avoids the tokens that the groups before it have chosen."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import DecodeState
from seq2seq_jax.generation.compaction import extend_until_done
from seq2seq_jax.generation.context import GenerationContext, GenerationResult
from seq2seq_jax.generation.search import Hypotheses, Shared, extended, pick, reordered, step, top_k


@flax.struct.dataclass
class GroupsState:
    """The loop's carry.

    Attributes:
        position: length of every live hypothesis.
        groups: the beam of each group; what has finished in one is no business of the others.
        decoder: the decoder's state, hypotheses of a source group after group.
    """

    position: Int[Array, ""]
    groups: tuple[Hypotheses, ...]
    decoder: DecodeState


def diverse_beam_search(
    context: GenerationContext,
    *,
    beam_size: int,
    groups: int,
    diversity: float,
    n_best: int,
    length_penalty: float,
    max_compactions: int = 0,
) -> GenerationResult:
    """Beam search in groups, one after the other in every step: when a group chooses its continuations, `diversity` is
    taken from the log-probability of a token for every live hypothesis of an earlier group that has just chosen it.

    The penalty is that of the current token alone; hypotheses keep the model's log-probabilities, by which they finish
    and are ranked. One group is `beam_search`; with diversity 0 all groups are the same beam.

    Args:
        context: see `beam_search`.
        beam_size: number of live hypotheses for each source, in all groups together.
        groups: number of groups, which divides beam_size.
        diversity: strength λ >= 0 of the Hamming penalty.
        n_best: number of hypotheses returned for each source: the best of every group, best first, then the second of
            every group, and so on.
        length_penalty: see `beam_search`.
        max_compactions: see `extend_until_done`.

    Source: Vijayakumar et al. 2016, arXiv:1610.02424, equation 3 and section 3.1.
    """
    vocabulary, max_length = context.vocabulary, context.max_length
    state, batch_size = context.start(beam_size), context.limits.shape[0]
    size, best_of_group = beam_size // groups, -(-n_best // groups)

    def is_live(beams: GroupsState) -> Bool[Array, "batch"]:
        live = [jnp.any(group.live_log_probabilities > -jnp.inf, axis=1) for group in beams.groups]
        return jnp.any(jnp.stack(live), axis=0)

    def extend(beams: GroupsState, shared: Shared) -> GroupsState:
        per_source, limits, processor = shared
        last_tokens = jnp.concatenate([group.last_tokens for group in beams.groups], axis=1)
        logits, attention, after = step(context, last_tokens, beams.decoder.replace(per_source=per_source))
        penalties: Float[Array, "batch vocab"] | None = None
        extended_groups, all_parents = [], []
        for index, group in enumerate(beams.groups):
            of_group = slice(index * size, (index + 1) * size)
            hypotheses, parents = extended(
                logits[:, of_group],
                group,
                position=beams.position,
                limits=limits,
                vocabulary=vocabulary,
                length_penalty=length_penalty,
                token_penalties=penalties,
                processor=processor,
                attention=None if attention is None else attention[:, of_group],
            )
            extended_groups.append(hypotheses)
            all_parents.append(index * size + parents)
            if diversity:
                taken = _taken(hypotheses, logits.shape[-1])
                penalties = diversity * taken if penalties is None else penalties + diversity * taken
        parents = jnp.concatenate(all_parents, axis=1)
        return GroupsState(
            position=beams.position + 1,
            groups=tuple(extended_groups),
            decoder=after.replace(per_source=None, per_hypothesis=reordered(after.per_hypothesis, parents)),
        )

    beams = GroupsState(
        position=jnp.zeros((), dtype=jnp.int32),
        groups=(Hypotheses.none_yet(batch_size, size, best_of_group, max_length, vocabulary, context.processor),)
        * groups,
        decoder=state.replace(per_source=None),
    )
    return extend_until_done(
        extend,
        beams,
        (state.per_source, jnp.clip(context.limits, 1, max_length), context.processor),
        is_live=is_live,
        result=lambda beams: _in_turns([group.finished for group in beams.groups], n_best),
        max_compactions=max_compactions,
    )


def _taken(hypotheses: Hypotheses, vocab_size: int) -> Float[Array, "batch vocab"]:
    """How many live hypotheses have just chosen each token."""
    live = hypotheses.live_log_probabilities > -jnp.inf
    tokens = jax.nn.one_hot(hypotheses.last_tokens, vocab_size, dtype=jnp.float32)
    return jnp.sum(tokens * live[:, :, None], axis=1)


def _in_turns(finished: list[GenerationResult], number: int) -> GenerationResult:
    """The best of every group, best first, then the second best of every group, ...; those that are missing last."""
    by_rank = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=2), *finished)
    ranks, groups = by_rank.scores.shape[1:]
    ordered = [
        pick(of_rank, top_k(of_rank.scores, groups)[1])
        for of_rank in (jax.tree.map(lambda leaf, rank=rank: leaf[:, rank], by_rank) for rank in range(ranks))
    ]
    pool = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *ordered)
    places = jnp.where(pool.lengths > 0, 0, 1) * (ranks * groups) + jnp.arange(ranks * groups)
    return pick(pool, top_k(-places.astype(jnp.float32), number)[1])
