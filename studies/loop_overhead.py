"""python -m studies.loop_overhead: what the training loop adds to its steps, and how fast input comes."""

import contextlib
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import jax
import tyro

from seq2seq_jax.batch import Batch
from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.benchmark.workload import batches_of
from seq2seq_jax.experiment import Experiment, parse_command_line, to_json
from seq2seq_jax.parallel.processes import Job
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.goodput import Ledger
from seq2seq_jax.training.loop import Loop
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.telemetry import Record, RecordFiles
from seq2seq_jax.training.writers import Writer, open_writers

PROGRAM = "python -m studies.loop_overhead"
CONFIG = "multi30k/transformer_small"
DESCRIPTION = f"""\
Time training of CONFIG (by default {CONFIG}) by the whole loop, with its input pipeline, metrics of every step and
records, beside the jitted step alone on the same batches, which lie on the devices already; and the input pipeline
alone. All take turns in one process, with one compiled step. Validation and checkpoints are left out: records tell what
they take. Values are those of {{name}}.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopOverheadArguments:
    """Command line of the measurement."""

    steps: int = 15
    """Steps in a turn of the loop, and of the step alone."""
    pipeline_batches: int = 100
    """Batches in a turn of the pipeline alone."""
    rounds: int = 7
    """Turns that each has (5 at least)."""
    json: str | None = None
    """File for all measurements, as JSON."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The experiment."""

    def __post_init__(self):
        if self.rounds < harness.MIN_ROUNDS:
            raise ValueError(f"--rounds must be at least {harness.MIN_ROUNDS}, not {self.rounds}.")
        if self.steps < 2 or self.pipeline_batches < 1:
            raise ValueError(
                f"--steps must be at least 2 and --pipeline-batches at least 1, not {self.steps} and "
                f"{self.pipeline_batches}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """Measurements of the rounds, in their order."""

    loop_seconds: tuple[float, ...]
    """Seconds a step, by the loop."""
    step_seconds: tuple[float, ...]
    """Seconds a step, alone."""
    consumed: dict[str, tuple[float, ...]]
    """Pairs and target tokens that the step alone takes a second."""
    supplied: dict[str, tuple[float, ...]]
    """Pairs and target tokens that the pipeline alone gives a second."""

    @property
    def overhead(self) -> Spread:
        """What the loop adds, as a share of the step alone."""
        return Spread.of([loop / step - 1.0 for loop, step in zip(self.loop_seconds, self.step_seconds, strict=True)])


class Contenders:
    """The loop, its step and its input, each timed by a method, on one state that goes from turn to turn."""

    def __init__(self, run: TrainingRun, *, steps: int, pipeline_batches: int):
        self._run = run
        self._steps, self._pipeline_batches = steps, pipeline_batches
        self._update, self._state = run.system.build_update(), run.initial_state()
        with contextlib.closing(batches_of(run, steps)) as batches:
            self.batches = list(batches)
        self._placed = [run.system.place(batch) for batch in self.batches]
        shapes = {placed.target.tokens.shape: placed for placed in self._placed}
        for placed in shapes.values():
            self._state, _ = jax.block_until_ready(self._update(self._state, placed))

    def step(self) -> float:
        """Seconds of the steps alone, one dispatched after the other."""
        started = time.perf_counter()
        for placed in self._placed:
            self._state, metrics = self._update(self._state, placed)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started

    def _writers(self, directory: Path) -> list[Writer]:
        """What `seq2seq train` writes to by default."""
        return open_writers(["tensorboard"], directory, after_step=0, experiment={})

    def loop(self) -> float:
        """Seconds from the first batch to the last record."""
        run, ended = self._run, 0.0
        with (
            tempfile.TemporaryDirectory() as directory,
            RecordFiles(Path(directory), after_step=0, writers=self._writers(Path(directory))) as files,
            Checkpoints(Path(directory) / "checkpoints", keep_latest=1) as checkpoints,
            contextlib.closing(batches_of(run, self._steps)) as batches,
        ):

            def record(figures: Record) -> None:
                nonlocal ended
                files.write(figures)
                ended = time.perf_counter()

            loop = Loop(
                dataclasses.replace(run.experiment.training, steps=self._steps),
                update=self._update,
                place=run.system.place,
                validate=None,
                learning_rates=run.system.learning_rates,
                checkpoints=checkpoints,
                record=record,
                ledger=Ledger(),
                job=Job(),
                peak_flops=run.system.peak_flops,
            )
            # The pipeline has started, as it has in the middle of a run.
            batches = itertools.chain([next(batches)], batches)
            started = time.perf_counter()
            # The save at the end comes after the last record.
            self._state, _ = loop.run(self._state, Progress(step=0), batches, plan_position=list)
        return ended - started

    def pipeline(self) -> tuple[float, list[Batch]]:
        """Seconds of the pipeline alone for its batches after the first, and these."""
        with contextlib.closing(batches_of(self._run, 1 + self._pipeline_batches)) as batches:
            next(batches)
            started = time.perf_counter()
            made = list(batches)
            return time.perf_counter() - started, made


def _amounts(batches: Iterable[Batch]) -> dict[str, int]:
    """Pairs and target tokens of some batches."""
    totals = {"pairs": 0, "target tokens": 0}
    for batch in batches:
        totals["pairs"] += int(batch.target.segment_ids.max(axis=1).sum())
        totals["target tokens"] += int(batch.target.mask.sum())
    return totals


def measure(experiment: Experiment, name: str, *, steps: int, pipeline_batches: int, rounds: int) -> Found:
    """Time loop, step and pipeline of an experiment in turns.

    Args:
        name: of the experiment's config.
        steps: in a turn of loop and step.
        pipeline_batches: in a turn of the pipeline.
        rounds: turns of each.
    """
    with tempfile.TemporaryDirectory() as directory:
        run = TrainingRun(Path(directory), experiment)
        run.begin(name)
        contenders = Contenders(run, steps=steps, pipeline_batches=pipeline_batches)
        # Once before they count: files and threads that are used for the first time.
        contenders.loop()
        loops, alone, made = [], [], []
        for _ in range(rounds):
            loops.append(contenders.loop())
            alone.append(contenders.step())
            made.append(contenders.pipeline())
    consumed = _amounts(contenders.batches)
    supplied = [(_amounts(batches), seconds) for seconds, batches in made]
    return Found(
        loop_seconds=tuple(seconds / steps for seconds in loops),
        step_seconds=tuple(seconds / steps for seconds in alone),
        consumed={unit: tuple(amount / seconds for seconds in alone) for unit, amount in consumed.items()},
        supplied={unit: tuple(amounts[unit] / seconds for amounts, seconds in supplied) for unit in consumed},
    )


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a table.

    Raises:
        ValueError: there is no such config, or a value does not fit.
    """
    given = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    name, _, chosen = parse_command_line(
        given[0] if given else CONFIG,
        arguments[len(given) :],
        arguments=LoopOverheadArguments,
        program=f"{PROGRAM} [CONFIG]",
        description=DESCRIPTION,
    )
    environment = harness.environment()
    found = measure(
        chosen.experiment,
        name,
        steps=chosen.steps,
        pipeline_batches=chosen.pipeline_batches,
        rounds=chosen.rounds,
    )
    overhead = found.overhead
    rows = [
        ("a step alone", report.milliseconds(Spread.of(found.step_seconds))),
        ("a step of the loop", report.milliseconds(Spread.of(found.loop_seconds))),
        (
            "overhead of the loop, paired",
            f"{overhead.median:.2%} ({overhead.lower_quartile:.2%} to {overhead.upper_quartile:.2%})",
        ),
    ]
    for unit, consumed in found.consumed.items():
        supplied = found.supplied[unit]
        rows += [
            (f"{unit}/s that a step takes", f"{Spread.of(consumed).median:,.0f}"),
            (f"{unit}/s that the pipeline gives", f"{Spread.of(supplied).median:,.0f}"),
            (f"{unit}: given / taken", report.factor(harness.paired_ratio(supplied, consumed))),
        ]
    console = report.output()
    title = f"{name}, {chosen.experiment.model.precision}; {chosen.rounds} turns of {chosen.steps} steps"
    console.print(report.table(("", "median (quartiles)"), rows, title=title))
    console.print(report.environment_line(environment))
    figures = {**dataclasses.asdict(found), "overhead": dataclasses.asdict(overhead)}
    report.write_json({"environment": environment, "experiment": to_json(chosen.experiment), **figures}, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
