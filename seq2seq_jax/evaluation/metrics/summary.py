"""What summaries are like beside their quality: how long they are, and how much of them stands in the source."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.evaluation.extraction import Extraction, extraction
from seq2seq_jax.evaluation.metric import OUTPUTS, Example, Metric, Score, num_references, references_of

ORDERS = (1, 2, 3)

_MEASURES = {
    "length_ratio": ("ratio", "length ratio"),
    "extractive_coverage": ("percent", "extractive coverage"),
    "extractive_density": ("words", "extractive density"),
    **{f"novel_{n}": ("percent", f"novel {n}-grams") for n in ORDERS},
    "numbers_in_source": ("percent", "numbers in the source"),
    "capitalised_in_source": ("percent", "capitalised words in the source"),
}
"""Name of the score -> its unit, and what people call it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SummaryStatistics(Metric):
    """Words per word of the reference; extractive coverage (percent of the words of a summary in fragments of the
    source) and density (mean squared length of these fragments per word); n-grams that the source does not have; and
    numbers and capitalised words, in whichever case, that it has: those that it lacks are made up.

    None of them says that a summary is good: what the references have stands in a note. Ratios are of all texts
    together, coverage and density means over the examples.

    Source: Grusky et al. 2018 (coverage and density); See et al. 2017, section 6.2 (novel n-grams).
    """

    name: ClassVar[str] = "summary"
    needs: ClassVar[frozenset[str]] = frozenset({OUTPUTS, "source", "target"})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(_MEASURES)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        references = references_of(outputs, examples)
        sources = [example["source"] for example in examples]
        found = _values(extraction(sources, [[output] for output in outputs], orders=ORDERS[-1]))
        expected = _values(extraction(sources, references, orders=ORDERS[-1]))
        lengths = [sum(len(text.split()) for text in each) / len(each) for each in references]
        values = {"length_ratio": sum(len(output.split()) for output in outputs) / max(sum(lengths), 1.0)} | found
        of_references = (f"{_MEASURES[name][1]} {value:.2f}" for name, value in expected.items())
        note = f"the references have {', '.join(of_references)}"
        signature = f"nrefs:{num_references(references)}|case:lc|tok:words, numbers, punctuation"
        return {
            name: Score(
                value=values[name],
                unit=unit,
                higher_is_better=not name.startswith("novel"),
                signature="words:by spaces" if name == "length_ratio" else signature,
                label=label,
                note=note if name == self.names[0] else "",
            )
            for name, (unit, label) in _MEASURES.items()
        }


def _values(found: Extraction) -> dict[str, float]:
    return {
        "extractive_coverage": 100.0 * found.coverage / found.texts,
        "extractive_density": found.density / found.texts,
        **{
            f"novel_{n}": 100.0 * novel / max(number, 1)
            for n, novel, number in zip(ORDERS, found.novel, found.ngrams, strict=True)
        },
        # Where there is none, none is made up.
        "numbers_in_source": _percent(*found.numbers),
        "capitalised_in_source": _percent(*found.capitalised),
    }


def _percent(count: int, number: int) -> float:
    return 100.0 * count / number if number else 100.0
