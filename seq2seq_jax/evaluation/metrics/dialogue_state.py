"""Scores of tracked dialogue states: joint goal, slots, intents and requested slots."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from seq2seq_jax.evaluation.dialogue_states import (
    Frame,
    State,
    apply_change,
    is_joint_goal,
    score_frame,
    state_from_json,
)
from seq2seq_jax.evaluation.metric import OUTPUTS, ROLLED, Evaluated, Example, Metric, Score

DIALOGUES = {"": "", "seen_dialogues": ", seen dialogues", "unseen_dialogues": ", other dialogues"}
FRAMES = {"": "", "seen": ", seen", "unseen": ", unseen"}
OF_FRAMES = {
    "fuzzy_joint_goal": "fuzzy joint goal",
    "slot_accuracy": "slots",
    "intent_accuracy": "intent",
    "requested_slots": "requested slots, F1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StateScores(Metric):
    """Percent, means over the turns of users, or over the frames of these (one per service that a turn is about).

    joint_goal: turns whose values are all right, each in any accepted spelling, of all services that the turn is about,
    and none else; apart for dialogues of services that training has seen, and others. The other scores are of frames,
    apart by whether training has seen the service: fuzzy_joint_goal, the product over slots of the similarity to an
    accepted spelling, 0 or 1 for a categorical slot; slot_accuracy, of the slots that the reference has those with an
    accepted spelling; intent_accuracy; requested_slots, F1. Case makes no difference.

    Source: google-research/schema_guided_dst, but for joint_goal and case.
    """

    name: ClassVar[str]
    prefix: ClassVar[str]
    previous: ClassVar[str]
    suffix: ClassVar[str]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(
            f"{self.prefix}{score}{group and '_'}{group}"
            for scores, groups in ((("joint_goal",), DIALOGUES), (OF_FRAMES, FRAMES))
            for score in scores
            for group in groups
        )

    def _scores(self, states: Sequence[State], examples: Sequence[Example]) -> dict[str, Score]:
        found: dict[str, list[float]] = {}

        def add(name: str, groups: Iterable[str], value: float) -> None:
            for group in groups:
                found.setdefault(f"{name}{group and '_'}{group}", []).append(value)

        for state, example in zip(states, examples, strict=True):
            of_dialogue = "unseen_dialogues" if example["unseen"] else "seen_dialogues"
            add("joint_goal", ("", of_dialogue), float(is_joint_goal(example["frames"], state.current)))
            for service, reference in example["frames"].items():
                groups = ("", "unseen" if service in example["unseen"] else "seen")
                for name, value in _of_frame(reference, state, service, example["categorical"][service]).items():
                    if value is not None:
                        add(name, groups, value)
        labels = {
            f"{score}{group and '_'}{group}": label + where
            for scores, groups in (({"joint_goal": "joint goal"}, DIALOGUES), (OF_FRAMES, FRAMES))
            for score, label in scores.items()
            for group, where in groups.items()
        }
        return {
            f"{self.prefix}{name}": Score(
                value=100.0 * sum(found[name]) / len(found[name]),
                unit="percent",
                higher_is_better=True,
                signature=f"previous:{self.previous}|case:lower|n:{len(found[name])}",
                label=f"{label}{self.suffix}",
            )
            for name, label in labels.items()
            if name in found
        }


def _of_frame(reference: dict[str, Any], state: State, service: str, categorical: Sequence[str]) -> dict[str, Any]:
    predicted = state.frames.get(service, Frame())
    if service not in state.active:
        predicted = dataclasses.replace(predicted, requested=())
    exact = score_frame(reference, predicted, is_exact=True, categorical=categorical)
    fuzzy = score_frame(reference, predicted, is_exact=False, categorical=categorical)
    return {
        "fuzzy_joint_goal": fuzzy.joint_goal,
        "slot_accuracy": exact.slots,
        "intent_accuracy": exact.intent,
        "requested_slots": exact.requested,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DialogueStateScores(_StateScores):
    """Scores of states that are rolled through each dialogue: a model's own state is what it reads in the next turn."""

    name: ClassVar[str] = "dialogue_state"
    prefix: ClassVar[str] = ""
    previous: ClassVar[str] = "own"
    suffix: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset({ROLLED, "frames", "categorical", "unseen"})

    def scores(self, evaluated: Evaluated) -> dict[str, Score]:
        return self._scores(evaluated.rolled, evaluated.examples)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldDialogueStateScores(_StateScores):
    """The same of states that come of the reference before each turn: how often a model gets a single turn right."""

    name: ClassVar[str] = "dialogue_state_gold"
    prefix: ClassVar[str] = "gold_"
    previous: ClassVar[str] = "gold"
    suffix: ClassVar[str] = " (gold state)"
    needs: ClassVar[frozenset[str]] = frozenset({OUTPUTS, "previous", "services", "frames", "categorical", "unseen"})

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        states = [
            apply_change(state_from_json(example["previous"]), output, services=example["services"])
            for output, example in zip(outputs, examples, strict=True)
        ]
        return self._scores(states, examples)
