"""What a checkpoint keeps beside the arrays, so that a run goes on as if it had never stopped."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from seq2seq_jax.objectives.objective import Count, Logged, values_of
from seq2seq_jax.old_names import current_loop_state


@dataclasses.dataclass(frozen=True)
class Window:
    """Sums over the steps since the last record, so that a continued run writes the same.

    Attributes:
        steps: number of them.
        target_tokens: that were learned from.
        source_tokens: that were read.
        model_flops: of the model, without what is computed again.
        padded_positions: places of both sides, padding included.
        counts: sums of what is counted, by name.
        sums: of what has a mean, each value times its weight, by name.
        weights: of those.
    """

    steps: int = 0
    target_tokens: int = 0
    source_tokens: int = 0
    model_flops: float = 0.0
    padded_positions: int = 0
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sums: Mapping[str, float] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def plus(self, metrics: dict[str, Logged], padded_positions: int) -> "Window":
        """With the metrics of one more step, which are on the host."""
        values = values_of(metrics)
        totals = {
            name: getattr(self, name) + values.pop(name) for name in ("target_tokens", "source_tokens", "model_flops")
        }
        counts, sums, weights = dict(self.counts), dict(self.sums), dict(self.weights)
        for name, value in values.items():
            logged = metrics[name]
            if isinstance(logged, Count):
                counts[name] = counts.get(name, 0) + value
                continue
            weight = logged.weight.item()
            sums[name] = sums.get(name, 0.0) + weight * value
            weights[name] = weights.get(name, 0.0) + weight
        return Window(
            steps=self.steps + 1,
            padded_positions=self.padded_positions + padded_positions,
            counts=counts,
            sums=sums,
            weights=weights,
            **totals,
        )

    def means(self) -> dict[str, float]:
        """Of all that were logged with a weight: those of players that have taken no turn are absent."""
        return {name: total / self.weights[name] for name, total in self.sums.items()}


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which validation was the best so far.

    Attributes:
        score: of the best validation, higher is better; None = there was none.
        loss: of the same; None = not known.
        since_best: validations since the last that improved on all before.
        num_equal: validations, if all had the same score; None = they had not.
    """

    score: float | None = None
    loss: float | None = None
    since_best: int = 0
    num_equal: int | None = 0

    def plus(self, score: float, loss: float) -> tuple["Selection", bool]:
        """With one more validation, and whether that is the best so far.

        Of equal ones the last is the best, which is no improvement for `since_best`.
        """
        before = None if self.score is None else rank(self.score, self.loss)
        now = rank(score, loss)
        equal = self.num_equal is not None and self.score in (None, score)
        is_best = before is None or now >= before
        return Selection(
            score=score if is_best else self.score,
            loss=loss if is_best else self.loss,
            since_best=0 if before is None or now > before else self.since_best + 1,
            num_equal=self.num_equal + 1 if equal else None,
        ), is_best


@dataclasses.dataclass(frozen=True)
class LoopState:
    """Of the training loop; what it begins with by default.

    Attributes:
        window: of the next record.
        selection: of the best checkpoint.
        seconds: what was spent so far, by cause; see `Ledger`.
        saved_at: the time of the checkpoint, in seconds since the epoch; None = nothing was saved yet.
        plan_position: what finds the place in the data again, JSON.
        records: what tells whether the records so far are complete, JSON.
    """

    window: Window = Window()
    selection: Selection = Selection()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    saved_at: float | None = None
    plan_position: Any = None
    records: Any = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "LoopState":
        """The state from JSON that this or an earlier version wrote.

        Raises:
            TypeError: it has what this version does not know.
        """
        parts = current_loop_state(values)
        window = Window(**parts.pop("window", {}))
        return cls(window=window, selection=Selection(**parts.pop("selection", {})), **parts)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run must remember beside its arrays.

    Attributes:
        step: updates done.
        score: of the validation at this step, higher is better; None = there was none.
        loss: of the same, which decides between equal scores; None = not known.
        loop: of the training loop.
    """

    step: int
    score: float | None = None
    loss: float | None = None
    loop: LoopState = LoopState()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """The record from JSON that this or an earlier version wrote; see `LoopState.from_json`."""
        return cls(**{**values, "loop": LoopState.from_json(values["loop"])})

    def to_json(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return dataclasses.asdict(self)

    @property
    def rank(self) -> tuple[float, float, int] | None:
        """What the best checkpoint has the highest of: the score, then the lower loss, then the step; None = no score.

        A score or a loss that is not a number is worse than any other.
        """
        return None if self.score is None else (*rank(self.score, self.loss), self.step)


def rank(score: float, loss: float | None) -> tuple[float, float]:
    """Compares validations: the higher score is better, and of equal scores the lower loss."""
    loss = math.inf if loss is None or math.isnan(loss) else loss
    return -math.inf if math.isnan(score) else score, -loss
