"""Segments of packed rows: masks, boundaries, and reductions to one vector per segment."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import PADDING_SEGMENT, Batch


def segment_mask(
    query_segments: Int[Array, "batch target"], key_segments: Int[Array, "batch source"]
) -> Bool[Array, "batch target source"]:
    """True where query and key belong to the same segment."""
    return query_segments[:, :, None] == key_segments[:, None, :]


@flax.struct.dataclass
class Segments:
    """Segment ids of queries and keys, from which the attention mask follows.

    Attributes:
        queries: segment ids of the queries.
        keys: segment ids of the keys.
        max_segments: see `Sequence.max_segments`.
        causal: whether a query attends only to keys at or before its own position in the row.
        window: a query attends to keys at a distance below it (tokens); None = at any distance.
    """

    queries: Int[Array, "batch target"]
    keys: Int[Array, "batch source"]
    max_segments: int | None = flax.struct.field(pytree_node=False)
    causal: bool = flax.struct.field(pytree_node=False)
    window: Int[Array, ""] | None = None

    def mask(self, *, places: Int[Array, "target"] | None = None) -> Bool[Array, "batch target source"]:
        """True where the query attends to the key.

        Args:
            places: indices of the queries in the row; None = 0, 1, 2, ...
        """
        mask = segment_mask(self.queries, self.keys)
        if places is None:
            places = jnp.arange(self.queries.shape[1])
        # The tokens of a segment follow each other, so that places are as far apart as positions.
        keys = jnp.arange(self.keys.shape[1])
        if self.causal:
            mask = mask & (keys <= places[:, None])
        return mask if self.window is None else mask & (jnp.abs(keys - places[:, None]) < self.window)


def is_first(segment_ids: Int[Array, "batch length"]) -> Bool[Array, "batch length"]:
    """True at the first position of each segment (and of the padding)."""
    return segment_ids != _shifted(segment_ids, 1)


def is_last(segment_ids: Int[Array, "batch length"]) -> Bool[Array, "batch length"]:
    """True at the last position of each segment (and of the padding)."""
    return segment_ids != _shifted(segment_ids, -1)


def _shifted(segment_ids, offset):
    """The ids `offset` positions to the left; -1, which no segment has, outside of the row."""
    length = segment_ids.shape[1]
    padded = jnp.pad(segment_ids, ((0, 0), (max(offset, 0), max(-offset, 0))), constant_values=-1)
    return padded[:, :length] if offset > 0 else padded[:, -offset : length - offset]


def lengths_of_segments(segment_ids: Int[Array, "batch length"], *, segments: int) -> Int[Array, "batch segments"]:
    """Number of tokens of each segment; segment s at index s - 1.

    Args:
        segments: number of segments to count, from the first.
    """
    ids = jnp.arange(PADDING_SEGMENT + 1, PADDING_SEGMENT + 1 + segments)
    return jnp.sum(segment_ids[:, None, :] == ids[:, None], axis=-1)


def lengths_of_pairs(batch: Batch) -> tuple[Int[Array, "batch segments"], Int[Array, "batch segments"]]:
    """Number of source and of target tokens of each pair; 0 and 0 where there is no pair.

    Both sides of a pair have at least the EOS token, so a row has at most as many pairs as positions on its shorter
    side.
    """
    segments = min(batch.source.segment_ids.shape[1], batch.target.segment_ids.shape[1])
    source, target = (lengths_of_segments(side.segment_ids, segments=segments) for side in (batch.source, batch.target))
    is_pair = (source > 0) & (target > 0)
    return jnp.where(is_pair, source, 0), jnp.where(is_pair, target, 0)


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
    """The mean over each segment, at index s - 1; 0 where there is no segment."""
    everywhere = jnp.ones_like(segment_ids, bool)
    counts = sum_of_segments(jnp.ones((*segment_ids.shape, 1)), everywhere, segment_ids)
    total = sum_of_segments(values.astype(jnp.float32), everywhere, segment_ids)
    return (total / jnp.maximum(counts, 1.0)).astype(values.dtype)


def at_first_positions(
    summary: Float[Array, "batch segments dim"], segment_ids: Int[Array, "batch length"]
) -> Float[Array, "batch length dim"]:
    """The segment's vector at the first position of each segment; 0 everywhere else."""
    segments = jnp.arange(PADDING_SEGMENT + 1, summary.shape[1] + 1)
    return _selection((segment_ids[:, :, None] == segments) & is_first(segment_ids)[:, :, None], summary)


def _selection(chosen, values):
    """A gather as a product with zeros and ones: faster on every backend, as the gradient of a gather is a scatter."""
    return jnp.einsum("bij,bjd->bid", chosen.astype(values.dtype), values, precision=jax.lax.Precision.HIGHEST).astype(
        values.dtype
    )
