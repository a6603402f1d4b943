"""Perplexity of the references."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import ClassVar, Literal

from seq2seq_jax.evaluation.metric import LIKELIHOOD, Evaluated, Metric, Score

COUNTED = {
    "token": "tokens with EOS",
    "word": "words between white space",
    "word_or_mark": "words, and each punctuation mark",
}
"""What the likelihood is divided by, in words."""
NUMBER_IN: dict[str, Callable[[str], int]] = {
    "word": lambda text: len(text.split()),
    "word_or_mark": lambda text: len(re.findall(r"\w+|[^\w\s]", text)),
}
"""How many of them a text has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """e to the negative log-likelihood (without label smoothing) per token, or per word, of the references.

    Perplexities per token compare models with the same tokenizer alone, those per word any. Published perplexities of
    conversation and of WikiText count punctuation marks as words, which makes them much lower.
    """

    name: ClassVar[str] = "perplexity"

    per: Literal["token", "word", "word_or_mark"] = "token"
    """What the likelihood is divided by: target tokens, EOS tokens included; words between white space; or words
    (letters, digits, underscores) and each punctuation mark. An EOS token is neither word nor mark."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({LIKELIHOOD} if self.per == "token" else {LIKELIHOOD, "target"})

    @property
    def names(self) -> tuple[str, ...]:
        return (f"perplexity_per_{self.per}",)

    def scores(self, evaluated: Evaluated) -> dict[str, Score]:
        likelihood = evaluated.likelihood
        units = likelihood.tokens if self.per == "token" else sum(map(NUMBER_IN[self.per], likelihood.texts))
        unit = self.per.replace("_", " ")
        if not units:
            raise ValueError(f"metric {self} expected references with a {unit}, and there is none: leave it out.")
        try:
            value = math.exp(likelihood.nll / units)
        except OverflowError:
            value = math.inf
        [name] = self.names
        score = Score(
            value=value,
            unit=f"perplexity per {unit}",
            higher_is_better=False,
            signature=f"nll:tokens with EOS, no smoothing|per:{COUNTED[self.per]}",
            label=f"perplexity per {unit}",
        )
        return {name: score}
