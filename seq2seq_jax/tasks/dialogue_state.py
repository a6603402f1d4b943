"""State tracking: what each turn of the user changes in the state of a dialogue, as a text."""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.data.dialogues import Turn, speaker_token
from seq2seq_jax.data.schema_dialogues import DialogueStates, source_of
from seq2seq_jax.evaluation.dialogue_states import EMPTY, State, apply_change, service_token, state_as_words
from seq2seq_jax.evaluation.metric import Example, Metric
from seq2seq_jax.evaluation.metrics.dialogue_state import DialogueStateScores, GoldDialogueStateScores
from seq2seq_jax.tasks.task import Exchange, Reply, Rollout
from seq2seq_jax.tasks.translation import Translation

SERVICE = re.compile(r"<@([^<>\s]+)>")
"""A service that a person names in a conversation."""


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
    converses: ClassVar[bool] = True
    says_output: ClassVar[bool] = False

    def rollout(self, examples: Sequence[Example]) -> "StateRollout":
        return StateRollout(examples)

    def chat_source(self, data: DialogueStates, exchanges: Sequence[Exchange], user: str) -> str:
        """See `Task.chat_source`: the first line names the services (<@Restaurants_1>), later ones may name more.

        What a person writes is said by the user; the token of a speaker, such as <system>, begins a turn of that one.

        Raises:
            ValueError: no service was named yet, or one that the schema of the training file lacks, where sources
                describe services.
        """
        state, services = self._after(exchanges, further=user)
        lines = [*(each.user for each in exchanges), user]
        turns = [turn for line in lines for turn in _turns(line, data)]
        schema = {} if data.schema_in_source == "none" else data.schema("train")
        unknown = [name for name in services if schema and name not in schema]
        if unknown:
            raise ValueError(f"expected services of the schema; got {unknown[0]!r}: it has {', '.join(schema)}")
        context = data.cased(data.context(turns))
        return source_of(state, services, f"{data.described(services, schema)}\n{context}")

    def chat_reply(self, data: DialogueStates, exchanges: Sequence[Exchange]) -> Reply:
        """See `Task.chat_reply`: nothing is said, and the state is shown."""
        return Reply("", {"state": state_as_words(self._after(exchanges)[0])})

    def _after(self, exchanges: Sequence[Exchange], *, further: str = "") -> tuple[State, list[str]]:
        """The state after some exchanges, and the services that these and a further line name."""
        state, services = EMPTY, []
        for exchange in exchanges:
            services += [name for name in SERVICE.findall(exchange.user) if name not in services]
            state = apply_change(state, exchange.output, services=services)
        services += [name for name in SERVICE.findall(further) if name not in services]
        if not services:
            raise ValueError(
                f"expected the services that this is about; none was named yet: begin the line with them, such as "
                f"{service_token('Restaurants_1')} a table for two, please."
            )
        return state, services


def _turns(line: str, data: DialogueStates) -> list[Turn]:
    """The turns that a line holds."""
    speakers = {speaker_token(name): name for name in data.speakers}
    said = re.split(f"({'|'.join(map(re.escape, speakers))})", SERVICE.sub("", line))
    named = [
        (data.user, said[0]),
        *((speakers[token], text) for token, text in zip(said[1::2], said[2::2], strict=True)),
    ]
    return [Turn(speaker, text.strip(), {}) for speaker, text in named if text.strip()]


class StateRollout(Rollout):
    """The k-th turns of all dialogues at once, each from the state that the turn before has led to."""

    def __init__(self, examples: Sequence[Example]):
        """Args:
        examples: the turns of a dialogue one after the other.
        """
        self._examples = examples
        self._rounds: list[list[int]] = []
        self._before: list[int | None] = []
        dialogue, turn, number = None, -1, 0
        for index, example in enumerate(examples):
            # Two dialogues of one name are two where the turns begin anew.
            goes_on = index > 0 and example["dialogue"] == dialogue and example["turn"] > turn
            number = number + 1 if goes_on else 0
            dialogue, turn = example["dialogue"], example["turn"]
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
