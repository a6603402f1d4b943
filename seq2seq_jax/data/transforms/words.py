"""Token ids as words: where they begin, what they are spelt like, and texts put together of words again."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.data.tokenizer import BYTE_PIECE, SPACE, Tokenizer
from seq2seq_jax.hashing import GOLDEN, mixed_64, random_words

Side = Literal["source", "target"]


class Pieces:
    """What the ids of one side of a tokenizer stand for.

    Attributes:
        texts: the piece of each id.
        is_special: ids that are no text: control tokens, tags, sentinels. Each is a word of its own.
        is_byte: ids that are a byte of a character without a piece, or stand for unknown characters.
        begins_word: ids that a word begins with.
        scores: of each id: the logarithm of its probability, or what orders merges.
        space_id: id of the piece that is a space alone; -1 = there is none.
        unknown_id: of the token for unknown characters.
    """

    def __init__(self, tokenizer: Tokenizer, side: Side):
        described = tokenizer.describe_pieces(side)
        self.texts = described.texts
        self.scores = described.scores
        self.is_special = described.is_special
        self.unknown_id = described.unknown_id
        self.is_byte = np.array([bool(BYTE_PIECE.fullmatch(text)) for text in self.texts]) & ~self.is_special
        self.is_byte[self.unknown_id] = True
        self.begins_word = np.array([text.startswith(SPACE) for text in self.texts])
        self.space_id = self.texts.index(SPACE) if SPACE in self.texts else -1

    def text_of(self, ids: Sequence[int]) -> str:
        """The characters that ids stand for, spaces as "▁"."""
        parts = (bytes([int(self.texts[each][3:5], 16)]) if self._is_spelt(each) else self.texts[each].encode()
                 for each in ids)  # fmt: skip
        return b"".join(parts).decode("utf-8", "replace")

    def _is_spelt(self, token: int) -> bool:
        return bool(self.is_byte[token]) and token != self.unknown_id


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """The words of some texts, one after the other.

    Attributes:
        values: ids that words are made of: those of the texts, and what is added.
        starts: where each word begins in `values`.
        lengths: tokens of each word.
        examples: the text that each word is in.
        places: of each word in its text, from 0.
        is_protected: words that stay as they are: special tokens, the EOS token among them.
        num_examples: number of texts.
    """

    values: np.ndarray
    starts: Int[np.ndarray, " words"]
    lengths: Int[np.ndarray, " words"]
    examples: Int[np.ndarray, " words"]
    places: Int[np.ndarray, " words"]
    is_protected: Bool[np.ndarray, " words"]
    num_examples: int

    @classmethod
    def of(cls, column: Ragged, pieces: Pieces) -> "Words":
        """The words of a column."""
        values, offsets = column.values, np.asarray(column.offsets, np.int64)
        special = pieces.is_special[values]
        begins = pieces.begins_word[values] | special
        begins[1:] |= special[:-1]
        begins[offsets[:-1][offsets[:-1] < offsets[1:]]] = True
        starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=len(values))
        examples = np.searchsorted(offsets, starts, side="right") - 1
        first = np.searchsorted(starts, offsets[:-1])
        protected = special[starts]
        # The space before a tag is no word.
        is_space = (values[starts] == pieces.space_id) & (lengths == 1)
        before_special = np.zeros(len(starts), bool)
        before_special[:-1] = protected[1:] & (examples[1:] == examples[:-1])
        return cls(
            values=values,
            starts=starts,
            lengths=lengths,
            examples=examples,
            places=np.arange(len(starts)) - first[examples],
            is_protected=protected | (is_space & before_special),
            num_examples=len(offsets) - 1,
        )

    def keys(self, keys: UInt64[np.ndarray, " examples"]) -> UInt64[np.ndarray, " words"]:
        """A key for each word, of those of the texts and its place."""
        return mixed_64(keys[self.examples] + np.uint64(GOLDEN) * (self.places + 1).astype(np.uint64))

    def ids(self, word: int) -> np.ndarray:
        """The tokens of a word."""
        return self.values[self.starts[word] : self.starts[word] + self.lengths[word]]

    def contain(self, token: int) -> Bool[np.ndarray, " words"]:
        """Whether each word has a token in it."""
        before = np.concatenate([[0], np.cumsum(self.values == token)])
        return before[self.starts + self.lengths] > before[self.starts]

    def replaced(self, which: Int[np.ndarray, " chosen"], words: Sequence[Any] | np.ndarray) -> "Words":
        """Some words replaced by others.

        Args:
            which: of the words.
            words: the tokens of each that takes its place.
        """
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        added = np.concatenate([np.asarray(word, self.values.dtype) for word in words] or [self.values[:0]])
        starts, sizes = self.starts.copy(), self.lengths.copy()
        starts[which] = len(self.values) + np.cumsum(lengths) - lengths
        sizes[which] = lengths
        return dataclasses.replace(self, values=np.concatenate([self.values, added]), starts=starts, lengths=sizes)

    def joined(self) -> Ragged:
        """The texts again."""
        per_example = np.bincount(self.examples, weights=self.lengths, minlength=self.num_examples).astype(np.int64)
        ends = np.cumsum(self.lengths)
        places = np.repeat(self.starts - (ends - self.lengths), self.lengths) + np.arange(ends[-1] if len(ends) else 0)
        return Ragged(self.values[places], np.concatenate([[0], np.cumsum(per_example)]))


def uniforms(keys: UInt64[np.ndarray, " keys"], count: int) -> Float[np.ndarray, "keys count"]:
    """`count` numbers in (0, 1] for each key."""
    return ((random_words(keys, count) >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
