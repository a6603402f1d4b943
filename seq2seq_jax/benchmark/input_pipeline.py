"""The input pipeline of an experiment alone, timed: batches, pairs and tokens per second."""

import contextlib
import dataclasses
import time
from typing import Any

from seq2seq_jax.benchmark import MIN_ROUNDS
from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.benchmark.workload import batches_of
from seq2seq_jax.run.data import PROGRESS
from seq2seq_jax.run.training import TrainingRun


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputFigures:
    """Batches as the pipeline makes them, no step between.

    Attributes:
        first: seconds until the first batch is there: planning, and the start of workers.
        batch: seconds of a batch after those that were assembled ahead, the mean of a turn.
        batches: that were timed.
        pairs, tokens: of a batch, the mean; tokens of both sides, padding not counted.
    """

    first: float
    batch: Spread
    batches: int
    pairs: float
    tokens: float

    def to_json(self) -> dict[str, Any]:
        """All measurements, as JSON has them."""
        return {
            **dataclasses.asdict(self),
            "batches_per_second": 1.0 / self.batch.median,
            "pairs_per_second": self.pairs / self.batch.median,
            "tokens_per_second": self.tokens / self.batch.median,
        }


def measure_input(run: TrainingRun, *, rounds: int, batches: int, progress: PROGRESS) -> InputFigures:
    """Time the batches of a run's training.

    Args:
        rounds: turns, MIN_ROUNDS at least.
        batches: in a turn.
        progress: hears of turns that are done.

    Raises:
        ValueError: too few rounds or batches.
    """
    if rounds < MIN_ROUNDS or batches < 1:
        raise ValueError(f"rounds must be at least {MIN_ROUNDS} and batches at least 1, not {rounds} and {batches}.")
    data = run.experiment.data
    ahead = 1 + max(1, data.prefetch) + data.workers
    started = time.perf_counter()
    with contextlib.closing(batches_of(run, ahead + rounds * batches + ahead)) as made:
        next(made)
        first = time.perf_counter() - started
        for _ in range(ahead - 1):
            next(made)
        seconds, pairs, tokens = [], 0, 0
        for number in range(1, rounds + 1):
            started = time.perf_counter()
            for _ in range(batches):
                batch = next(made)
                # Counted within the time: little beside the assembly, which would go on meanwhile.
                pairs += int(batch.source.segment_ids.max(axis=1).sum())
                tokens += int(batch.source.mask.sum()) + int(batch.target.mask.sum())
            seconds.append((time.perf_counter() - started) / batches)
            progress("input pipeline", number, rounds)
    number = rounds * batches
    return InputFigures(
        first=first, batch=Spread.of(seconds), batches=number, pairs=pairs / number, tokens=tokens / number
    )
