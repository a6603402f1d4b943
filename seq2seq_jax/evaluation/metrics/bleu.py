"""BLEU, by sacreBLEU."""

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from seq2seq_jax.evaluation.metric import (
    Example,
    Metric,
    Score,
    reference_streams,
    references,
    references_of,
)

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

WORDS_OF_BLEU = 4
"""BLEU looks at n-grams of up to this many words: of shorter references it says next to nothing."""

Tokenizer = Literal[
    "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200", "spm", "spBLEU-1K", "none"
]
"""The tokenizers of sacreBLEU."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bleu(Metric):
    """Corpus BLEU, percent, with exponential smoothing.

    Source: Papineni et al. 2002; Post 2018, arXiv:1804.08771 (sacreBLEU).
    """

    name: ClassVar[str] = "bleu"

    tokenizer: Tokenizer | None = None
    """sacreBLEU's tokenizer; None = by the writing of the references, see `bleu_tokenizer`. ja-mecab and ko-mecab need
    packages of their own; flores101, flores200 and spBLEU-1K load a model from the internet once."""
    lowercase: bool = False
    """Ignore case."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("bleu",)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        of_each = references_of(outputs, examples)
        texts = [text for each in of_each for text in each]
        bleu = self.sacrebleu(examples)
        value = bleu.corpus_score(list(outputs), reference_streams(of_each)).score
        length = sum(len(bleu.tokenizer(text).split()) for text in texts) / len(texts)
        note = f"BLEU says next to nothing of references of {length:.1f} words: look at chrF or loss"
        score = Score(
            value=value,
            unit="percent",
            higher_is_better=True,
            signature=str(bleu.get_signature()),
            label="BLEU",
            note=note if length < WORDS_OF_BLEU else "",
        )
        return {"bleu": score}

    def sacrebleu(self, examples: Sequence[Example]) -> "BLEU":
        texts = (text for example in examples for text in references(example))
        return self._library(self.tokenizer or bleu_tokenizer(texts))

    def unsuited(self, references: Sequence[str]) -> str:
        words = words_per_text(list(references))
        return f"references have {words:.1f} words on average, too few for BLEU" if words < WORDS_OF_BLEU else ""

    def check_installed(self) -> None:
        if self.tokenizer is not None:
            self._library(self.tokenizer)

    def _library(self, tokenizer: str) -> "BLEU":
        """sacreBLEU's object.

        Raises:
            ValueError: the tokenizer needs a package or a file that is not there.
        """
        from sacrebleu.metrics import BLEU

        try:
            return BLEU(tokenize=tokenizer, lowercase=self.lowercase)
        except (ImportError, RuntimeError, OSError) as error:
            extra = {"ja-mecab": "ja", "ko-mecab": "ko"}.get(tokenizer)
            remedy = (
                f"packages that are not installed: pip install 'sacrebleu[{extra}]'"
                if extra
                else f"a model that cannot be loaded ({' '.join(str(error).split())}): connect to the internet once"
            )
            raise ValueError(f"metric {self} needs {remedy}, or choose another tokenizer.") from error


def bleu_tokenizer(texts: Iterable[str]) -> Literal["13a", "zh", "char"]:
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
    from sacrebleu.metrics import BLEU

    split = BLEU(tokenize=bleu_tokenizer(texts)).tokenizer
    return sum(len(split(text).split()) for text in texts) / len(texts)
