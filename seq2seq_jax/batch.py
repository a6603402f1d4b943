"""The arrays that all modules exchange: rows of tokens or frames, batches, and the special token ids.

One format serves every architecture, with and without packing. A row holds one or more examples, each a *segment*;
equal segment ids on the source and the target side of a row form a pair. Padding has segment id 0.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, PyTree

PADDING_SEGMENT = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Sizes and special token ids of the tokenizer that a model is built for.

    Attributes:
        source_size: number of source token ids.
        target_size: number of target token ids.
        joint: whether both sides share one set of ids (and may share one embedding table).
        pad_id: the pad token, at positions of segment 0.
        bos_id: the BOS token, the first input of every decoder and never a label, unless it is the EOS token or among
            first_ids, too.
        eos_id: the EOS token, the last token of every source and target example.
        sentinel_ids: tokens that stand for the spans removed from a text, in order; empty = none.
        never_ids: further tokens that are never generated.
        first_ids: tokens that every target begins with, such as a language; empty = none.
        source_eos_id: the last token of every source; None = eos_id.
    """

    source_size: int
    target_size: int
    joint: bool
    pad_id: int
    bos_id: int
    eos_id: int
    sentinel_ids: tuple[int, ...] = ()
    never_ids: tuple[int, ...] = ()
    first_ids: tuple[int, ...] = ()
    source_eos_id: int | None = None

    def end_id(self, side: str) -> int:
        """The last token of every example of a side, source or target."""
        return self.eos_id if side == "target" or self.source_eos_id is None else self.source_eos_id

    @property
    def suppressed_ids(self) -> tuple[int, ...]:
        """All tokens that are never generated, in order: pad, the BOS token unless texts begin or end with it, and
        others.
        """
        return tuple(sorted({self.pad_id, self.bos_id, *self.never_ids} - {self.eos_id, *self.first_ids}))

    def is_suppressed(self, ids: Int[Array, "*dims"]) -> Bool[Array, "*dims"]:
        """Whether tokens are never generated."""
        return jnp.isin(ids, jnp.asarray(self.suppressed_ids, jnp.int32))

    def start_ids(self, experts: Int[Array, "*dims"]) -> Int[Array, "*dims"]:
        """The first decoder input of experts, by their numbers: of expert 0 the BOS token, of the others ids that come
        after those of all tokens, and that no label has.
        """
        return jnp.where(experts == 0, self.bos_id, self.target_size - 1 + experts)


@flax.struct.dataclass
class TokenRows:
    """Rows of token ids.

    Attributes:
        tokens: token ids; the pad token where segment_ids is 0.
        segment_ids: 0 = padding, 1.. = which example of the row.
        positions: index of the token within its example, from 0.
        max_segments: upper bound on the segments of a row, static under `jax.jit`; None = unknown. If it is 1, all
            tokens of a row are at its beginning.
    """

    tokens: Int[Array | np.ndarray, "batch length"]
    segment_ids: Int[Array | np.ndarray, "batch length"]
    positions: Int[Array | np.ndarray, "batch length"]
    max_segments: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def mask(self) -> Bool[Array | np.ndarray, "batch length"]:
        """True at tokens, False at padding."""
        return self.segment_ids != PADDING_SEGMENT


