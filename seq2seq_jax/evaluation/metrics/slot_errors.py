"""Values that responses should have and lack."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.evaluation.dialogue_states import normalised
from seq2seq_jax.evaluation.metric import OUTPUTS, Example, Metric, Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotErrors(Metric):
    """Values of acts that the response does not spell, percent, and responses that lack one at least.

    Case makes no difference. Values that are added are not counted.

    Source: Kale and Rastogi 2020, arXiv:2004.15006 (slot_error_rate).
    """

    name: ClassVar[str] = "slot_errors"
    needs: ClassVar[frozenset[str]] = frozenset({OUTPUTS, "values"})

    @property
    def names(self) -> tuple[str, ...]:
        return ("missing_values", "slot_error_rate")

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        missing = [
            sum(normalised(value) not in normalised(output) for value in example["values"])
            for output, example in zip(outputs, examples, strict=True)
        ]
        number = sum(len(example["values"]) for example in examples)
        counts = {
            "missing_values": (sum(missing), number, "missing values"),
            "slot_error_rate": (sum(map(bool, missing)), len(outputs), "slot error rate"),
        }
        return {
            name: Score(
                value=100.0 * count / max(of, 1),
                unit="percent",
                higher_is_better=False,
                signature=f"of:{'values' if name == 'missing_values' else 'responses'}|n:{of}|case:lc",
                label=label,
            )
            for name, (count, of, label) in counts.items()
        }
