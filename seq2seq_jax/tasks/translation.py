"""Text to text: translation, summaries, answers. An example has a source and a target, or several references."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.columns import Column, Tokens
from seq2seq_jax.data.source import DataSource, PairSource
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.evaluation.metric import Example, Metric
from seq2seq_jax.evaluation.metrics import DEFAULT_METRICS
from seq2seq_jax.tasks.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation(Task):
    """A target for each source."""

    reads: ClassVar[tuple[str, ...]] = ("source", "target")
    scored_columns: ClassVar[frozenset[str]] = frozenset({"source", "target"})
    metrics: ClassVar[tuple[Metric, ...]] = DEFAULT_METRICS
    source_column: ClassVar[str] = "source"
    unit: ClassVar[str] = "pairs"

    def columns(self, data: PairSource) -> dict[str, Column]:
        return {"source": data.source_column(), "target": data.target_column(), **data.label_columns()}

    def source(self, data: PairSource) -> Tokens:
        return data.source_column()

    def row_lengths(self, data: PairSource) -> tuple[int, int]:
        return data.max_source_length, data.max_target_length

    def batch_format(self, data: PairSource) -> BatchFormat:
        return BatchFormat(
            columns=self.columns(data),
            augmentations=data.augmentations,
            mixing=data.mixing,
            max_source_length=data.max_source_length,
            max_target_length=data.max_target_length,
            packing=data.packing,
            max_examples_per_row=data.max_examples_per_row,
            bucket_lengths=data.bucket_lengths,
            window=data.window,
        )

    def check(self, data: DataSource, tokenizer: TokenizerConfig) -> None:
        super().check(data, tokenizer)
        if isinstance(data, PairSource):
            data.check_tokenizer(tokenizer)

    def has_unpacked_rows(self, data: PairSource) -> bool:
        return not data.packing

    def scored(self, columns: Sequence[str], values: Sequence[Any]) -> Example:
        """The example, with further references behind its target if the data has any."""
        example = super().scored(columns, values)
        further = example.pop("references", None) or []
        if further:
            example["target"] = [example["target"], *([further] if isinstance(further, str) else further)]
        return example
