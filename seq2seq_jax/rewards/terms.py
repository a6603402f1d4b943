"""The table of compiled rewards: what each compares, and how it scores that."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.rewards import metrics
from seq2seq_jax.rewards.edit_distance import edit_distances, longest_common_subsequences
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.ngrams import Overlap, overlap
from seq2seq_jax.rewards.text import Characters, strip, without_whitespace
from seq2seq_jax.rewards.words import (
    Symbols,
    character_symbols,
    count,
    words_13a,
    words_alphanumeric,
    words_between_blanks,
)

VIEWS: dict[str, Callable[[Characters], Symbols]] = {
    "text": character_symbols,
    "stripped": lambda characters: character_symbols(strip(characters)),
    "inked": lambda characters: character_symbols(without_whitespace(characters)),
    "13a": words_13a,
    "alphanumeric": words_alphanumeric,
    "between_blanks": words_between_blanks,
}
"""Name -> the representation of a text that rewards compare."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """Samples and their references, as a reward sees them.

    Attributes:
        hypotheses: the samples in the view of the reward; None = it has none.
        references: as many arrays of the same shape as references are compared with at once, one as a rule.
        order: of the n-grams in `overlap`.
        smoothing: of BLEU.
        tokens: target ids of the samples.
        example: what they are samples for, token ids.
    """

    hypotheses: Symbols | None
    references: tuple[Symbols, ...]
    order: int
    smoothing: metrics.Smoothing
    tokens: Int[Array, "batch samples length"]
    example: RewardExample

    @functools.cached_property
    def overlap(self) -> Overlap:
        """Counts of the n-grams that they share."""
        return overlap(self.hypotheses, *self.references, order=self.order)

    @property
    def reference(self) -> Symbols:
        """The reference of a reward that compares with one at once."""
        [reference] = self.references
        return reference


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """A compiled reward: a pure function of token ids with fixed shapes, for which higher is better.

    Of several references the one with the highest value counts, unless the term compares with all of them at once.
    """

    view: str | None
    """Name of what is compared, see VIEWS; None = token ids alone, in `Compared.tokens` and `example`."""
    score: Callable[[Compared], Float[Array, "batch samples"]]
    """The value of each sample."""
    order: int = 0
    """Highest order of the n-grams in `Compared.overlap`; 0 = it is not used."""
    range: tuple[float, float] = (0.0, 1.0)
    """The worst and the best value."""
    compares_with_all: bool = False
    """Whether `Compared.references` are all references."""

    def __post_init__(self):
        if self.view is not None and self.view not in VIEWS:
            raise ValueError(f"a reward's view must be None or one of {', '.join(VIEWS)}, and is {self.view!r}.")


def _f_measure_of_words(order: int) -> Callable[[Compared], Float[Array, "batch samples"]]:
    def score(compared: Compared) -> Float[Array, "batch samples"]:
        counts = compared.overlap
        of_order = (each[..., order - 1] for each in (counts.matches, counts.hypothesis, counts.reference))
        return metrics.f_measure(*of_order)

    return score


def _f_measure_of_subsequence(compared: Compared) -> Float[Array, "batch samples"]:
    common = longest_common_subsequences(compared.hypotheses, compared.reference)
    return metrics.f_measure(common, count(compared.hypotheses), count(compared.reference))


def _minus_error_rate(compared: Compared) -> Float[Array, "batch samples"]:
    edits = edit_distances(compared.hypotheses, compared.reference)
    return metrics.minus_error_rate(edits, count(compared.reference))


TERMS: dict[str, RewardTerm] = {
    "bleu": RewardTerm(
        view="13a",
        order=metrics.BLEU_ORDER,
        score=lambda compared: metrics.bleu(compared.overlap, compared.smoothing),
        compares_with_all=True,
    ),
    "gleu": RewardTerm(view="13a", order=metrics.BLEU_ORDER, score=lambda compared: metrics.gleu(compared.overlap)),
    "chrf": RewardTerm(view="inked", order=metrics.CHRF_ORDER, score=lambda compared: metrics.chrf(compared.overlap)),
    "rouge_1": RewardTerm(view="alphanumeric", order=1, score=_f_measure_of_words(1)),
    "rouge_2": RewardTerm(view="alphanumeric", order=2, score=_f_measure_of_words(2)),
    "rouge_l": RewardTerm(view="alphanumeric", score=_f_measure_of_subsequence),
    "word_error_rate": RewardTerm(view="between_blanks", score=_minus_error_rate, range=(-math.inf, 0.0)),
    "character_error_rate": RewardTerm(view="stripped", score=_minus_error_rate, range=(-math.inf, 0.0)),
    "exact_match": RewardTerm(
        view="text",
        score=lambda compared: metrics.exact_match(jnp.all(compared.hypotheses == compared.reference, axis=(-2, -1))),
    ),
    "distinct_1": RewardTerm(view="13a", order=1, score=lambda compared: metrics.distinct(compared.overlap, 1)),
    "distinct_2": RewardTerm(view="13a", order=2, score=lambda compared: metrics.distinct(compared.overlap, 2)),
    "repetition": RewardTerm(
        view="13a",
        order=metrics.REPETITION_ORDER,
        score=lambda compared: metrics.minus_repetition(compared.overlap),
        range=(-1.0, 0.0),
    ),
    "length": RewardTerm(view="13a", order=1, score=lambda compared: metrics.length_agreement(compared.overlap)),
}
"""Name of a weight in RewardConfig -> its reward."""
