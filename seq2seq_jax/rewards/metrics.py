"""Sentence-level metrics from counts, for one hypothesis and one reference; for all of them higher is better."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.rewards.ngrams import Overlap

Smoothing = Literal["exp", "floor", "add-k", "none"]

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2.0
REPETITION_ORDER = 4
FLOOR = 0.1
"""Number of matches that smoothing "floor" assumes if there are none, as in sacrebleu."""


def bleu(words: Overlap, smoothing: Smoothing) -> Float[Array, "*rows"]:
    """Sentence BLEU in [0, 1], from n-grams of 1 to 4 words, with effective order.

    Args:
        words: counts of 13a words, 4 orders.
        smoothing: of orders without a match: "exp" assumes 1/2, 1/4, ... matches for successive such orders, "floor"
            assumes 0.1, "add-k" adds 1 to the matches and n-grams of all orders above the first, "none" gives score 0.

    Source: Papineni et al. 2002; sacrebleu 2.6.0, BLEU(effective_order=True, smooth_method=smoothing).sentence_score.
    """
    matches, totals = _first(words.matches, BLEU_ORDER), _first(words.hypothesis, BLEU_ORDER)
    if smoothing == "add-k":
        matches, totals = (counts.at[..., 1:].add(1.0) for counts in (matches, totals))
    absent = matches == 0
    assumed = {"exp": 0.5 ** jnp.cumsum(absent, axis=-1), "floor": FLOOR}.get(smoothing, 0.0)
    logarithms = jnp.log(jnp.where(absent, assumed, matches) / jnp.maximum(totals, 1.0))
    counted = totals > 0
    mean = jnp.sum(jnp.where(counted, logarithms, 0.0), axis=-1) / jnp.maximum(jnp.sum(counted, axis=-1), 1)
    length, reference_length = words.hypothesis[..., 0], words.reference[..., 0]
    brevity = jnp.minimum(1.0 - reference_length / jnp.maximum(length, 1), 0.0)
    return jnp.where(jnp.any(words.matches[..., :BLEU_ORDER] > 0, axis=-1), jnp.exp(mean + brevity), 0.0)


def gleu(words: Overlap) -> Float[Array, "*rows"]:
    """The minimum of precision and recall of all n-grams of 1 to 4 words; 0 if there are none.

    Source: Wu et al. 2016, arXiv:1609.08144, section 5.2; nltk.translate.gleu_score.sentence_gleu.
    """
    counts = (words.matches, words.hypothesis, words.reference)
    matches, hypothesis, reference = (jnp.sum(_first(each, BLEU_ORDER), axis=-1) for each in counts)
    return matches / jnp.maximum(jnp.maximum(hypothesis, reference), 1.0)


def chrf(characters: Overlap, *, beta: float = CHRF_BETA) -> Float[Array, "*rows"]:
    """chrF in [0, 1], by default chrF2: F measure of mean precision and mean recall of n-grams of 1 to 6
    characters.

    The means are over the orders for which both sides have n-grams.

    Args:
        characters: counts of characters without whitespace, 6 orders.
        beta: weight of recall.

    Source: Popović 2015; sacrebleu 2.6.0, CHRF(beta=beta).sentence_score.
    """
    both = (characters.hypothesis > 0) & (characters.reference > 0)
    num_orders = jnp.maximum(jnp.sum(both, axis=-1), 1)

    def mean_fraction(totals: Int[Array, "*rows order"]) -> Float[Array, "*rows"]:
        fractions = characters.matches / jnp.where(totals > 0, totals, 1)
        return jnp.sum(jnp.where(both, fractions, 0.0), axis=-1) / num_orders

    return f_beta(mean_fraction(characters.hypothesis), mean_fraction(characters.reference), beta=beta)


def f_beta(precision: Float[Array, "*rows"], recall: Float[Array, "*rows"], *, beta: float) -> Float[Array, "*rows"]:
    """Harmonic mean in which recall counts beta times as much as precision; 0 where both are 0."""
    denominator = beta**2 * precision + recall
    return jnp.where(
        denominator > 0, (1 + beta**2) * precision * recall / jnp.where(denominator > 0, denominator, 1.0), 0.0
    )


def f_measure(
    matches: Int[Array, "*rows"], hypothesis: Int[Array, "*rows"], reference: Int[Array, "*rows"]
) -> Float[Array, "*rows"]:
    """Harmonic mean of precision and recall, 0 without matches: ROUGE's score of n-grams and of subsequences.

    Args:
        matches: number of common items.
        hypothesis: number of items of the hypothesis.
        reference: number of items of the reference.

    Source: Lin 2004; rouge-score 0.1.2, scoring.fmeasure.
    """
    return 2.0 * matches / jnp.maximum(hypothesis + reference, 1)


def minus_error_rate(distances: Int[Array, "*rows"], reference: Int[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Minus the edit distance divided by the length of the reference; for an empty reference, minus the distance.

    Source: jiwer 4.0.0, wer and cer.
    """
    return -distances / jnp.maximum(reference, 1)


def distinct(words: Overlap, order: int) -> Float[Array, "*rows"]:
    """Number of distinct n-grams of the hypothesis divided by the number of its n-grams.

    A hypothesis without n-grams has score 0, so that empty texts are not rewarded for diversity.

    Source: Li et al. 2016, arXiv:1510.03055, section 5.3, for one hypothesis.
    """
    return words.distinct[..., order - 1] / jnp.maximum(words.hypothesis[..., order - 1], 1)


def minus_repetition(words: Overlap) -> Float[Array, "*rows"]:
    """Minus the fraction of the hypothesis's 4-grams that occur earlier in it; 0 for a hypothesis without 4-grams."""
    total = words.hypothesis[..., REPETITION_ORDER - 1]
    return (words.distinct[..., REPETITION_ORDER - 1] - total) / jnp.maximum(total, 1)


def length_agreement(words: Overlap) -> Float[Array, "*rows"]:
    """Number of words of the shorter side divided by that of the longer one; 1 for equal lengths."""
    hypothesis, reference = words.hypothesis[..., 0], words.reference[..., 0]
    longer = jnp.maximum(hypothesis, reference)
    return jnp.where(longer == 0, 1.0, jnp.minimum(hypothesis, reference) / jnp.maximum(longer, 1))


def exact_match(equal: Bool[Array, "*rows"]) -> Float[Array, "*rows"]:
    """1 if the texts are equal, character by character, otherwise 0."""
    return equal.astype(jnp.float32)


def _first(counts: Int[Array, "*rows orders"], order: int) -> Float[Array, "*rows {order}"]:
    return counts[..., :order].astype(jnp.float32)
