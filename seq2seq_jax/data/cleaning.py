"""Rules by which pairs are left out of a corpus, each with its limit. Imports nothing heavy."""

import collections
import dataclasses
import functools
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from seq2seq_jax.data.lines import is_blank
from seq2seq_jax.values import check_values

SIDES = ("source", "target")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
SPELT_OUT = 10
"""Numbers below this may be words on the other side."""
MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|&(?:[a-z]+|#\d+);|https?://|www\.")
LEARNED_FROM = 100_000
"""Pairs, from the first, from which scripts and languages of the sides are learned."""
LONGEST_READ = 400
"""Characters of a text by which its language is identified."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleaningRules:
    """What a pair must be like; None or False = the rule is off. The rules are in the order of the fields, and a pair
    is counted by the first one that it breaks.
    """

    empty: bool = True
    """Both sides have text that can be seen."""
    garbled: bool = True
    """No control characters, no replacement characters, and no text that was decoded as another encoding ("Ã¤")."""
    min_words: int | None = 1
    """Words of each side at least, as spaces divide them."""
    max_words: int | None = 200
    """Words of each side at most."""
    ratio: float | None = 3.0
    """Characters of the longer side over those of the shorter one at most; not for sides of fewer than 20."""
    long_word: int | None = 40
    """Characters of a word at most."""
    markup: bool = True
    """No tags, entities or addresses of web pages on one side alone."""
    copy_of_source: bool = True
    """Source and target differ in more than case and spaces."""
    letters: float | None = 0.5
    """Fraction of the characters, spaces left out, that are letters, at least."""
    script: float | None = 0.5
    """Fraction of a side's letters that are of the script that most of the side's letters have, at least."""
    repetition: int | None = 4
    """Times at most that the same word comes in a row."""
    digits: bool = True
    """The numbers of 10 and more are the same on both sides, separators aside."""
    language: float | None = 0.4
    """How much more probable a text of 20 letters or more may be as one of the other side than of its own (nats per
    character, by three characters at a time, learned from the corpus)."""
    duplicate: bool = True
    """The pair has not come before, case and spaces aside."""
    targets_per_source: int | None = None
    """Different targets of a source at most."""

    def __post_init__(self):
        check_values(self, "rules")
        for name in ("min_words", "max_words", "long_word", "repetition", "targets_per_source"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"rules.{name} must be at least 1, or None, and is {getattr(self, name)}.")
        for name in ("letters", "script"):
            if getattr(self, name) is not None and not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"rules.{name} must lie in [0, 1], or be None, and is {getattr(self, name)}.")
        if self.ratio is not None and self.ratio < 1.0:
            raise ValueError(f"rules.ratio must be at least 1, or None, and is {self.ratio}.")


class Pair(NamedTuple):
    """A pair of texts."""

    source: str
    target: str


class Learned(NamedTuple):
    """What the rules know of a corpus."""

    scripts: dict[str, str]
    """The script of each side."""
    languages: dict[str, "Language"]
    """Of each side."""


class Cleaning:
    """The rules at work on one corpus; a pair is looked at once, in the order of the corpus."""

    def __init__(self, rules: CleaningRules, corpus: Iterable[tuple[str, str]]):
        """Args:
        corpus: the pairs, from which scripts and languages are learned, as far as needed.
        """
        self.rules = rules
        self._learned = _learned(corpus) if rules.script is not None or rules.language is not None else None
        self._seen: set[bytes] = set()
        self._targets: collections.Counter[bytes] = collections.Counter()

    def broken(self, pair: Pair) -> str | None:
        """The first rule that a pair breaks; None = it is kept."""
        for field in dataclasses.fields(CleaningRules):
            limit = getattr(self.rules, field.name)
            if limit is not None and limit is not False and getattr(self, f"_{field.name}")(pair, limit):
                return field.name
        return None

    def _empty(self, pair, limit):
        return any(map(is_blank, pair))

    def _garbled(self, pair, limit):
        return any(map(is_garbled, pair))

    def _min_words(self, pair, limit):
        return any(len(text.split()) < limit for text in pair)

    def _max_words(self, pair, limit):
        return any(len(text.split()) > limit for text in pair)

    def _ratio(self, pair, limit):
        shorter, longer = sorted(map(len, pair))
        return longer >= 20 and longer > limit * shorter

    def _long_word(self, pair, limit):
        return any(len(word) > limit for text in pair for word in text.split())

    def _markup(self, pair, limit):
        found = [len(MARKUP.findall(text)) for text in pair]
        return (found[0] > 0) != (found[1] > 0)

    def _copy_of_source(self, pair, limit):
        return folded(pair.source) == folded(pair.target)

    def _letters(self, pair, limit):
        for text in pair:
            characters = [character for character in text if not character.isspace()]
            if sum(map(str.isalpha, characters)) < limit * len(characters):
                return True
        return False

    def _script(self, pair, limit):
        for side, text in zip(SIDES, pair, strict=True):
            scripts = [script_of(character) for character in text if character.isalpha()]
            if scripts and scripts.count(self._learned.scripts[side]) < limit * len(scripts):
                return True
        return False

    def _repetition(self, pair, limit):
        for text in pair:
            words, times = text.casefold().split(), 0
            for before, word in zip(["", *words], words, strict=False):
                times = times + 1 if word == before else 1
                if times > limit:
                    return True
        return False

    def _digits(self, pair, limit):
        return numbers(pair.source) != numbers(pair.target)

    def _language(self, pair, limit):
        languages = self._learned.languages
        for side, other, text in zip(SIDES, reversed(SIDES), pair, strict=True):
            if sum(map(str.isalpha, text)) >= 20:
                if languages[other].score(text) - languages[side].score(text) > limit:
                    return True
        return False

    def _duplicate(self, pair, limit):
        key = _digest("\n".join(map(folded, pair)))
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _targets_per_source(self, pair, limit):
        key = _digest(folded(pair.source))
        self._targets[key] += 1
        return self._targets[key] > limit


def folded(text: str) -> str:
    """A text without what makes no difference: case, and the number of spaces."""
    return " ".join(text.casefold().split())


def is_garbled(text: str) -> bool:
    """Whether a text has control or replacement characters, or is UTF-8 that was read as a Western encoding."""
    if any(character == "\ufffd" or unicodedata.category(character) == "Cc" for character in text.replace("\t", " ")):
        return True
    if text.isascii():
        return False
    try:
        return text.encode("cp1252").decode("utf-8") != text
    except UnicodeError:
        return False


def numbers(text: str) -> collections.Counter[str]:
    """The numbers of a text, separators left out, that are not usually spelt as words."""
    found = ("".join(str(unicodedata.decimal(digit, "")) for digit in number) for number in NUMBER.findall(text))
    # Compared as digits: Python makes no number of thousands of them.
    bare = (number.lstrip("0") for number in found)
    return collections.Counter(number for number in bare if len(number) >= len(str(SPELT_OUT)))


@functools.cache
def script_of(character: str) -> str:
    """The script of a letter, as its Unicode name says: LATIN, CYRILLIC, CJK."""
    return unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]


class Language:
    """A language as far as three characters tell: additively smoothed counts."""

    def __init__(self):
        self._counts: collections.Counter[str] = collections.Counter()
        self._contexts: collections.Counter[str] = collections.Counter()
        self._characters: set[str] = set()

    def learn(self, text: str) -> None:
        """Count a text."""
        for triple in _triples(text):
            self._counts[triple] += 1
            self._contexts[triple[:2]] += 1
            self._characters.add(triple[2])

    def score(self, text: str) -> float:
        """Log-probability (nats) per character."""
        size, smoothing = len(self._characters) + 1, 0.1
        scores = [
            math.log((self._counts[triple] + smoothing) / (self._contexts[triple[:2]] + smoothing * size))
            for triple in _triples(text)
        ]
        return sum(scores) / max(1, len(scores))


def _triples(text: str) -> Iterator[str]:
    padded = f"  {folded(text)[:LONGEST_READ]} "
    return (padded[index : index + 3] for index in range(len(padded) - 2))


def _learned(corpus: Iterable[tuple[str, str]]) -> Learned:
    scripts = {side: collections.Counter() for side in SIDES}
    languages = {side: Language() for side in SIDES}
    for index, pair in enumerate(corpus):
        if index == LEARNED_FROM:
            break
        for side, text in zip(SIDES, pair, strict=True):
            scripts[side].update(script_of(character) for character in text if character.isalpha())
            languages[side].learn(text)
    return Learned({side: found.most_common(1)[0][0] if found else "" for side, found in scripts.items()}, languages)


def dual_cross_entropy(forward: float, backward: float) -> float:
    """How little two models of both directions agree on a pair, and how improbable they find it; 0 is best.

    Args:
        forward, backward: cross-entropies (nats per token) of target given source, and source given target.

    Source: Junczys-Dowmunt 2018, equation 1.
    """
    return abs(forward - backward) + (forward + backward) / 2


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
