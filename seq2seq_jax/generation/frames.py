"""Sources to generate from that are frames, such as speech; see `seq2seq_jax.generation.sources` for text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Num

from seq2seq_jax.data.audio.inputs import Sound
from seq2seq_jax.data.columns import Frames
from seq2seq_jax.data.splitting import TooLong
from seq2seq_jax.generation.sources import MOST_LINES, FittedSources, LongSource, SourceValues

SEARCHED = 0.5
"""Fraction of the longest part, at its end, in which the quietest place is looked for."""


class FrameSources:
    """Makes sources of frames: what `SourceEncoder` does with text."""

    truncates = False

    def __init__(self, column: Frames, *, seconds_per_position: float | None = None):
        """Args:
        column: of sources, with its maximum length (frames).
        seconds_per_position: of a position; None = they are not sound.
        """
        self.column = column
        self._seconds = seconds_per_position

    @property
    def max_length(self) -> int:
        """Positions of the longest source."""
        return self.column.max_length // self.column.stride

    def length(self, source: Num[np.ndarray, "frames features"]) -> int:
        """Positions of a source."""
        return -(-len(source) // self.column.stride)

    def is_blank(self, source: Sound) -> bool:
        """Whether there is nothing in it: no frame, or zeros alone."""
        return not np.any(source.frames)

    def described(self, source: Sound) -> str:
        """What it is called."""
        return source.name

    def labels(self, source: Num[np.ndarray, "frames features"]) -> list[str]:
        """What stands at each position of a picture: seconds from the beginning, or numbers."""
        number = self.length(source)
        if self._seconds is None:
            return [str(index) for index in range(number)]
        return [f"{index * self._seconds:.2f}" for index in range(number)]

    def fit(
        self,
        sources: Sequence[Any],
        *,
        too_long: TooLong | None = None,
        first_line: int = 1,
        lines: Sequence[int] | None = None,
    ) -> FittedSources:
        """Sources as the model takes them; longer ones are split where they are quietest.

        Args:
            sources: sounds.
            too_long, first_line, lines: see `SourceEncoder.fit`.

        Raises:
            ValueError: one is longer, with too_long refuse or truncate; or has another shape or type.
        """
        if lines is None:
            lines = range(first_line, first_line + len(sources))
        elif len(lines) != len(sources) or not all(1 <= line < MOST_LINES for line in lines):
            raise ValueError(
                f"expected a number, 1 or more, for each of {len(sources)} sources; got {len(lines)}: correct them"
            )
        parts: list[list[SourceValues]] = []
        long: list[LongSource] = []
        self._check(sources)
        for line, source in enumerate(sources, start=first_line):
            if self.is_blank(source):
                parts.append([])
            elif self.length(source.frames) <= self.max_length:
                parts.append([source.frames])
            elif too_long in ("refuse", "truncate"):
                raise self._refusal(source)
            else:
                parts.append(self._split(source.frames))
                long.append(LongSource(line, self.length(source.frames), True, len(parts[-1])))
        return FittedSources(parts, np.array(lines, np.int64), long)

    def encode(self, sources: Sequence[Any]) -> list[np.ndarray]:
        """The frames of sources.

        Raises:
            ValueError: one is longer than the model takes, or has another shape or type.
        """
        self._check(sources)
        for source in sources:
            if self.length(source.frames) > self.max_length:
                raise self._refusal(source)
        return [source.frames for source in sources]

    def _check(self, sources: Sequence[Any]) -> None:
        """Refuse what are no sounds, or none of the model's.

        Raises:
            ValueError: with what came.
        """
        for source in sources:
            if not isinstance(source, Sound):
                raise ValueError(
                    f"the model reads sounds, and text came: {str(source)[:60]!r}. Name audio files for seq2seq "
                    "generate or align; other commands read text."
                )
            self.column.check(source.frames)

    def cut(self, source: Num[np.ndarray, "frames features"]) -> np.ndarray:
        """As much of a source as the model takes."""
        return source[: self.column.max_length]

    def _refusal(self, source: Sound) -> ValueError:
        return ValueError(
            f"{source.name} has {self.length(source.frames)} positions, of {self.column.stride} frames each, and the "
            f"model takes {self.max_length} (data.max_source_length). Divide it."
        )

    def _split(self, source: np.ndarray) -> list[np.ndarray]:
        """Parts of at most the longest length, each ending where the source is quietest near its end."""
        parts, stride = [], self.column.stride
        while self.length(source) > self.max_length:
            first = int(self.max_length * (1.0 - SEARCHED))
            searched = source[first * stride : self.max_length * stride].astype(np.float32)
            loudness = np.square(searched).reshape(self.max_length - first, -1).mean(axis=1)
            end = (first + int(np.argmin(loudness)) + 1) * stride
            parts.append(source[:end])
            source = source[end:]
        return [*parts, source]
