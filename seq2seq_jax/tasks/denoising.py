"""Denoising: spans are taken out of a text and make the target.

A split's documents, one after the other, are cut into chunks of the length that corruption makes a whole source row
of; the last is shorter. An epoch is a seeded shuffle of the chunks, and each epoch takes other spans out of them. Which
chunk a row holds, and which spans are taken out, follows from the seed and the row's number in the run alone.
"""

import dataclasses
from typing import ClassVar

from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.columns import Column, Tokens
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.data.transforms.span_corruption import SpanCorruption
from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(Task):
    """Spans that were taken out of a text. A row holds one chunk."""

    corruption: SpanCorruption = SpanCorruption()
    """What is taken out of a chunk."""

    reads: ClassVar[tuple[str, ...]] = ("text",)
    scored_columns: ClassVar[frozenset[str]] = frozenset()
    metrics: ClassVar[tuple[Metric, ...]] = ()
    source_column: ClassVar[str] = "text"
    unit: ClassVar[str] = "documents"

    def chunk_length(self, data: DataSource) -> int:
        """Tokens of a chunk."""
        return self.corruption.chunk_length(data.max_source_length)

    def columns(self, data: DataSource) -> dict[str, Column]:
        return {"text": Tokens(ends_in_eos=False, max_length=self.chunk_length(data), concatenate=True)}

    def source(self, data: DataSource) -> Tokens:
        return Tokens(max_length=data.max_source_length)

    def row_lengths(self, data: DataSource) -> tuple[int, int]:
        """What stays of a chunk, or is taken out of it, with the sentinels and the EOS token."""
        return data.max_source_length, self.corruption.lengths(self.chunk_length(data))[1]

    def batch_format(self, data: DataSource) -> BatchFormat:
        max_source_length, max_target_length = self.row_lengths(data)
        return BatchFormat(
            columns=self.columns(data),
            transforms=(self.corruption,),
            max_source_length=max_source_length,
            max_target_length=max_target_length,
        )

    def num_sentinels(self, data: DataSource) -> int:
        """Sentinels in a row."""
        return self.corruption.num_noise(self.chunk_length(data))[1]

    def has_unpacked_rows(self, data: DataSource) -> bool:
        return True

    def check(self, data: DataSource, tokenizer: TokenizerConfig) -> None:
        super().check(data, tokenizer)
        if not tokenizer.joint:
            raise ValueError(
                "data of documents has one text for both sides, and so one tokenizer. Set tokenizer.joint to True."
            )
        if tokenizer.num_sentinels < self.num_sentinels(data):
            raise ValueError(
                f"tokenizer.num_sentinels must be at least {self.num_sentinels(data)}, the spans that task.corruption "
                f"takes out of a row of {data.max_source_length} tokens, and is {tokenizer.num_sentinels}. Raise it, "
                "or task.corruption.mean_span_length."
            )
