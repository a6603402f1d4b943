"""Dialogues: files with one dialogue per line, whose turns have speakers, and the examples that are made of them.

A line is a JSON object with `turns` and the dialogue's name in `dialogue_id` or `id` (without one it is the line's
number). A turn is an object with `speaker`, its text in `utterance` or `text`, and whatever else it is annotated with;
or a list [speaker, text]:

    {"dialogue_id": "1", "turns": [{"speaker": "USER", "utterance": "A table for two."}, ...]}
    {"id": "2", "turns": [["A", "Hello!"], ["B", "Hi, how are you?"]]}

As a text, turns stand one after the other, each behind the token of its speaker, which is a piece of its own in every
tokenizer that is trained on dialogues:

    <user> a table for two.<system> in which city?<user> san jose.

No space stands before a token, as it would be a piece of its own.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from seq2seq_jax.data.columns import Ragged, Tokens, ragged
from seq2seq_jax.data.source import SPLITS, Corpus, PairSource, SplitFiles
from seq2seq_jax.data.tables import json_lines, suffix_of
from seq2seq_jax.data.text_files import find_file, read_lines
from seq2seq_jax.data.texts import Example, pairs
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.effects import changes

TEXT_FIELDS = ("utterance", "text")
NAME_FIELDS = ("dialogue_id", "id")


class Turn(NamedTuple):
    """What one speaker says before the other does."""

    speaker: str
    text: str
    annotations: Mapping[str, Any]
    """The other fields of the turn's object."""


class Dialogue(NamedTuple):
    """One line of a file."""

    name: str
    turns: tuple[Turn, ...]
    annotations: Mapping[str, Any]
    """The other fields of the dialogue's object."""
    line: int
    """In its file, from 1, for messages."""


def speaker_token(speaker: str) -> str:
    """What stands before a turn: <user> for USER."""
    return f"<{speaker.lower()}>"


def speaker_tokens(speakers: Sequence[str]) -> tuple[str, ...]:
    """The tokens of speakers."""
    return tuple(map(speaker_token, speakers))


def turns_as_text(turns: Sequence[Turn]) -> str:
    """Turns in the form that models read them in, see the module."""
    return "".join(f"{speaker_token(turn.speaker)} {turn.text}" for turn in turns)


def read_dialogues(path: Path, *, speakers: Collection[str]) -> Iterator[Dialogue]:
    """The dialogues of a file, plain or gzipped.

    Args:
        path: of the file.
        speakers: names that a turn's speaker may have.

    Raises:
        ValueError: as lines do, or a line is no object with turns, a dialogue has no turns, or a turn has no text or an
            unknown speaker.
    """
    for number, fields in json_lines(read_lines(path), str(path)):
        yield dialogue_of(fields, number, str(path), speakers=speakers)


def dialogue_of(fields: dict[str, Any], number: int, path: str, *, speakers: Collection[str]) -> Dialogue:
    """The dialogue of a line.

    Args:
        fields: of its object.
        number: of the line.
        path: of the file, for messages.
        speakers: names that a turn's speaker may have.

    Raises:
        ValueError: see `read_dialogues`.
    """
    where = f"in line {number} of {path}"
    turns = fields.get("turns")
    if not isinstance(turns, list):
        raise ValueError(
            f"expected a dialogue with a list of turns {where}; it has {', '.join(fields) or 'nothing'}: write "
            '{"turns": [["USER", "text"], ...]}'
        )
    if not turns:
        raise ValueError(f"expected a dialogue with turns {where}; it has none: leave the line out")
    names = [str(fields[name]) for name in NAME_FIELDS if fields.get(name) not in (None, "")]
    return Dialogue(
        name=names[0] if names else str(number),
        turns=tuple(_turn(turn, speakers, f"turn {index} {where}") for index, turn in enumerate(turns, 1)),
        annotations={name: value for name, value in fields.items() if name not in ("turns", *NAME_FIELDS)},
        line=number,
    )


