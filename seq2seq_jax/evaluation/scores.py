"""Scores of generated text against references, by the field's reference implementation."""

import dataclasses

from sacrebleu.metrics import BLEU, CHRF


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Corpus scores, all in percent, and how they were computed."""

    bleu: float
    """BLEU, percent: cased, 13a tokens, exponential smoothing."""
    chrf: float
    """chrF2, percent: character n-grams up to 6, recall weighed twice."""
    exact_match: float
    """Hypotheses that are their reference to the character, percent."""
    signature: str
    """sacreBLEU's signature of `bleu`, to be published with it."""
    chrf_signature: str
    """sacreBLEU's signature of `chrf`."""


def corpus_scores(hypotheses: list[str], references: list[str]) -> Scores:
    """Scores of a corpus of detokenized text, one reference each.

    Args:
        hypotheses: generated texts.
        references: their references, in the same order.

    Returns:
        Scores, in percent.

    Raises:
        ValueError: there are no texts, or not as many of one as of the other.

    Source: Papineni et al. 2002 (BLEU), Popović 2015 (chrF), Post 2018, arXiv:1804.08771 (sacreBLEU).
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"expected one reference for each hypothesis, got {len(hypotheses)} hypotheses and "
            f"{len(references)} references: score the lines of the same split, all of them"
        )
    if not hypotheses:
        raise ValueError("expected at least one hypothesis to score, got none: give a split that is not empty")
    bleu, chrf = BLEU(), CHRF()
    matches = sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True))
    return Scores(
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        exact_match=100.0 * matches / len(hypotheses),
        signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
    )
