"""Span corruption: spans of a text are taken out of the source, a sentinel left in the place of each, and make the
target.

Source: Raffel et al. 2020, section 3.1.4; the numbers of spans and tokens, and their distribution, are those of
`random_spans_noise_mask` and `random_spans_helper` in its code (t5/data/preprocessors.py).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, UInt, UInt64

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.hashing import random_words
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """How much of a text is taken out, in spans of which length."""

    density: float = 0.15
    """Share of the tokens that is taken out, in (0, 1)."""
    mean_span_length: float = 3.0
    """Tokens of a span that is taken out, on average; at least 1."""

    def __post_init__(self):
        check_values(self, "corruption")
        if not 0.0 < self.density < 1.0:
            raise ValueError(f"corruption.density must lie in (0, 1), and is {self.density}: T5's is 0.15.")
        if self.mean_span_length < 1.0:
            raise ValueError(f"corruption.mean_span_length must be at least 1, not {self.mean_span_length}: T5's is 3.")

    def build(self, vocabulary: Vocabulary) -> "CorruptSpans":
        """The transform of texts into sources and targets."""
        return CorruptSpans(corruption=self, sentinel_ids=vocabulary.sentinel_ids, eos_id=vocabulary.eos_id)

    def num_noise(self, length: int) -> tuple[int, int]:
        """Tokens that are taken out of a chunk, and the spans that they make; at least one token stays.

        Args:
            length: tokens of the chunk, at least 2.
        """
        num_tokens = min(max(round(length * self.density), 1), length - 1)
        num_spans = max(round(num_tokens / self.mean_span_length), 1)
        # As many spans stay as are taken out, each of a token at least.
        return num_tokens, min(num_spans, length - num_tokens)

    def lengths(self, length: int) -> tuple[int, int]:
        """Source and target tokens that a chunk becomes, sentinels and EOS tokens included.

        Args:
            length: tokens of the chunk, at least 1.
        """
        if length == 1:
            # Its token stays, and a sentinel stands for it in the target.
            return 2, 2
        num_tokens, num_spans = self.num_noise(length)
        return length - num_tokens + num_spans + 1, num_tokens + num_spans + 1

    def chunk_length(self, source_length: int) -> int:
        """Tokens of the longest chunk whose source has at most `source_length` tokens.

        Raises:
            ValueError: there is none.
        """
        if self.lengths(2)[0] > source_length:
            raise ValueError(f"expected max_source_length of at least {self.lengths(2)[0]}; got {source_length}")
        length = 2
        while self.lengths(length + 1)[0] <= source_length:
            length += 1
        return length

    def masks(self, length: int, keys: UInt64[np.ndarray, " chunks"]) -> Bool[np.ndarray, "chunks length"]:
        """Which tokens of each chunk are taken out; all masks with these numbers of tokens and spans are equally
        likely.

        Args:
            length: tokens of every chunk; the one token of the shortest stays.
            keys: decide the mask, one a chunk.
        """
        padded_length = max(length, 2)
        num_tokens, num_spans = self.num_noise(padded_length)
        words = random_words(keys, padded_length)
        taken = _segment_lengths(words[:, :num_tokens], num_spans)
        left = _segment_lengths(words[:, num_tokens:], num_spans)
        # A text begins with a span that stays.
        lengths = np.stack([left, taken], axis=2).reshape(len(keys), 2 * num_spans)
        starts = np.cumsum(lengths, axis=1)[:, :-1]
        changes = np.zeros((len(keys), padded_length), bool)
        np.put_along_axis(changes, starts, True, axis=1)
        return np.logical_xor.accumulate(changes, axis=1)[:, :length]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptSpans:
    """Makes a source and a target of each text."""

    corruption: SpanCorruption
    sentinel_ids: tuple[int, ...]
    eos_id: int

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        """The columns `source` and `target`, see `corrupt`, of the column `text`.

        Args:
            keys: decide what is taken out.
        """
        text = examples["text"]
        bounds = self.length_bound({"text": text.lengths})
        made = {name: _empty(lengths) for name, lengths in bounds.items()}
        # Texts of a length make sources of a length and targets of a length; of chunks all but the last are as long.
        for length in np.unique(text.lengths).tolist():
            (same,) = np.nonzero(text.lengths == length)
            masks = self.corruption.masks(length, keys[same])
            pieces = corrupt(_rows(text, same, length), masks, sentinel_ids=self.sentinel_ids, eos_id=self.eos_id)
            for name, rows in zip(("source", "target"), pieces, strict=True):
                if len(same) == len(text):
                    made[name].values[:] = rows.reshape(-1)
                else:
                    made[name].values[made[name].offsets[same, None] + np.arange(rows.shape[1])] = rows
        return made

    def length_bound(
        self, lengths: Mapping[str, Int[np.ndarray, " examples"]]
    ) -> dict[str, Int[np.ndarray, " examples"]]:
        """The lengths that sources and targets have.

        Raises:
            ValueError: the tokenizer has too few sentinels.
        """
        longest = max(2, int(lengths["text"].max(initial=2)))
        num_spans = self.corruption.num_noise(longest)[1]
        if len(self.sentinel_ids) < num_spans:
            raise ValueError(
                f"the tokenizer has {len(self.sentinel_ids)} sentinels, and a row needs {num_spans}: set "
                "tokenizer.num_sentinels to at least that"
            )
        unique, inverse = np.unique(lengths["text"], return_inverse=True)
        made = np.array([self.corruption.lengths(int(length)) for length in unique], np.int32).reshape(-1, 2)[inverse]
        return {"source": made[:, 0], "target": made[:, 1]}


def _rows(text: Ragged, same: Int[np.ndarray, " same"], length: int) -> UInt[np.ndarray, "same length"]:
    """The texts of one length."""
    if len(same) == len(text):
        return text.values.reshape(len(same), length)
    return text.values[text.offsets[same, None] + np.arange(length)]


def _empty(lengths: Int[np.ndarray, " examples"]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Ragged(np.empty(offsets[-1], np.int32), offsets)


def _segment_lengths(
    words: UInt64[np.ndarray, "chunks items"], num_segments: int
) -> Int[np.ndarray, "chunks segments"]:
    """Lengths of the segments into which each row of items falls, none empty: the first item begins one, and so do
    those of the others with the smallest words.
    """
    num_chunks, num_items = words.shape
    starts = np.zeros((num_chunks, num_segments), np.int64)
    if num_segments > 1:
        smallest = np.argpartition(words[:, 1:], num_segments - 2, axis=1)[:, : num_segments - 1]
        starts[:, 1:] = np.sort(smallest, axis=1) + 1
    return np.diff(starts, axis=1, append=num_items)


def corrupt(
    tokens: UInt[np.ndarray, "chunks length"],
    masks: Bool[np.ndarray, "chunks length"],
    *,
    sentinel_ids: tuple[int, ...],
    eos_id: int,
) -> tuple[Int[np.ndarray, "chunks source"], Int[np.ndarray, "chunks target"]]:
    """The source and the target of each chunk.

    The source is the chunk with a sentinel in the place of each span that was taken out, the first of `sentinel_ids`
    for the first span. The target is those spans, each after its sentinel. Both end in the EOS token.

    Args:
        masks: True = taken out; as many tokens and spans in each row.
    """
    sentinels = np.array(sentinel_ids, np.int32)

    def with_sentinels(replaced: Bool[np.ndarray, "chunks length"]) -> Int[np.ndarray, "chunks kept"]:
        first = replaced.copy()
        first[:, 1:] &= ~replaced[:, :-1]
        ids = tokens.astype(np.int32)
        ids[first] = sentinels[(np.cumsum(first, axis=1) - 1)[first]]
        kept = ids[~replaced | first].reshape(len(tokens), -1)
        return np.pad(kept, ((0, 0), (0, 1)), constant_values=eos_id)

    return with_sentinels(masks), with_sentinels(~masks)
