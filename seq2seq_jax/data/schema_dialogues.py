"""Task-oriented dialogues with schemas, such as SGD: examples of state tracking, and of responses from system acts.

The format is that of `seq2seq_jax.data.dialogues`. A dialogue names its `services`; a turn of the user is annotated
with the `state` after it, and a turn of the system with `actions`:

    "state": {"Restaurants_1": {"active_intent": "FindRestaurants", "requested_slots": [],
                                "slot_values": {"time": ["11:30 am", "half past 11"]}}}
    "actions": [["CONFIRM", "time", ["11:30 am"]], ["GOODBYE", "", []]]

A schema is a JSON list of services, each with `service_name`, `description`, `intents` and `slots`, these with `name`
and `description`, slots with `is_categorical`, too.
"""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from seq2seq_jax.data.dialogues import Dialogue, DialogueFiles, Turn
from seq2seq_jax.data.source import SPLITS, Corpus
from seq2seq_jax.data.texts import Example, pairs
from seq2seq_jax.effects import changes
from seq2seq_jax.evaluation.dialogue_states import (
    EMPTY,
    NO_INTENT,
    Frame,
    State,
    change_as_text,
    intent_token,
    normalised,
    requested_token,
    service_token,
    slot_token,
    state_as_text,
    state_to_json,
)
from seq2seq_jax.paths import user_path

NO_VALUES = ("True", "False")
"""Values that a response does not spell."""


class Service(NamedTuple):
    """What a schema says of a service."""

    description: str
    intents: Mapping[str, str]
    """Name -> description."""
    slots: Mapping[str, str]
    """Name -> description."""
    categorical: frozenset[str]
    """Slots with a fixed set of values."""


