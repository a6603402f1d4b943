"""What a benchmark runs: the programs of an experiment, and batches for them, real or made up."""

import contextlib
import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq2seq_jax.batch import Batch, FrameRows, TokenRows, Vocabulary
from seq2seq_jax.compilation.memory import MemoryUse
from seq2seq_jax.compilation.programs import system_without_data
from seq2seq_jax.data.batch_format import row_shapes
from seq2seq_jax.data.packing import RowShape
from seq2seq_jax.data.pipeline import training_batches
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.run.data import PROGRESS
from seq2seq_jax.run.system import System
from seq2seq_jax.run.training import TrainingRun
from seq2seq_jax.training.step import TrainState

NUM_DRAWN = 64
"""First batches of training whose shapes are counted."""

NUM_KEPT = 4
"""Batches of each shape that steps take in turns."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchKind:
    """Batches of one shape.

    Attributes:
        shape: theirs.
        share: of all batches.
        batches: some of them, on the host.
    """

    shape: RowShape
    share: float
    batches: tuple[Batch, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """An experiment that is ready to be measured.

    Attributes:
        system: what builds its programs.
        run: whose batches they are; None = they are made up.
        kinds: its batches by shape, the most frequent first.
    """

    system: System
    run: TrainingRun | None
    kinds: tuple[BatchKind, ...]

    @property
    def has_new_parameters(self) -> bool:
        """Whether nothing has been learned before the first step."""
        return self.run is None or self.run.experiment.init_from is None

    def initial_state(self) -> TrainState:
        """The state before the first step."""
        return self.system.initial_state() if self.run is None else self.run.initial_state()

    @functools.cached_property
    def pairs(self) -> list[tuple[np.ndarray, int]]:
        """Source ids (or frames by position), and target tokens, of every pair of the batches, by ascending length of
        the source.
        """
        batches = [batch for kind in self.kinds for batch in kind.batches]
        return sorted((pair for batch in batches for pair in pairs_of(batch)), key=lambda pair: len(pair[0]))


@contextlib.contextmanager
def prepared(experiment: Experiment, name: str, *, synthetic: bool, progress: PROGRESS) -> Iterator[Workload]:
    """An experiment with the first batches of its training, in a directory that is deleted afterwards.

    Args:
        name: of the experiment's config.
        synthetic: whether its batches are full rows of random ids, one pair per row; neither data nor a tokenizer is
            needed then.
        progress: hears of work that takes a while.

    Raises:
        ValueError: the data is not there, or a value does not fit.
    """
    if synthetic:
        system = system_without_data(experiment, jax.devices())
        shape = row_shapes(experiment.batch_format, experiment.training.target_tokens_per_batch)[-1]
        batches = tuple(
            full_rows(shape, system.tokenizer.vocabulary, seed=seed, model=experiment.model) for seed in range(NUM_KEPT)
        )
        yield Workload(system, None, (BatchKind(shape=shape, share=1.0, batches=batches),))
        return
    with tempfile.TemporaryDirectory() as directory:
        run = TrainingRun(Path(directory), experiment, progress=progress)
        run.begin(name)
        with contextlib.closing(batches_of(run, NUM_DRAWN)) as batches:
            yield Workload(run.system, run, by_shape(batches))


def batches_of(run: TrainingRun, number: int) -> Iterator[Batch]:
    """The first batches of a run's training, on the host, as its pipeline makes them; to be closed."""
    return training_batches(
        run.data.store("train", run.tokenizer),
        run.experiment.batch_format,
        vocabulary=run.tokenizer.vocabulary,
        tokenizer=run.tokenizer,
        target_tokens_per_batch=run.experiment.training.target_tokens_per_batch,
        seed=run.experiment.training.seed,
        first_batch=0,
        num_batches=number,
        workers=run.experiment.data.workers,
        prefetch=run.experiment.data.prefetch,
    )


def by_shape(batches: Iterator[Batch]) -> tuple[BatchKind, ...]:
    """Batches by their shape, the most frequent shape first, of each the first few."""
    kept: dict[RowShape, list[Batch]] = {}
    counts: dict[RowShape, int] = {}
    for batch in batches:
        rows, source_length = batch.source.segment_ids.shape
        shape = RowShape(rows=rows, source_length=source_length, target_length=batch.target.tokens.shape[1])
        counts[shape] = counts.get(shape, 0) + 1
        if counts[shape] <= NUM_KEPT:
            kept.setdefault(shape, []).append(batch)
    total = sum(counts.values())
    return tuple(
        BatchKind(shape=shape, share=counts[shape] / total, batches=tuple(kept[shape]))
        for shape in sorted(counts, key=lambda shape: -counts[shape])
    )


def full_rows(shape: RowShape, vocabulary: Vocabulary, *, seed: int, model: ModelConfig | None = None) -> Batch:
    """Rows without padding, one pair per row, of random ids and an EOS token.

    Args:
        model: whose front end, if it has one, reads random frames as the source; None = a model of tokens.
    """
    generator = np.random.default_rng(seed)
    special = [vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id, *vocabulary.sentinel_ids]

    def side(length: int, size: int) -> TokenRows:
        tokens = generator.choice(np.setdiff1d(np.arange(size), special), (shape.rows, length)).astype(np.int32)
        tokens[:, -1] = vocabulary.eos_id
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
        return TokenRows(tokens=tokens, segment_ids=np.ones_like(tokens), positions=positions.copy(), max_segments=1)

    target = side(shape.target_length, vocabulary.target_size)
    if model is None or model.front_end is None:
        return Batch(source=side(shape.source_length, vocabulary.source_size), target=target)
    num_features, kind = model.front_end.stored
    size = shape.rows, shape.source_length, model.source_stride, num_features
    values = generator.normal(size=size) * (1_000 if kind == "int16" else 1)
    ids = np.ones(size[:2], np.int32)
    source = FrameRows(
        values=values.astype(kind),
        counts=ids * model.source_stride,
        segment_ids=ids,
        positions=np.broadcast_to(np.arange(size[1], dtype=np.int32), ids.shape).copy(),
        max_segments=1,
    )
    return Batch(source=source, target=target)


def pairs_of(batch: Batch) -> Iterator[tuple[np.ndarray, int]]:
    """Source ids, or frames by position, and number of target tokens of every pair of a batch on the host."""
    values = batch.source.values if isinstance(batch.source, FrameRows) else batch.source.tokens
    rows = zip(values, batch.source.segment_ids, batch.target.segment_ids, strict=True)
    for of_row, source_segments, target_segments in rows:
        for segment in range(1, int(source_segments.max()) + 1):
            yield of_row[source_segments == segment], int((target_segments == segment).sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compilation:
    """What a program took to be compiled, and what it says of its memory.

    Attributes:
        tracing_seconds: from Python to the compiler's input.
        compiling_seconds: from there to the program.
        memory: of one device, as the compiler planned it.
    """

    tracing_seconds: float
    compiling_seconds: float
    memory: MemoryUse

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.tracing_seconds + self.compiling_seconds

    def to_json(self) -> dict[str, Any]:
        """Seconds and bytes, as JSON has them."""
        return {**dataclasses.asdict(self), "memory": {**dataclasses.asdict(self.memory), "peak": self.memory.peak}}


def compile_apart(lower: Callable[[], jax.stages.Lowered]) -> tuple[jax.stages.Compiled, Compilation]:
    """Compile a program, and time it.

    Args:
        lower: traces it.
    """
    started = time.perf_counter()
    lowered = lower()
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    return compiled, Compilation(
        tracing_seconds=traced - started, compiling_seconds=done - traced, memory=MemoryUse.of(compiled)
    )
