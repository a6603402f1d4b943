"""Texts in parts: where one that is too long for a model is split, and how what was made of the parts is joined."""

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

TooLong = Literal["split", "truncate", "refuse"]
"""What happens to a source that is longer than a model takes: texts are generated from parts of it, and joined; or it
is cut; or it is an error."""
Count = Callable[[list[str]], list[int]]
"""Texts -> the number of tokens of each, EOS token included."""

CLOSING = "[\"'”’»›)\\]}」』）】》〉〕]*"
"""What may stand between the end of a sentence or of a clause and the space behind it."""
SENTENCES = re.compile(
    rf"\s*\n\s*|(?<=[。！？｡．]){CLOSING}|(?:(?<=[.!?…؟۔।॥։።፧‼⁇⁈⁉])|(?<=[\u0e2f\u17d4\u104b])){CLOSING}\s+"
)
CLAUSES = re.compile(rf"(?<=[、，；：､]){CLOSING}|(?<=[,;:،؛፣፤—–]){CLOSING}\s+|\s+(?=[—–(\[{{«])")
BORDERS = (SENTENCES, CLAUSES, re.compile(r"\s+"))
"""Where a text is split, the best places first: what matches belongs to the text before it."""
CHARACTERS_PER_TOKEN = 16
"""More than any piece of a vocabulary has."""
NO_SPACES = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Scripts without spaces between words, beside those of wide characters."""


def split_text(text: str, *, count: Count, max_tokens: int) -> list[str]:
    """The text in parts of at most `max_tokens` tokens, in order: as few as its sentences admit, of like length.

    It is split between sentences; where one is too long itself, between its clauses; where a clause is, between words;
    and where a word is, between characters. Only spaces between parts are lost. A single character of more tokens is a
    part of its own.
    """
    return _split(text, BORDERS, count, max_tokens)


def _split(text: str, borders: Sequence[re.Pattern[str]], count: Count, max_tokens: int) -> list[str]:
    text = text.strip()
    if not text:
        return []
    if len(text) <= CHARACTERS_PER_TOKEN * max_tokens and count([text])[0] <= max_tokens:
        return [text]
    if not borders:
        return _pieces(text, count, max_tokens)
    units = _units(text, borders[0])
    if len(units) == 1:
        return _split(text, borders[1:], count, max_tokens)
    lengths = count([unit.strip() for unit in units])
    parts: list[str] = []
    # Units that fit are put together, those that do not are split on their own.
    for fits, run in itertools.groupby(zip(units, lengths, strict=True), lambda unit: unit[1] <= max_tokens):
        if fits:
            members, sizes = zip(*run, strict=True)
            parts += _put_together(list(members), list(sizes), count, max_tokens)
        else:
            for unit, _ in run:
                parts += _split(unit, borders[1:], count, max_tokens)
    return parts


def _units(text: str, border: re.Pattern[str]) -> list[str]:
    """The text, cut at its borders, which stay at the ends of the units."""
    ends = [match.end() for match in border.finditer(text) if 0 < match.end() < len(text)]
    if border is SENTENCES:
        ends = [end for end in ends if not _is_abbreviation(text, end)]
    return [text[start:end] for start, end in itertools.pairwise([0, *ends, len(text)]) if text[start:end].strip()]


def _is_abbreviation(text: str, end: int) -> bool:
    """Whether what looks like a sentence's end is that of a word: a full stop before a lower-case letter."""
    before = text[:end][-8:]
    return text[end].islower() and before.rstrip().rstrip("\"'”’»›)]").endswith(".") and "\n" not in before.lstrip()


def _put_together(units: list[str], lengths: list[int], count: Count, max_tokens: int) -> list[str]:
    """Units that fit, in as few parts as that, and none longer than need be.

    Args:
        lengths: tokens of each unit alone, EOS token included.
    """
    # Without the EOS token, of which a part has one.
    sizes = [length - 1 for length in lengths]
    room, least = max_tokens - 1, max(sizes)
    number = len(_groups(sizes, room))
    while least < room:
        middle = (least + room) // 2
        if len(_groups(sizes, middle)) == number:
            room = middle
        else:
            least = middle + 1
    parts = []
    for group in _groups(sizes, room):
        together = "".join(units[index] for index in group).strip()
        # Side by side, texts may have other tokens than each on its own.
        if count([together])[0] <= max_tokens:
            parts.append(together)
        else:
            parts += [units[index].strip() for index in group]
    return parts


def _groups(sizes: list[int], room: int) -> list[list[int]]:
    """Indices of neighbours, as many together as there is room for."""
    groups: list[list[int]] = []
    filled = room
    for index, size in enumerate(sizes):
        if filled + size > room or not groups:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += size
    return groups


def _pieces(text: str, count: Count, max_tokens: int) -> list[str]:
    """A word in pieces, none of which begins with a mark that belongs to the character before it."""
    pieces = []
    while text:
        size = min(len(text), CHARACTERS_PER_TOKEN * max_tokens)
        while size > 1 and (length := count([text[:size]])[0]) > max_tokens:
            # In proportion, and surely less.
            size = max(1, min(size - 1, size * max(1, max_tokens - 1) // length))
        end = size
        while end > 1 and end < len(text) and _is_mark(text[end]):
            end -= 1
        if end == 1 and size < len(text) and _is_mark(text[1]):
            end = size
        pieces.append(text[:end])
        text = text[end:]
    return pieces


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf")


def join_texts(texts: Sequence[str]) -> str:
    """Texts as one: with a space between two, or nothing where the writing has no spaces; empty ones are left out."""
    texts = [text for text in texts if text]
    joined = texts[:1]
    for before, after in itertools.pairwise(texts):
        has_no_spaces = _has_no_spaces(before[-1]) or _has_no_spaces(after[0])
        joined += [after] if has_no_spaces or before[-1].isspace() or after[0].isspace() else [" ", after]
    return "".join(joined)


def _has_no_spaces(character: str) -> bool:
    """Whether a character is of a script that is written without spaces between words."""
    name = unicodedata.name(character, "")
    if unicodedata.east_asian_width(character) in ("W", "F"):
        # Korean has spaces, and so has text with pictures in it.
        return not name.startswith("HANGUL") and not unicodedata.category(character).startswith("S")
    return name.startswith(NO_SPACES)
