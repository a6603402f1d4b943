"""Connectionist temporal classification over packed rows: likelihoods of targets, and greedy paths.

A path gives each position of a source a token or the blank. It stands for the text that is left when repeated tokens
count once and blanks are taken out. The likelihood of a text is the sum over its paths.

Source: Graves et al. 2006.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import PADDING_SEGMENT, TokenRows
from seq2seq_jax.modules.segments import is_first, is_last

IMPOSSIBLE = -1e30
"""Log-probability of what cannot be: finite, so that no gradient is undefined."""


def ctc_losses(
    log_probabilities: Float[Array, "batch source vocab"],
    segment_ids: Int[Array, "batch source"],
    target: TokenRows,
    *,
    blank: int,
) -> tuple[Float[Array, "batch target"], Bool[Array, "batch target"]]:
    """-log p (nats) of each target of packed rows, at its EOS token; 0 elsewhere, and where no path exists.

    All segments of a row go through one recursion over its source: before each position that begins a segment, it
    starts anew, in the states of that segment's target. A target of U tokens and its EOS token has the 2 U + 1 states
    of the paper: of each place of a target the blank before its token, and the token; the EOS token is none of a path,
    and the blank before it is the last state.

    Args:
        log_probabilities: of tokens, at each position of the source.
        segment_ids: of the source.
        target: labels, EOS tokens included.
        blank: id of the blank, which no label has.

    Returns:
        The losses, and whether a target has no path: its source has too few positions.

    Source: Graves et al. 2006, section 4.1.
    """
    ids, tokens = target.segment_ids, target.tokens
    is_end = is_last(ids) & (ids != PADDING_SEGMENT)
    is_start = is_first(ids) & (ids != PADDING_SEGMENT)
    # Scores of labels, by a product with ones and zeros: its gradient is one too, and no scatter.
    chosen = jax.nn.one_hot(tokens, log_probabilities.shape[-1], dtype=log_probabilities.dtype)
    of_labels = jnp.einsum("bsv,btv->sbt", log_probabilities, chosen, precision=jax.lax.Precision.HIGHEST)
    of_blank = log_probabilities[..., blank].T

    def shifted(array, by_default):
        return jnp.concatenate([jnp.full_like(array[:, :1], by_default), array[:, :-1]], axis=1)

    may_skip = ~is_start & (tokens != shifted(tokens, -1))

    def advance(carry, inputs):
        blanks, labels, losses = carry
        label_scores, blank_scores, begins, ends, segment = inputs
        previous = jnp.where(is_start, IMPOSSIBLE, shifted(labels, IMPOSSIBLE))
        after_blank = jnp.logaddexp(blanks, previous)
        after_label = jnp.logaddexp(jnp.logaddexp(labels, blanks), jnp.where(may_skip, previous, IMPOSSIBLE))
        start = jnp.where(is_start, 0.0, IMPOSSIBLE)
        inside = (ids == segment[:, None]) & (ids != PADDING_SEGMENT)
        blanks = jnp.where(begins[:, None], start, after_blank) + blank_scores[:, None]
        labels = jnp.where(begins[:, None], start, after_label) + label_scores
        blanks = jnp.where(inside, jnp.maximum(blanks, IMPOSSIBLE), IMPOSSIBLE)
        labels = jnp.where(inside & ~is_end, jnp.maximum(labels, IMPOSSIBLE), IMPOSSIBLE)
        final = jnp.logaddexp(blanks, jnp.where(is_start, IMPOSSIBLE, shifted(labels, IMPOSSIBLE)))
        losses = jnp.where(ends[:, None] & inside & is_end, -final, losses)
        return (blanks, labels, losses), None

    nowhere = jnp.full(tokens.shape, IMPOSSIBLE, log_probabilities.dtype)
    per_position = of_labels, of_blank, is_first(segment_ids).T, is_last(segment_ids).T, segment_ids.T
    # A target without a source has no path either.
    (_, _, losses), _ = jax.lax.scan(advance, (nowhere, nowhere, -nowhere), per_position)
    has_no_path = is_end & (losses > -IMPOSSIBLE / 2)
    return jnp.where(is_end & ~has_no_path, losses, 0.0), has_no_path


def greedy_tokens(
    scores: Float[Array, "batch source vocab"], segment_ids: Int[Array, "batch source"], *, blank: int
) -> tuple[Int[Array, "batch source"], Bool[Array, "batch source"]]:
    """The most probable token of each position, and which of them make up the text of the most probable path."""
    best = jnp.argmax(scores, axis=-1)
    previous = jnp.where(is_first(segment_ids), blank, jnp.roll(best, 1, axis=1))
    kept = (best != blank) & (best != previous) & (segment_ids != PADDING_SEGMENT)
    return best, kept


def greedy_edits(
    scores: Float[Array, "batch source vocab"],
    segment_ids: Int[Array, "batch source"],
    target: TokenRows,
    *,
    blank: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Edits (tokens) from the targets to the texts of greedy paths, and tokens of the targets, EOS tokens left out.

    The texts of all segments of a row are compared in one pass over the row's positions: between two segments the
    distances of the target's places start anew.
    """
    best, kept = greedy_tokens(scores, segment_ids, blank=blank)
    ids = target.segment_ids
    is_end = is_last(ids) & (ids != PADDING_SEGMENT)
    is_token = (ids != PADDING_SEGMENT) & ~is_end

    # distances[j]: from the tokens before place j of its target to the text so far. The EOS token's place is the last.
    def advance(carry, inputs):
        distances, total = carry
        token, is_kept, begins, ends, segment = inputs
        distances = jnp.where(begins[:, None], target.positions.astype(jnp.float32), distances)
        left = jnp.roll(distances, 1, axis=1)
        substituted = left + jnp.roll(target.tokens != token[:, None], 1, axis=1)
        best_of_two = jnp.where(target.positions == 0, distances + 1.0, jnp.minimum(distances + 1.0, substituted))
        # Deletions run along the target: min over k <= j of best[k] + (j - k), within each segment.
        index = jnp.arange(distances.shape[1], dtype=jnp.float32)
        offset = -jnp.float32(4.0 * (distances.shape[1] + scores.shape[1])) * ids
        lowest = jax.lax.cummin(best_of_two - index + offset, axis=1) + index - offset
        distances = jnp.where(is_kept[:, None] & (ids == segment[:, None]), lowest, distances)
        done = ends[:, None] & is_end & (ids == segment[:, None])
        return (distances, total + jnp.sum(jnp.where(done, distances, 0.0))), None

    start = jnp.zeros(ids.shape, jnp.float32), jnp.zeros(())
    per_position = best.T, kept.T, is_first(segment_ids).T, is_last(segment_ids).T, segment_ids.T
    (_, total), _ = jax.lax.scan(advance, start, per_position)
    return total, jnp.sum(is_token).astype(jnp.float32)
