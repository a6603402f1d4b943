"""Which examples fill which row of which batch: a plan made from lengths and a seed alone.

An epoch is a seeded shuffle of the examples, cut into windows; each window is packed (or bucketed) on its own. So the
k-th batch of a run is a function of the lengths, the shapes, the seed and k, whoever asks for it and when. An epoch may
hold an example several times or not at all, and with other lengths than the one before, as functions of its number.
"""

import bisect
import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from seq2seq_jax.data.shuffle import epoch_keys, shuffled

# The rows of a window seldom fill its batches to the last; with this many batches less than 2% is lost, on average.
MIN_BATCHES_PER_WINDOW = 32
# Batches are requested in order, by few threads: the window at hand and the one before or after it.
WINDOWS_IN_MEMORY = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowShape:
    """The shape of a global batch: source is [rows, source_length], target [rows, target_length]."""

    rows: int
    """Rows of the batch, over all processes."""
    source_length: int
    """Tokens of a source row."""
    target_length: int
    """Tokens of a target row."""
    max_examples: int | None = None
    """Examples that are packed into a row at most; None = as many as fit."""


class PlanPosition(NamedTuple):
    """A place in the plan that a checkpoint keeps, to go on from without planning all that came before."""

    epoch: int
    window: int
    first_batch: int


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BatchRows:
    """The examples of one batch, or of a share of its rows."""

    examples: Int[np.ndarray, " examples"]
    """Indices of the examples, row after row; within a row in the order of their segments."""
    epochs: Int[np.ndarray, " examples"]
    """The epoch that each of them is in."""
    counts: Int[np.ndarray, " rows"]
    """Examples in each row; 0 = the row is all padding."""
    source_length: int
    """Tokens of a source row."""
    target_length: int
    """Tokens of a target row."""
    max_examples: int | None
    """No row of the plan has more examples; None = it is not known."""
    copies: Int[np.ndarray, " examples"] | None = None
    """Which of its copies in the epoch each of them is, from 0; None = each is the only one."""

    @property
    def rows(self) -> list[Int[np.ndarray, " examples"]]:
        """The examples of each row."""
        return np.split(self.examples, np.cumsum(self.counts)[:-1])

    def share(self, index: int, count: int) -> "BatchRows":
        """The index-th of `count` equal runs of rows.

        Raises:
            ValueError: the rows cannot be shared out equally.
        """
        num_rows = len(self.counts)
        if num_rows % count:
            raise ValueError(
                f"a batch of {num_rows} rows cannot be shared by {count} processes: choose target_tokens_per_batch so "
                f"that its rows are a multiple of {count}"
            )
        begin, end = index * num_rows // count, (index + 1) * num_rows // count
        ends = np.cumsum(self.counts)
        first = ends[begin] - self.counts[begin]
        chosen = slice(first, ends[end - 1])
        return dataclasses.replace(
            self,
            examples=self.examples[chosen],
            epochs=self.epochs[chosen],
            counts=self.counts[begin:end],
            copies=None if self.copies is None else self.copies[chosen],
        )


class Entries(NamedTuple):
    """What is packed or bucketed together."""

    places: Int[np.ndarray, " entries"]
    """Of each entry its example's place among the examples of the plan."""
    copies: Int[np.ndarray, " entries"] | None
    """See `BatchRows.copies`."""

    def chosen(self, which: Int[np.ndarray, " chosen"] | slice) -> "Entries":
        """Some of them."""
        return Entries(self.places[which], None if self.copies is None else self.copies[which])


Lengths = tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"]]
"""Source and target tokens of entries."""


