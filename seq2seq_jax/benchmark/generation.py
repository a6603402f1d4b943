"""Generation of an experiment's model, timed: greedy and with its beam, for batches of several sizes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from seq2seq_jax.batch import FrameRows, SourceRows, TokenRows
from seq2seq_jax.benchmark.harness import Spread, take_turns
from seq2seq_jax.benchmark.training import counted
from seq2seq_jax.benchmark.workload import Compilation, Workload, compile_apart
from seq2seq_jax.generation.generator import Generator, pad_rows
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.methods.beam_search import BeamSearch
from seq2seq_jax.parallel.mesh import batch_shards, global_batch
from seq2seq_jax.run.data import PROGRESS
from seq2seq_jax.run.system import System

WARM_UP = 1
"""Batches before those that are timed."""

LENGTH_MULTIPLE = 8
"""Rows of sources are padded to a multiple of this number of tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationFigures:
    """Searches for batches of one size with one beam.

    Attributes:
        beam_size: 1 = greedy.
        sentences: of a batch.
        source_length: tokens of a row, padding counted.
        tokens: of the best texts of a batch together, EOS tokens counted.
        batch: seconds of a batch, from source ids on the devices to ids of the texts.
    """

    beam_size: int
    sentences: int
    source_length: int
    tokens: int
    batch: Spread
    compilation: Compilation

    @property
    def name(self) -> str:
        """What was timed, in words."""
        kind = "greedy" if self.beam_size == 1 else f"beam {self.beam_size}"
        return f"{kind}, batch {self.sentences}"

    def to_json(self) -> dict[str, Any]:
        """All measurements, as JSON has them."""
        return {
            **dataclasses.asdict(self),
            "compilation": self.compilation.to_json(),
            "sentences_per_second": self.sentences / self.batch.median,
            "tokens_per_second": self.tokens / self.batch.median,
        }


def settings(workload: Workload, beam_size: int) -> BeamSearch:
    """How texts are searched for with a beam.

    New parameters hardly ever choose the EOS token. Theirs are therefore as long, for each source token, as the
    references are: that is where the limit of the search is set. Trained parameters end by themselves, and have the
    config's limit.
    """
    config, pairs = workload.system.experiment.generation, workload.pairs
    limits = {}
    if workload.has_new_parameters:
        ratio = sum(length for _, length in pairs) / sum(len(source) for source, _ in pairs)
        limits = {"maximum_length_ratio": ratio, "maximum_length_extra": 1}
    common = {field.name: getattr(config, field.name) for field in dataclasses.fields(GenerationMethod)}
    search = config if isinstance(config, BeamSearch) else BeamSearch(**common)
    return dataclasses.replace(search, beam_size=beam_size, n_best=1, **limits)


def sources_of(workload: Workload, number: int) -> SourceRows:
    """A batch of n sources of similar length, from the middle of those that there are; repeated if there are fewer.

    Returns:
        Rows on the host, padded to the next multiple of LENGTH_MULTIPLE that the model takes.
    """
    pairs, system = workload.pairs, workload.system
    first = max(0, (len(pairs) - number) // 2)
    chosen = [source for source, _ in pairs[first : first + number]]
    chosen = [chosen[index % len(chosen)] for index in range(number)]
    longest = max(map(len, chosen))
    length = min(-(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, system.experiment.max_source_length)
    # Of frames a position holds several; of tokens it is one.
    values = np.full((number, length, *chosen[0].shape[1:]), system.tokenizer.vocabulary.pad_id, chosen[0].dtype)
    segment_ids, positions = np.zeros((2, number, length), np.int32)
    for row, source in enumerate(chosen):
        values[row, : len(source)] = source
        segment_ids[row, : len(source)] = 1
        positions[row, : len(source)] = np.arange(len(source))
    if values.ndim == 2:
        return TokenRows(tokens=values, segment_ids=segment_ids, positions=positions)
    counts = segment_ids * values.shape[2]
    return FrameRows(values=values, counts=counts, segment_ids=segment_ids, positions=positions)


class Searches:
    """The search of one beam for one batch, compiled."""

    def __init__(self, system: System, config: BeamSearch, params: Any, source: SourceRows):
        generator = Generator(
            system.model,
            system.tokenizer,
            config,
            source=system.experiment.task.source(system.experiment.data),
            mesh=system.mesh,
        )
        self._params = params
        self._source = global_batch(pad_rows(source, batch_shards(system.mesh)), system.mesh, shard=(0, 1))
        lines = np.arange(len(self._source.segment_ids), dtype=np.int32)
        self._lines = global_batch(lines, system.mesh, shard=(0, 1))
        self.compiled, self.compilation = compile_apart(lambda: generator.lower(params, self._source))

    def __call__(self) -> Any:
        """Search once, and wait for it."""
        return jax.block_until_ready(self.compiled(self._params, self._source, self._lines, None))


def measure_generation(
    workload: Workload, *, batch_sizes: Sequence[int], rounds: int, progress: PROGRESS
) -> tuple[list[GenerationFigures], dict[tuple[int, int], Searches]]:
    """Time greedy and beam search for batches of several sizes, after their compilation and a warm-up.

    Args:
        batch_sizes: sentences of a batch.
        rounds: batches of each kind, in turns; see `harness.take_turns`.
        progress: hears of batches that are done.

    Returns:
        The measurements, and the programs by beam and batch size.
    """
    system = workload.system
    params = workload.initial_state().players[system.player].evaluated
    beams = dict.fromkeys((1, system.experiment.generation.num_hypotheses))
    kinds = [(beam, size) for beam in beams for size in batch_sizes]
    sources = {size: sources_of(workload, size) for size in batch_sizes}
    searches: dict[tuple[int, int], Searches] = {}
    for number, (beam, size) in enumerate(kinds):
        progress("compiling searches", number, len(kinds))
        searches[beam, size] = Searches(system, settings(workload, beam), params, sources[size])
    progress("compiling searches", len(kinds), len(kinds))
    contenders: dict[tuple[int, int], Callable[[], object]] = dict(searches)
    timings = take_turns(
        counted(contenders, "searches", turns=1 + WARM_UP + rounds, progress=progress),
        rounds=rounds,
        warm_up=WARM_UP,
    )
    figures = [
        GenerationFigures(
            beam_size=beam,
            sentences=size,
            source_length=sources[size].tokens.shape[1],
            tokens=int(jax.device_get(searches[beam, size]().lengths)[:size, 0].sum()),
            batch=timings[beam, size].spread,
            compilation=searches[beam, size].compilation,
        )
        for beam, size in kinds
    ]
    return figures, searches
