"""Speech to text: recognition, or translation of speech."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.data.audio.source import AUDIO, NAME, SPEAKER, TEXT, SpeechSource
from seq2seq_jax.data.columns import Frames
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.evaluation.metric import Example, Metric
from seq2seq_jax.evaluation.metrics.error_rate import CharacterErrorRate, WordErrorRate, aligned_words
from seq2seq_jax.tasks.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speech(Translation):
    """What is said, as text. Sources are frames, and lengths of sources are in positions of data.stride frames."""

    reads: ClassVar[tuple[str, ...]] = (AUDIO, TEXT)
    scored_columns: ClassVar[frozenset[str]] = frozenset({TEXT, SPEAKER, NAME})
    metrics: ClassVar[tuple[Metric, ...]] = (WordErrorRate(), CharacterErrorRate())
    unit: ClassVar[str] = "utterances"
    unread_columns: ClassVar[frozenset[str]] = frozenset({AUDIO})

    def source(self, data: SpeechSource) -> Frames:
        return data.source_column()

    def sample(self, example: Example, output: str, references: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Reference and output word under word, and below them which were substituted, deleted or inserted."""
        reference, aligned, errors = aligned_words(references[0], output)
        return (
            ("id", f"{example[NAME]} ({example[SPEAKER]})"),
            ("reference", reference),
            ("output", aligned),
            *([("errors", errors)] if errors.strip() else []),
        )

    def check(self, data: DataSource, tokenizer: TokenizerConfig) -> None:
        super().check(data, tokenizer)
        if not tokenizer.joint:
            raise ValueError("data of speech has text on one side, and so one tokenizer. Set tokenizer.joint to True.")
