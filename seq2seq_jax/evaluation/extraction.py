"""How much of a summary is taken from its source: pure functions of words."""

import re
from collections.abc import Sequence
from typing import NamedTuple

WORD = re.compile(r"\d+(?:[.,:/-]\d+)*|\w+(?:['’]\w+)*|[^\w\s]")
"""A number with its separators (10:30, 1,250.00), a word with its apostrophes, or a mark of punctuation."""


def words_of(text: str) -> list[str]:
    """The words, numbers and marks of punctuation of a text, in its own case."""
    return WORD.findall(text)


def fragments(source: Sequence[str], summary: Sequence[str]) -> list[int]:
    """Lengths of the extractive fragments of a summary: from its first word on always the longest run of words that
    stands in the source, too. Words of none are left out.

    Source: Grusky et al. 2018, figure 3.
    """
    places: dict[str, list[int]] = {}
    for place, word in enumerate(source):
        places.setdefault(word, []).append(place)
    found, start = [], 0
    while start < len(summary):
        longest = max((_run(source, place, summary, start) for place in places.get(summary[start], ())), default=0)
        if longest:
            found.append(longest)
        start += max(longest, 1)
    return found


def _run(source: Sequence[str], place: int, summary: Sequence[str], start: int) -> int:
    """How many words are the same from there on."""
    length, most = 0, min(len(source) - place, len(summary) - start)
    while length < most and source[place + length] == summary[start + length]:
        length += 1
    return length


class Extraction(NamedTuple):
    """Sums over the summaries of a set."""

    texts: int
    coverage: float
    """Sum of the fractions of the words of each summary that are part of a fragment."""
    density: float
    """Sum of the mean squared lengths of fragments, per word of each summary."""
    novel: tuple[int, ...]
    """N-grams that do not stand in the source, from 1 word on."""
    ngrams: tuple[int, ...]
    """All of them."""
    numbers: tuple[int, int]
    """Numbers that stand in the source, and all of them."""
    capitalised: tuple[int, int]
    """Words with a capital first letter that stand in the source, in whichever case, and all of them."""


def extraction(sources: Sequence[str], summaries: Sequence[Sequence[str]], *, orders: int) -> Extraction:
    """What the summaries of each source take from it.

    Args:
        summaries: one or several of each source.
        orders: words of the longest n-grams that are counted.
    """
    texts, coverage, density = 0, 0.0, 0.0
    novel, ngrams = [0] * orders, [0] * orders
    numbers, capitalised = [0, 0], [0, 0]
    for source, of_source in zip(sources, summaries, strict=True):
        read = [word.lower() for word in words_of(source)]
        known = [{tuple(read[i : i + n]) for i in range(len(read) - n + 1)} for n in range(1, orders + 1)]
        for summary in of_source:
            cased = words_of(summary)
            words = [word.lower() for word in cased]
            texts += 1
            if not words:
                continue
            lengths = fragments(read, words)
            coverage += sum(lengths) / len(words)
            density += sum(length**2 for length in lengths) / len(words)
            for index, of_order in enumerate(known):
                own = [tuple(words[i : i + index + 1]) for i in range(len(words) - index)]
                ngrams[index] += len(own)
                novel[index] += sum(ngram not in of_order for ngram in own)
            for word, lower in zip(cased, words, strict=True):
                counts = numbers if word[0].isdigit() else capitalised if word[0].isupper() else None
                if counts is not None:
                    counts[0] += (lower,) in known[0]
                    counts[1] += 1
    return Extraction(
        texts,
        coverage,
        density,
        tuple(novel),
        tuple(ngrams),
        (numbers[0], numbers[1]),
        (capitalised[0], capitalised[1]),
    )
