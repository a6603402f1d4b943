"""State tracking: what each turn of the user changes in the state of a dialogue, as a text."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.data.schema_dialogues import source_of
from seq2seq_jax.evaluation.dialogue_states import EMPTY, State, apply_change
from seq2seq_jax.evaluation.metric import Example, Metric
from seq2seq_jax.evaluation.metrics.dialogue_state import DialogueStateScores, GoldDialogueStateScores
from seq2seq_jax.tasks.task import Rollout
from seq2seq_jax.tasks.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueState(Translation):
    """The change of a dialogue's state for each turn of the user, from the state before and the last turns.

    Evaluated with the model's own state before each turn, rolled through the dialogue, and with the reference's.
    """

    reads: ClassVar[tuple[str, ...]] = ("source", "target", "dialogue", "services", "previous", "context", "frames")
    scored_columns: ClassVar[frozenset[str]] = frozenset(
        {"source", "target", "dialogue", "turn", "services", "previous", "context", "frames", "categorical", "unseen"}
    )
    metrics: ClassVar[tuple[Metric, ...]] = (DialogueStateScores(), GoldDialogueStateScores())
    unit: ClassVar[str] = "turns"

    def rollout(self, examples: Sequence[Example]) -> "StateRollout":
        return StateRollout(examples)


class StateRollout(Rollout):
    """The k-th turns of all dialogues at once, each from the state that the turn before has led to."""

    def __init__(self, examples: Sequence[Example]):
        """Args:
        examples: the turns of a dialogue one after the other.
        """
        self._examples = examples
        self._rounds: list[list[int]] = []
        self._before: list[int | None] = []
        dialogue, number = object(), 0
        for index, example in enumerate(examples):
            number = number + 1 if example["dialogue"] == dialogue else 0
            dialogue = example["dialogue"]
            self._before.append(index - 1 if number else None)
            if number == len(self._rounds):
                self._rounds.append([])
            self._rounds[number].append(index)
        self._states: list[State] = [EMPTY] * len(examples)
        self._number = 0

    def next_sources(self) -> list[tuple[int, str]]:
        if self._number == len(self._rounds):
            return []
        return [
            (index, source_of(self._state_before(index), example["services"], example["context"]))
            for index in self._rounds[self._number]
            for example in [self._examples[index]]
        ]

    def take(self, outputs: Sequence[str]) -> None:
        for index, output in zip(self._rounds[self._number], outputs, strict=True):
            before = self._state_before(index)
            self._states[index] = apply_change(before, output, services=self._examples[index]["services"])
        self._number += 1

    def _state_before(self, index: int) -> State:
        before = self._before[index]
        return EMPTY if before is None else self._states[before]

    @property
    def results(self) -> list[State]:
        return self._states
