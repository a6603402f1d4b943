"""Controls as token ids and arrays: what a tokenizer makes of them, and what of that cannot be."""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from seq2seq_jax.batch import SourceRows, Vocabulary
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.controls import Controls, LineControls
from seq2seq_jax.generation.phrases import Phrases
from seq2seq_jax.generation.processor import Processor

SHORTEST_PREFIX, SHORTEST_PHRASE = 8, 4
"""Tokens that there is room for at least. Sizes are powers of two, so that few programs are compiled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenControls:
    """Controls with the tokens of a tokenizer.

    Attributes:
        controls: as they were given.
        vocabulary: the tokenizer's.
        forbidden: ids that are never generated.
        first: ids that every text begins with.
    """

    controls: Controls
    vocabulary: Vocabulary
    forbidden: tuple[int, ...] = ()
    first: tuple[int, ...] = ()

    @classmethod
    def of(cls, controls: Controls, tokenizer: Tokenizer, *, shortest_limit: int) -> "TokenControls":
        """Look the pieces and ids up.

        Args:
            shortest_limit: tokens of a text at most, EOS token included, for the shortest source.

        Raises:
            ValueError: a piece or an id that the tokenizer does not have or never generates, text that it cannot write,
                a first token that ends the text or is forbidden, or first tokens that leave no room for an end.
        """
        vocabulary = tokenizer.vocabulary
        special = dict.fromkeys(vocabulary.never_ids, "a token of no text")
        special |= {vocabulary.pad_id: "the pad token", vocabulary.bos_id: "the BOS token"}
        special[vocabulary.eos_id] = "the EOS token"
        for name in ("forbidden_ids", "first_ids"):
            for token in getattr(controls, name):
                if not 0 <= token < vocabulary.target_size:
                    raise ValueError(
                        f"controls.{name} must be ids below {vocabulary.target_size:,}, the size of the vocabulary, "
                        f"and has {token}: leave it out"
                    )
                if token in special and name == "forbidden_ids":
                    advice = "set a minimum_length" if token == vocabulary.eos_id else "it is never generated"
                    raise ValueError(f"controls.forbidden_ids has {token}, {special[token]}: leave it out; {advice}")
                if token in special:
                    reason = "which ends the text" if token == vocabulary.eos_id else "which is never generated"
                    raise ValueError(f"controls.first_ids has {token}, {special[token]}, {reason}: leave it out")
        forbidden = [*controls.forbidden_ids]
        for piece in controls.forbidden_pieces:
            token = tokenizer.target_id(piece)
            if token is None:
                [ids] = tokenizer.encode_target([piece])
                written = " ".join(tokenizer.target_pieces(ids[:-1]))
                raise ValueError(
                    f"controls.forbidden_pieces has {piece!r}, which is no piece of the tokenizer; as text it is "
                    f"{written}: give pieces as they are written there"
                )
            if token in special:
                raise ValueError(f"controls.forbidden_pieces has {piece}, {special[token]}: leave it out")
            forbidden.append(token)
        first = [*vocabulary.first_ids, *controls.first_ids]
        if controls.first_text is not None:
            first += _encoded(controls.first_text, tokenizer, "controls.first_text")
        found = cls(controls=controls, vocabulary=vocabulary, forbidden=tuple(forbidden), first=tuple(first))
        found.check_not_forbidden(first, tokenizer, "what controls say that every text begins with")
        if len(first) >= shortest_limit:
            raise ValueError(
                f"every text begins with {len(first)} tokens (controls.first_ids and first_text), and that of a short "
                f"source has at most {shortest_limit}, EOS token included: raise generation.maximum_length_extra or "
                "controls.maximum_length"
            )
        return found

    def check_not_forbidden(self, ids: Sequence[int], tokenizer: Tokenizer, name: str) -> None:
        """Return if none of the ids is forbidden.

        Args:
            name: of what has the ids, for the message.

        Raises:
            ValueError: one is.
        """
        for token in ids:
            if token in self.forbidden:
                [piece] = tokenizer.target_pieces([token])
                raise ValueError(f"{name} needs the piece {piece} (id {token}), which is forbidden: allow it")

    def processor(
        self, source: SourceRows, limits: Int[Array, "batch"], lines: "LineArrays | None" = None
    ) -> Processor | None:
        """What applies them to a batch; None = there is nothing to apply.

        Args:
            limits: of each source in tokens, EOS token included.
            lines: controls of single lines.
        """
        controls, batch = self.controls, len(limits)
        minimum = None
        if controls.minimum_length > 1 or controls.minimum_length_ratio:
            by_ratio = jnp.floor(controls.minimum_length_ratio * jnp.sum(source.mask, axis=1)).astype(jnp.int32)
            minimum = jnp.minimum(jnp.maximum(by_ratio, controls.minimum_length), limits)
        prefix = prefix_lengths = None
        if lines is not None and lines.prefix is not None:
            prefix, prefix_lengths = lines.prefix, lines.prefix_lengths
        elif self.first:
            prefix = jnp.broadcast_to(jnp.array(self.first, jnp.int32), (batch, len(self.first)))
            prefix_lengths = jnp.full(batch, len(self.first), jnp.int32)
        phrases = None if lines is None else lines.phrases
        is_neutral = controls.repetition_penalty == 1.0 and not (
            controls.no_repeat_ngram or controls.coverage_penalty or self.forbidden
        )
        if is_neutral and minimum is None and prefix is None and phrases is None:
            return None
        return Processor(
            controls=controls,
            vocabulary=self.vocabulary,
            forbidden=self.forbidden,
            minimum_lengths=minimum,
            prefix=prefix,
            prefix_lengths=prefix_lengths,
            phrases=phrases,
            source_mask=jnp.asarray(source.mask) if controls.coverage_penalty else None,
        )


@dataclasses.dataclass(frozen=True)
class LineTokens:
    """Controls of a line as token ids.

    Attributes:
        prefix: what its texts begin with.
        phrases: what they contain.
    """

    prefix: tuple[int, ...] = ()
    phrases: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, line: LineControls, shared: TokenControls, tokenizer: Tokenizer, *, limit: int, number: int):
        """Encode them.

        Args:
            shared: controls of all lines.
            limit: tokens of a text of this line at most, EOS token included.
            number: of the line, for messages.

        Raises:
            ValueError: the tokenizer cannot write them, a forbidden piece is needed, or they are longer than the limit.
        """
        prefix = list(shared.first)
        if line.prefix:
            own = _encoded(line.prefix, tokenizer, f"the prefix of line {number}")
            shared.check_not_forbidden(own, tokenizer, f"the prefix of line {number}")
            prefix += own
        phrases = []
        for phrase in line.phrases:
            name = f"the phrase {phrase!r} of line {number}"
            phrases.append(tuple(_encoded(phrase, tokenizer, name)))
            shared.check_not_forbidden(phrases[-1], tokenizer, name)
        needed = len(prefix) + tokens_needed(prefix, phrases) + 1
        if needed > limit:
            what = "prefix" if not phrases else "phrases" if not prefix else "prefix and phrases"
            raise ValueError(
                f"the {what} of line {number} may take {needed} tokens with the EOS token, and its texts have at most "
                f"{limit}: shorten the {what}, or raise generation.maximum_length_extra or controls.maximum_length"
            )
        return cls(tuple(prefix), tuple(phrases))


@flax.struct.dataclass
class LineArrays:
    """Controls of the lines of a batch.

    Attributes:
        prefix: token ids, then padding; None = no line has one.
        prefix_lengths: number of tokens.
        phrases: None = no line has one.
    """

    prefix: Int[Array | np.ndarray, "batch prefix"] | None
    prefix_lengths: Int[Array | np.ndarray, "batch"] | None
    phrases: Phrases | None

    @classmethod
    def of(cls, lines: Sequence[LineTokens]) -> "LineArrays | None":
        """Arrays on the host; None where no line has any. Sizes depend on the largest alone."""
        prefix = prefix_lengths = phrases = None
        if longest := max((len(line.prefix) for line in lines), default=0):
            prefix = np.zeros((len(lines), _room(longest, SHORTEST_PREFIX)), np.int32)
            prefix_lengths = np.array([len(line.prefix) for line in lines], np.int32)
            for row, line in enumerate(lines):
                prefix[row, : len(line.prefix)] = line.prefix
        if most := max((len(line.phrases) for line in lines), default=0):
            longest = max(len(phrase) for line in lines for phrase in line.phrases)
            phrases = Phrases.of(
                [line.phrases for line in lines], number=_room(most, 1), length=_room(longest, SHORTEST_PHRASE)
            )
        return None if prefix is None and phrases is None else cls(prefix, prefix_lengths, phrases)


def tokens_needed(prefix: Sequence[int], phrases: Sequence[Sequence[int]]) -> int:
    """Tokens with which all phrases that a prefix lacks can be completed, see `Phrases.needed`."""
    missing = [phrase for phrase in phrases if not _contains(prefix, phrase)]
    begun = (
        size
        for phrase in missing
        for size in range(len(phrase), 0, -1)
        if tuple(prefix[-size:]) == tuple(phrase[:size])
    )
    return sum(map(len, missing)) - max(begun, default=0)


def _contains(text: Sequence[int], phrase: Sequence[int]) -> bool:
    return any(tuple(text[start : start + len(phrase)]) == tuple(phrase) for start in range(len(text)))


def _encoded(text: str, tokenizer: Tokenizer, name: str) -> list[int]:
    """Target ids of a text, without the EOS token."""
    [ids] = tokenizer.encode_target([text])
    ids = ids[len(tokenizer.vocabulary.first_ids) : -1]
    if not ids:
        raise ValueError(f"{name} is {text!r}, of which the tokenizer makes no token: leave it out")
    if tokenizer.unknown_id in ids:
        raise ValueError(f"{name} is {text!r}, and has characters without a piece, which no text can have: change it")
    return ids


def _room(number: int, smallest: int) -> int:
    """The next power of two, at least the smallest."""
    return max(smallest, 1 << (number - 1).bit_length())
