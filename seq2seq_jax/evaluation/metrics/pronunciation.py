"""Error rates of pronunciations."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.evaluation.metric import Example, Metric, Score, num_references, references_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class PronunciationErrors(Metric):
    """Errors in words, percent: words of which the output is none of the pronunciations, and phonemes inserted, deleted
    and substituted per phoneme of the nearest pronunciation.

    Outputs and references are phonemes with spaces between them. Nearest is the pronunciation with the fewest edits, of
    equal ones the first.
    """

    name: ClassVar[str] = "pronunciation"

    @property
    def names(self) -> tuple[str, ...]:
        return ("word_error", "phoneme_error")

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        references = references_of(outputs, examples)
        wrong = edits = length = 0
        for output, pronunciations in zip(outputs, references, strict=True):
            phonemes = output.split()
            counted = [(edit_distance(phonemes, each.split()), len(each.split())) for each in pronunciations]
            nearest, of_nearest = min(counted, key=lambda distance_and_length: distance_and_length[0])
            wrong += nearest > 0
            edits, length = edits + nearest, length + of_nearest
        values = {
            "word_error": (100.0 * wrong / len(outputs), "word error", "any pronunciation"),
            "phoneme_error": (100.0 * edits / max(length, 1), "phoneme error", "nearest pronunciation"),
        }
        return {
            name: Score(
                value=value,
                unit="percent",
                higher_is_better=False,
                signature=f"nrefs:{num_references(references)}|against:{against}",
                label=label,
            )
            for name, (value, label, against) in values.items()
        }


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that make one sequence of the other."""
    row = list(range(len(second) + 1))
    for index, one in enumerate(first, start=1):
        diagonal, row[0] = row[0], index
        for place, other in enumerate(second, start=1):
            substituted = diagonal + (one != other)
            diagonal = row[place]
            row[place] = min(substituted, diagonal + 1, row[place - 1] + 1)
    return row[-1]
