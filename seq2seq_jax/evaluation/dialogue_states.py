"""States of task-oriented dialogues: how they are written as text, and how predicted ones are scored.

A state is what the user wants so far, by service: an intent, values of slots, and slots whose value was asked for. As a
text, names stand in brackets, services behind @, intents behind !, and slots that were asked for behind ?:

    <@Restaurants_1><!ReserveRestaurant><city> san jose<time> 11:30 am<?phone_number>

A change of a state has the services that are talked about, and of each what is new: the intent if it has changed, slots
with other values, and what is asked for now. A slot without a value is taken back.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

NO_INTENT = "NONE"
_PART = re.compile(r"<([@!?]?)([^<>]+)>([^<]*)")


@dataclasses.dataclass(frozen=True)
class Frame:
    """What the user wants of one service.

    Attributes:
        intent: "NONE" = none.
        values: slot -> its value.
        requested: slots whose value the user asks for in this turn.
    """

    intent: str = NO_INTENT
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requested: tuple[str, ...] = ()


class State(NamedTuple):
    """What a user wants, as a tracker keeps it.

    Attributes:
        frames: of all services so far.
        active: those that the last turn is about.
    """

    frames: Mapping[str, Frame]
    active: tuple[str, ...] = ()

    @property
    def current(self) -> dict[str, Frame]:
        """The frames of the services that the last turn is about."""
        return {name: self.frames[name] for name in self.active}


EMPTY = State({})


def normalised(value: str) -> str:
    """A value as it is compared: lower-case, single spaces."""
    return " ".join(value.lower().split())


def service_token(name: str) -> str:
    """What stands before the intent and the slots of a service."""
    return f"<@{name}>"


def intent_token(name: str) -> str:
    """What stands for an intent."""
    return f"<!{name}>"


def slot_token(name: str) -> str:
    """What stands before the value of a slot."""
    return f"<{name}>"


def requested_token(name: str) -> str:
    """What stands for a slot whose value is asked for."""
    return f"<?{name}>"


def frame_as_text(service: str, *, intent: str | None, values: Mapping[str, str], requested: Sequence[str] = ()) -> str:
    """The text of a frame, or of its change.

    Args:
        service: its name.
        intent: None = it is left out.
        values: slot -> value; "" = it is taken back.
        requested: slots that are asked for.
    """
    parts = [service_token(service)]
    parts += [] if intent is None else [intent_token(intent)]
    parts += [f"{slot_token(slot)} {value}" if value else slot_token(slot) for slot, value in values.items()]
    return "".join(parts + list(map(requested_token, requested)))


def state_as_text(state: State, services: Iterable[str]) -> str:
    """The state before a turn as a text, that of the services that are talked about last.

    Args:
        state: the state; what was asked for earlier is no part of the text.
        services: of the dialogue, in order, of which there may be no frame yet.
    """
    ordered = [*(service for service in services if service not in state.active), *state.active]
    texts = []
    for service in ordered:
        frame = state.frames.get(service)
        texts.append(
            service_token(service)
            if frame is None
            else frame_as_text(service, intent=frame.intent, values=frame.values)
        )
    return "".join(texts)


def state_as_words(state: State) -> str:
    """A state as a person reads it, such as "Restaurants_1: ReserveRestaurant, city = san jose; asks for phone_number";
    services one after the other, behind " | ".
    """
    texts = []
    for service, frame in state.frames.items():
        parts = [] if frame.intent == NO_INTENT else [frame.intent]
        parts += [f"{slot} = {value}" for slot, value in frame.values.items()]
        asked = f"; asks for {', '.join(frame.requested)}" if frame.requested else ""
        texts.append(f"{service}: {', '.join(parts) or 'nothing'}{asked}")
    return " | ".join(texts) or "nothing"


def change_as_text(
    before: State, after: State, *, restated: Mapping[str, Iterable[str]] | None = None, intents: bool = False
) -> str:
    """What turns one state into another, as a text.

    Args:
        before: the state.
        after: the other one.
        restated: service -> slots that are written although their values have not changed.
        intents: whether intents are, too.
    """
    texts = []
    for service, frame in after.current.items():
        old = before.frames.get(service, Frame(intent=""))
        again = set((restated or {}).get(service, ()))
        values = {slot: value for slot, value in frame.values.items() if old.values.get(slot) != value or slot in again}
        values |= {slot: "" for slot in old.values if slot not in frame.values}
        intent = None if frame.intent == old.intent and not intents else frame.intent
        texts.append(frame_as_text(service, intent=intent, values=values, requested=frame.requested))
    return "".join(texts)


def apply_change(state: State, text: str, *, services: Iterable[str]) -> State:
    """The state after a change that a model has written; what cannot be read of it is passed over.

    Args:
        state: before the turn.
        text: the change.
        services: of the dialogue; others are passed over. If there are none of these in the text, the dialogue is still
            about what it was about.
    """
    known = set(services)
    changes = {service: parts for service, parts in _parsed(text).items() if service in known}
    frames = {name: dataclasses.replace(frame, requested=()) for name, frame in state.frames.items()}
    for service, parts in changes.items():
        old = frames.get(service, Frame())
        intents = [name for kind, name, _ in parts if kind == "!"]
        values = {**old.values, **{name: value for kind, name, value in parts if not kind}}
        frames[service] = Frame(
            intent=intents[-1] if intents else old.intent,
            values={slot: value for slot, value in values.items() if value},
            requested=tuple(dict.fromkeys(name for kind, name, _ in parts if kind == "?")),
        )
    return State(frames, tuple(changes) or state.active)


def _parsed(text: str) -> dict[str, list[tuple[str, str, str]]]:
    """The parts of each service of a text, (kind, name, value); what stands before the first service is left out."""
    services: dict[str, list[tuple[str, str, str]]] = {}
    current = None
    for kind, name, value in _PART.findall(text):
        if kind == "@":
            current = services.setdefault(name, [])
        elif current is not None:
            current.append((kind, name, normalised(value)))
    return services


def parts_of_change(text: str) -> dict[tuple[str, str, str], str]:
    """The parts of a change: (service, kind, name) -> value.

    Kinds are @ (that the service is talked about), ! (its intent, which is the value), ? and nothing (a slot).
    """
    found = {}
    for service, parts in _parsed(text).items():
        found[service, "@", ""] = ""
        for kind, name, value in parts:
            found[(service, "!", "") if kind == "!" else (service, kind, name)] = name if kind == "!" else value
    return found


def state_to_json(state: State) -> dict[str, Any]:
    """A state as JSON values; what was asked for is left out."""
    frames = {name: {"intent": frame.intent, "values": dict(frame.values)} for name, frame in state.frames.items()}
    return {"frames": frames, "active": list(state.active)}


def state_from_json(values: Mapping[str, Any]) -> State:
    """What `state_to_json` gave."""
    return State({name: Frame(**frame) for name, frame in values["frames"].items()}, tuple(values["active"]))


class FrameScores(NamedTuple):
    """Scores of one predicted frame, each in [0, 1], by the arithmetic of google-research/schema_guided_dst."""

    joint_goal: float
    """Product over all slots of the service."""
    slots: float | None
    """Mean over the slots that the reference has; None = it has none."""
    intent: float
    requested: float
    """F1 of the requested slots; 1 if there are none on both sides."""


def score_frame(
    reference: Mapping[str, Any], predicted: Frame, *, is_exact: bool, categorical: Iterable[str] = ()
) -> FrameScores:
    """Scores of a predicted frame.

    A slot that only one side has counts 0. Otherwise a categorical slot counts 1 if the values are equal, another one
    its best similarity with a spelling of the reference, or with is_exact 1 if it is one of them.

    Args:
        reference: active_intent, requested_slots, and slot_values: slot -> accepted spellings.
        predicted: the frame.
        is_exact: whether no other spellings count.
        categorical: slots of the service with a fixed set of values.

    Source: google-research/schema_guided_dst, metrics.py.
    """
    expected, categorical = reference["slot_values"], set(categorical)
    scores = {slot: 0.0 for slot in predicted.values if slot not in expected}
    for slot, spellings in expected.items():
        value = predicted.values.get(slot)
        if value is None:
            scores[slot] = 0.0
        elif slot in categorical:
            scores[slot] = float(normalised(value) == normalised(spellings[0]))
        elif is_exact:
            scores[slot] = float(normalised(value) in map(normalised, spellings))
        else:
            scores[slot] = max(similarity(spelling, value) for spelling in spellings)
    joint_goal = functools.reduce(lambda product, score: product * score, scores.values(), 1.0)
    of_expected = [scores[slot] for slot in expected]
    return FrameScores(
        joint_goal=joint_goal,
        slots=sum(of_expected) / len(of_expected) if of_expected else None,
        intent=float(predicted.intent == reference["active_intent"]),
        requested=_f1(reference["requested_slots"], predicted.requested),
    )


def is_joint_goal(reference: Mapping[str, Any], predicted: Mapping[str, Frame]) -> bool:
    """Whether the values of a turn are all right: of all services that it is about, and none else.

    Args:
        reference: service -> its frame, see `score_frame`.
        predicted: the frames of the services that the turn is about.
    """
    expected = {
        (service, slot): spellings
        for service, frame in reference.items()
        for slot, spellings in frame["slot_values"].items()
    }
    found = {(service, slot): value for service, frame in predicted.items() for slot, value in frame.values.items()}
    return expected.keys() == found.keys() and all(
        normalised(value) in map(normalised, expected[slot]) for slot, value in found.items()
    )


def _f1(reference: Sequence[str], predicted: Sequence[str]) -> float:
    common = len(set(reference) & set(predicted))
    precision = common / len(predicted) if predicted else 1.0
    recall = common / len(reference) if reference else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@functools.lru_cache(maxsize=100_000)
def similarity(first: str, second: str) -> float:
    """Similarity of two values in [0, 1], in hundredths: letters and digits that they have in common, in order, after
    their words have been sorted.

    Source: fuzzywuzzy, fuzz.token_sort_ratio, with python-Levenshtein.
    """
    first, second = (
        " ".join(sorted(re.sub(r"\W", " ", re.sub("[\x80-\xff]", "", text)).lower().split()))
        for text in (first, second)
    )
    if first == second:
        return 1.0
    return round(200 * _common(first, second) / (len(first) + len(second))) / 100


def _common(first: str, second: str) -> int:
    """Length of the longest common subsequence."""
    before = [0] * (len(second) + 1)
    for character in first:
        row = [0]
        for index, other in enumerate(second):
            row.append(before[index] + 1 if character == other else max(before[index + 1], row[-1]))
        before = row
    return before[-1]
