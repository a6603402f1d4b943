"""What a model of task-oriented dialogues has to beat: states that do not change, and the nearest training response.

    python -m studies.dialogue_baselines DIR    # DIR has {train,dev}.jsonl[.gz] and schema.{train,dev}.json

Prints the joint goal on dev of a tracker that says nothing, and of one that repeats the reference's last state; and
BLEU and missing values of a response that is the training response with the same acts and slots, its values exchanged.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from seq2seq_jax.data.schema_dialogues import NO_VALUES, DialogueActs, DialogueStates
from seq2seq_jax.evaluation.dialogue_states import EMPTY, State, state_from_json
from seq2seq_jax.evaluation.metric import Evaluated, Score
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.dialogue_state import DialogueStateScores
from seq2seq_jax.evaluation.metrics.slot_errors import SlotErrors


def state_baselines(examples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Score]]:
    """Scores of the empty state and of the reference's last state, by the name of the baseline."""
    states: dict[str, list[State]] = {
        "empty state": [EMPTY] * len(examples),
        "last state": [state_from_json(example["previous"]) for example in examples],
    }
    return {
        name: DialogueStateScores().scores(Evaluated(outputs=None, examples=examples, rolled=rolled))
        for name, rolled in states.items()
    }


class Template(NamedTuple):
    """A response with places for values: text and the indices of values, in turn."""

    text: str
    values: tuple[str, ...]

    def fill(self, values: Sequence[str]) -> str:
        """The response with other values."""
        text = self.text
        for index, (old, new) in enumerate(zip(self.values, values, strict=False)):
            start = text.lower().find(old.lower())
            if start >= 0:
                text = f"{text[:start]}\0{index}\0{text[start + len(old) :]}"
        for index, new in enumerate(values):
            text = text.replace(f"\0{index}\0", new)
        return text


def nearest_responses(training: Iterable[Sequence[Any]], acts: Iterable[Sequence[Sequence[Any]]]) -> Iterator[str]:
    """The first training response with the most similar acts, each with the values of its own.

    Args:
        training: (acts, response) pairs.
        acts: of each response, [act, slot, [value, ...]].
    """
    templates: dict[tuple[str, ...], Template] = {}
    for of_training, text in training:
        templates.setdefault(_kind(of_training), Template(text, _values(of_training)))
    counts = {kind: Counter(kind) for kind in templates}
    nearest: dict[tuple[str, ...], tuple[str, ...]] = {}
    for each in acts:
        kind = _kind(each)
        if kind not in templates and kind not in nearest:
            wanted = Counter(kind)
            nearest[kind] = max(counts, key=lambda other: _overlap(wanted, counts[other]))
        yield templates[nearest.get(kind, kind)].fill(_values(each))


def _kind(acts: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    return tuple(
        f"{act} {slot}{''.join(f' {value}' for value in values if value in NO_VALUES)} {len(values)}"
        for act, slot, values in sorted(acts, key=lambda each: (each[0], each[1]))
    )


def _values(acts: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    ordered = sorted(acts, key=lambda each: (each[0], each[1]))
    return tuple(
        value for _, slot, values in ordered for value in values if value not in NO_VALUES and slot != "intent"
    )


def _overlap(wanted: Counter, other: Counter) -> float:
    return 2 * (wanted & other).total() / (wanted.total() + other.total())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="with the data")
    directory = parser.parse_args().directory
    corpus = DialogueStates(directory=directory, max_turns=1).open(["validation"])
    examples = [dict(zip(corpus.columns, values, strict=True)) for values in corpus.examples("validation")]
    for name, scores in state_baselines(examples).items():
        print(f"{name}: " + ", ".join(f"{score.label} {score.value:.2f}" for score in scores.values()))
    data = DialogueActs(directory=directory)
    pairs = {split: list(_acts_and_responses(data, split)) for split in ("train", "validation")}
    outputs = list(nearest_responses(pairs["train"], (acts for acts, _ in pairs["validation"])))
    references = [{"target": text, "values": _values(acts)} for acts, text in pairs["validation"]]
    for score in (Bleu().corpus(outputs, references) | SlotErrors().corpus(outputs, references)).values():
        print(f"nearest training response: {score.label} {score.value:.2f}   {score.signature}")


def _acts_and_responses(data: DialogueActs, split: str) -> Iterator[tuple[list[Any], str]]:
    for dialogue in data.dialogues(split):
        for turn in dialogue.turns:
            if turn.speaker == data.system:
                yield turn.annotations["actions"], turn.text


if __name__ == "__main__":
    main()
