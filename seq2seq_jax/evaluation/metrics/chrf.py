"""chrF, by sacreBLEU."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.evaluation.metric import Example, Metric, Score, reference_streams, references_of

if TYPE_CHECKING:
    from sacrebleu.metrics import CHRF


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChrF(Metric):
    """Corpus chrF2, percent: character n-grams up to 6, beta 2.

    Source: Popović 2015; Popović 2017 (chrF++).
    """

    name: ClassVar[str] = "chrf"

    word_order: int = 0
    """Longest n-grams of words that count too; 2 = chrF++."""
    lowercase: bool = False
    """Ignore case."""

    def __post_init__(self):
        super().__post_init__()
        if self.word_order < 0:
            raise ValueError(f"metrics.chrf.word_order must not be negative, and is {self.word_order}.")

    @property
    def names(self) -> tuple[str, ...]:
        return ("chrf",)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        references = references_of(outputs, examples)
        chrf = self.sacrebleu(examples)
        score = Score(
            value=chrf.corpus_score(list(outputs), reference_streams(references)).score,
            unit="percent",
            higher_is_better=True,
            signature=str(chrf.get_signature()),
            label="chrF" + "+" * min(self.word_order, 2),
        )
        return {"chrf": score}

    def sacrebleu(self, examples: Sequence[Example]) -> "CHRF":
        from sacrebleu.metrics import CHRF

        return CHRF(word_order=self.word_order, lowercase=self.lowercase)
