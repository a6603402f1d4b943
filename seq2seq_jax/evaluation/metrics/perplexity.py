"""Perplexity of the references."""

import dataclasses
import math
from typing import ClassVar, Literal

from seq2seq_jax.evaluation.metric import LIKELIHOOD, Evaluated, Metric, Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perplexity(Metric):
    """e to the negative log-likelihood (without label smoothing) per token, or per word, of the references.

    Perplexities per token compare models with the same tokenizer alone, those per word any.
    """

    name: ClassVar[str] = "perplexity"

    per: Literal["token", "word"] = "token"
    """What the likelihood is divided by: target tokens, EOS tokens included, or words between white space, of which an
    EOS token is none."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({LIKELIHOOD} if self.per == "token" else {LIKELIHOOD, "target"})

    @property
    def names(self) -> tuple[str, ...]:
        return (f"perplexity_per_{self.per}",)

    def scores(self, evaluated: Evaluated) -> dict[str, Score]:
        likelihood = evaluated.likelihood
        units = likelihood.tokens if self.per == "token" else sum(len(text.split()) for text in likelihood.texts)
        if not units:
            raise ValueError(f"metric {self} expected references with a {self.per}, and there is none: leave it out.")
        try:
            value = math.exp(likelihood.nll / units)
        except OverflowError:
            value = math.inf
        [name] = self.names
        counted = "tokens with EOS" if self.per == "token" else "words between white space"
        score = Score(
            value=value,
            unit=f"perplexity per {self.per}",
            higher_is_better=False,
            signature=f"nll:tokens with EOS, no smoothing|per:{counted}",
            label=f"perplexity per {self.per}",
        )
        return {name: score}