def _turn(turn: Any, speakers: Collection[str], where: str) -> Turn:
    if isinstance(turn, list) and len(turn) == 2:
        turn = {"speaker": turn[0], "text": turn[1]}
    fields = turn if isinstance(turn, dict) else {}
    texts = [fields[name] for name in TEXT_FIELDS if isinstance(fields.get(name), str)]
    if not texts:
        raise ValueError(
            f"expected {where} to have a speaker and a text; got {str(turn)[:80]}: write "
            '{"speaker": "USER", "text": "..."}'
        )
    speaker = fields.get("speaker")
    if speaker not in speakers:
        raise ValueError(
            f"expected {where} to be of one of the speakers {', '.join(speakers)}; it is of {speaker!r}: name all in "
            "data.speakers, or correct the line"
        )
    others = {name: value for name, value in fields.items() if name not in ("speaker", *TEXT_FIELDS)}
    return Turn(str(speaker), texts[0], others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueFiles(SplitFiles, PairSource):
    """What sources of dialogues have in common: where the files are, and how much of what was said a model sees.

    Of sources that are longer than max_source_length the oldest turns are left out, whole ones; too_long and truncate
    are for targets.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the files are; "~" is the home directory."""
    train: str = dataclasses.field(default="train.jsonl", metadata=changes("nothing"))
    """Name of the training file; found with .gz behind it, too."""
    validation: str | None = dataclasses.field(default="dev.jsonl", metadata=changes("nothing"))
    """Name of the validation file; None = there is none."""
    test: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Name of the test file; None = there is none."""
    validation_sets: tuple[str, ...] = dataclasses.field(default=(), metadata=changes("nothing"))
    """Names of further validation files: each is a set of its own, which records, plots and training.select_by name."""
    speakers: tuple[str, ...] = ("USER", "SYSTEM")
    """Names that turns have as their speakers; as text, USER becomes <user>."""
    max_turns: int | None = None
    """Turns of the context, the last ones; None = all."""
    fewest_turns: ClassVar[int] = 1
    """That max_turns may be."""
    lowercase: bool = False
    """Whether sources and targets are made lower-case."""

    def __post_init__(self):
        super().__post_init__()
        if not self.speakers or len(set(speaker_tokens(self.speakers))) < len(self.speakers):
            raise ValueError(f"data.speakers must be names that differ, whatever their case, not {self.speakers}.")
        if any(re.search(r"[\s<>]", name) for name in self.speakers):
            raise ValueError(f"data.speakers must be names without spaces and angle brackets, not {self.speakers}.")
        if self.max_turns is not None and self.max_turns < self.fewest_turns:
            raise ValueError(
                f"data.max_turns must be at least {self.fewest_turns}, or None for all, not {self.max_turns}."
            )

    def dialogues(self, split: str) -> Iterator[Dialogue]:
        """The dialogues of a split, in the order of its file.

        Raises:
            ValueError: see `read_dialogues`.
        """
        return read_dialogues(self.file_of(split), speakers=self.speakers)

    def file_of(self, split: str) -> Path:
        """The path of the file of a split.

        Raises:
            ValueError: there is none, or its name is not that of JSON lines.
        """
        name = self.names_of_files[split]
        if suffix_of(name) != ".jsonl":
            raise ValueError(f"expected a file of the kind .jsonl (or .jsonl.gz); got {name!r}: convert or rename it")
        return find_file(self.directory, name, split=split)

    def cased(self, text: str) -> str:
        """A source or a target as it is learned."""
        return text.lower() if self.lowercase else text

    def special_tokens(self) -> tuple[str, ...]:
        return speaker_tokens(self.speakers)

    def context(self, turns: Sequence[Turn]) -> str:
        """The last of some turns as a text."""
        return turns_as_text(turns[0 if self.max_turns is None else max(0, len(turns) - self.max_turns) :])

    def source_column(self) -> "TurnTokens":
        return TurnTokens(
            side="source", max_length=self.max_source_length, truncate="left", borders=speaker_tokens(self.speakers)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialogues(DialogueFiles):
    """What was said so far as the source, and the next turn as the target, for every turn but a dialogue's first.

    An example has the columns source, target, dialogue (its name) and turn (the target's number, from 0). Files are
    JSON lines, plain or gzipped, with a dialogue per line, see `seq2seq_jax.data.dialogues`.
    """

    answers: tuple[str, ...] = ()
    """Speakers whose turns are targets; empty = all."""

    def __post_init__(self):
        super().__post_init__()
        for name in self.answers:
            if name not in self.speakers:
                raise ValueError(f"data.answers must be of data.speakers {self.speakers}, and has {name!r}.")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target", "dialogue", "turn")

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the files of splits through, and open them.

        Raises:
            ValueError: a file is missing or no JSON lines, or see `read_dialogues`.
        """
        read = {split: functools.partial(self._examples, split) for split in self.names_of_files if split in splits}
        return pairs(read, further_columns=self.columns[2:])

    def _examples(self, split: str) -> Iterator[Example]:
        for dialogue in self.dialogues(split):
            yield from self.examples_of(dialogue)

    def examples_of(self, dialogue: Dialogue) -> Iterator[Example]:
        """The examples of one dialogue, in its order."""
        answering = self.answers or self.speakers
        for number, turn in enumerate(dialogue.turns):
            if number and turn.speaker in answering:
                source, target = self.context(dialogue.turns[:number]), turn.text
                yield self.cased(source), self.cased(target), dialogue.name, number


@dataclasses.dataclass(frozen=True, kw_only=True)
class TurnTokens(Tokens):
    """Token ids of a text with turns, of which the oldest are left out where it is too long.

    What stands before the first turn stays. A last turn that is too long by itself loses its beginning.
    """

    borders: tuple[str, ...]
    """Tokens that turns begin with."""

    def encode(self, values: list[str], tokenizer: Tokenizer) -> Ragged:
        encoded = super().encode(values, tokenizer)
        ids = [self.cut_ids(each.tolist(), tokenizer) for each in map(encoded.__getitem__, range(len(encoded)))]
        return ragged(ids, self.dtype(tokenizer.vocabulary))

    def stored(self, tokenizer: Tokenizer) -> list[Any]:
        return [*super().stored(tokenizer), "turns", list(self.borders), self.max_length]

    def cut_ids(self, ids: list[int], tokenizer: Tokenizer) -> list[int]:
        excess = 0 if self.max_length is None else len(ids) - self.max_length
        if excess <= 0:
            return ids
        borders = {piece for piece in map(tokenizer.source_id, self.borders) if piece is not None}
        starts = [index for index, token in enumerate(ids) if token in borders] or [0]
        head = ids[: starts[0]]
        start = next((start for start in starts if start - starts[0] >= excess), starts[-1])
        return (head + ids[start:])[-self.max_length :]
