"""Token ids to the characters of their text, exactly as the tokenizer decodes them, without leaving the device."""

import dataclasses
import re

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Shaped

from seq2seq_jax.data.tokenizer import UNKNOWN_ID, Tokenizer

NO_CHARACTER = -1
"""What the places after the end of a text hold."""
REPLACEMENT = 0xFFFD
"""Stands for a byte that belongs to no UTF-8 character."""
NO_BYTE = -1

Characters = Int[Array, "*rows size"]
"""Unicode code points of texts, NO_CHARACTER after the end of each."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")

# All that str.isspace and str.split hold for blank.
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
    """Whether each character lies in one of the ranges, bounds included."""
    return jnp.any(jnp.stack([(low <= characters) & (characters <= high) for low, high in ranges]), axis=0)


def is_whitespace(characters: Characters) -> Bool[Array, "*rows size"]:
    """What `str.isspace` says of each character."""
    return in_ranges(characters, _WHITESPACE_RANGES)


def shift(array: Shaped[Array, "*rows size"], offset: int, fill: ArrayLike) -> Shaped[Array, "*rows size"]:
    """At each place what stands `offset` places later (earlier, if it is negative), `fill` where there is nothing."""
    size = array.shape[-1]
    gap = jnp.full((*array.shape[:-1], min(abs(offset), size)), fill, array.dtype)
    if offset < 0:
        return jnp.concatenate([gap, array[..., : size - gap.shape[-1]]], axis=-1)
    return jnp.concatenate([array[..., gap.shape[-1] :], gap], axis=-1)


def compact(characters: Characters, keep: Bool[Array, "*rows size"]) -> Characters:
    """The characters to keep, moved together at the front."""

    def of_text(characters, keep):
        size = characters.shape[0]
        places = jnp.where(keep, jnp.cumsum(keep) - 1, size)
        return jnp.full_like(characters, NO_CHARACTER).at[places].set(characters, mode="drop")

    return jnp.vectorize(of_text, signature="(size),(size)->(size)")(characters, keep)


def strip_right(characters: Characters) -> Characters:
    """`str.rstrip`."""
    places = jnp.arange(characters.shape[-1])
    inked = (characters != NO_CHARACTER) & ~is_whitespace(characters)
    last = jnp.max(jnp.where(inked, places, -1), axis=-1, keepdims=True)
    return jnp.where(places <= last, characters, NO_CHARACTER)


def strip(characters: Characters) -> Characters:
    """`str.strip`."""
    inked = (characters != NO_CHARACTER) & ~is_whitespace(characters)
    return compact(strip_right(characters), jnp.cumsum(inked, axis=-1) > 0)


def without_whitespace(characters: Characters) -> Characters:
    """`"".join(text.split())`."""
    return compact(characters, (characters != NO_CHARACTER) & ~is_whitespace(characters))


@flax.struct.dataclass
class Layout:
    """Where the characters of each token go.

    Attributes:
        first: index of the token's first character in the table of all pieces.
        lengths: characters of the token.
        code_points: the one character that the bytes of this token and the next ones spell; NO_CHARACTER = the token
            is a piece of the table.
    """

    first: Int[Array, "*rows length"]
    lengths: Int[Array, "*rows length"]
    code_points: Int[Array, "*rows length"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PieceTable:
    """The characters of every target id of a tokenizer.

    Attributes:
        characters: code points of all pieces, one piece after the other, a space for each "▁".
        first: index of each id's first character.
        lengths: characters of each id.
        dropped: leading spaces (0 or 1) that an id loses where the text has not begun.
        bytes: the byte that an id stands for, or NO_BYTE.
        end_id: ends a text.
        padding_id: has no text.
    """

    characters: Int[np.ndarray, "characters"]
    first: Int[np.ndarray, "vocab"]
    lengths: Int[np.ndarray, "vocab"]
    dropped: Int[np.ndarray, "vocab"]
    bytes: Int[np.ndarray, "vocab"]
    end_id: int
    padding_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "PieceTable":
        """The table of a tokenizer's target side, read from what it decodes.

        Raises:
            ValueError: its texts are not its pieces one after the other, spaces at the start removed.
        """
        vocabulary = tokenizer.vocabulary
        ids = range(vocabulary.target_size)
        # After the unknown id a text has begun, so that no space is lost.
        begun = tokenizer.decode_target([UNKNOWN_ID])
        pieces, dropped, values = [], [], []
        for token, name in zip(ids, tokenizer.target_pieces(ids), strict=True):
            first, later = tokenizer.decode_target([token]), tokenizer.decode_target([UNKNOWN_ID, token])
            piece = later.removeprefix(begun)
            byte = _BYTE_PIECE.fullmatch(name)
            is_byte = byte is not None and piece != name
            values.append(int(byte[1], 16) if is_byte else NO_BYTE)
            pieces.append("" if is_byte else piece)
            dropped.append(0 if is_byte else len(piece) - len(first))
            silent = first == "" and piece != ""
            if (
                not later.startswith(begun)
                or first not in (piece, piece.removeprefix(" "))
                or (silent and tokenizer.decode_target([token, token]) != "")
            ):
                raise ValueError(
                    f"rewards need a tokenizer that removes all spaces at the start of a text and changes nothing "
                    f"else, and the target model decodes the piece {name!r} otherwise: train a tokenizer of "
                    "TokenizerConfig"
                )
        lengths = np.array([len(piece) for piece in pieces], np.int32)
        return cls(
            # One more, so that there is something to read for a piece without text at the end.
            characters=np.array([*map(ord, "".join(pieces)), NO_CHARACTER], np.int32),
            first=(np.cumsum(lengths) - lengths).astype(np.int32),
            lengths=lengths,
            dropped=np.array(dropped, np.int32),
            bytes=np.array(values, np.int32),
            end_id=vocabulary.end_id,
            padding_id=vocabulary.padding_id,
        )

    def worst_size(self, length: int) -> int:
        """Characters that a text of this many tokens can have at most."""
        return length * max(int(self.lengths.max()), 1)

    def layout(self, tokens: Int[Array, "*rows length"]) -> Layout:
        """Where the characters of each token go; tokens from the first end id on have none."""
        ended = jnp.cumsum(tokens == self.end_id, axis=-1) > 0
        tokens = jnp.where(ended, self.padding_id, tokens)
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
            size: of the last dim; no text has more characters.
        """

        def owners(lengths: Int[Array, "length"]) -> Int[Array, "size"]:
            starts = jnp.where(lengths > 0, jnp.cumsum(lengths) - lengths, size)
            marks = jnp.zeros(size, jnp.int32).at[starts].set(jnp.arange(lengths.shape[0]), mode="drop")
            return jax.lax.cummax(marks)

        owner = jnp.vectorize(owners, signature="(length)->(size)")(layout.lengths)
        ends = jnp.cumsum(layout.lengths, axis=-1)
        places = jnp.arange(size)

        def of_owner(values: Int[Array, "*rows length"]) -> Characters:
            return jnp.take_along_axis(values, owner, axis=-1)

        read = jnp.asarray(self.characters)[of_owner(layout.first - ends + layout.lengths) + places]
        spelt = of_owner(layout.code_points)
        characters = jnp.where(spelt != NO_CHARACTER, spelt, read)
        return jnp.where(places < ends[..., -1:], characters, NO_CHARACTER)


def _utf8(byte: Int[Array, "*rows length"]) -> tuple[Int[Array, "*rows length"], Int[Array, "*rows length"]]:
    """The characters that neighbouring bytes spell.

    A character's first byte and its others differ in their high bits, so each first byte can be decided on its own.

    Args:
        byte: 0..255, or NO_BYTE.

    Returns:
        At a character's first byte its code point, at a byte that is of no character U+FFFD, elsewhere NO_CHARACTER;
        and the characters that begin at each place, 0 or 1.
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
