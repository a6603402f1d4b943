"""Exact match."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.evaluation.metric import Example, Metric, Score, num_references, references_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactMatch(Metric):
    """Outputs that equal a reference of theirs, character by character, percent."""

    name: ClassVar[str] = "exact_match"

    @property
    def names(self) -> tuple[str, ...]:
        return ("exact_match",)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        references = references_of(outputs, examples)
        matches = sum(output in each for output, each in zip(outputs, references, strict=True))
        score = Score(
            value=100.0 * matches / len(outputs),
            unit="percent",
            higher_is_better=True,
            signature=f"nrefs:{num_references(references)}|case:mixed|norm:none",
            label="exact match",
        )
        return {"exact_match": score}