class BatchPlan:
    """The batches of an endless run over a set of examples. Safe to ask from several threads.

    Args:
        source_lengths: tokens of each example, none longer than the longest row.
        target_lengths: likewise.
        examples: what to call each of them in `BatchRows.examples`.
        shapes: with packing the one shape of all batches; otherwise the buckets, shortest first: an example is one
            row of the first bucket that holds it.
        packing: several examples per row.
        window: examples that are packed or bucketed together; more where the batches are so large that a window
            would be only a few of them.
        seed: of the shuffle, at least 0; None = the examples' own order, and the same batches in every epoch.
        plan_position: a known place, as `plan_position(k)` gave for the same arguments.
        repetitions: epoch -> how many times it holds each example; None = once.
        lengths_in: epoch, examples and copies -> source and target tokens that they have in that epoch, none longer
            than the longest row; None = always those given.

    Raises:
        ValueError: there are no examples.
    """

    def __init__(
        self,
        source_lengths: Int[np.ndarray, " examples"],
        target_lengths: Int[np.ndarray, " examples"],
        *,
        examples: Int[np.ndarray, " examples"],
        shapes: tuple[RowShape, ...],
        packing: bool,
        window: int,
        seed: int | None,
        plan_position: PlanPosition | None = None,
        repetitions: Callable[[int], Int[np.ndarray, " examples"]] | None = None,
        lengths_in: Callable[..., Lengths] | None = None,
    ):
        if not len(examples):
            raise ValueError("there are no examples to make batches of: expected at least one")
        assert not packing or len(shapes) == 1
        self._source_lengths = source_lengths
        self._target_lengths = target_lengths
        self._examples = examples
        self._shapes = shapes
        self._packing = packing
        self._seed = seed
        self._repetitions = repetitions
        self._lengths_in = lengths_in
        examples_per_batch = max(shape.rows for shape in shapes)
        if packing:
            (shape,) = shapes
            row_fraction = max(
                int(source_lengths.sum()) / shape.source_length, int(target_lengths.sum()) / shape.target_length
            )
            examples_per_batch = int(shape.rows * len(examples) / row_fraction)
        self._window = max(window, MIN_BATCHES_PER_WINDOW * examples_per_batch)
        self._plan_positions = sorted(
            {PlanPosition(0, 0, 0), PlanPosition(*plan_position or (0, 0, 0))}, key=lambda known: known.first_batch
        )
        self._windows: dict[tuple[int, int], list[BatchRows]] = {}
        self._order: tuple[int, Entries] | None = None
        self._lock = threading.Lock()

    def batch(self, step: int) -> BatchRows:
        """The global batch of a step, from 0."""
        with self._lock:
            plan_position, window = self._find(step)
            return window[step - plan_position.first_batch]

    def plan_position(self, step: int) -> PlanPosition:
        """The window that holds the batch of a step; a plan given it finds this step and all later ones at once."""
        with self._lock:
            return self._find(step)[0]

    def epoch(self, epoch: int = 0) -> Iterator[BatchRows]:
        """All batches of one epoch: every example once, if it is not repeated."""
        for window in range(self.num_windows(epoch)):
            with self._lock:
                batches = self._plan(epoch, window)
            yield from batches

    def fill(self, step: int = 0) -> float:
        """Non-padding tokens over all tokens, both sides together, of the window that holds the batch of a step."""
        with self._lock:
            plan_position, batches = self._find(step)
            entries = self._entries(plan_position.epoch, plan_position.window)
            tokens = sum(int(lengths.sum()) for lengths in self._lengths(plan_position.epoch, entries))
        return tokens / sum(len(rows.counts) * (rows.source_length + rows.target_length) for rows in batches)

    def num_windows(self, epoch: int = 0) -> int:
        """Windows of an epoch: equal ones of at least `window`, so that no small remainder has to make a batch of its
        own.
        """
        return max(1, self._size(epoch) // self._window)

    def _size(self, epoch: int) -> int:
        """Entries of an epoch."""
        return len(self._examples) if self._repetitions is None else len(self._ordered(epoch).places)

    def _find(self, step: int) -> tuple[PlanPosition, list[BatchRows]]:
        assert step >= 0
        known = bisect.bisect_right(self._plan_positions, step, key=lambda plan_position: plan_position.first_batch) - 1
        while True:
            plan_position = self._plan_positions[known]
            batches = self._plan(plan_position.epoch, plan_position.window)
            after = plan_position.first_batch + len(batches)
            if step < after:
                return plan_position, batches
            known += 1
            if known == len(self._plan_positions) or self._plan_positions[known].first_batch != after:
                epochs, window = divmod(plan_position.window + 1, self.num_windows(plan_position.epoch))
                self._plan_positions.insert(known, PlanPosition(plan_position.epoch + epochs, window, after))

    def _plan(self, epoch: int, window: int) -> list[BatchRows]:
        if (batches := self._windows.get((epoch, window))) is None:
            entries = self._entries(epoch, window)
            lengths = self._lengths(epoch, entries)
            bits = None if self._seed is None else _bits(self._seed, epoch, window + 1)
            make = self._packed if self._packing else self._bucketed
            made = make(entries, lengths, bits) if len(entries.places) else []
            batches = [dataclasses.replace(rows, epochs=np.full(len(rows.examples), epoch)) for rows in made]
            self._windows[epoch, window] = batches
            while len(self._windows) > WINDOWS_IN_MEMORY:
                del self._windows[next(iter(self._windows))]
        return batches

    def _ordered(self, epoch: int) -> Entries:
        """The entries of an epoch in its order."""
        if self._order is None or self._order[0] != epoch:
            entries = Entries(np.arange(len(self._examples)), None)
            if self._repetitions is not None:
                counts = self._repetitions(epoch)
                places = np.repeat(entries.places, counts)
                entries = Entries(places, np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts))
            if self._seed is not None:
                entries = entries.chosen(_shuffled(len(entries.places), _bits(self._seed, epoch, 0)))
            self._order = epoch, entries
        return self._order[1]

    def _entries(self, epoch: int, window: int) -> Entries:
        size, num_windows = self._size(epoch), self.num_windows(epoch)
        begin, end = (size * edge // num_windows for edge in (window, window + 1))
        return self._ordered(epoch).chosen(slice(begin, end))

    def _lengths(self, epoch: int, entries: Entries) -> Lengths:
        if self._lengths_in is not None:
            return self._lengths_in(epoch, self._examples[entries.places], entries.copies)
        return self._source_lengths[entries.places], self._target_lengths[entries.places]

    def _packed(self, entries: Entries, lengths: Lengths, bits: np.random.PCG64 | None) -> list[BatchRows]:
        (shape,) = self._shapes
        rows = pack_rows(
            *lengths,
            source_length=shape.source_length,
            target_length=shape.target_length,
            max_examples=shape.max_examples,
        )
        if bits is not None:
            # The packing takes the long examples first; a batch shall have rows of all kinds.
            rows = [rows[row] for row in _shuffled(len(rows), bits)]
        return [
            self._batch_rows(
                entries.chosen(np.fromiter(itertools.chain.from_iterable(chosen), np.int64)),
                list(map(len, chosen)),
                shape,
            )
            for chosen in _even_parts(rows, shape.rows)
        ]

    def _bucketed(self, entries: Entries, lengths: Lengths, bits: np.random.PCG64 | None) -> list[BatchRows]:
        groups = bucket_rows(*lengths, shapes=self._shapes)
        batches = [
            self._batch_rows(entries.chosen(chosen), [1] * len(chosen), shape)
            for shape, group in zip(self._shapes, groups, strict=True)
            for chosen in _even_parts(group, shape.rows)
        ]
        return batches if bits is None else [batches[index] for index in _shuffled(len(batches), bits)]

    def _batch_rows(self, entries: Entries, counts: list[int], shape: RowShape) -> BatchRows:
        padded_counts = np.zeros(shape.rows, np.int32)
        padded_counts[: len(counts)] = counts
        return BatchRows(
            examples=self._examples[entries.places],
            epochs=np.zeros(len(entries.places), np.int64),
            copies=entries.copies,
            counts=padded_counts,
            source_length=shape.source_length,
            target_length=shape.target_length,
            max_examples=shape.max_examples if self._packing else 1,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformPlan:
    """The batches of an endless run over examples that are all alike, one per row, however many there are.

    Rows are counted through the run, and each epoch is a seeded shuffle of the examples, so a batch may hold the end of
    one and the beginning of the next.
    """

    num_examples: int
    shape: RowShape
    seed: int | None
    """Of the shuffle, at least 0; None = the examples' own order."""

    def batch(self, step: int) -> BatchRows:
        """The global batch of a step, from 0."""
        rows = self.shape.rows
        epochs, places = np.divmod(step * rows + np.arange(rows), self.num_examples)
        examples = places
        if self.seed is not None:
            examples = np.empty_like(places)
            for epoch in np.unique(epochs):
                of_epoch = epochs == epoch
                order = epoch_keys(self.seed, epoch)[0]
                examples[of_epoch] = shuffled(places[of_epoch], self.num_examples, key=order)
        return self._batch_rows(examples, epochs)

    def plan_position(self, step: int) -> None:
        """Nothing: any batch is found at once."""

    def epoch(self) -> Iterator[BatchRows]:
        """The batches that hold every example once, in their own order."""
        for begin in range(0, self.num_examples, self.shape.rows):
            examples = np.arange(begin, min(begin + self.shape.rows, self.num_examples))
            yield self._batch_rows(examples, np.zeros_like(examples))

    def _batch_rows(self, examples: Int[np.ndarray, " examples"], epochs: Int[np.ndarray, " examples"]) -> BatchRows:
        return BatchRows(
            examples=examples,
            epochs=epochs,
            counts=(np.arange(self.shape.rows) < len(examples)).astype(np.int32),
            source_length=self.shape.source_length,
            target_length=self.shape.target_length,
            max_examples=1,
        )


def pack_rows(
    source_lengths: Int[np.ndarray, " examples"],
    target_lengths: Int[np.ndarray, " examples"],
    *,
    source_length: int,
    target_length: int,
    max_examples: int | None = None,
) -> list[list[int]]:
    """Pack examples into rows with room for source_length and target_length tokens, wasting little of both.

    A row begins with the longest example left, and then takes, while one fits, the one with the greatest dot product
    of its two lengths with the room left, all in units of the row: a large one, and more of the side with more room.

    Args:
        source_lengths: tokens of each example, from 1 to source_length.
        target_lengths: tokens of each example, from 1 to target_length.
        max_examples: of a row; None = as many as fit.

    Returns:
        The examples' positions in each row. Every example is in one row.

    Source:
        Panigrahy, Talwar, Uyeda and Wieder 2011, "Heuristics for Vector Bin Packing", section 3 (dot product, bin by
        bin).
    """
    # Examples of equal lengths are alike. A bit for each pair of lengths that is left makes "the longest target that
    # fits, given the source" one operation: targets[s] has bit t, and sources has bit s while targets[s] has any.
    stacks: dict[tuple[int, int], list[int]] = {}
    for index, lengths in enumerate(zip(source_lengths.tolist(), target_lengths.tolist(), strict=True)):
        stacks.setdefault(lengths, []).append(index)
    targets = [0] * (source_length + 1)
    for source, target in stacks:
        targets[source] |= 1 << target
    sources = sum(1 << source for source, left in enumerate(targets) if left)
    shortest_target = int(target_lengths.min(initial=target_length))

    def size(lengths: tuple[int, int]) -> tuple[int, int, tuple[int, int]]:
        source, target = lengths[0] * target_length, lengths[1] * source_length
        return max(source, target), source + target, lengths

    rows = []
    for longest in sorted(stacks, key=size, reverse=True):
        while stacks[longest]:
            row = []
            taken = longest
            source_room, target_room = source_length, target_length
            while taken is not None:
                source, target = taken
                stack = stacks[taken]
                row.append(stack.pop())
                if not stack:
                    targets[source] ^= 1 << target
                    if not targets[source]:
                        sources ^= 1 << source
                source_room -= source
                target_room -= target

                source_weight, target_weight = source_room * target_length**2, target_room * source_length**2
                fitting_sources = sources & ((2 << source_room) - 1)
                fitting_targets = (2 << target_room) - 1
                best, taken = 0, None
                if len(row) == max_examples:
                    break
                while fitting_sources and target_room >= shortest_target:
                    source = fitting_sources.bit_length() - 1
                    if source * source_weight + target_room * target_weight <= best:
                        break
                    if left := targets[source] & fitting_targets:
                        target = left.bit_length() - 1
                        score = source * source_weight + target * target_weight
                        if score > best:
                            best, taken = score, (source, target)
                    fitting_sources ^= 1 << source
            rows.append(row)
    return rows


def bucket_rows(
    source_lengths: Int[np.ndarray, " examples"],
    target_lengths: Int[np.ndarray, " examples"],
    *,
    shapes: tuple[RowShape, ...],
) -> list[Int[np.ndarray, " bucket"]]:
    """Sort examples into buckets, each but the last one used a whole number of batches.

    What a bucket has over, its longest examples, moves up to the next: longer rows for a few, and no row without any.

    Args:
        source_lengths: tokens of each example.
        target_lengths: tokens of each example.
        shapes: the buckets, shortest first; the last holds every example.

    Returns:
        For each bucket the positions of its examples, otherwise in the order given.
    """
    bucket = np.maximum(
        np.searchsorted([shape.source_length for shape in shapes], source_lengths),
        np.searchsorted([shape.target_length for shape in shapes], target_lengths),
    )
    last_used = int(bucket.max())
    longest = shapes[-1]
    size = np.maximum(source_lengths * longest.target_length, target_lengths * longest.source_length)
    groups = []
    for index, shape in enumerate(shapes):
        group = np.flatnonzero(bucket == index)
        num_over = len(group) % shape.rows
        if num_over and index < last_used:
            over = group[np.argsort(size[group], kind="stable")[-num_over:]]
            bucket[over] = index + 1
            group = np.flatnonzero(bucket == index)
        groups.append(group)
    return groups


def _even_parts(rows, most: int) -> Iterator:
    """The fewest parts of at most `most` rows, as equal as can be: no step shall learn from a handful of rows."""
    num_parts = -(-len(rows) // most)
    return (rows[len(rows) * part // num_parts : len(rows) * (part + 1) // num_parts] for part in range(num_parts))


def _bits(*seeds: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(seeds))


def _shuffled(size: int, bits: np.random.PCG64) -> Int[np.ndarray, " size"]:
    # Raw bits and a stable sort: numpy may change what Generator.permutation returns, but not these.
    return np.argsort(bits.random_raw(size), kind="stable")
