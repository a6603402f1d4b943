"""How varied the outputs for the sources of a set are: whether everything is answered alike, or with itself."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.evaluation import diversity
from seq2seq_jax.evaluation.metric import Example, Metric, Score, references_of
from seq2seq_jax.evaluation.metrics.bleu import Bleu, Tokenizer, bleu_tokenizer

MIN_REPEATED = 3
"""Words of the shortest output that can repeat its source: shorter ones stand in many texts by chance."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variety(Metric):
    """How varied outputs are, one per source, percent: distinct words and pairs of words (distinct-1, distinct-2) per
    word and pair, how many outputs are the commonest one, and how many of three words and more stand in their source.

    Distinct-n falls as there is more text, so that only sets of the same size compare; that of the references (the
    first of each) stands beside it. Case is ignored.

    Source: Li et al. 2016, arXiv:1510.03055, section 5.3.
    """

    name: ClassVar[str] = "variety"
    needs: ClassVar[frozenset[str]] = Metric.needs | {"source"}

    tokenizer: Tokenizer | None = None
    """sacreBLEU's tokenizer, which makes words; None = by the writing of the references, see `bleu_tokenizer`."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("output_distinct_1", "output_distinct_2", "reference_distinct_2", "commonest_output", "repeated_source")

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        import sacrebleu
        from sacrebleu.metrics import BLEU

        references = references_of(outputs, examples)
        tokenizer = self.tokenizer or bleu_tokenizer(text for each in references for text in each)
        split = BLEU(tokenize=tokenizer).tokenizer

        def words(text: str) -> tuple[str, ...]:
            return tuple(split(text.lower().rstrip()).split())

        texts = list(map(words, outputs))
        counted = [[diversity.Text.of(text)] for text in texts]
        wanted = [[diversity.Text.of(words(each[0]))] for each in references]
        commonest, times = Counter(texts).most_common(1)[0]
        long = [(text, example) for text, example in zip(texts, examples, strict=True) if len(text) >= MIN_REPEATED]
        repeated = sum(_stands_in(text, words(example["source"])) for text, example in long)
        values = {
            "output_distinct_1": (diversity.distinct(counted, 1), "distinct-1", True, "of:outputs"),
            "output_distinct_2": (diversity.distinct(counted, 2), "distinct-2", True, "of:outputs"),
            "reference_distinct_2": (diversity.distinct(wanted, 2), "distinct-2 of references", True, "of:references"),
            "commonest_output": (times / len(texts), "commonest output", False, "of:outputs"),
            "repeated_source": (
                repeated / max(len(long), 1), "outputs in their source", False, f"of:outputs of {MIN_REPEATED}+ words"
            ),
        }  # fmt: skip
        signature = f"texts:{len(texts)}|case:lc|tok:{tokenizer}"
        return {
            name: Score(
                value=100.0 * value,
                unit="percent",
                higher_is_better=higher_is_better,
                signature=f"{signature}|{of}|version:{sacrebleu.__version__}",
                label=label,
                note=f"the commonest output is {' '.join(commonest)!r}" if name == "commonest_output" else "",
            )
            for name, (value, label, higher_is_better, of) in values.items()
        }

    def check_installed(self) -> None:
        Bleu(tokenizer=self.tokenizer).check_installed()


def _stands_in(text: tuple[str, ...], source: tuple[str, ...]) -> bool:
    """Whether words stand in a source, one after the other."""
    return any(source[start : start + len(text)] == text for start in range(len(source) - len(text) + 1))