def read_schema(directory: str, name: str) -> dict[str, Service]:
    """The services of a schema, by name.

    Raises:
        ValueError: there is no such file, or it is no schema.
    """
    path = user_path(directory) / name
    if not os.path.isfile(path):
        raise ValueError(
            f"expected the schema {path}; there is no such file: give its directory with --data.directory, "
            "or its name with --data.train_schema or --data.validation_schema"
        )
    try:
        services = json.loads(path.read_text(encoding="utf-8"))
        return {
            service["service_name"]: Service(
                description=service.get("description", ""),
                intents={intent["name"]: intent.get("description", "") for intent in service["intents"]},
                slots={slot["name"]: slot.get("description", "") for slot in service["slots"]},
                categorical=frozenset(slot["name"] for slot in service["slots"] if slot.get("is_categorical")),
            )
            for service in services
        }
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"expected a list of services with service_name, intents and slots in {path}; it is something else "
            f"({type(error).__name__}: {error}): give a schema as SGD has it"
        ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchemaDialogues(DialogueFiles):
    """What sources of dialogues with schemas have in common."""

    train_schema: str = dataclasses.field(default="schema.train.json", metadata=changes("nothing"))
    """Name of the schema of the training file, in directory."""
    validation_schema: str = dataclasses.field(default="schema.dev.json", metadata=changes("nothing"))
    """Name of the schema of the validation files."""
    test_schema: str | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Name of the schema of the test file; None = the one of the validation files."""
    user: str = "USER"
    """The speaker whose turns have states."""
    system: str = "SYSTEM"
    """The speaker whose turns have acts."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("user", "system"):
            if getattr(self, name) not in self.speakers:
                raise ValueError(
                    f"data.{name} must be one of data.speakers {self.speakers}, not {getattr(self, name)!r}."
                )

    def schema(self, split: str) -> dict[str, Service]:
        """The services that the dialogues of a split may name."""
        names = {"train": self.train_schema, "test": self.test_schema or self.validation_schema}
        return read_schema(self.directory, names.get(split, self.validation_schema))

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the files of splits through, and open them.

        Raises:
            ValueError: a file is missing or no JSON lines, see `read_dialogues` and `read_schema`, or a dialogue has no
                services, an unknown one, or a state with a slot or an intent that the schema lacks.
        """
        read = {split: functools.partial(self._examples, split) for split in self.names_of_files if split in splits}
        return pairs(read, further_columns=self.columns[2:])

    def _examples(self, split: str) -> Iterator[Example]:
        schema, known = self.schema(split), self.schema("train")
        for dialogue in self.dialogues(split):
            services = dialogue.annotations.get("services")
            where = f"in line {dialogue.line} of {self.names_of_files[split]}"
            if not _is_texts(services):
                raise ValueError(f"expected a list of services {where}; got {services!r}: correct the line")
            for service in services:
                if service not in schema:
                    raise ValueError(
                        f"expected a service of the schema {where}; got {service!r}: name the schema that has it"
                    )
            unseen = [service for service in services if service not in known]
            yield from self._of_dialogue(dialogue, services, unseen, schema, where)

    def _of_dialogue(
        self, dialogue: Dialogue, services: list[str], unseen: list[str], schema: dict[str, Service], where: str
    ) -> Iterator[Example]:
        """The examples of a dialogue.

        Args:
            dialogue: the dialogue.
            services: those that it names.
            unseen: those of them that the schema of the training file lacks.
            schema: of the split.
            where: the dialogue is, for messages.
        """
        raise NotImplementedError

    def _text(self, text: str) -> str:
        return text.lower() if self.lowercase else text


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueStates(SchemaDialogues):
    """State tracking as text: the state before a turn of the user and the last turns, and what the turn changes.

    An example has the columns source and target; dialogue, turn and services; previous (the state before: frames and
    active services) and context (the turns) that the source is made of; frames, the state after it with all accepted
    spellings; categorical (service -> slots with fixed values) and unseen (services that training has not seen). See
    `seq2seq_jax.evaluation.dialogue_states` for the texts.
    """

    schema_in_source: Literal["none", "names", "descriptions"] = "none"
    """What sources say of the services of a dialogue beside their names: nothing, their intents and slots, or these
    with descriptions."""
    restated: bool = False
    """Whether targets also have the slots whose value is spelt in the last two turns but has not changed."""
    restated_intents: bool = False
    """Whether targets also have the intents that have not changed, of each service that the turn is about, so that an
    intent that was missed is made up for."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (
            "source", "target", "dialogue", "turn", "services", "previous", "context", "frames", "categorical",
            "unseen",
        )  # fmt: skip

    def special_tokens(self) -> tuple[str, ...]:
        schema = self.schema("train")
        names = {
            service_token: schema,
            intent_token: [NO_INTENT, *(intent for service in schema.values() for intent in service.intents)],
            slot_token: [slot for service in schema.values() for slot in service.slots],
            requested_token: [slot for service in schema.values() for slot in service.slots],
        }
        of_schema = sorted({token(name) for token, of_kind in names.items() for name in of_kind})
        return (*super().special_tokens(), *of_schema)

    def _of_dialogue(
        self, dialogue: Dialogue, services: list[str], unseen: list[str], schema: dict[str, Service], where: str
    ) -> Iterator[Example]:
        head = self.described(services, schema)
        before = EMPTY
        for number, turn in enumerate(dialogue.turns):
            if turn.speaker != self.user:
                continue
            frames = _checked_frames(turn, schema, services, f"turn {number + 1} {where}")
            spoken = [self._text(turn.text) for turn in dialogue.turns[: number + 1]]
            after = _tracked(before, frames, spoken)
            again = _restated(after, frames, spoken[-2:]) if self.restated else {}
            context = head + "\n" + self._text(self.context(dialogue.turns[: number + 1]))
            yield (
                source_of(before, services, context),
                change_as_text(before, after, restated=again, intents=self.restated_intents),
                dialogue.name,
                number,
                services,
                state_to_json(before),
                context,
                frames,
                {service: sorted(schema[service].categorical) for service in frames},
                unseen,
            )
            before = after

    def described(self, services: Sequence[str], schema: Mapping[str, Service]) -> str:
        """What sources say of the services of a dialogue beside their names, see `schema_in_source`."""
        if self.schema_in_source == "none":
            return ""
        return "".join(self._described(service, schema[service]) for service in sorted(services))

    def _described(self, name: str, service: Service) -> str:
        parts = [(service_token(name), service.description)]
        parts += [(intent_token(intent), text) for intent, text in service.intents.items()]
        parts += [(slot_token(slot), text) for slot, text in service.slots.items()]
        if self.schema_in_source == "names":
            return "".join(token for token, _ in parts)
        return "".join(f"{token} {self._text(text)}" for token, text in parts)


