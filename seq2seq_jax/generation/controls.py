"""What a user asks of generated texts, as a config and for single lines. Imports nothing heavy, as the help of a
command does.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controls:
    """Rules for every text. At its default each rule adds nothing to the program."""

    repetition_penalty: float = 1.0
    """Of a token that the text already has, divides a positive logit and multiplies a negative one; 1 = none."""
    no_repeat_ngram: int = 0
    """No text has the same n tokens twice; 0 = any may repeat."""
    coverage_penalty: float = 0.0
    """Weight beta of the penalty for source tokens that a finished hypothesis has attended to less than once, of
    methods that rank finished hypotheses; 0 = none."""
    minimum_length: int = 0
    """Tokens of a text at least, EOS token included, ..."""
    minimum_length_ratio: float = 0.0
    """... and at least minimum_length_ratio per source token. The limit on the length takes precedence."""
    maximum_length: int | None = None
    """Tokens of a text at most, EOS token included, whatever the source's length allows; None = what that allows."""
    forbidden_pieces: tuple[str, ...] = ()
    """Pieces that are never generated, as the tokenizer writes them ("▁" begins a word)."""
    forbidden_ids: tuple[int, ...] = ()
    """Further tokens that are never generated, by their ids."""
    first_text: str | None = None
    """What every text begins with; None = anything."""
    first_ids: tuple[int, ...] = ()
    """Tokens that every text begins with, by their ids, before first_text and before the prefix of its line."""

    def __post_init__(self):
        check_values(self, "controls")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"controls.repetition_penalty must be above 0, got {self.repetition_penalty}: set it to 1 for none, or "
                "above, such as 1.2"
            )
        for name in ("no_repeat_ngram", "coverage_penalty", "minimum_length", "minimum_length_ratio"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"controls.{name} must not be negative, got {getattr(self, name)}: set it to 0 or more"
                )
        if self.maximum_length is not None and self.maximum_length < 1:
            raise ValueError(
                f"controls.maximum_length must be at least 1, the EOS token, got {self.maximum_length}: raise it"
            )
        if self.maximum_length is not None and self.minimum_length > self.maximum_length:
            raise ValueError(
                f"controls.minimum_length is {self.minimum_length}, more than controls.maximum_length = "
                f"{self.maximum_length}: lower it, or raise the maximum"
            )

    def __str__(self) -> str:
        changed = (
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        )
        return f"{type(self).__name__}({','.join(changed)})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineControls:
    """Requirements for the texts of one line of the input."""

    prefix: str = ""
    """What they begin with; "" = anything."""
    phrases: tuple[str, ...] = ()
    """What they contain, in any order."""

    def __post_init__(self):
        for index, phrase in enumerate(self.phrases, 1):
            if not phrase.strip():
                raise ValueError(f"phrase {index} of {len(self.phrases)} is blank: leave it out")


def line_controls(
    number: int,
    *,
    prefixes: Sequence[str | None] | None = None,
    phrases: Sequence[Sequence[str]] | None = None,
) -> list[LineControls] | None:
    """The requirements for each of a number of texts; None where there are none.

    Args:
        prefixes: one per text; None or "" = no prefix.
        phrases: those of each text.

    Raises:
        ValueError: there are more or fewer than texts, or a phrase is blank.
        TypeError: the phrases of a text are one string.
    """
    if prefixes is None and phrases is None:
        return None
    for name, given in (("prefixes", prefixes), ("phrases", phrases)):
        if given is not None and len(given) != number:
            raise ValueError(
                f"expected {name} for each of {number} texts, and got {len(given)}: give one entry per text"
            )
    for index, each in enumerate(phrases or ()):
        if isinstance(each, str):
            raise TypeError(f"phrases[{index}] must be a list of strings, not a string: write [{each!r}].")
    return [
        LineControls(
            prefix=(prefixes[index] or "") if prefixes is not None else "",
            phrases=tuple(phrases[index]) if phrases is not None else (),
        )
        for index in range(number)
    ]


def phrases_of(value: Any) -> tuple[str, ...]:
    """The phrases that a field of an example holds: a text, several, or null; each once, and blank ones left out.

    Raises:
        ValueError: it holds something else; the message says what, and the caller where.
    """
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected a text or a list of texts, and got {value!r}")
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def phrases_of_fields(examples: Sequence[Mapping[str, Any]], field: str) -> list[LineControls]:
    """The phrases that examples have as a field.

    Raises:
        ValueError: an example has no such field, or no texts there.
    """
    found = []
    for number, example in enumerate(examples, 1):
        where = f"the field {field!r} (--phrases-field) of example {number}"
        if field not in example:
            raise ValueError(f"expected {where}; it has {', '.join(example)}: name a field that every example has.")
        try:
            found.append(LineControls(phrases=phrases_of(example[field])))
        except ValueError as error:
            raise ValueError(f"{where}: {error}. Correct it.") from error
    return found
