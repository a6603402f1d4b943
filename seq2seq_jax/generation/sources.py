"""Sources to generate from: text to token ids, and what happens to text that is longer than the model takes."""

import array
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.lines import is_blank
from seq2seq_jax.data.splitting import TooLong, split_text
from seq2seq_jax.data.tokenizer import Tokenizer

MOST_LINES = 2**31
ENCODED_TOGETHER = 4096
"""Texts that are encoded in one go, before their ids are kept in little memory."""
PART_STEP = 0x9E3779B1
"""What is drawn for the second part of a line is drawn as for a line this far away, modulo 2^32, and so on."""


SourceValues = Sequence[int] | np.ndarray
"""Ids of a text, or frames."""


class LongSource(NamedTuple):
    """A source that was longer than the model takes."""

    line: int
    """In the input, from 1."""
    num_tokens: int
    """EOS token included."""
    is_counted: bool
    """Whether these are all of its tokens; of a text far too long only a part is counted."""
    num_parts: int
    """Parts that it was split in; 1 = it was cut."""


@dataclasses.dataclass(frozen=True, eq=False)
class FittedSources:
    """Sources as ids that the model takes.

    Attributes:
        parts: ids of every part of each text, EOS tokens included, or its frames; one part of a text that fits or was
            cut, and none of a blank one.
        lines: number of each text in the input, from 1, which what is drawn for it depends on.
        long: the texts that were longer.
    """

    parts: list[list[SourceValues]]
    lines: Int[np.ndarray, " texts"]
    long: list[LongSource]

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def rows(self) -> list[tuple[int, int]]:
        """(text, part) of every part, in order."""
        return [(text, part) for text, parts in enumerate(self.parts) for part in range(len(parts))]

    @property
    def drawn_lines(self) -> Int[np.ndarray, " rows"]:
        """Of every part the number that what is drawn for it depends on, from 0, as int32.

        Parts of a line have different ones: they would be drawn alike otherwise.
        """
        texts, parts = np.array(self.rows, np.int64).reshape(-1, 2).T
        return (self.lines[texts] - 1 + parts * PART_STEP).astype(np.uint32).view(np.int32)