def source_of(before: State, services: Sequence[str], context: str) -> str:
    """The text that a change is predicted from.

    Args:
        before: the state before the turn.
        services: of the dialogue.
        context: what the source says of the schema, a line break, and the last turns.
    """
    head, _, turns = context.partition("\n")
    return head + state_as_text(before, sorted(services)) + turns


def _is_texts(value: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_act(act: Any) -> bool:
    return isinstance(act, list) and len(act) == 3 and _is_texts(act[:2]) and _is_texts(act[2])


def _checked_frames(
    turn: Turn, schema: Mapping[str, Service], services: Sequence[str], where: str
) -> dict[str, dict[str, Any]]:
    """The state after a turn, by service."""
    frames = turn.annotations.get("state")
    if not isinstance(frames, dict):
        raise ValueError(f"expected {where} to have a state; got {frames!r}: annotate the turns of the user")
    for name, frame in frames.items():
        if name not in services:
            raise ValueError(
                f"expected services of the dialogue in the state of {where}; got {name!r}: correct the line"
            )
        fields = frame if isinstance(frame, dict) else {}
        values, requested, intent = (fields.get(key) for key in ("slot_values", "requested_slots", "active_intent"))
        if not isinstance(values, dict) or not _is_texts(requested) or not isinstance(intent, str):
            raise ValueError(
                f"expected active_intent, a text, requested_slots, a list of texts, and slot_values in the state of "
                f"{where}; got {str(frame)[:80]}: correct the line"
            )
        if intent != NO_INTENT and intent not in schema[name].intents:
            raise ValueError(
                f"expected {NO_INTENT} or an intent of the schema in the state of {where}; {name} has no intent "
                f"{intent!r}: name the schema that has it, or correct the line"
            )
        for slot, spellings in values.items():
            if not spellings or not _is_texts(spellings):
                raise ValueError(
                    f"expected a list of texts as {slot} in the state of {where}; got {str(spellings)[:80]!r}: write "
                    'such as ["11:30 am"], its accepted spellings'
                )
        for slot in (*values, *requested):
            if slot not in schema[name].slots:
                raise ValueError(
                    f"expected slots of the schema in the state of {where}; {name} has no slot {slot!r}: name the "
                    "schema that has it, or correct the line"
                )
    return frames


def _tracked(before: State, frames: Mapping[str, Mapping[str, Any]], spoken: Sequence[str]) -> State:
    """The state after a turn, each value in the spelling that it had before, or in which it was last spoken.

    Args:
        before: the state before.
        frames: the annotation.
        spoken: texts of the turns so far.
    """
    kept = dict(before.frames)
    elsewhere = [value for frame in kept.values() for value in frame.values.values()]
    for service, frame in frames.items():
        old = kept[service].values if service in kept else {}
        kept[service] = Frame(
            intent=frame["active_intent"],
            values={
                slot: _spelling(spellings, old.get(slot), spoken, elsewhere)
                for slot, spellings in frame["slot_values"].items()
            },
            requested=tuple(frame["requested_slots"]),
        )
    return State(kept, tuple(frames))


def _spelling(spellings: Sequence[str], old: str | None, spoken: Sequence[str], elsewhere: Sequence[str]) -> str:
    accepted = list(dict.fromkeys(map(normalised, spellings)))
    if old in accepted:
        return old
    if len(accepted) > 1:
        for text in reversed(spoken):
            for value in accepted:
                if is_spelt(value, text):
                    return value
        for value in accepted:
            if value in elsewhere:
                return value
    return accepted[0]


def is_spelt(value: str, text: str) -> bool:
    """Whether a text has a value as whole words, whatever their case."""
    value, text = value.lower(), f" {text.lower()} "
    start = text.find(value)
    while start >= 0:
        if not text[start - 1].isalnum() and not text[start + len(value)].isalnum():
            return True
        start = text.find(value, start + 1)
    return False


def _restated(after: State, frames: Collection[str], spoken: Sequence[str]) -> dict[str, list[str]]:
    return {
        service: [
            slot
            for slot, value in after.frames[service].values.items()
            if any(is_spelt(value, text) for text in spoken)
        ]
        for service in frames
    }


def act_token(name: str) -> str:
    """What stands before the slots of an act."""
    return f"<{name}>"


def words_of(name: str) -> str:
    """The words of the name of a service or a slot: `RentalCars_1` and `rental_cars` are rental cars."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"_\d+$", "", name))
    return words.replace("_", " ").lower()


class Spelling(NamedTuple):
    """How acts name services and slots."""

    service: Callable[[str], str]
    slot: Callable[[str], str]
    value: str
    """What stands between a slot and its value, before a space."""


SPELLINGS = {
    "tokens": Spelling(service_token, slot_token, ""),
    "words": Spelling(lambda name: f"<@> {words_of(name)}", lambda name: f"<slot> {words_of(name)}", "<value>"),
}


def acts_as_text(
    acts: Sequence[Sequence[Any]], text_of: Callable[[str], str] = str, *, spelling: Spelling = SPELLINGS["tokens"]
) -> str:
    """The text of acts, each [act, slot, [value, ...]]; acts of one kind that follow each other are named once.

    Args:
        acts: in order.
        text_of: value -> how it is written.
        spelling: of slots.
    """
    parts, last = [], None
    for act, slot, values in acts:
        parts += [] if act == last else [act_token(act)]
        parts += (
            [f"{spelling.slot(slot)}{spelling.value} {text_of(value)}" for value in values]
            if values
            else [spelling.slot(slot)] * bool(slot)
        )
        last = act
    return "".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueActs(SchemaDialogues):
    """Responses from acts: what the system is to say, and how it says it.

    The source has the service that the user talks about, the last turns, and the acts, each before the slots that it is
    about: `<@Restaurants_1><CONFIRM><city> Palo Alto<time> 11:30 am`, or with names in words `<@> restaurants<CONFIRM>
    <slot> city<value> Palo Alto<slot> time<value> 11:30 am`, without the line break. An example has the columns source
    and target; dialogue, turn and unseen (services that training has not seen); and values, those of the acts that the
    response is to spell: not True and False, and no names of intents.
    """

    acts: tuple[str, ...] = (
        "CONFIRM", "GOODBYE", "INFORM", "INFORM_COUNT", "NOTIFY_FAILURE", "NOTIFY_SUCCESS", "OFFER", "OFFER_INTENT",
        "REQUEST", "REQ_MORE",
    )  # fmt: skip
    """Names of acts that have a piece of their own; others are spelt."""
    names: Literal["tokens", "words"] = "tokens"
    """How services and slots are written: a token for each that training has, others being spelt; or in their words,
    which those that training has not seen share with others."""
    max_turns: int | None = 0
    """Turns of the context, the last ones; None = all."""
    fewest_turns: ClassVar[int] = 0

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target", "dialogue", "turn", "unseen", "values")

    def special_tokens(self) -> tuple[str, ...]:
        if self.names == "words":
            of_schema = ["<@>", "<slot>", "<value>"]
        else:
            schema = self.schema("train")
            slots = {slot for service in schema.values() for slot in service.slots}
            of_schema = sorted({*map(service_token, schema), *map(slot_token, slots | {"intent", "count"})})
        return (*super().special_tokens(), *map(act_token, self.acts), *of_schema)

    def _of_dialogue(
        self, dialogue: Dialogue, services: list[str], unseen: list[str], schema: dict[str, Service], where: str
    ) -> Iterator[Example]:
        spoken_of: tuple[str, ...] = ()
        for number, turn in enumerate(dialogue.turns):
            if turn.speaker == self.user:
                state = turn.annotations.get("state")
                spoken_of = tuple(state) if isinstance(state, dict) else spoken_of
            if turn.speaker != self.system:
                continue
            acts = turn.annotations.get("actions")
            if not isinstance(acts, list) or (wrong := [act for act in acts if not _is_act(act)]):
                raise ValueError(
                    f"expected turn {number + 1} {where} to have actions, each [act, slot, [value, ...]], all of them "
                    f"texts; got {str(wrong[0] if isinstance(acts, list) else acts)[:80]}: annotate the turns of the "
                    "system"
                )
            context = self.context(dialogue.turns[:number]) if number else ""
            spelling = SPELLINGS[self.names]
            said = "".join(map(spelling.service, spoken_of)) + self._text(context)
            source = said + acts_as_text(acts, self._text, spelling=spelling)
            values = [
                value for _, slot, values in acts for value in values if value not in NO_VALUES and slot != "intent"
            ]
            yield source, self._text(turn.text), dialogue.name, number, unseen, values
