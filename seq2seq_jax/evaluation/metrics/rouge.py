"""ROUGE, by rouge-score."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import ClassVar

from seq2seq_jax.evaluation.metric import Example, Metric, Score, num_references, references_of

TYPES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-Lsum"}
"""Name of the score, as rouge-score calls it -> what people call it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rouge(Metric):
    """ROUGE-1, 2, L and Lsum, percent: F measures, of several references the best, and their mean over the examples.

    Words consist of a-z and 0-9 only, so that this is for English. Lsum takes lines for sentences.

    Source: Lin 2004; rouge-score.
    """

    name: ClassVar[str] = "rouge"
    packages: ClassVar[Mapping[str, str]] = {"rouge_score": "rouge-score"}

    stemmer: bool = True
    """Compare words of more than three letters without their endings (Porter's stemmer)."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(TYPES)

    def of_examples(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, list[float]]:
        references = references_of(outputs, examples)
        self.check_installed()
        # Its stemmer's library takes two seconds to import.
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(TYPES), use_stemmer=self.stemmer)
        found = [scorer.score_multi(each, output) for output, each in zip(outputs, references, strict=True)]
        return {name: [100.0 * each[name].fmeasure for each in found] for name in TYPES}

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        references = references_of(outputs, examples)
        found = self.of_examples(outputs, examples)
        signature = (
            f"nrefs:{num_references(references)}|stemmer:{'porter' if self.stemmer else 'no'}|measure:F1|"
            f"aggregation:mean|version:{importlib.metadata.version('rouge-score')}"
        )
        return {
            name: Score(
                value=sum(found[name]) / len(outputs),
                unit="percent",
                higher_is_better=True,
                signature=signature,
                label=label,
            )
            for name, label in TYPES.items()
        }
