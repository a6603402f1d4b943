"""Training steps of an experiment, timed: seconds, tokens, pairs and model FLOPs per second, memory."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import jax

from seq2seq_jax.batch import Batch
from seq2seq_jax.benchmark.harness import Spread, Timing, take_turns
from seq2seq_jax.benchmark.workload import BatchKind, Compilation, Workload, compile_apart
from seq2seq_jax.data.packing import RowShape
from seq2seq_jax.objectives.objective import Logged, values_of
from seq2seq_jax.run.data import PROGRESS
from seq2seq_jax.training.step import num_parameters

WARM_UP = 2
"""Turns of each shape before those that are timed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapeFigures:
    """Steps on batches of one shape.

    Attributes:
        share: of all batches.
        step: seconds.
        metrics: means over the steps of what a step counts, such as `target_tokens`, `pairs` and `model_flops`.
    """

    shape: RowShape
    share: float
    step: Spread
    compilation: Compilation
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFigures:
    """Training steps, over all shapes of batches as often as each comes.

    Attributes:
        parameters: numbers that are trained.
        shapes: the most frequent first.
        step: seconds of a step, the mean over the shapes, one figure a turn.
        target_tokens, source_tokens, pairs, model_flops: of a step, padding not counted.
        places: token positions of a step, both sides, padding counted.
        sampled_tokens: of a step with policy gradients, otherwise None.
        peak_flops: of all devices a second; None = not known.
    """

    parameters: int
    shapes: tuple[ShapeFigures, ...]
    step: Spread
    target_tokens: float
    source_tokens: float
    pairs: float
    model_flops: float
    places: float
    sampled_tokens: float | None
    peak_flops: float | None

    def per_second(self, amount: float) -> Spread:
        """What a step does, a second."""
        return Spread(
            median=amount / self.step.median,
            lower_quartile=amount / self.step.upper_quartile,
            upper_quartile=amount / self.step.lower_quartile,
        )

    @property
    def utilization(self) -> Spread | None:
        """Model FLOPs per second over the peak (MFU); None = the peak is not known."""
        return None if self.peak_flops is None else self.per_second(self.model_flops / self.peak_flops)

    @property
    def padding_fraction(self) -> float:
        """Of the token positions of both sides."""
        return 1.0 - (self.source_tokens + self.target_tokens) / self.places

    @property
    def largest(self) -> Compilation:
        """Of the program that needs the most memory."""
        return max((each.compilation for each in self.shapes), key=lambda each: each.memory.peak)

    @property
    def compile_seconds(self) -> float:
        """Of all shapes together."""
        return sum(each.compilation.seconds for each in self.shapes)

    def to_json(self) -> dict[str, Any]:
        """All measurements (seconds, FLOPs, bytes), as JSON has them."""
        rates = {
            "target_tokens_per_second": self.target_tokens,
            "tokens_per_second": self.target_tokens + self.source_tokens,
            "pairs_per_second": self.pairs,
            "model_flops_per_second": self.model_flops,
        }
        utilization = self.utilization
        return {
            **dataclasses.asdict(self),
            **{name: dataclasses.asdict(self.per_second(amount)) for name, amount in rates.items()},
            "utilization": None if utilization is None else dataclasses.asdict(utilization),
            "padding_fraction": self.padding_fraction,
            "compile_seconds": self.compile_seconds,
            "shapes": [{**dataclasses.asdict(each), "compilation": each.compilation.to_json()} for each in self.shapes],
        }


