"""Summaries: a short text of a long one. Sources that are too long are truncated, and outputs scored by ROUGE."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from seq2seq_jax.data.source import PairSource
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.evaluation.metric import Example, Metric, references
from seq2seq_jax.evaluation.metrics.rouge import Rouge
from seq2seq_jax.evaluation.metrics.summary import SummaryStatistics
from seq2seq_jax.tasks.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summarisation(Translation):
    """A summary for each source, of which no more than data.max_source_length tokens are read."""

    metrics: ClassVar[tuple[Metric, ...]] = (Rouge(), SummaryStatistics())

    def check(self, data: PairSource, tokenizer: TokenizerConfig) -> None:
        super().check(data, tokenizer)
        if data.too_long != "truncate":
            raise ValueError(
                f"task Summarisation needs a limit for its sources, and data.too_long = {data.too_long} leaves long "
                "ones out, of training and of the scores. Set data.too_long to truncate, and data.max_source_length to "
                "the tokens that are read of a source."
            )

    def all_scored(self, columns: Sequence[str], examples: Iterable[Sequence[Any]]) -> Iterator[Example]:
        """The examples of a split, each with as many references: the best of several scores higher than one."""
        number = None
        for index, example in enumerate(super().all_scored(columns, examples), 1):
            found = len(references(example))
            number = number or found
            if found != number:
                raise ValueError(
                    f"expected as many references for each example, and example {index} has {found}, the target "
                    f"counted, where those before it have {number}: give all the same number in data.references, or "
                    "set it to None"
                )
            yield example
