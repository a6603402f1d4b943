"""Decoding of token ids to characters on the device, with exactly the result of the tokenizer."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Shaped

from seq2seq_jax.data.tokenizer import BYTE_PIECE, Tokenizer

NO_CHARACTER = -1
"""The value at positions after the end of a text."""
REPLACEMENT = 0xFFFD
"""Replaces bytes that are not part of a UTF-8 character."""
NO_BYTE = -1

Characters = Int[Array, "*rows size"]
"""Unicode code points of texts, NO_CHARACTER after the end of each."""


# All characters that str.isspace and str.split treat as whitespace.
_WHITESPACE_RANGES = (
    (0x09, 0x0D),
    (0x1C, 0x20),
    (0x85, 0x85),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
)


def in_ranges(characters: Characters, ranges: tuple[tuple[int, int], ...]) -> Bool[Array, "*rows size"]:
    """Whether each character is in one of the ranges, bounds included."""
    return jnp.any(jnp.stack([(low <= characters) & (characters <= high) for low, high in ranges]), axis=0)


def is_whitespace(characters: Characters) -> Bool[Array, "*rows size"]:
    """`str.isspace` of each character."""
    return in_ranges(characters, _WHITESPACE_RANGES)


def shift(array: Shaped[Array, "*rows size"], offset: int, fill: ArrayLike) -> Shaped[Array, "*rows size"]:
    """The element `offset` positions later (earlier, if it is negative), or `fill` if there is none."""
    size = array.shape[-1]
    gap = jnp.full((*array.shape[:-1], min(abs(offset), size)), fill, array.dtype)
    if offset < 0:
        return jnp.concatenate([gap, array[..., : size - gap.shape[-1]]], axis=-1)
    return jnp.concatenate([array[..., gap.shape[-1] :], gap], axis=-1)


def compact(characters: Characters, keep: Bool[Array, "*rows size"]) -> Characters:
    """The characters to keep, moved to the front."""

    def of_text(characters, keep):
        size = characters.shape[0]
        indices = jnp.where(keep, jnp.cumsum(keep) - 1, size)
        return jnp.full_like(characters, NO_CHARACTER).at[indices].set(characters, mode="drop")

    return jnp.vectorize(of_text, signature="(size),(size)->(size)")(characters, keep)


def strip_right(characters: Characters) -> Characters:
    """`str.rstrip`."""
    indices = jnp.arange(characters.shape[-1])
    inked = (characters != NO_CHARACTER) & ~is_whitespace(characters)
    last = jnp.max(jnp.where(inked, indices, -1), axis=-1, keepdims=True)
    return jnp.where(indices <= last, characters, NO_CHARACTER)


def strip(characters: Characters) -> Characters:
    """`str.strip`."""
    inked = (characters != NO_CHARACTER) & ~is_whitespace(characters)
    return compact(strip_right(characters), jnp.cumsum(inked, axis=-1) > 0)


def without_whitespace(characters: Characters) -> Characters:
    """`"".join(text.split())`."""
    return compact(characters, (characters != NO_CHARACTER) & ~is_whitespace(characters))


@flax.struct.dataclass
class Layout:
    """The characters of each token.

    Attributes:
        first: index of the token's first character in the table of all pieces.
        lengths: number of characters of the token.
        code_points: the character that the bytes of this token and the following ones encode; NO_CHARACTER = the token
            is a piece of the table.
    """

    first: Int[Array, "*rows length"]
    lengths: Int[Array, "*rows length"]
    code_points: Int[Array, "*rows length"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PieceTable:
    """The characters of every target id of a tokenizer.

    Attributes:
        characters: concatenated code points of all pieces, with a space for each "▁".
        first: index of each id's first character.
        lengths: number of characters of each id.
        dropped: leading spaces (0 or 1) that an id loses at the beginning of a text.
        bytes: the byte that an id represents, or NO_BYTE.
        eos_id: the EOS token, which ends a text.
        pad_id: the pad token, which has no text.
    """

    characters: Int[np.ndarray, "characters"]
    first: Int[np.ndarray, "vocab"]
    lengths: Int[np.ndarray, "vocab"]
    dropped: Int[np.ndarray, "vocab"]
    bytes: Int[np.ndarray, "vocab"]
    eos_id: int
    pad_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "PieceTable":
        """The table of a tokenizer's target side, computed by decoding its ids.

        Raises:
            ValueError: decoded texts are not the concatenated pieces without leading spaces.
        """
        vocabulary = tokenizer.vocabulary
        ids = range(vocabulary.target_size)
        # After the unknown id no leading space is removed.
        unknown = [] if tokenizer.unknown_id is None else [tokenizer.unknown_id]
        prefix = tokenizer.decode_target(unknown)
        pieces, dropped, values = [], [], []
        for token, name in zip(ids, tokenizer.target_pieces(ids), strict=True):
            first, later = tokenizer.decode_target([token]), tokenizer.decode_target([*unknown, token])
            piece = later.removeprefix(prefix)
            byte = BYTE_PIECE.fullmatch(name)
            is_byte = byte is not None and piece != name
            values.append(int(byte[1], 16) if is_byte else NO_BYTE)
            pieces.append("" if is_byte else piece)
            dropped.append(0 if is_byte else len(piece) - len(first))
            silent = first == "" and piece != ""
            if (
                not later.startswith(prefix)
                or first not in (piece, piece.removeprefix(" "))
                or (silent and tokenizer.decode_target([token, token]) != "")
            ):
                raise ValueError(
                    f"rewards need a tokenizer that removes leading spaces of a text and changes nothing else, and the "
                    f"target model decodes the piece {name!r} differently: train a tokenizer of TokenizerConfig"
                )
        lengths = np.array([len(piece) for piece in pieces], np.int32)
        return cls(
            # One extra entry, so that the index of a final piece without text is valid.
            characters=np.array([*map(ord, "".join(pieces)), NO_CHARACTER], np.int32),
            first=(np.cumsum(lengths) - lengths).astype(np.int32),
            lengths=lengths,
            dropped=np.array(dropped, np.int32),
            bytes=np.array(values, np.int32),
            eos_id=vocabulary.eos_id,
            pad_id=vocabulary.pad_id,
        )

    def worst_size(self, length: int) -> int:
        """Maximum number of characters of a text of `length` tokens."""
        return length * max(int(self.lengths.max()), 1)

    def layout(self, tokens: Int[Array, "*rows length"]) -> Layout:
        """The characters of each token; tokens from the first EOS token on have none."""
        ended = jnp.cumsum(tokens == self.eos_id, axis=-1) > 0
        tokens = jnp.where(ended, self.pad_id, tokens)
        byte = jnp.asarray(self.bytes)[tokens]
        lengths, dropped = jnp.asarray(self.lengths)[tokens], jnp.asarray(self.dropped)[tokens]
        speaks = (lengths > dropped) | (byte != NO_BYTE)
        dropped = jnp.where(jnp.cumsum(speaks, axis=-1) - speaks == 0, dropped, 0)
        code_points, from_bytes = _utf8(byte)
        return Layout(
            first=jnp.asarray(self.first)[tokens] + dropped,
            lengths=jnp.where(byte != NO_BYTE, from_bytes, lengths - dropped),
            code_points=code_points,
        )

    def read(self, layout: Layout, size: int) -> Characters:
        """The texts, equal to `Tokenizer.decode_target` of each row.

        Args:
            layout: of the tokens.
            size: size of the last dim, an upper bound on the characters of a text.
        """

        def owners(lengths: Int[Array, "length"]) -> Int[Array, "size"]:
            starts = jnp.where(lengths > 0, jnp.cumsum(lengths) - lengths, size)
            marks = jnp.zeros(size, jnp.int32).at[starts].set(jnp.arange(lengths.shape[0]), mode="drop")
            return jax.lax.cummax(marks)

        owner = jnp.vectorize(owners, signature="(length)->(size)")(layout.lengths)
        ends = jnp.cumsum(layout.lengths, axis=-1)
        indices = jnp.arange(size)

        def of_owner(values: Int[Array, "*rows length"]) -> Characters:
            return jnp.take_along_axis(values, owner, axis=-1)

        read = jnp.asarray(self.characters)[of_owner(layout.first - ends + layout.lengths) + indices]
        from_bytes = of_owner(layout.code_points)
        characters = jnp.where(from_bytes != NO_CHARACTER, from_bytes, read)
        return jnp.where(indices < ends[..., -1:], characters, NO_CHARACTER)


def _utf8(byte: Int[Array, "*rows length"]) -> tuple[Int[Array, "*rows length"], Int[Array, "*rows length"]]:
    """The characters that adjacent bytes encode in UTF-8.

    The first byte of a character and its continuation bytes differ in their high bits, so that every first byte can be
    decoded independently.

    Args:
        byte: 0..255, or NO_BYTE.

    Returns:
        The code point at a character's first byte, U+FFFD at a byte that is not part of a character, NO_CHARACTER
        elsewhere; and the number of characters that start at each position, 0 or 1.
    """
    second, third, fourth = (shift(byte, offset, NO_BYTE) for offset in (1, 2, 3))

    def follows(byte):
        return (byte & 0x1C0) == 0x80

    two = ((byte & 0x1F) << 6) | (second & 0x3F)
    three = ((byte & 0x0F) << 12) | ((second & 0x3F) << 6) | (third & 0x3F)
    four = ((byte & 0x07) << 18) | ((second & 0x3F) << 12) | ((third & 0x3F) << 6) | (fourth & 0x3F)
    is_two = ((byte & 0xE0) == 0xC0) & follows(second) & (two >= 0x80)
    is_three = ((byte & 0xF0) == 0xE0) & follows(second) & follows(third) & (three >= 0x800)
    is_three &= (three < 0xD800) | (three >= 0xE000)
    is_four = ((byte & 0xF8) == 0xF0) & follows(second) & follows(third) & follows(fourth)
    is_four &= (four >= 0x10000) & (four <= 0x10FFFF)
    inside = shift(is_two | is_three | is_four, -1, False)
    inside |= shift(is_three | is_four, -2, False) | shift(is_four, -3, False)
    code_points = jnp.select(
        [byte == NO_BYTE, inside, byte < 0x80, is_two, is_three, is_four],
        [NO_CHARACTER, NO_CHARACTER, byte, two, three, four],
        REPLACEMENT,
    )
    return code_points, (code_points != NO_CHARACTER).astype(jnp.int32)