class TrainingPrograms:
    """The training step of an experiment, compiled for every shape of its batches; one state goes through all."""

    def __init__(self, workload: Workload, *, progress: PROGRESS):
        system = workload.system
        self.kinds = workload.kinds
        update = system.build_update()
        self.compiled: dict[RowShape, jax.stages.Compiled] = {}
        self.compilations: dict[RowShape, Compilation] = {}
        for number, kind in enumerate(self.kinds):
            progress("compiling training steps", number, len(self.kinds))
            self.compiled[kind.shape], self.compilations[kind.shape] = compile_apart(
                lambda batch=kind.batches[0]: update.lower(system.layout, system.place(batch))
            )
        progress("compiling training steps", len(self.kinds), len(self.kinds))
        self._place = system.place
        self._state = workload.initial_state()
        self.metrics: dict[RowShape, list[dict[str, jax.Array]]] = {kind.shape: [] for kind in self.kinds}

    def turn(self, kind: BatchKind, *, steps: int) -> Callable[[], None]:
        """Takes n steps, one after the other as training does, and waits for the last."""
        batches = itertools.cycle([self._place(batch) for batch in kind.batches])
        return lambda: self._take(kind.shape, [next(batches) for _ in range(steps)])

    def _take(self, shape: RowShape, batches: list[Batch]) -> None:
        for batch in batches:
            self._state, metrics = self.compiled[shape](self._state, batch)
            self.metrics[shape].append(metrics)
        jax.block_until_ready((self._state, metrics))


def measure_training(
    workload: Workload, *, rounds: int, steps: int, progress: PROGRESS
) -> tuple[TrainingFigures, TrainingPrograms]:
    """Time the training steps of an experiment, after their compilation and a warm-up.

    Args:
        rounds: turns that each shape of a batch has; see `harness.take_turns`.
        steps: in a turn.
        progress: hears of turns that are done.

    Returns:
        The measurements, and the programs, which can go on.
    """
    programs = TrainingPrograms(workload, progress=progress)
    contenders = {kind.shape: programs.turn(kind, steps=steps) for kind in workload.kinds}
    timings = take_turns(
        counted(contenders, "training steps", turns=1 + WARM_UP + rounds, progress=progress),
        rounds=rounds,
        warm_up=WARM_UP,
    )
    timings = {
        shape: Timing(
            first_call=timing.first_call / steps, seconds=tuple(seconds / steps for seconds in timing.seconds)
        )
        for shape, timing in timings.items()
    }
    system = workload.system
    shapes = tuple(
        ShapeFigures(
            shape=kind.shape,
            share=kind.share,
            step=timings[kind.shape].spread,
            compilation=programs.compilations[kind.shape],
            metrics=_means(programs.metrics[kind.shape]),
        )
        for kind in workload.kinds
    )

    def mean(amount: Callable[[ShapeFigures], float]) -> float:
        return sum(each.share * amount(each) for each in shapes)

    turns = zip(*(timings[each.shape].seconds for each in shapes), strict=True)
    a_step = [sum(each.share * taken for each, taken in zip(shapes, turn, strict=True)) for turn in turns]
    counts = {
        name: mean(lambda each, name=name: each.metrics[name])
        for name in ("target_tokens", "source_tokens", "pairs", "model_flops")
    }
    samples = "sampled_tokens" in shapes[0].metrics
    figures = TrainingFigures(
        parameters=sum(num_parameters(player.params) for player in system.layout.players.values()),
        shapes=shapes,
        step=Spread.of(a_step),
        places=mean(lambda each: each.shape.rows * (each.shape.source_length + each.shape.target_length)),
        sampled_tokens=mean(lambda each: each.metrics["sampled_tokens"]) if samples else None,
        peak_flops=system.peak_flops(counts["model_flops"] / min(a_step)),
        **counts,
    )
    return figures, programs


def _means(metrics: list[dict[str, Logged]]) -> dict[str, float]:
    """Of the steps that have a value."""
    found: dict[str, list[float]] = {}
    for each in jax.device_get(metrics):
        for name, value in values_of(each).items():
            found.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in found.items()}


def counted(
    contenders: dict[Any, Callable[[], object]], what: str, *, turns: int, progress: PROGRESS
) -> dict[Any, Callable[[], object]]:
    """The same contenders, whose repetitions are reported.

    Args:
        turns: that each has, those before timing counted.
    """
    done, total = itertools.count(1), turns * len(contenders)

    def telling(contender: Callable[[], object]) -> Callable[[], None]:
        def turn() -> None:
            contender()
            progress(what, next(done), total)

        return turn

    return {name: telling(contender) for name, contender in contenders.items()}
