"""python -m studies.packing: packed rows beside padded ones, on the lengths of real text and speech."""

import collections
import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Int
from rich.table import Table

from seq2seq_jax.batch import Batch, Vocabulary
from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.benchmark.harness import Spread, Timing
from seq2seq_jax.benchmark.training_step import TrainingStep
from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.batch_maker import assemble, select
from seq2seq_jax.data.packing import BatchPlan, RowShape
from seq2seq_jax.data.store import Store
from seq2seq_jax.experiment import Experiment, parse_command_line, to_json
from seq2seq_jax.overrides import split_names
from seq2seq_jax.parallel.mesh import batch_shards
from seq2seq_jax.run.training import TrainingRun

PROGRAM = "python -m studies.packing"
CONFIGS = ("multi30k/transformer_small", "multi30k/recurrent_additive", "multi30k/convolutional")
DESCRIPTION = """\
Time the training steps of CONFIGs (by default one of each family on Multi30k) on packed rows and on padded ones, as
target tokens per second without padding. A padded batch has one pair per row, of a bucket of like lengths, and about as
many token positions as a packed batch; the buckets are those that pad the least. Steps of all shapes take turns in one
process; an epoch's time is the sum over its batches of the time of their shapes. The model is the same, and so is the
text. Of speech, buckets are of like lengths of the source, and its padding and frames per second are shown. Values are
those of {name}.
"""
PACKED = "packed"

Step = Callable[[], object]
"""A training step on one batch, waited for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackingArguments:
    """Command line of the comparison of packed and padded rows."""

    buckets: tuple[int, ...] = (8, 16)
    """Numbers of buckets of padded batches that are compared, each with the row lengths that pad the least."""
    rounds: int = 7
    """Turns that each shape of a batch has (5 at least)."""
    padding_only: bool = False
    """Count padding alone: nothing is compiled or timed."""
    json: str | None = None
    """File for all measurements, as JSON."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """The experiment; what is set here is set in all CONFIGs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """The batches of one epoch, made in one way."""

    counts: Mapping[RowShape, int]
    """Batches of each shape."""
    examples: Mapping[RowShape, Batch]
    """One batch of each shape."""
    fill: float
    """Tokens over token positions, both sides together."""
    source_fill: float
    """Source positions without padding over those of rows."""
    source_positions: int
    """Source positions, without padding."""
    target_tokens: int
    """Target tokens, without padding."""

    def epoch_seconds(self, seconds: Mapping[RowShape, float]) -> float:
        """Time of all batches, from that of one of each shape."""
        return sum(count * seconds[shape] for shape, count in self.counts.items())


def best_bounds(lengths: Int[np.ndarray, " examples"], buckets: int) -> list[int]:
    """Row lengths of at most n buckets that need the fewest places, ascending; the last is the greatest length.

    Args:
        lengths: of the examples, each of which goes to the first bucket that holds it.
    """
    values, counts = np.unique(lengths, return_counts=True)
    num_below = np.concatenate([[0], np.cumsum(counts)])
    # [first, end]: places of one bucket for the lengths values[first:end]; none for no length, which wastes nothing.
    places = (num_below[None, :] - num_below[:, None]) * np.concatenate([[0], values])[None, :].astype(float)
    places[np.tril_indices(len(values) + 1, -1)] = np.inf
    fewest = np.where(np.arange(len(values) + 1) == 0, 0.0, np.inf)
    first_of_last = []
    for _ in range(buckets):
        totals = fewest[:, None] + places
        first_of_last.append(totals.argmin(axis=0))
        fewest = totals.min(axis=0)
    bounds, end = [], len(values)
    for first in reversed(first_of_last):
        if end > first[end]:
            bounds.append(int(values[end - 1]))
        end = first[end]
    return bounds[::-1]


