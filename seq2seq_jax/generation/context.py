"""What methods of generation work from, and what they return."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import DecodeState, SourceRows, Vocabulary
from seq2seq_jax.data.source import LONGEST_ROW
from seq2seq_jax.generation.processor import Processor, masked
from seq2seq_jax.rewards.text import PieceTable

DecodeStep = Callable[
    [Int[Array, "hypotheses"], DecodeState],
    tuple[Float[Array, "hypotheses vocab"], DecodeState],
]
"""(last token of every hypothesis, state) -> (next logits, next state)."""

AttendingStep = Callable[
    [Int[Array, "hypotheses"], DecodeState],
    tuple[Float[Array, "hypotheses vocab"], Float[Array, "hypotheses source"], DecodeState],
]
"""The same with the mean of the attention weights over the source in between."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GenerationContext:
    """A batch of encoded sources, to be generated from.

    Attributes:
        step: (tokens, state) -> the decoder's next-token logits and next state.
        start: number of hypotheses of each source -> the decoder's state before the first token, the same for all
            hypotheses of a source. The first dim of leaves of `per_source` and `history` is batch, that of leaves of
            `per_hypothesis` batch * hypotheses.
        limits: limit of each source in tokens, EOS token included; 0 = a row without a source.
        max_length: capacity of the token arrays.
        vocabulary: sizes and special ids.
        lines: number of each source in the input, from 0, for what is drawn; None = nothing is.
        piece_table: makes the table of the characters of target ids, for what compares texts; None = nothing does.
        processor: what is asked of the texts; None = nothing.
        attending_step: `step` with attention weights, for a coverage penalty; None = there is none.
        ctc: makes the log-probabilities of tokens at each position of a source, see
            `seq2seq_jax.generation.ctc.ctc_log_probabilities`; None = the method needs none.
    """

    step: DecodeStep
    start: Callable[[int], DecodeState]
    limits: Int[Array, "batch"]
    max_length: int
    vocabulary: Vocabulary
    lines: Int[Array, "batch"] | None = None
    piece_table: Callable[[], PieceTable] | None = None
    processor: Processor | None = None
    attending_step: AttendingStep | None = None
    ctc: Callable[[], Float[Array, "batch source vocab"]] | None = None

    def controlled(
        self,
        logits: Float[Array, "hypotheses vocab"],
        tokens: Int[Array, "batch samples max_length"],
        position: Int[Array, ""],
    ) -> Float[Array, "hypotheses vocab"]:
        """The logits that a policy samples from: under control, and -inf for tokens that are not allowed.

        Args:
            tokens: of every sample so far.
            position: index of the next token.
        """
        if self.processor is None:
            return logits
        by_source = logits.reshape(*tokens.shape[:2], -1)
        limits = jnp.clip(self.limits, 0, self.max_length)
        return masked(self.processor(by_source, tokens, position, limits=limits)).reshape(logits.shape)


@flax.struct.dataclass
class GenerationResult:
    """Texts of every source, the preferred one first where they are ranked.

    If fewer texts exist than were asked for (a limit of one token allows only the empty text), the remaining entries
    have score and log-probability -inf, length 0 and only padding.

    Attributes:
        tokens: token ids up to and including the EOS token, then pad tokens.
        scores: by which the method ranks texts; of beam search the log-probability over the length penalty, of logits
            after the repetition penalty, plus the coverage penalty.
        log_probabilities: natural logarithm of the probability of the tokens, EOS token included: by the model itself
            for what searches, whatever controls rule out; by the policy that is drawn from for samples.
        lengths: number of tokens, EOS token included.
    """

    tokens: Int[Array, "batch texts max_length"]
    scores: Float[Array, "batch texts"]
    log_probabilities: Float[Array, "batch texts"]
    lengths: Int[Array, "batch texts"]


def longest_output(
    source_length: int, *, ratio: float, extra: int, position_limit: int | None, maximum: int | None = None
) -> int:
    """The limit on generated tokens, EOS token included, for a source of that many tokens; see `length_limits`."""
    room = ratio * source_length + extra
    if maximum is not None:
        room = min(room, maximum)
    if position_limit is None and room > LONGEST_ROW:
        raise ValueError(
            f"a source of {source_length} tokens could become {room:,.0f} generated ones, of at most {LONGEST_ROW:,}: "
            "lower maximum_length_ratio or maximum_length_extra"
        )
    room = int(room)
    return room if position_limit is None else min(room, position_limit)


def output_limit(
    source_length: int, *, ratio: float, extra: int, position_limit: int | None, maximum: int | None = None
) -> int:
    """The limit of one source as `length_limits` computes it on the device, whose numbers have 32 bits."""
    limit = int(np.floor(np.float32(ratio) * np.float32(source_length))) + extra
    return min(each for each in (limit, position_limit, maximum) if each is not None)


def length_limits(
    source: SourceRows, *, ratio: float, extra: int, position_limit: int | None, maximum: int | None = None
) -> tuple[Int[Array, "batch"], int]:
    """The limit on generated tokens, EOS token included, for each source, and the maximum of any source of the batch.

    Args:
        source: one example per row.
        ratio: tokens per source token, ...
        extra: ... plus this number of tokens.
        position_limit: maximum length that the decoder has positions for; None = unbounded.
        maximum: of any source; None = none.

    Returns:
        Limits, 0 for a row without a source; and the limit of a row without padding.
    """
    lengths = jnp.sum(source.mask, axis=1)
    room = longest_output(
        source.segment_ids.shape[1], ratio=ratio, extra=extra, position_limit=position_limit, maximum=maximum
    )
    limits = jnp.floor(ratio * lengths).astype(jnp.int32) + extra
    return jnp.where(lengths == 0, 0, jnp.minimum(limits, room)), room