class SourceEncoder:
    """Makes ids of sources."""

    def __init__(self, tokenizer: Tokenizer, source: Tokens, *, tags: Sequence[str] = ()):
        """Args:
        source: the column of sources: its maximum length (tokens, EOS token included), and which end of a longer one is
            cut off, with the EOS token as its last token; None = it was left out in training.
        tags: words that say something of the whole source that begins with one, such as its target language: where it
            is split, every part begins with it.
        """
        self.tokenizer = tokenizer
        self.source = source
        self.tags = tuple(tags)

    @property
    def column(self) -> Tokens:
        """What sources are."""
        return self.source

    @property
    def max_length(self) -> int:
        """Tokens of the longest source, EOS token included."""
        return self.source.max_length

    def length(self, ids: Sequence[int]) -> int:
        """Tokens of a source."""
        return len(ids)

    def described(self, text: str) -> str:
        """The text itself."""
        return text

    def labels(self, ids: Sequence[int]) -> list[str]:
        """What stands at each token of a picture: its piece."""
        return self.tokenizer.source_pieces(ids)

    def is_blank(self, text: str) -> bool:
        """Whether there is nothing to generate from; see `seq2seq_jax.data.lines.is_blank`."""
        return is_blank(text)

    @property
    def truncates(self) -> bool:
        """Whether longer sources were cut in training."""
        return self.source.truncate is not None

    def fit(
        self,
        texts: list[str],
        *,
        too_long: TooLong | None = None,
        first_line: int = 1,
        lines: Sequence[int] | None = None,
    ) -> FittedSources:
        """Ids of texts.

        Args:
            too_long: what happens to longer ones; None = they are cut if they were in training, and split otherwise.
            first_line: number of the first text in the input.
            lines: numbers that what is drawn depends on instead, 1 or more.

        Raises:
            ValueError: a text is longer than the model takes, with too_long refuse; the message names its line.
        """
        if lines is None:
            lines = range(first_line, first_line + len(texts))
        elif len(lines) != len(texts) or not all(1 <= line < MOST_LINES for line in lines):
            raise ValueError(
                f"expected a line number, 1 or more, for each of {len(texts)} texts; got {len(lines)}, from "
                f"{min(lines, default=None)} to {max(lines, default=None)}: correct them"
            )
        too_long = too_long or ("truncate" if self.truncates else "split")
        parts: list[list[SourceValues]] = []
        long: list[LongSource] = []
        for line, text, ids in zip(itertools.count(first_line), texts, self._encoded(texts), strict=False):
            if is_blank(text):
                parts.append([])
            elif len(ids) <= self.max_length:
                parts.append([array.array("I", ids)])
            elif too_long == "refuse":
                raise self._refusal(line, text, ids)
            else:
                parts.append([self.cut(ids)] if too_long == "truncate" else self._split(text))
                long.append(LongSource(line, len(ids), len(text) <= self._longest_text, len(parts[-1])))
        return FittedSources(parts, np.array(lines, np.int64), long)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, EOS token included; those of the empty text for a blank one.

        Raises:
            ValueError: a text is longer than the model takes, and was not cut in training; the message names its line,
                counted from 1.
        """
        encoded = self._encode(texts)
        if self.truncates:
            return list(map(self.cut, encoded))
        for line, (text, ids) in enumerate(zip(texts, encoded, strict=True), 1):
            if len(ids) > self.max_length:
                raise self._refusal(line, text, ids)
        return encoded

    def _refusal(self, line: int, text: str, ids: list[int]) -> ValueError:
        more = "more than " if len(text) > self._longest_text else ""
        return ValueError(
            f"line {line} has {more}{len(ids)} tokens, and the model takes {self.max_length} "
            "(data.max_source_length, EOS token included). Split the line."
        )

    def cut(self, ids: list[int]) -> list[int]:
        """As many of source ids as the model takes, with the EOS token as the last; see `Tokens.truncate`."""
        source = self.source if self.truncates else dataclasses.replace(self.source, truncate="right")
        return source.cut_ids(ids, self.tokenizer)

    def _split(self, text: str) -> list[list[int]]:
        text = text.lstrip()
        tag = next((f"{each} " for each in self.tags if text.startswith(f"{each} ")), "")

        def encoded(texts: list[str]) -> list[list[int]]:
            return self.tokenizer.encode_source([tag + each for each in texts])

        parts = split_text(
            text.removeprefix(tag), count=lambda texts: list(map(len, encoded(texts))), max_tokens=self.max_length
        )
        # A single character may have more tokens than the model takes.
        return list(map(self.cut, encoded(parts)))

    @property
    def _longest_text(self) -> int:
        """Characters of which a text is encoded in one go: far more than have ever fitted the model's tokens."""
        return 64 * self.max_length

    def _encoded(self, texts: list[str]) -> Iterator[list[int]]:
        for start in range(0, len(texts), ENCODED_TOGETHER):
            yield from self._encode(texts[start : start + ENCODED_TOGETHER])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; of one far too long those of a part, since all take memory without bound."""
        texts = ["" if is_blank(text) else text for text in texts]
        # Of a text that is cut on the left, it is the end that counts.
        part = slice(-self._longest_text, None) if self.source.truncate == "left" else slice(self._longest_text)
        encoded = self.tokenizer.encode_source([text[part] for text in texts])
        for index, text in enumerate(texts):
            # Text that is mostly spaces may yet be short. The last tokens depend on where the text was cut.
            if len(text) > self._longest_text and len(encoded[index]) <= self.max_length + 16:
                [encoded[index]] = self.tokenizer.encode_source([text])
        return encoded


def describe_long(source: LongSource, max_length: int) -> str:
    """A line on a source that was longer than the model takes, and what was done with it."""
    more = "" if source.is_counted else "more than "
    done = "cut" if source.num_parts == 1 else f"split in {source.num_parts:,} parts"
    return f"line {source.line} has {more}{source.num_tokens:,} tokens, and the model takes {max_length:,}: {done}"