def row_lengths(
    store: Store, batch_format: BatchFormat, examples: Int[np.ndarray, " examples"]
) -> tuple[Int[np.ndarray, " examples"], Int[np.ndarray, " examples"]]:
    """Source and target positions of examples, those that are longer than a row cut."""
    limits = {"source": batch_format.max_source_length, "target": batch_format.max_target_length}
    source, target = (
        np.minimum(batch_format.row_lengths(side, store.columns[side].lengths[examples]), limit)
        for side, limit in limits.items()
    )
    return source, target


def padded_shapes(
    source_lengths: Int[np.ndarray, " examples"],
    target_lengths: Int[np.ndarray, " examples"],
    *,
    buckets: int,
    places: int,
    multiple: int,
) -> tuple[RowShape, ...]:
    """The buckets that pad the least for one pair per row, both sides of a bucket equally long, shortest first.

    Args:
        places: token positions of a batch, both sides together; none has more, unless it has the fewest rows.
        multiple: the rows of a batch are a multiple of this.
    """
    return tuple(
        RowShape(rows=max(1, places // (2 * length) // multiple) * multiple, source_length=length, target_length=length)
        for length in best_bounds(np.maximum(source_lengths, target_lengths), buckets)
    )


def padded_shapes_of_speech(
    source_lengths: Int[np.ndarray, " examples"],
    target_lengths: Int[np.ndarray, " examples"],
    *,
    buckets: int,
    places: int,
    multiple: int,
) -> tuple[RowShape, ...]:
    """The buckets that pad sources the least, whose targets are as long as the longest of them, shortest first.

    See `padded_shapes` for the arguments.
    """
    bounds = best_bounds(source_lengths, buckets)
    targets = [int(target_lengths[source_lengths <= bound].max()) for bound in bounds]
    return tuple(
        RowShape(
            rows=max(1, places // (source + target) // multiple) * multiple, source_length=source, target_length=target
        )
        for source, target in zip(bounds, targets, strict=True)
    )


def make_batching(
    store: Store,
    batch_format: BatchFormat,
    examples: Int[np.ndarray, " examples"],
    *,
    shapes: tuple[RowShape, ...],
    packing: bool,
    window: int,
    vocabulary: Vocabulary,
) -> Batching:
    """The first epoch of a plan.

    Args:
        examples: which of the store are used; see `row_lengths`.
        shapes, packing, window: see `BatchPlan`.
    """
    source_lengths, target_lengths = row_lengths(store, batch_format, examples)
    plan = BatchPlan(
        source_lengths,
        target_lengths,
        examples=examples,
        shapes=shapes,
        packing=packing,
        window=window,
        seed=0,
    )
    counts: collections.Counter[RowShape] = collections.Counter()
    batches = {}
    for rows in plan.epoch():
        shape = RowShape(rows=len(rows.counts), source_length=rows.source_length, target_length=rows.target_length)
        counts[shape] += 1
        if shape not in batches:
            batches[shape] = assemble(store, rows, batch_format, vocabulary=vocabulary)
    source_places, target_places = (
        sum(count * shape.rows * getattr(shape, length) for shape, count in counts.items())
        for length in ("source_length", "target_length")
    )
    return Batching(
        counts=counts,
        examples=batches,
        fill=int(source_lengths.sum() + target_lengths.sum()) / (source_places + target_places),
        source_fill=int(source_lengths.sum()) / source_places,
        source_positions=int(source_lengths.sum()),
        target_tokens=int(target_lengths.sum()),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speed:
    """What training on batches of one kind costs."""

    shapes: int
    """Shapes of its batches, each compiled once."""
    fill: float
    """Tokens over token positions, both sides together."""
    source_fill: float
    """Source positions without padding over those of rows."""
    first_calls: float
    """Seconds of the first steps of all shapes together, in which they were compiled."""
    step: Spread
    """Seconds a step, the mean over an epoch."""
    tokens_per_second: Spread
    """Target tokens without padding."""
    source_per_second: Spread
    """Source positions without padding."""
    packed_is_faster: Spread
    """Tokens per second of packed rows over these, paired by rounds."""


def speeds(batchings: Mapping[str, Batching], timings: Mapping[str, Mapping[RowShape, Timing]]) -> dict[str, Speed]:
    """The measurements of each way to make batches.

    Args:
        batchings: by name; one of them is PACKED.
        timings: of their shapes, all of as many rounds.
    """
    tokens_per_second, source_per_second, steps = {}, {}, {}
    for name, batching in batchings.items():
        rounds = zip(*(timings[name][shape].seconds for shape in batching.counts), strict=True)
        epochs = [batching.epoch_seconds(dict(zip(batching.counts, seconds, strict=True))) for seconds in rounds]
        tokens_per_second[name] = [batching.target_tokens / seconds for seconds in epochs]
        source_per_second[name] = [batching.source_positions / seconds for seconds in epochs]
        steps[name] = [seconds / sum(batching.counts.values()) for seconds in epochs]
    return {
        name: Speed(
            shapes=len(batching.counts),
            fill=batching.fill,
            source_fill=batching.source_fill,
            first_calls=sum(timing.first_call for timing in timings[name].values()),
            step=Spread.of(steps[name]),
            tokens_per_second=Spread.of(tokens_per_second[name]),
            source_per_second=Spread.of(source_per_second[name]),
            packed_is_faster=harness.paired_ratio(tokens_per_second[PACKED], tokens_per_second[name]),
        )
        for name, batching in batchings.items()
    }


def compare(experiment: Experiment, name: str, *, buckets: tuple[int, ...], rounds: int) -> dict[str, Speed]:
    """Time the training steps of an experiment on packed and on padded rows of its training split.

    Args:
        name: of the experiment's config.
        buckets: numbers of buckets of padded batches.
        rounds: see `harness.take_turns`.

    Raises:
        ValueError: the experiment's data is not pairs.
    """
    with begun(experiment, name) as run:
        batchings = batchings_of(run, buckets)
        step = TrainingStep(run.system.build_update(), run.initial_state())

        def on_batch(batch: Batch) -> Step:
            return functools.partial(step, run.system.place(batch))

        return time_in_turns(batchings, dict.fromkeys(batchings, on_batch), rounds=rounds)


@contextlib.contextmanager
def begun(experiment: Experiment, name: str) -> Iterator[TrainingRun]:
    """A run of an experiment, in a directory that is removed behind it.

    Raises:
        ValueError: the experiment's data is not pairs.
    """
    require_pairs(experiment, name)
    with tempfile.TemporaryDirectory() as directory:
        run = TrainingRun(Path(directory), experiment)
        run.begin(name)
        yield run


def require_pairs(experiment: Experiment, name: str) -> None:
    """Refuse what cannot be packed.

    Raises:
        ValueError: the data of the config of that name is not pairs.
    """
    if experiment.batch_format.is_uniform:
        raise ValueError(f"the data of {name} is documents, which are neither packed nor padded. Name another config.")


def time_in_turns(
    batchings: Mapping[str, Batching], steps: Mapping[str, Callable[[Batch], Step]], *, rounds: int
) -> dict[str, Speed]:
    """Time a training step of every shape of every way to make batches.

    Args:
        batchings: by name; one of them is PACKED.
        steps: by the same names, the step on a batch, which it places on the device.
        rounds: see `harness.take_turns`.
    """
    contenders = {
        (name, shape): steps[name](batch)
        for name, batching in batchings.items()
        for shape, batch in batching.examples.items()
    }
    found = harness.take_turns(contenders, rounds=rounds, warm_up=1)
    timings: dict[str, dict[RowShape, Timing]] = {name: {} for name in batchings}
    for (name, shape), timing in found.items():
        timings[name][shape] = timing
    return speeds(batchings, timings)


def batchings_of(run: TrainingRun, buckets: tuple[int, ...]) -> dict[str, Batching]:
    """Packed rows of a run's training split, and padded ones in n buckets of about as many positions."""
    experiment, store, vocabulary = run.experiment, run.data.store("train", run.tokenizer), run.tokenizer.vocabulary
    data = experiment.data
    examples, _ = select(store, experiment.batch_format.columns)
    packed = RowShape(
        rows=experiment.rows_per_batch, source_length=data.max_source_length, target_length=data.max_target_length
    )
    make = functools.partial(
        make_batching, store, experiment.batch_format, examples, window=data.window, vocabulary=vocabulary
    )
    batchings = {PACKED: make(shapes=(packed,), packing=True)}
    make_shapes = padded_shapes if experiment.model.front_end is None else padded_shapes_of_speech
    for number in buckets:
        shapes = make_shapes(
            *row_lengths(store, experiment.batch_format, examples),
            buckets=number,
            places=packed.rows * (packed.source_length + packed.target_length),
            multiple=experiment.training.accumulation * batch_shards(run.mesh),
        )
        batchings[f"padded, {number} buckets"] = make(shapes=shapes, packing=False)
    return batchings


def padding_table_of(found: Mapping[str, Batching], *, title: str) -> Table:
    """A row for each way to make batches, which were not timed."""
    rows = [
        (
            name,
            str(len(batching.counts)),
            f"{sum(batching.counts.values()):,}",
            f"{1 - batching.source_fill:.1%}",
            f"{1 - batching.fill:.1%}",
        )
        for name, batching in found.items()
    ]
    header = ("rows", "shapes", "batches in an epoch", "padding of the source", "padding of both sides")
    return report.table(header, rows, title=title)


def table_of(found: Mapping[str, Speed], *, title: str, frames_per_position: int | None = None) -> Table:
    """A row for each way to make batches.

    Args:
        frames_per_position: of a source of speech, whose fill and speed are shown then; None = it is text.
    """
    is_text = frames_per_position is None

    def rate(speed):
        return speed.tokens_per_second.median if is_text else frames_per_position * speed.source_per_second.median

    header = ("rows", "shapes", "first calls", "fill" if is_text else "fill of the source", "step: median (quartiles)")
    header += ("target tokens/s" if is_text else "frames/s", "packed / this")
    rows = [
        (
            name,
            str(speed.shapes),
            f"{speed.first_calls:.0f} s",
            f"{speed.fill if is_text else speed.source_fill:.1%}",
            report.milliseconds(speed.step),
            f"{rate(speed):,.0f}",
            "" if name == PACKED else report.factor(speed.packed_is_faster),
        )
        for name, speed in found.items()
    ]
    return report.table(header, rows, title=title)


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print a table a config.

    Raises:
        ValueError: there is no such config, or a value does not fit.
    """
    names, rest = split_names(arguments)
    chosen = {}
    for config in names or CONFIGS:
        name, _, options = parse_command_line(
            config,
            rest,
            arguments=PackingArguments,
            program=f"{PROGRAM} [CONFIG ...]",
            description=DESCRIPTION,
        )
        chosen[name] = options
    console = report.output()
    figures = {"environment": harness.environment(), "configs": {}}
    for name, options in chosen.items():
        experiment, model = options.experiment, options.experiment.model
        if options.padding_only:
            with begun(experiment, name) as run:
                batchings = batchings_of(run, options.buckets)
            console.print(padding_table_of(batchings, title=name))
            rows = {
                kind: {"fill": batching.fill, "source_fill": batching.source_fill}
                for kind, batching in batchings.items()
            }
        else:
            found = compare(experiment, name, buckets=options.buckets, rounds=options.rounds)
            title = f"{name}, {model.precision}; {options.rounds} turns of a step of each shape"
            frames = None if model.front_end is None else model.frames_per_position
            console.print(table_of(found, title=title, frames_per_position=frames))
            rows = {kind: dataclasses.asdict(speed) for kind, speed in found.items()}
        figures["configs"][name] = {"experiment": to_json(experiment), "rows": rows}
    console.print(report.environment_line(figures["environment"]))
    report.write_json(figures, next(iter(chosen.values())).json)


if __name__ == "__main__":
    report.run_script(main)
