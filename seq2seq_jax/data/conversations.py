"""Conversations: dialogues in which anybody may say anything, and contexts with several possible answers.

Beside lines with a dialogue (see `seq2seq_jax.data.dialogues`), a file may have lines with a context and its answers,
as DailyDialog++ has them; the turns of a context alternate, and the last is by the first of `data.speakers`:

    {"context": ["Is this seat taken?"], "responses": ["No, please.", "Yes."], "adversarial": ["I took a seat."]}

`responses` are what people answered, `adversarial` texts that share words with the context and are no answers.
"""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from seq2seq_jax.data.dialogues import Dialogues, Turn, dialogue_of
from seq2seq_jax.data.source import SPLITS, Corpus
from seq2seq_jax.data.tables import json_lines
from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.data.texts import Example, pairs

FURTHER_COLUMNS = ("references", "adversarial", "dialogue", "turn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversations(Dialogues):
    """What was said so far as the source, and the next turn as the target, for every turn but a dialogue's first.

    A context with answers is one example, whose target is the first of them; in training each answer is an example.
    Examples also have the columns references (the other answers), adversarial (texts that are no answers), dialogue and
    turn. The conversations are read as `seq2seq_jax.data.conversations` says.
    """

    def __post_init__(self):
        super().__post_init__()
        if len(self.speakers) != 2:
            raise ValueError(f"data.speakers of conversations must be two names, not {self.speakers}.")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target", *FURTHER_COLUMNS)

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the files of splits through, and open them.

        Raises:
            ValueError: a file is missing or no JSON lines, or a line of it is neither a dialogue nor a context.
        """
        read = {split: functools.partial(self._examples, split) for split in self.names_of_files if split in splits}
        return pairs(read, further_columns=FURTHER_COLUMNS)

    def alternating(self, texts: Sequence[str]) -> list[Turn]:
        """Turns with these texts, of which the last is by the first speaker."""
        return [Turn(self.speakers[(len(texts) - 1 - index) % 2], text, {}) for index, text in enumerate(texts)]

    def _examples(self, split: str) -> Iterator[Example]:
        path = self.file_of(split)
        for number, fields in json_lines(read_lines(path), str(path)):
            if "context" in fields:
                yield from self._answers(fields, number, str(path), is_trained_on=split == "train")
            else:
                dialogue = dialogue_of(fields, number, str(path), speakers=self.speakers)
                for source, target, name, turn in self.examples_of(dialogue):
                    yield source, target, [], [], name, turn

    def _answers(self, fields: dict[str, Any], number: int, path: str, *, is_trained_on: bool) -> Iterator[Example]:
        texts = {name: fields.get(name, []) for name in ("context", "responses", "adversarial")}
        for name, value in texts.items():
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise ValueError(
                    f"expected a list of texts as {name!r} in line {number} of {path}; got {str(value)[:80]}: correct "
                    "the line"
                )
        for name in ("context", "responses"):
            if not texts[name]:
                raise ValueError(
                    f"expected a context and at least one response in line {number} of {path}; {name!r} is empty: "
                    "leave the line out"
                )
        source = self.context(self.alternating(texts["context"]))
        source, *answers = map(self.cased, (source, *texts["responses"]))
        name, turn = str(number), len(texts["context"])
        if is_trained_on:
            yield from ((source, answer, [], [], name, turn) for answer in answers)
        else:
            yield source, answers[0], answers[1:], list(map(self.cased, texts["adversarial"])), name, turn
