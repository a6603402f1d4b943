"""The iterators that serve batches: those of a run, assembled ahead, and those of an evaluation."""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import grain
from absl import flags

from seq2seq_jax.batch import Batch, Vocabulary
from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.batch_maker import BatchMaker, SelectionCounts, batch_maker, select
from seq2seq_jax.data.layout import EvaluationBatch
from seq2seq_jax.data.packing import PlanPosition
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer


class TrainingBatches(Iterator[Batch]):
    """The batches of a run, in order.

    Attributes:
        plan_position: of the last batch returned; a run that continues from there finds its place at once with it.
        selection: what the length limits did to the examples.
    """

    def __init__(self, elements: grain.DatasetIterator, plan_position: PlanPosition | None, selection: SelectionCounts):
        self._elements = elements
        self.plan_position = plan_position
        self.selection = selection

    def __next__(self) -> Batch:
        batch, self.plan_position = next(self._elements)
        return batch

    def close(self) -> None:
        """End the threads or processes that assemble ahead; to be called by who stops before the last batch."""
        self._elements.close()
        # The last batches of workers lie in shared memory until Grain's cycles of objects are collected.
        gc.collect()


def training_batches(
    store: Store,
    batch_format: BatchFormat,
    *,
    vocabulary: Vocabulary,
    target_tokens_per_batch: int,
    seed: int,
    first_batch: int,
    num_batches: int,
    workers: int = 0,
    prefetch: int = 4,
    process_index: int = 0,
    process_count: int = 1,
    plan_position: PlanPosition | None = None,
    tokenizer: Tokenizer | None = None,
) -> TrainingBatches:
    """This process's share of the batches first_batch to first_batch + num_batches - 1 of a run.

    The k-th global batch is the same whatever first_batch, the plan position, the workers and the number of processes
    are; the shares are equal runs of its rows, in the order of the processes. With workers the caller's main module
    needs its `if __name__ == "__main__"`, as always where processes are spawned.

    Args:
        target_tokens_per_batch: target tokens of a global batch, padding counted.
        seed: of the shuffle, at least 0.
        plan_position: `TrainingBatches.plan_position` of an earlier part of the same run. Without it everything before
            first_batch is planned first.
        tokenizer: with which examples are augmented as the format says; None = they are not.

    Returns:
        An iterator of Batch of numpy int32 arrays, assembled ahead.

    Raises:
        ValueError: target_tokens_per_batch, bucket_lengths and process_count do not suit each other, or no example is
        short
            enough.
    """
    make = batch_maker(
        store,
        batch_format,
        vocabulary=vocabulary,
        target_tokens_per_batch=target_tokens_per_batch,
        seed=seed,
        plan_position=plan_position,
        process_index=process_index,
        process_count=process_count,
        tokenizer=tokenizer,
    )
    _, selection = select(store, batch_format.columns)
    steps = grain.MapDataset.range(first_batch, first_batch + num_batches).map(make)
    if not workers:
        threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=max(1, prefetch))
        return TrainingBatches(iter(steps.to_iter_dataset(threads)), plan_position, selection)
    if not flags.FLAGS.is_parsed():
        # Grain hands the flags of the command line to its workers; ours come from elsewhere.
        flags.FLAGS.mark_as_parsed()
    elements = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)).mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=workers,
            per_worker_buffer_size=max(1, -(-prefetch // workers)),
        ),
        worker_init_fn=_end_with_parent,
    )
    return TrainingBatches(iter(elements), plan_position, selection)


def _end_with_parent(worker: int, count: int) -> None:
    """Let a worker end when the training process does, and not before: one that was killed has informed nobody, and one
    that is informed of a pre-emption, as a launcher informs all processes, still needs its workers.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class EvaluationBatches:
    """All batches of a split, in a fixed order; can be gone through again.

    Attributes:
        num_examples: of the split.
        too_long: indices of the examples longer than a row, which no batch holds, on any process.
        cut: indices of those that are cut to a row instead, as in training.
        selection: what the length limits did to the examples.
    """

    def __init__(self, make: BatchMaker):
        self._make = make
        self.num_examples = make.num_examples
        self.selection = make.selection.counts
        self.too_long = make.too_long
        self.cut = make.cut

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return self._make.epoch()


def evaluation_batches(
    store: Store,
    batch_format: BatchFormat,
    *,
    vocabulary: Vocabulary,
    target_tokens_per_batch: int,
    process_index: int = 0,
    process_count: int = 1,
) -> EvaluationBatches:
    """Every example of a split once, packed or bucketed like training, and truncated if training is.

    Args:
        target_tokens_per_batch: target tokens of a global batch, padding counted.

    Returns:
        An iterable of (Batch of numpy int32 arrays, indices of its examples), and `too_long` and `cut`, the indices
        of those that fit no row. Every process gets as many batches.

    Raises:
        ValueError: target_tokens_per_batch, bucket_lengths and process_count do not suit each other.
    """
    return EvaluationBatches(
        batch_maker(
            store,
            batch_format,
            vocabulary=vocabulary,
            target_tokens_per_batch=target_tokens_per_batch,
            seed=None,
            process_index=process_index,
            process_count=process_count,
        )
    )
