"""Pairs that a grammar makes: templates with lists, or rules that stand in each other.

A grammar is a JSON object, symbol -> alternatives. An alternative is a source and a target, and perhaps a weight, with
symbols in braces, which are expanded alike on both sides:

    {
      "S": [["{NP} sees {NP:2}.", "{NP} sieht {NP:2}."], ["{NP} sleeps.", "{NP} schläft.", 0.5]],
      "NP": [["the {N}", "das {N}"], ["{NP} of {NP:2}", "{NP} von {NP:2}", 0.1]],
      "N": [["child", "Kind"], ["horse", "Pferd"]]
    }

{NP} and {NP:2} are two expansions of NP; {{ and }} are braces.
"""

import dataclasses
import functools
import itertools
import json
import math
import string
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from seq2seq_jax.data.source import SPLITS, Corpus, PairSource
from seq2seq_jax.data.text_files import find_file
from seq2seq_jax.data.texts import pairs
from seq2seq_jax.effects import changes
from seq2seq_jax.hashing import mixed_64, uniform_numbers

MOST_SYMBOLS = 10_000
"""Expansions in an example: a grammar that needs more hardly ever ends."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Synthetic(PairSource):
    """Pairs that a grammar makes, each a function of the seed, the split and its number.

    What a grammar file looks like is said in `seq2seq_jax.data.synthesis`. The same pair may come several times, and in
    several splits.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the grammar is; "~" is the home directory."""
    grammar: str = dataclasses.field(default="grammar.json", metadata=changes("nothing"))
    """Name of its file."""
    start: str = "S"
    """Symbol that is expanded."""
    train_examples: int = 100_000
    """Pairs to train on."""
    validation_examples: int = 1_000
    """Pairs to validate on; 0 = none."""
    test_examples: int = 1_000
    """Pairs to test on; 0 = none."""
    seed: int = 0
    """Of all pairs."""
    max_depth: int = 20
    """Rules in each other from which on the alternatives that end the soonest are taken."""

    def __post_init__(self):
        super().__post_init__()
        if self.train_examples < 1 or min(self.validation_examples, self.test_examples) < 0:
            raise ValueError("data.train_examples must be at least 1, and those of the other splits at least 0.")
        if self.max_depth < 1:
            raise ValueError(f"data.max_depth must be at least 1, not {self.max_depth}.")

    @property
    def available_splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if getattr(self, f"{split}_examples"))

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Read the grammar, and open its pairs.

        Raises:
            ValueError: there is no such file, or it is no grammar.
        """
        path = find_file(self.directory, self.grammar, split="train")
        grammar = Grammar.parse(path.read_text(encoding="utf-8"), name=str(path), start=self.start)
        return pairs(
            {
                split: functools.partial(self._pairs, grammar, split)
                for split in self.available_splits
                if split in splits
            }
        )

    def _pairs(self, grammar: "Grammar", split: str) -> Iterator[tuple[str, str]]:
        for index in range(getattr(self, f"{split}_examples")):
            yield grammar.pair(seed=self.seed, split=split, index=index, max_depth=self.max_depth)


class Place(NamedTuple):
    """A symbol of an alternative."""

    symbol: str
    number: str
    """Keeps expansions of the same symbol apart."""


Side = tuple[str | Place, ...]
"""Literal text and places."""


class Alternative(NamedTuple):
    """A way to expand a symbol."""

    source: Side
    target: Side
    weight: float


