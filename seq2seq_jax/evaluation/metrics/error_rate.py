"""Word and character error rates, by jiwer."""

import abc
import dataclasses
import importlib.metadata
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.evaluation.metric import Example, Metric, Score, num_references, references_of

if TYPE_CHECKING:
    import jiwer


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ErrorRate(Metric):
    """Edits per unit of the references, percent; of several references the one with the lowest rate counts."""

    name: ClassVar[str]
    label: ClassVar[str]
    packages: ClassVar[Mapping[str, str]] = {"jiwer": "jiwer"}

    lowercase: bool = False
    """Ignore case."""
    remove_punctuation: bool = False
    """Ignore all characters of Unicode's categories of punctuation (P...)."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *(f"{self.name}_{kind}" for kind in ("insertions", "deletions", "substitutions")))

    @abc.abstractmethod
    def _edits(self, references: list[str], outputs: list[str]) -> "jiwer.WordOutput | jiwer.CharacterOutput":
        """jiwer's alignment."""

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        references = references_of(outputs, examples)
        self.check_installed()
        texts = [self._normalized(output) for output in outputs]
        nearest = [
            self._nearest([self._normalized(reference) for reference in each], text)
            for each, text in zip(references, texts, strict=True)
        ]
        found = self._edits(nearest, texts)
        steps = {"lower": self.lowercase, "no punctuation": self.remove_punctuation}
        signature = (
            f"nrefs:{num_references(references)}|"
            f"norm:{' + '.join(step for step, is_done in steps.items() if is_done) or 'none'}|"
            f"version:{importlib.metadata.version('jiwer')}"
        )
        kinds = {"insertions": found.insertions, "deletions": found.deletions, "substitutions": found.substitutions}
        # What jiwer divides by: it counts 1 for references without a unit.
        length = max(found.hits + found.deletions + found.substitutions, 1)
        return {
            name: Score(
                value=100.0 * number / length,
                unit="percent",
                higher_is_better=False,
                signature=signature,
                label=f"{self.label} {kind}".strip(),
            )
            for name, (kind, number) in zip(self.names, ({"": sum(kinds.values())} | kinds).items(), strict=True)
        }

    def _normalized(self, text: str) -> str:
        text = text.lower() if self.lowercase else text
        if self.remove_punctuation:
            text = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
        return text

    def _nearest(self, references: list[str], output: str) -> str:
        """The reference with the lowest rate of errors, the first of equal ones."""

        def rate(reference: str) -> float:
            found = self._edits([reference], [output])
            edits = found.insertions + found.deletions + found.substitutions
            return edits / max(found.hits + found.deletions + found.substitutions, 1)

        return references[0] if len(references) == 1 else min(references, key=rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WordErrorRate(_ErrorRate):
    """Word error rate: words inserted, deleted and substituted per word of the references, percent."""

    name: ClassVar[str] = "wer"
    label: ClassVar[str] = "WER"

    def _edits(self, references: list[str], outputs: list[str]) -> "jiwer.WordOutput":
        import jiwer

        return jiwer.process_words(references, outputs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CharacterErrorRate(_ErrorRate):
    """Character error rate: characters inserted, deleted and substituted per character of the references, percent."""

    name: ClassVar[str] = "cer"
    label: ClassVar[str] = "CER"

    def _edits(self, references: list[str], outputs: list[str]) -> "jiwer.CharacterOutput":
        import jiwer

        return jiwer.process_characters(references, outputs)


def aligned_words(reference: str, output: str) -> tuple[str, str, str]:
    """Reference and output with each word under its counterpart, asterisks where there is none, and a line of errors: S
    substituted, D deleted, I inserted.
    """
    import jiwer

    if not reference.split():
        return reference, output, " ".join("I" * len(word) for word in output.split())
    expected, given = reference.split(), output.split()
    columns: list[tuple[str, str, str]] = []
    for chunk in jiwer.process_words([" ".join(expected)], [" ".join(given)]).alignments[0]:
        left = expected[chunk.ref_start_idx : chunk.ref_end_idx]
        right = given[chunk.hyp_start_idx : chunk.hyp_end_idx]
        mark = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}[chunk.type]
        for index in range(max(len(left), len(right))):
            one = left[index] if index < len(left) else "*" * len(right[index])
            other = right[index] if index < len(right) else "*" * len(left[index])
            columns.append((one, other, mark))
    widths = [max(map(len, column)) for column in columns]
    lines = (
        " ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    )
    reference, output, errors = (line.rstrip() for line in lines)
    return reference, output, errors
