"""What belongs to which example of a packed row: masks, borders, and one vector a segment."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import PADDING_SEGMENT


def segment_mask(
    query_segments: Int[Array, "batch target"], key_segments: Int[Array, "batch source"]
) -> Bool[Array, "batch target source"]:
    """True where query and key belong to one segment."""
    return query_segments[:, :, None] == key_segments[:, None, :]


def causal_mask(length: int) -> Bool[Array, "target target"]:
    """True where the key does not stand after the query in the row."""
    return jnp.tril(jnp.ones((length, length), bool))


def is_first(segment_ids: Int[Array, "batch length"]) -> Bool[Array, "batch length"]:
    """True at the first place of each segment (and of the padding)."""
    return segment_ids != _shifted(segment_ids, 1)


def is_last(segment_ids: Int[Array, "batch length"]) -> Bool[Array, "batch length"]:
    """True at the last place of each segment (and of the padding)."""
    return segment_ids != _shifted(segment_ids, -1)


def _shifted(segment_ids, offset):
    """What stands `offset` places to the left; outside of the row, a segment that does not exist."""
    length = segment_ids.shape[1]
    padded = jnp.pad(segment_ids, ((0, 0), (max(offset, 0), max(-offset, 0))), constant_values=-1)
    return padded[:, :length] if offset > 0 else padded[:, -offset : length - offset]


def sum_of_segments(
    values: Float[Array, "batch length dim"],
    chosen: Bool[Array, "batch length"],
    segment_ids: Int[Array, "batch length"],
) -> Float[Array, "batch segments dim"]:
    """The sum over the chosen places of each segment; segment s at index s - 1, as many as there are places."""
    segments = jnp.arange(PADDING_SEGMENT + 1, segment_ids.shape[1] + 1)
    of_segment = (segment_ids[:, None, :] == segments[:, None]) & chosen[:, None, :]
    return _selection(of_segment, values)


def mean_of_segments(
    values: Float[Array, "batch length dim"], segment_ids: Int[Array, "batch length"]
) -> Float[Array, "batch segments dim"]:
    """The mean of each segment, at index s - 1; 0 where there is no segment."""
    everywhere = jnp.ones_like(segment_ids, bool)
    counts = sum_of_segments(jnp.ones((*segment_ids.shape, 1)), everywhere, segment_ids)
    total = sum_of_segments(values.astype(jnp.float32), everywhere, segment_ids)
    return (total / jnp.maximum(counts, 1.0)).astype(values.dtype)


def at_first_places(
    summary: Float[Array, "batch segments dim"], segment_ids: Int[Array, "batch length"]
) -> Float[Array, "batch length dim"]:
    """The vector of its segment at the first place of each segment; 0 everywhere else."""
    segments = jnp.arange(PADDING_SEGMENT + 1, summary.shape[1] + 1)
    return _selection((segment_ids[:, :, None] == segments) & is_first(segment_ids)[:, :, None], summary)


def _selection(chosen, values):
    """A product with 0 and 1: on every backend faster than a gather, whose gradient is a scatter."""
    return jnp.einsum(
        "bij,bjd->bid", chosen.astype(values.dtype), values, precision=jax.lax.Precision.HIGHEST
    ).astype(values.dtype)