class Grammar:
    """Rules that make pairs.

    Attributes:
        rules: symbol -> its alternatives.
        start: symbol that is expanded.
    """

    def __init__(self, rules: dict[str, list[Alternative]], start: str):
        self.rules = rules
        self.start = start
        self._soonest = _soonest(rules)
        self._limits = {
            symbol: np.cumsum([each.weight for each in alternatives]) / sum(each.weight for each in alternatives)
            for symbol, alternatives in rules.items()
        }

    @classmethod
    def parse(cls, text: str, *, name: str, start: str) -> "Grammar":
        """The grammar of a JSON text.

        Args:
            name: of the file, for messages.
            start: symbol that is expanded.

        Raises:
            ValueError: it is no grammar: what is wrong with the first rule that is wrong.
        """
        try:
            read = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected a JSON object in {name}; {error}: correct the file") from error
        if not isinstance(read, dict) or not read:
            raise ValueError(f"expected a JSON object of symbols and their alternatives in {name}: correct the file")
        rules = {symbol: _alternatives(symbol, each, name) for symbol, each in read.items()}
        for symbol in (start, *(place.symbol for place in _places(rules))):
            if symbol not in rules:
                raise ValueError(f"{name} has no rule for {symbol}; it has {', '.join(rules)}: add one")
        if endless := [symbol for symbol, depth in _depths(rules).items() if depth == math.inf]:
            raise ValueError(f"{name} has a rule that never ends, {endless[0]}: give it an alternative without itself")
        return cls(rules, start)

    def pair(self, *, seed: int, split: str, index: int, max_depth: int) -> tuple[str, str]:
        """A pair, a function of the arguments.

        Raises:
            ValueError: it is too large.
        """
        seeds = mixed_64(np.array([seed + 1, SPLITS.index(split) + 1, index + 1], np.uint64))
        key = mixed_64(seeds[:1] ^ mixed_64(seeds[1:2] ^ mixed_64(seeds[2:])))
        draws = itertools.islice(uniform_numbers(int(key[0])), MOST_SYMBOLS)

        def expanded(symbol: str, depth: int) -> tuple[str, str]:
            draw = next(draws, None)
            if draw is None:
                raise ValueError(f"the grammar makes pairs of more than {MOST_SYMBOLS:,} symbols: lower data.max_depth")
            number = self._soonest[symbol]
            if depth < max_depth:
                limits = self._limits[symbol]
                number = min(int(np.searchsorted(limits, draw)), len(limits) - 1)
            chosen = self.rules[symbol][number]
            inner = {
                place: expanded(place.symbol, depth + 1)
                for place in dict.fromkeys(each for each in chosen.source + chosen.target if isinstance(each, Place))
            }
            source, target = (
                "".join(inner[each][side] if isinstance(each, Place) else each for each in parts)
                for side, parts in enumerate((chosen.source, chosen.target))
            )
            return source, target

        try:
            return expanded(self.start, 0)
        except RecursionError as error:
            raise ValueError(
                "the grammar has more rules in each other than Python takes: lower data.max_depth"
            ) from error


def _alternatives(symbol: str, given: Any, name: str) -> list[Alternative]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"expected a list of alternatives for {symbol} in {name}: correct the file")
    found = []
    for each in given:
        texts, weight = (each[:2], each[2:] or [1.0]) if isinstance(each, list) else ([], [])
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"expected a source and a target in each alternative of {symbol} in {name}; got {each!r}")
        is_number = len(weight) == 1 and isinstance(weight[0], int | float) and not isinstance(weight[0], bool)
        if not is_number or not 0 < weight[0] < math.inf:
            raise ValueError(f"expected a weight above 0 behind the texts of {symbol} in {name}; got {each!r}")
        found.append(Alternative(_side(texts[0], symbol, name), _side(texts[1], symbol, name), float(weight[0])))
    return found


def _side(text: str, symbol: str, name: str) -> Side:
    parts: list[str | Place] = []
    try:
        for literal, place, number, conversion in string.Formatter().parse(text):
            parts.append(literal)
            if place is not None:
                if not place or conversion:
                    raise ValueError("a symbol stands alone in braces")
                parts.append(Place(place, number or ""))
    except ValueError as error:
        raise ValueError(f"expected symbols in braces in {symbol} of {name}, got {text!r}: {error}") from error
    return tuple(parts)


def _places(rules: dict[str, list[Alternative]]) -> Iterator[Place]:
    for alternatives in rules.values():
        for alternative in alternatives:
            yield from (each for each in alternative.source + alternative.target if isinstance(each, Place))


def _depths(rules: dict[str, list[Alternative]]) -> dict[str, float]:
    """The fewest rules in each other that each symbol needs to end."""
    depths = dict.fromkeys(rules, math.inf)
    for _ in rules:
        depths = {
            symbol: min(_depth(alternative, depths) for alternative in alternatives)
            for symbol, alternatives in rules.items()
        }
    return depths


def _depth(alternative: Alternative, depths: dict[str, float]) -> float:
    inner = [depths[each.symbol] for each in alternative.source + alternative.target if isinstance(each, Place)]
    return 1.0 + max(inner, default=0.0)


def _soonest(rules: dict[str, list[Alternative]]) -> dict[str, int]:
    """Number of the alternative of each symbol that ends the soonest."""
    depths, found = _depths(rules), {}
    for symbol, alternatives in rules.items():
        needed = [_depth(alternative, depths) for alternative in alternatives]
        found[symbol] = needed.index(min(needed))
    return found
