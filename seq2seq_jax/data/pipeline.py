"""Batches from a token store: which examples are used, their assembly into arrays, and the iterators that serve them.

All arrays are numpy int32, on the host; each process makes only its own rows of a batch.
"""

import dataclasses
import functools
import gc
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Int, UInt

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary
from seq2seq_jax.data.denoising import Denoising, DenoisingBatchMaker
from seq2seq_jax.data.document_store import DocumentStore
from seq2seq_jax.data.packing import BatchPlan, BatchRows, PlanPosition, RowShape
from seq2seq_jax.data.source import DataSource, PairSource
from seq2seq_jax.data.token_store import TokenStore

NUM_DEFAULT_BUCKETS = 8
SHORTEST_SOURCE_ROW = 16
NOTICEABLE_FRACTION = 0.01
"""Of the examples of a split: if limits drop or cut more, that is a warning."""

logger = logging.getLogger(__name__)


class SelectionCounts(NamedTuple):
    """What the length limits did to a split, in examples."""

    total: int
    """Examples of the split."""
    source_too_long: int
    """Those with a source longer than max_source_length."""
    target_too_long: int
    """Those with a target longer than max_target_length; an example can be both."""
    dropped: int
    """Those that are left out."""
    truncated: int
    """Those that are cut on one side or both."""

    @property
    def affected(self) -> int:
        """Those that are not used as they are."""
        return self.dropped + self.truncated

    @property
    def is_noticeable(self) -> bool:
        """Whether they are so many that a person should know."""
        return self.affected > NOTICEABLE_FRACTION * self.total


def select(store: TokenStore, source_config: PairSource) -> tuple[Int[np.ndarray, " examples"], SelectionCounts]:
    """The examples of a split that are trained on: `source_config.too_long` decides on those longer than a row.

    A truncated example is cut when its batch is assembled, and keeps the EOS token as its last token. An example of
    which a side is empty, just the EOS token, is kept.

    Returns:
        The indices in ascending order, and the counts, which are logged too: as a warning if they are noticeable.

    Raises:
        ValueError: none is left.
    """
    fits = _fits(store, source_config.max_source_length, source_config.max_target_length)
    num_too_long = int((~fits).sum())
    drop = source_config.too_long == "drop"
    counts = SelectionCounts(
        total=len(store),
        source_too_long=int((store.source_lengths > source_config.max_source_length).sum()),
        target_too_long=int((store.target_lengths > source_config.max_target_length).sum()),
        dropped=num_too_long if drop else 0,
        truncated=0 if drop else num_too_long,
    )
    if num_too_long:
        lengths = {"source": store.source_lengths, "target": store.target_lengths}
        remedy = ". " + _remedy(counts, lengths, source_config) if counts.is_noticeable else ""
        logger.log(
            logging.WARNING if counts.is_noticeable else logging.INFO,
            "%s %d of %d examples: %d have more than %d source tokens, %d more than %d target tokens%s",
            "dropped" if drop else "truncated", num_too_long, counts.total,
            counts.source_too_long, source_config.max_source_length,
            counts.target_too_long, source_config.max_target_length, remedy,
        )  # fmt: skip
    if counts.dropped == counts.total:
        raise ValueError(
            f"all {counts.total} examples are longer than max_source_length {source_config.max_source_length} or "
            f"max_target_length {source_config.max_target_length}: raise these, or set too_long to truncate"
        )
    return _indices(fits | (not drop)), counts


def _remedy(
    counts: SelectionCounts, lengths: dict[str, Int[np.ndarray, " examples"]], source_config: PairSource
) -> str:
    """What keeps 99% of a side's examples as they are, and what else can be done."""
    too_long = {"source": counts.source_too_long, "target": counts.target_too_long}
    flags = [
        f"--data.max_{side}_length {int(np.ceil(np.quantile(lengths[side], 1 - NOTICEABLE_FRACTION)))}"
        for side, number in too_long.items()
        if number > NOTICEABLE_FRACTION * counts.total
    ] or ["a greater --data.max_source_length or max_target_length"]
    keeps = f"{' and '.join(flags)} would keep 99% of {'both' if len(flags) > 1 else 'them'} whole"
    return keeps + (", --data.too_long truncate uses the beginnings" if source_config.too_long == "drop" else "")


