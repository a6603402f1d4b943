"""Diversity of the texts that are generated for a source, and their quality beside it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from seq2seq_jax.evaluation import diversity
from seq2seq_jax.evaluation.metric import (
    ALTERNATIVES,
    OUTPUTS,
    Alternatives,
    Evaluated,
    Metric,
    Score,
    num_references,
    references_of,
)
from seq2seq_jax.evaluation.metrics.bleu import Bleu, Tokenizer, bleu_tokenizer

ORDERS = range(1, diversity.ORDER + 1)


class _Measure(NamedTuple):
    """How a score of the texts of all sources is reported."""

    unit: str
    label: str
    signature: str
    higher_is_better: bool = True


_MEASURES: dict[str, _Measure] = {
    "pairwise_bleu": _Measure("percent", "pairwise BLEU", "pairs:ordered, of a source, pooled", False),
    "self_bleu": _Measure("percent", "self-BLEU", "refs:the other texts of the source", False),
    **{f"distinct_{n}": _Measure("percent", f"distinct-{n}", "of:corpus") for n in ORDERS},
    **{
        f"distinct_{n}_per_source": _Measure("percent", f"distinct-{n} per source", "of:each source, mean")
        for n in ORDERS
    },
    **{f"entropy_{n}": _Measure("nats", f"entropy of {n}-grams", "of:corpus, by frequency") for n in ORDERS},
    "types": _Measure("words", "types", "of:corpus, distinct words"),
    "types_of_references": _Measure("percent", "types of references", "of:corpus, types of references that occur"),
    "oracle_bleu": _Measure("percent", "BLEU of the best text", "best:sentence BLEU, eff:yes|smooth:exp"),
    "mean_bleu": _Measure("percent", "BLEU of all texts", "all texts pooled|smooth:exp"),
    "mean_length": _Measure("words", "words per text", "of:all texts"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diversity(Metric):
    """How much the texts of a source differ (pairwise BLEU, self-BLEU, distinct n-grams, their entropy, types), and how
    good they are: BLEU of the best, by sentence BLEU, and of all.

    Scores depend on how texts are generated and on their number, which stand in the signature.
    """

    name: ClassVar[str] = "diversity"
    needs: ClassVar[frozenset[str]] = frozenset({OUTPUTS, ALTERNATIVES, "target"})

    tokenizer: Tokenizer | None = None
    """sacreBLEU's tokenizer, which makes words; None = by the writing of the references, see `bleu_tokenizer`."""
    lowercase: bool = False
    """Ignore case."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(_MEASURES)

    def scores(self, evaluated: Evaluated) -> dict[str, Score]:
        import sacrebleu

        references = references_of(evaluated.outputs, evaluated.examples)
        tokenizer = self.tokenizer or bleu_tokenizer(text for each in references for text in each)
        # A source that nothing was generated for has the empty text, as in other metrics.
        texts = [each or [""] for each in evaluated.alternatives.texts]
        values = _values(self._counted(texts, tokenizer), self._counted(references, tokenizer))
        of_all = (
            f"nrefs:{num_references(references)}|method:{evaluated.alternatives.method}|"
            f"n:{evaluated.alternatives.number}|case:{'lc' if self.lowercase else 'mixed'}|tok:{tokenizer}"
        )
        return {
            name: Score(
                value=values[name],
                unit=measure.unit,
                higher_is_better=measure.higher_is_better,
                signature=f"{of_all}|{measure.signature}|version:{sacrebleu.__version__}",
                label=measure.label,
                note=_note(evaluated.alternatives) if name == "pairwise_bleu" else "",
            )
            for name, measure in _MEASURES.items()
        }

    def check_installed(self) -> None:
        Bleu(tokenizer=self.tokenizer).check_installed()

    def _counted(self, texts: Sequence[Sequence[str]], tokenizer: Tokenizer) -> diversity.Sources:
        from sacrebleu.metrics import BLEU

        split = BLEU(tokenize=tokenizer).tokenizer

        @functools.cache
        def counted(text: str) -> diversity.Text:
            return diversity.Text.of(split((text.lower() if self.lowercase else text).rstrip()).split())

        return [[counted(text) for text in each] for each in texts]


def _values(texts: diversity.Sources, references: diversity.Sources) -> dict[str, float]:
    known, wanted = diversity.types(texts), diversity.types(references)
    return {
        "pairwise_bleu": diversity.pairwise_bleu(texts),
        "self_bleu": diversity.self_bleu(texts),
        **{f"distinct_{n}": 100.0 * diversity.distinct(texts, n) for n in ORDERS},
        **{f"distinct_{n}_per_source": 100.0 * diversity.distinct_per_source(texts, n) for n in ORDERS},
        **{f"entropy_{n}": diversity.entropy(texts, n) for n in ORDERS},
        "types": float(len(known)),
        "types_of_references": 100.0 * len(known & wanted) / len(wanted) if wanted else 0.0,
        "oracle_bleu": diversity.oracle_bleu(texts, references),
        "mean_bleu": diversity.mean_bleu(texts, references),
        "mean_length": diversity.mean_length(texts),
    }


def _note(alternatives: Alternatives) -> str:
    fewer = sum(len(texts) < alternatives.number for texts in alternatives.texts)
    return (
        f"{fewer:,} of {len(alternatives.texts):,} sources have fewer than {alternatives.number} texts" if fewer else ""
    )
