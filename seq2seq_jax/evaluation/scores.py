"""Scores of generated text against references, by sacreBLEU."""

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from sacrebleu.metrics import BLEU, CHRF

WORDS_OF_BLEU = 4
"""BLEU looks at runs of up to so many words: of shorter references it says next to nothing."""
BleuTokenizer = Literal["13a", "zh", "char"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Corpus scores, all in percent, and how they were computed."""

    bleu: float
    """BLEU, percent: cased, the tokens of `bleu_tokenizer`, exponential smoothing."""
    chrf: float
    """chrF2, percent: character n-grams up to 6, beta 2."""
    exact_match: float
    """Hypotheses that equal their reference, character by character, percent."""
    signature: str
    """sacreBLEU's signature of `bleu`, to be reported with it."""
    chrf_signature: str
    """sacreBLEU's signature of `chrf`."""
    words_per_reference: float
    """Tokens of a reference on average, as BLEU counts them; of fewer than four BLEU says next to nothing."""


def corpus_scores(hypotheses: list[str], references: list[str]) -> Scores:
    """Scores of a corpus of detokenized text, one reference each; BLEU's tokens are those of `bleu_tokenizer`.

    Args:
        hypotheses: generated texts.
        references: their references, in the same order.

    Returns:
        Scores, in percent.

    Raises:
        ValueError: there are no texts, or the numbers of hypotheses and references differ.

    Source: Papineni et al. 2002 (BLEU), Popović 2015 (chrF), Post 2018, arXiv:1804.08771 (sacreBLEU).
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"expected one reference for each hypothesis, got {len(hypotheses)} hypotheses and "
            f"{len(references)} references: score the lines of the same split, all of them"
        )
    if not hypotheses:
        raise ValueError("expected at least one hypothesis to score, got none: give a split that is not empty")
    bleu, chrf = BLEU(tokenize=bleu_tokenizer(references)), CHRF()
    matches = sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True))
    return Scores(
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        chrf=chrf.corpus_score(hypotheses, [references]).score,
        exact_match=100.0 * matches / len(hypotheses),
        signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
        words_per_reference=words_per_text(references),
    )


def bleu_tokenizer(texts: Iterable[str]) -> BleuTokenizer:
    """sacreBLEU's tokenizer for the writing of texts: most of their letters decide.

    Returns:
        "13a" where words have spaces between them; "zh" for Chinese; "char", every character, for other writing without
        spaces (Japanese, Thai, Lao, Khmer, Burmese, Tibetan).
    """
    letters = Counter(_writing(character) for text in texts for character in text if character.isalpha())
    without_spaces = letters["Chinese"] + letters["other"]
    if 2 * without_spaces <= letters.total():
        return "13a"
    # Japanese text is half Chinese characters; Chinese text has next to no kana.
    return "zh" if 20 * letters["other"] < without_spaces else "char"


def _writing(character: str) -> Literal["Chinese", "other", "with spaces"]:
    if character.isascii():
        return "with spaces"
    name = unicodedata.name(character, "")
    if name.startswith("CJK "):
        return "Chinese"
    others = ("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
    return "other" if name.startswith(others) else "with spaces"


def words_per_text(texts: list[str]) -> float:
    """Tokens of a text on average, as BLEU counts them."""
    split = BLEU(tokenize=bleu_tokenizer(texts)).tokenizer
    return sum(len(split(text).split()) for text in texts) / len(texts)


def default_metric(references: list[str]) -> Literal["bleu", "chrf"]:
    """The metric that tells models apart on references like these: BLEU, or chrF of the characters of short ones."""
    return "chrf" if words_per_text(references) < WORDS_OF_BLEU else "bleu"
