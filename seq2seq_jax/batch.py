"""The arrays that the whole house speaks in: sequences, batches, and the ids that mean something.

One format serves every architecture, packed or not. A row holds one or more examples, each a *segment*; the same
segment id on the source and the target side of a row is one pair. Padding has segment id 0.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

PADDING_SEGMENT = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Sizes and special ids of the tokenizer that a model was built for.

    Attributes:
        source_size: number of source token ids.
        target_size: number of target token ids.
        joint: whether both sides share one set of ids (and may share one embedding table).
        padding_id: fills positions of segment 0.
        start_id: first input of every decoder, never a label.
        end_id: last token of every source and target example.
        sentinel_ids: mark places that a text is left out of, the first the first place; empty = there are none.
    """

    source_size: int
    target_size: int
    joint: bool
    padding_id: int
    start_id: int
    end_id: int
    sentinel_ids: tuple[int, ...] = ()


@flax.struct.dataclass
class Sequence:
    """Rows of token ids.

    Attributes:
        tokens: token ids, the tokenizer's padding id where segment_ids is 0.
        segment_ids: 0 = padding, 1.. = which example of the row.
        positions: index of the token within its example, from 0.
        most_segments: no row has more; part of a program that is compiled for the sequence, not of its arrays. None =
            any number. Where it is 1, all tokens stand at the begin of their row.
    """

    tokens: Int[Array | np.ndarray, "batch length"]
    segment_ids: Int[Array | np.ndarray, "batch length"]
    positions: Int[Array | np.ndarray, "batch length"]
    most_segments: int | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def mask(self) -> Bool[Array | np.ndarray, "batch length"]:
        """True where there is a token."""
        return self.segment_ids != PADDING_SEGMENT


@flax.struct.dataclass
class Batch:
    """Pairs: segment s of row r in `source` belongs to segment s of row r in `target`.

    `target.tokens` are the labels, ending in the end id; the decoder's inputs are `shift_right` of them.
    """

    source: Sequence
    target: Sequence


def one_token_batch() -> Batch:
    """A row of one token a side: enough to initialise a model, whose parameters do not depend on a batch's shape."""
    row = jnp.zeros((1, 1), jnp.int32)
    sequence = Sequence(tokens=row, segment_ids=row, positions=row)
    return Batch(source=sequence, target=sequence)


def shift_right(target: Sequence, start_id: int) -> Sequence:
    """The decoder's teacher-forced inputs: every token moved one to the right within its own segment.

    Args:
        target: labels.
        start_id: the input at position 0 of each segment.

    Returns:
        A Sequence with the same segments and positions whose tokens are the previous label, or start_id.
    """
    previous = jnp.roll(target.tokens, 1, axis=1)
    return target.replace(tokens=jnp.where(target.positions == 0, start_id, previous))


@flax.struct.dataclass
class Memory:
    """What an encoder leaves for the decoder.

    Attributes:
        states: one vector a source token, which attention compares with.
        values: one vector a source token, which attention returns the weighted sum of; for most encoders the states.
        summary: one vector a segment, that of segment s at index s - 1: all that a decoder without attention sees.
        segment_ids: of the source tokens.
    """

    states: Float[Array, "batch source memory"]
    values: Float[Array, "batch source memory"]
    summary: Float[Array, "batch segments summary"]
    segment_ids: Int[Array, "batch source"]


@flax.struct.dataclass
class DecodeState:
    """What a decoder carries from one token to the next, between `start` and `step`.

    Hypothesis h of source b has index b * beam + h, so that a sharded batch stays sharded.

    Attributes:
        per_source: leaves [batch, ...] that all hypotheses of a source share, such as the keys and values of
            cross-attention; a search neither reorders them nor copies them per hypothesis, and no step changes them.
        per_hypothesis: leaves [batch * beam, ...], such as a hidden state, which a search reorders as hypotheses live
            and die.
        history: leaves [batch, ...] that every step adds to, such as a KV cache, each hypothesis in its own place
            among those of its source. A search never reorders them: where the ancestors of a hypothesis have left
            what it reads is written in per_hypothesis.
    """

    per_source: PyTree
    per_hypothesis: PyTree
    history: PyTree = ()