@flax.struct.dataclass
class FrameRows:
    """Rows of vectors over time, such as samples or features of speech. A position of a row holds `stride` of them.

    A model makes one state of a position, so lengths of sources, of memories and of rows have one unit. Every segment
    begins at a position: what reads `stride` vectors at a time never reads those of two segments.

    Attributes:
        values: the vectors; 0 where there is none.
        counts: vectors of each position: the stride, or fewer at the last position of a segment; 0 = padding.
        segment_ids: of positions; 0 = padding, 1.. = which example of the row.
        positions: index of the position within its example, from 0.
        max_segments: see `TokenRows`.
    """

    values: Num[Array | np.ndarray, "batch length stride features"]
    counts: Int[Array | np.ndarray, "batch length"]
    segment_ids: Int[Array | np.ndarray, "batch length"]
    positions: Int[Array | np.ndarray, "batch length"]
    max_segments: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def mask(self) -> Bool[Array | np.ndarray, "batch length"]:
        """True where an example is, False at padding."""
        return self.segment_ids != PADDING_SEGMENT

    def ids_of_parts(self, parts: int) -> Int[Array, "batch length_parts"]:
        """Segment ids of equal parts of positions, [batch, length * parts]; 0 where a part has no vector.

        Args:
            parts: of each position; divides the stride.
        """
        begins = jnp.arange(parts) * (self.values.shape[2] // parts)
        ids = jnp.where(self.counts[..., None] > begins, self.segment_ids[..., None], PADDING_SEGMENT)
        return ids.reshape(ids.shape[0], -1)


SourceRows = TokenRows | FrameRows
"""What an encoder reads."""


@flax.struct.dataclass
class Batch:
    """Pairs: segment s of row r in `source` belongs to segment s of row r in `target`.

    `target.tokens` are the labels, which end in the EOS token; `shift_right` makes the decoder's inputs of them.
    """

    source: TokenRows | FrameRows
    target: TokenRows


def one_token_batch() -> Batch:
    """One row with one token per side: enough to initialise a model, whose parameters do not depend on a batch's
    shape.
    """
    row = jnp.zeros((1, 1), jnp.int32)
    sequence = TokenRows(tokens=row, segment_ids=row, positions=row)
    return Batch(source=sequence, target=sequence)


def one_position_batch(*, stride: int, num_features: int, kind: str) -> Batch:
    """Like `one_token_batch`, with frames as the source.

    Args:
        stride: vectors of a position.
        num_features: values of a vector.
        kind: their type.
    """
    row = jnp.zeros((1, 1), jnp.int32)
    values = jnp.zeros((1, 1, stride, num_features), kind)
    return one_token_batch().replace(source=FrameRows(values=values, counts=row, segment_ids=row, positions=row))


def shift_right(target: TokenRows, first: int | Int[Array, "#batch #length"]) -> TokenRows:
    """The decoder's inputs for teacher forcing: every token moved one position to the right within its segment.

    Args:
        target: labels.
        first: the input at position 0 of each segment: the BOS token, or the start token of an expert.

    Returns:
        The same segments and positions; each token is the previous label, or `first`.
    """
    previous = jnp.roll(target.tokens, 1, axis=1)
    return target.replace(tokens=jnp.where(target.positions == 0, first, previous))


@flax.struct.dataclass
class Memory:
    """The encoder's output, which the decoder reads.

    Attributes:
        states: one vector per source token, or position of frames, which attention compares queries with.
        values: one vector for each of them, of which attention returns the weighted sum; for most encoders the states.
        summary: one vector per segment, that of segment s at index s - 1; a decoder without attention reads nothing
            else.
        segment_ids: their segment ids.
        tokens: ids of the source tokens, for a model that copies them; None = it does not.
        preceding: for a model that copies them in order, the embedding of the token before each in its segment, and 0
            for the first.
    """

    states: Float[Array, "batch source memory"]
    values: Float[Array, "batch source memory"]
    summary: Float[Array, "batch segments summary"]
    segment_ids: Int[Array, "batch source"]
    tokens: Int[Array, "batch source"] | None = None
    preceding: Float[Array, "batch source model"] | None = None


@flax.struct.dataclass
class DecodeState:
    """The state of incremental decoding, made by `start` and updated by `step`.

    Hypothesis h of source b has index b * beam + h, so that a sharded batch stays sharded.

    Attributes:
        per_source: leaves [batch, ...] that all hypotheses of a source share, such as the keys and values of
            cross-attention. A search neither reorders them nor copies them per hypothesis, and no step changes them.
        per_hypothesis: leaves [batch * beam, ...], such as a hidden state. A search reorders them when it selects
            hypotheses.
        history: leaves [batch, ...] that every step appends to, such as a KV cache, with one entry per hypothesis and
            position. A search never reorders them: per_hypothesis holds the indices of the entries that the ancestors
            of a hypothesis wrote.
    """

    per_source: PyTree
    per_hypothesis: PyTree
    history: PyTree = ()