def row_shapes(source_config: DataSource, target_tokens_per_batch: int) -> tuple[RowShape, ...]:
    """The shapes of the global batches: one with packing or denoising, otherwise one a bucket, shortest first.

    A bucket's rows stand to the max lengths as its length to the longer of them. All buckets have a multiple of the
    rows of the longest, so that processes and devices that can share those can share any.

    Args:
        target_tokens_per_batch: target tokens of a global batch, padding counted; no shape has more.

    Raises:
        ValueError: target_tokens_per_batch is less than a row, or bucket_lengths do not suit the rows.
    """
    max_source, max_target = source_config.max_source_length, source_config.max_target_length
    min_rows = target_tokens_per_batch // max_target
    if not min_rows:
        raise ValueError(
            f"target_tokens_per_batch is {target_tokens_per_batch}, less than one row of max_target_length "
            f"{max_target}: set it to a multiple of {max_target}"
        )
    if isinstance(source_config, Denoising):
        return (RowShape(rows=min_rows, source_length=max_source, target_length=max_target),)
    if source_config.packing:
        if source_config.bucket_lengths:
            raise ValueError("bucket_lengths have no effect with packing: leave them empty or turn packing off")
        return (
            RowShape(
                rows=min_rows,
                source_length=max_source,
                target_length=max_target,
                max_examples=source_config.max_examples_per_row,
            ),
        )
    longest = max(max_source, max_target)
    eighths = (-(-longest * part // NUM_DEFAULT_BUCKETS) for part in range(1, NUM_DEFAULT_BUCKETS + 1))
    lengths = source_config.bucket_lengths or tuple(dict.fromkeys(eighths))
    if list(lengths) != sorted(set(lengths)) or lengths[0] < 1 or lengths[-1] != longest:
        raise ValueError(
            f"bucket_lengths are {lengths}: expected ascending lengths, of which the last is the longer max length, "
            f"{longest}"
        )
    shapes = []
    for length in lengths:
        target_length = -(-max_target * length // longest)
        shapes.append(
            RowShape(
                rows=target_tokens_per_batch // target_length // min_rows * min_rows,
                source_length=-(-max_source * length // longest),
                target_length=target_length,
            )
        )
    return tuple(shapes)


def assemble(store: TokenStore, rows: BatchRows, *, vocabulary: Vocabulary) -> Batch:
    """The arrays of some rows; an example longer than its row is cut to it, its last token the EOS token.

    Returns:
        A Batch of numpy int32 arrays, source [rows, rows.source_length] and target [rows, rows.target_length].
    """
    source = _side(store.source_tokens, store.source_offsets, rows, rows.source_length, vocabulary)
    target = _side(store.target_tokens, store.target_offsets, rows, rows.target_length, vocabulary)
    return Batch(source=source, target=target)


def _side(
    tokens: UInt[np.ndarray, " tokens"],
    offsets: Int[np.ndarray, " examples_and_end"],
    rows: BatchRows,
    row_length: int,
    vocabulary: Vocabulary,
) -> TokenRows:
    # No loop over examples: every array here has one value an example of the batch, or one a token.
    starts = offsets[rows.examples]
    lengths = np.minimum(offsets[rows.examples + 1] - starts, row_length)
    num_before = np.concatenate([[0], np.cumsum(lengths)])
    first_of_row = np.cumsum(rows.counts) - rows.counts
    row = np.repeat(np.arange(len(rows.counts)), rows.counts)
    begins = row * row_length + num_before[:-1] - num_before[first_of_row[row]]

    positions = np.arange(num_before[-1]) - np.repeat(num_before[:-1], lengths)
    places = np.repeat(begins, lengths) + positions
    shape = (len(rows.counts), row_length)
    arrays = {
        name: np.full(shape[0] * shape[1], padding, np.int32)
        for name, padding in (("tokens", vocabulary.pad_id), ("segment_ids", 0), ("positions", 0))
    }
    arrays["tokens"][places] = tokens[np.repeat(starts, lengths) + positions]
    arrays["tokens"][begins + lengths - 1] = vocabulary.eos_id
    arrays["segment_ids"][places] = np.repeat(np.arange(len(row)) - first_of_row[row] + 1, lengths)
    arrays["positions"][places] = positions
    return TokenRows(**{name: array.reshape(shape) for name, array in arrays.items()}, max_segments=rows.max_examples)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _PairBatchMaker:
    """Makes this process's share of any batch. A worker gets these fields, the store as its path, and plans again."""

    store: TokenStore
    shapes: tuple[RowShape, ...]
    packing: bool
    window: int
    truncate: bool
    seed: int | None
    plan_position: PlanPosition | None
    vocabulary: Vocabulary
    process_index: int
    process_count: int

    @functools.cached_property
    def plan(self) -> BatchPlan:
        store, longest = self.store, self.shapes[-1]
        fits = _fits(store, longest.source_length, longest.target_length)
        examples = _indices(fits | self.truncate)
        return BatchPlan(
            np.minimum(store.source_lengths[examples], longest.source_length),
            np.minimum(store.target_lengths[examples], longest.target_length),
            examples=examples,
            shapes=self.shapes,
            packing=self.packing,
            window=self.window,
            seed=self.seed,
            plan_position=self.plan_position,
        )

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def num_examples(self) -> int:
        return len(self.store)

    @functools.cached_property
    def longer_than_a_row(self) -> Int[np.ndarray, " examples"]:
        longest = self.shapes[-1]
        return _indices(~_fits(self.store, longest.source_length, longest.target_length))

    @property
    def too_long(self) -> Int[np.ndarray, " examples"]:
        return self.longer_than_a_row[:0] if self.truncate else self.longer_than_a_row

    @property
    def cut(self) -> Int[np.ndarray, " examples"]:
        return self.longer_than_a_row if self.truncate else self.longer_than_a_row[:0]

    def epoch(self) -> Iterator[tuple[Batch, Int[np.ndarray, " examples"]]]:
        if len(self.too_long) < len(self.store):
            yield from map(self._share, self.plan.epoch())

    def _share(self, rows: BatchRows) -> tuple[Batch, Int[np.ndarray, " examples"]]:
        rows = rows.share(self.process_index, self.process_count)
        return assemble(self.store, rows, vocabulary=self.vocabulary), rows.examples

    def __call__(self, step: int) -> tuple[Batch, PlanPosition]:
        return self._share(self.plan.batch(step))[0], self.plan.plan_position(step)


class TrainingBatches(Iterator[Batch]):
    """The batches of a run, in order.

    Attributes:
        plan_position: of the last batch returned; a run that continues from there finds its place at once with it.
        selection: what the length limits did to the examples; None = there are none, as of documents.
    """

    def __init__(
        self, elements: grain.DatasetIterator, plan_position: PlanPosition | None, selection: SelectionCounts | None
    ):
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


def _batch_maker(
    store: TokenStore | DocumentStore,
    source_config: DataSource,
    *,
    target_tokens_per_batch: int,
    truncate: bool,
    seed: int | None,
    plan_position: PlanPosition | None,
    process_count: int,
    **settings: Any,
) -> _PairBatchMaker | DenoisingBatchMaker:
    shapes = row_shapes(source_config, target_tokens_per_batch)
    # The other shapes have a multiple of its rows.
    longest = shapes[-1]
    if longest.rows % process_count:
        raise ValueError(
            f"the {longest.rows} rows of a batch cannot be shared by {process_count} processes: set "
            f"target_tokens_per_batch to a multiple of {process_count} rows of {longest.target_length} tokens"
        )
    settings |= {"store": store, "seed": seed, "process_count": process_count}
    if isinstance(source_config, Denoising):
        # Every run is evaluated on the same spans.
        settings |= {"seed": 0 if seed is None else seed}
        return DenoisingBatchMaker(source_config=source_config, rows=longest.rows, **settings)
    return _PairBatchMaker(
        shapes=shapes,
        packing=source_config.packing,
        window=source_config.window,
        truncate=truncate,
        plan_position=plan_position,
        **settings,
    )


def training_batches(
    store: TokenStore | DocumentStore,
    source_config: DataSource,
    *,
    vocabulary: Vocabulary,
    target_tokens_per_batch: int,
    seed: int,
    first_batch: int,
    num_batches: int,
    process_index: int = 0,
    process_count: int = 1,
    plan_position: PlanPosition | None = None,
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

    Returns:
        An iterator of Batch of numpy int32 arrays, assembled ahead.

    Raises:
        ValueError: target_tokens_per_batch, bucket_lengths and process_count do not suit each other, or no example is
        short
            enough.
    """
    make = _batch_maker(
        store,
        source_config,
        target_tokens_per_batch=target_tokens_per_batch,
        truncate=isinstance(source_config, PairSource) and source_config.too_long == "truncate",
        seed=seed,
        plan_position=plan_position,
        vocabulary=vocabulary,
        process_index=process_index,
        process_count=process_count,
    )
    selection = select(store, source_config)[1] if isinstance(source_config, PairSource) else None
    steps = grain.MapDataset.range(first_batch, first_batch + num_batches).map(make)
    if not source_config.workers:
        threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=max(1, source_config.prefetch))
        return TrainingBatches(iter(steps.to_iter_dataset(threads)), plan_position, selection)
    if not flags.FLAGS.is_parsed():
        # Grain hands the flags of the command line to its workers; ours come from elsewhere.
        flags.FLAGS.mark_as_parsed()
    elements = steps.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)).mp_prefetch(
        grain.MultiprocessingOptions(
            num_workers=source_config.workers,
            per_worker_buffer_size=max(1, -(-source_config.prefetch // source_config.workers)),
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


class EvaluationBatch(NamedTuple):
    """One process's share of a batch, and which examples it holds."""

    batch: Batch
    examples: Int[np.ndarray, " examples"]
    """Indices of the examples, by row and then segment."""


class EvaluationBatches:
    """All batches of a split, in a fixed order; can be gone through again.

    Attributes:
        num_examples: of the split.
        too_long: indices of the examples longer than a row, which no batch holds, on any process.
        cut: indices of those that are cut to a row instead, as in training.
    """

    def __init__(self, make: _PairBatchMaker | DenoisingBatchMaker):
        self._make = make
        self.num_examples = make.num_examples
        self.too_long = make.too_long
        self.cut = make.cut

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return itertools.starmap(EvaluationBatch, self._make.epoch())


def evaluation_batches(
    store: TokenStore | DocumentStore,
    source_config: DataSource,
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
        _batch_maker(
            store,
            source_config,
            target_tokens_per_batch=target_tokens_per_batch,
            truncate=isinstance(source_config, PairSource) and source_config.too_long == "truncate",
            seed=None,
            plan_position=None,
            vocabulary=vocabulary,
            process_index=process_index,
            process_count=process_count,
        )
    )


class SourceBatch(NamedTuple):
    """Sources to generate from, one a row; rows past the last index are all padding."""

    source: TokenRows
    indices: Int[np.ndarray, " sequences"]
    """Which of the given sequences each row is."""


def source_batches(
    sequences: list[list[int]], *, vocabulary: Vocabulary, source_tokens_per_batch: int, max_length: int
) -> Iterator[SourceBatch]:
    """Batches to generate from, of like length and in few shapes, so that little is compiled.

    Row lengths are 16, 24, 32, 48, 64, 96, ... up to max_length. A length has always the same number of rows, unless
    there are fewer sequences than that: then it is the next power of two above their number.

    Args:
        sequences: source ids, each ending in the EOS token.
        source_tokens_per_batch: tokens of a batch, padding counted, where a row is not longer than that.
        max_length: the longest row that the model takes.

    Returns:
        An iterator of batches of numpy int32 arrays, shortest first; `indices` restores the order.

    Raises:
        ValueError: a sequence is longer than max_length.
    """
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    if not len(lengths):
        return iter(())
    if lengths.max() > max_length:
        raise ValueError(
            f"sequence {lengths.argmax()} has {lengths.max()} tokens, more than the {max_length} that the model takes: "
            f"cut it before"
        )
    row_lengths = [*itertools.takewhile(lambda length: length < max_length, _row_lengths()), max_length]
    most_rows = 1 << (len(sequences) - 1).bit_length()
    shapes = tuple(
        RowShape(
            rows=min(most_rows, max(1, source_tokens_per_batch // length)), source_length=length, target_length=length
        )
        for length in row_lengths
    )
    tokens, offsets = _flat(sequences)
    order = np.argsort(lengths, kind="stable")
    plan = BatchPlan(
        lengths[order], lengths[order], examples=order, shapes=shapes, packing=False, window=len(order), seed=None
    )
    return (
        SourceBatch(_side(tokens, offsets, rows, rows.source_length, vocabulary), rows.examples)
        for rows in plan.epoch()
    )


def pair_batches(
    sources: list[list[int]], targets: list[list[int]], *, vocabulary: Vocabulary, max_weights_per_batch: int
) -> Iterator[EvaluationBatch]:
    """Batches of given pairs, of like length and in few shapes, one pair per row.

    Both sides of a row are equally long, by the longer of them: 16, 24, 32, 48, ... tokens, as in `source_batches`.

    Args:
        sources: source ids, each ending in the EOS token.
        targets: as many targets.
        max_weights_per_batch: (target, source) places of a batch, padding counted, where a row has no more than that.

    Returns:
        An iterator of (Batch of numpy int32 arrays, indices of its pairs), shortest first.
    """
    lengths = np.array([[len(source), len(target)] for source, target in zip(sources, targets, strict=True)], np.int64)
    if not len(lengths):
        return iter(())
    longest = lengths.max(axis=1)
    most_rows = 1 << (len(sources) - 1).bit_length()
    shapes = []
    for length in _row_lengths():
        rows = min(most_rows, max(1, max_weights_per_batch // length**2))
        shapes.append(RowShape(rows=rows, source_length=length, target_length=length))
        if length >= longest.max():
            break
    order = np.argsort(longest, kind="stable")
    plan = BatchPlan(
        *lengths[order].T, examples=order, shapes=tuple(shapes), packing=False, window=len(order), seed=None
    )
    (source_tokens, source_offsets), (target_tokens, target_offsets) = _flat(sources), _flat(targets)
    return (
        EvaluationBatch(
            Batch(
                source=_side(source_tokens, source_offsets, rows, rows.source_length, vocabulary),
                target=_side(target_tokens, target_offsets, rows, rows.target_length, vocabulary),
            ),
            rows.examples,
        )
        for rows in plan.epoch()
    )


def _row_lengths() -> Iterator[int]:
    """16, 24, 32, 48, 64, 96, ... without end."""
    return (SHORTEST_SOURCE_ROW * half_steps // 2 << octave for octave in itertools.count() for half_steps in (2, 3))


def _flat(sequences: list[list[int]]) -> tuple[UInt[np.ndarray, " tokens"], Int[np.ndarray, " sequences_and_end"]]:
    """Ids one after the other, and where each sequence begins."""
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    return np.fromiter(itertools.chain.from_iterable(sequences), np.uint32, offsets[-1]), offsets


def _fits(store: TokenStore, max_source_length: int, max_target_length: int) -> Bool[np.ndarray, " examples"]:
    return (store.source_lengths <= max_source_length) & (store.target_lengths <= max_target_length)


def _indices(chosen: Bool[np.ndarray, " examples"]) -> Int[np.ndarray, " chosen"]:
    return np.flatnonzero(chosen).astype(np.int32 if len(chosen) < 2**31 else np.int64)
