"""The one batch maker: which examples are used, and the assembly of any batch of a store.

Plan from lengths, fetch, transform, lay out. All arrays are numpy int32, on the host; each process makes only its own
rows of a batch.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from seq2seq_jax.batch import Batch, Vocabulary
from seq2seq_jax.data.batch_format import BatchFormat, row_shapes
from seq2seq_jax.data.columns import Column, Ragged
from seq2seq_jax.data.layout import EvaluationBatch, lay_out_side
from seq2seq_jax.data.packing import BatchPlan, BatchRows, PlanPosition, RowShape, UniformPlan
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.data.transforms.transform import (
    Augment,
    AugmentOfKnownLengths,
    augmented,
    augmented_lengths,
    example_keys,
    length_bounds,
    transformed,
)

NOTICEABLE_FRACTION = 0.01
"""Of the examples of a split: if limits drop or cut more, that is a warning."""
AUGMENTED_AT_ONCE = 8192
"""Examples whose lengths in an epoch are found at a time."""

logger = logging.getLogger(__name__)


class SelectionCounts(NamedTuple):
    """What the length limits did to a split, in examples."""

    total: int
    """Examples of the split."""
    too_long: dict[str, int]
    """Those longer than the limit of a column, by its name; an example can be in several."""
    dropped: int
    """Those that are left out."""
    truncated: int
    """Those that are cut in one column or several."""

    @property
    def affected(self) -> int:
        """Those that are not used as they are."""
        return self.dropped + self.truncated

    @property
    def is_noticeable(self) -> bool:
        """Whether their number is worth a warning."""
        return self.affected > NOTICEABLE_FRACTION * self.total


class Selection(NamedTuple):
    """Which examples of a split are used as they are."""

    dropped: Bool[np.ndarray, " examples"]
    """Those that are left out."""
    truncated: Bool[np.ndarray, " examples"]
    """Those that are cut."""
    counts: SelectionCounts


def selection_of(store: Store, columns: Mapping[str, Column]) -> Selection:
    """What the length limits of columns do to the examples of a split.

    Examples that are cut to one length have no limits, and no entries in `dropped` and `truncated`.
    """
    longer = {
        name: store.columns[name].lengths > column.max_length
        for name, column in columns.items()
        if column.max_length is not None and not column.is_uniform
    }
    # Of a corpus that is cut to one length there may be hundreds of millions.
    dropped, truncated = np.zeros((2, len(store) if longer else 0), bool)
    for name, each in longer.items():
        if columns[name].truncate is None:
            dropped |= each
        else:
            truncated |= each
    truncated &= ~dropped
    counts = SelectionCounts(
        total=len(store),
        too_long={name: int(each.sum()) for name, each in longer.items()},
        dropped=int(dropped.sum()),
        truncated=int(truncated.sum()),
    )
    return Selection(dropped, truncated, counts)


def select(store: Store, columns: Mapping[str, Column]) -> tuple[Int[np.ndarray, " examples"], SelectionCounts]:
    """The examples of a split that are trained on: each column says what happens to those that are too long for it.

    A truncated example is cut when its batch is assembled, and keeps the EOS token as its last token. An example of
    which a side is empty, just the EOS token, is kept.

    Returns:
        The indices in ascending order, and the counts, which are logged too: as a warning if they are noticeable.

    Raises:
        ValueError: none is left.
    """
    dropped, _, counts = selection_of(store, columns)
    limited = {name: columns[name] for name in counts.too_long}
    if counts.affected:
        done = [
            f"{word} {number}"
            for word, number in (("dropped", counts.dropped), ("truncated", counts.truncated))
            if number
        ]
        remedy = (
            ". " + _remedy(counts, {name: store.columns[name].lengths for name in limited})
            if counts.is_noticeable
            else ""
        )
        logger.log(
            logging.WARNING if counts.is_noticeable else logging.INFO,
            "%s of %d examples: %s%s",
            " and ".join(done), counts.total,
            ", ".join(
                f"{number} {'' if index else 'have '}more than {limited[name].max_length} {name} tokens"
                for index, (name, number) in enumerate(counts.too_long.items())
            ),
            remedy,
        )  # fmt: skip
    if counts.dropped == counts.total:
        limits = " or ".join(f"max_{name}_length {column.max_length}" for name, column in limited.items())
        raise ValueError(
            f"all {counts.total} examples are longer than {limits}: raise these, or set too_long to truncate"
        )
    return _indices(~dropped), counts


def _remedy(counts: SelectionCounts, lengths: Mapping[str, Int[np.ndarray, " examples"]]) -> str:
    """What keeps 99% of a column's examples as they are, and what else can be done."""
    flags = [
        f"--data.max_{name}_length {int(np.ceil(np.quantile(lengths[name], 1 - NOTICEABLE_FRACTION)))}"
        for name, number in counts.too_long.items()
        if number > NOTICEABLE_FRACTION * counts.total
    ] or [f"a greater --data.max_{' or '.join(f'{name}_length' for name in lengths)}"]
    keeps = f"{' and '.join(flags)} would keep 99% of {'both' if len(flags) > 1 else 'them'} whole"
    return keeps + (", --data.too_long truncate uses the beginnings" if counts.dropped else "")


def _indices(chosen: Bool[np.ndarray, " examples"]) -> Int[np.ndarray, " chosen"]:
    return np.flatnonzero(chosen).astype(np.int32 if len(chosen) < 2**31 else np.int64)


Augments = tuple[tuple[Augment, ...], ...]
"""What is done to the training examples of each part; empty = nothing to any."""


def fetched(
    store: Store, batch_format: BatchFormat, examples: Int[np.ndarray, " examples"], *, vocabulary: Vocabulary
) -> dict[str, Ragged]:
    """The columns of some examples, cut to their limits."""
    return {
        name: column.fetch(column.examples(store.columns[name]), examples, vocabulary=vocabulary)
        for name, column in batch_format.columns.items()
    }


def _limits(columns: Mapping[str, Column]) -> dict[str, int | None]:
    return {name: column.max_length for name, column in columns.items()}


def assemble(
    store: Store,
    rows: BatchRows,
    batch_format: BatchFormat,
    *,
    vocabulary: Vocabulary,
    seed: int | None = None,
    augments: Augments = (),
) -> Batch:
    """The arrays of some rows: their examples fetched, cut to the limits of their columns, transformed and laid out.

    Args:
        seed: of the transforms' random numbers; None = 0: every run is evaluated on the same examples.
        augments: what is done to training examples, by part.

    Returns:
        A Batch of numpy arrays, source [rows, rows.source_length] and target [rows, rows.target_length].

    Raises:
        ValueError: a transform made an example longer than its bound.
    """
    found: Mapping[str, Ragged] = fetched(store, batch_format, rows.examples, vocabulary=vocabulary)
    if batch_format.transforms or augments:
        keys = example_keys(seed or 0, rows.epochs, rows.examples, rows.copies)
        if augments:
            found = augmented(found, augments, keys, limits=_limits(batch_format.columns))
        transforms = [transform.build(vocabulary) for transform in batch_format.transforms]
        found = transformed(found, transforms, keys)
    return Batch(
        **{
            side: lay_out_side(
                found[side], rows, row_length, column=batch_format.columns.get(side), pad_id=vocabulary.pad_id
            )
            for side, row_length in (("source", rows.source_length), ("target", rows.target_length))
        }
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BatchMaker:
    """Makes this process's share of any batch. A worker gets these fields, the store as its path, and plans again."""

    store: Store
    batch_format: BatchFormat
    shapes: tuple[RowShape, ...]
    seed: int | None
    plan_position: PlanPosition | None
    vocabulary: Vocabulary
    process_index: int
    process_count: int
    augments: Augments = ()
    """What is done to training examples, by part."""

    @functools.cached_property
    def plan(self) -> BatchPlan | UniformPlan:
        """Which examples fill which row of which batch."""
        batch_format = self.batch_format
        if batch_format.is_uniform:
            return UniformPlan(num_examples=self.num_examples, shape=self.shapes[-1], seed=self.seed)
        examples = _indices(~self.selection.dropped)
        lengths = length_bounds(
            {
                name: column.cut(self.store.columns[name].lengths[examples])
                for name, column in batch_format.columns.items()
            },
            [transform.build(self.vocabulary) for transform in batch_format.transforms],
        )
        source, target = (batch_format.row_lengths(side, lengths[side]) for side in ("source", "target"))
        return BatchPlan(
            source,
            target,
            examples=examples,
            shapes=self.shapes,
            packing=batch_format.packing,
            window=batch_format.window,
            seed=self.seed,
            plan_position=self.plan_position,
            lengths_in=self._augmented_lengths if self.augments else None,
            repetitions=self._repetitions(examples),
        )

    def _repetitions(
        self, examples: Int[np.ndarray, " examples"]
    ) -> Callable[[int], Int[np.ndarray, " examples"]] | None:
        """Epoch -> how often it holds each example; None = once."""
        mixing = self.batch_format.mixing
        if mixing is None or mixing.is_plain or self.seed is None:
            return None
        parts = self.store.columns["part"].values[examples]
        return functools.partial(mixing.repetitions, parts, seed=self.seed)

    def _augmented_lengths(
        self, epoch: int, examples: Int[np.ndarray, " examples"], copies: Int[np.ndarray, " examples"] | None
    ) -> tuple[Int[np.ndarray, " examples"], Int[np.ndarray, " examples"]]:
        """Source and target positions that augmented training examples have in an epoch."""
        if len(self.augments) == 1 and all(isinstance(each, AugmentOfKnownLengths) for each in self.augments[0]):
            columns = self.batch_format.columns
            keys = example_keys(self.seed or 0, np.full(len(examples), epoch), examples, copies)
            stored = {name: each.cut(self.store.columns[name].lengths[examples]) for name, each in columns.items()}
            made = augmented_lengths(stored, self.augments[0], keys, limits=_limits(columns))
            return tuple(self.batch_format.row_lengths(side, made[side]) for side in ("source", "target"))
        parts: dict[str, list[Int[np.ndarray, " some"]]] = {"source": [], "target": []}
        transforms = [transform.build(self.vocabulary) for transform in self.batch_format.transforms]
        for begin in range(0, len(examples), AUGMENTED_AT_ONCE):
            some = examples[begin : begin + AUGMENTED_AT_ONCE]
            some_copies = None if copies is None else copies[begin : begin + AUGMENTED_AT_ONCE]
            made = augmented(
                fetched(self.store, self.batch_format, some, vocabulary=self.vocabulary),
                self.augments,
                example_keys(self.seed or 0, np.full(len(some), epoch), some, some_copies),
                limits=_limits(self.batch_format.columns),
            )
            lengths = length_bounds({name: column.lengths for name, column in made.items()}, transforms)
            for name, found in parts.items():
                found.append(lengths[name])
        return tuple(self.batch_format.row_lengths(side, np.concatenate(parts[side])) for side in ("source", "target"))

    def __getstate__(self) -> dict:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def num_examples(self) -> int:
        """Examples of the split."""
        stored = self.store.columns
        return min(len(column.examples(stored[name])) for name, column in self.batch_format.columns.items())

    @functools.cached_property
    def selection(self) -> Selection:
        """Which examples are used as they are."""
        return selection_of(self.store, self.batch_format.columns)

    @property
    def too_long(self) -> Int[np.ndarray, " examples"]:
        """Those that are in no batch."""
        return _indices(self.selection.dropped)

    @property
    def cut(self) -> Int[np.ndarray, " examples"]:
        """Those that are cut."""
        return _indices(self.selection.truncated)

    def epoch(self) -> Iterator[EvaluationBatch]:
        """The shares of the batches that hold every example once, in order."""
        if self.selection.counts.dropped < self.num_examples:
            yield from map(self._share, self.plan.epoch())

    def _share(self, rows: BatchRows) -> EvaluationBatch:
        rows = rows.share(self.process_index, self.process_count)
        batch = assemble(
            self.store,
            rows,
            self.batch_format,
            vocabulary=self.vocabulary,
            seed=self.seed,
            augments=self.augments,
        )
        return EvaluationBatch(batch, rows.examples)

    def __call__(self, step: int) -> tuple[Batch, PlanPosition | None]:
        """The share of the batch of a training step, from 0, and its place in the plan."""
        return self._share(self.plan.batch(step)).batch, self.plan.plan_position(step)


def batch_maker(
    store: Store,
    batch_format: BatchFormat,
    *,
    vocabulary: Vocabulary,
    target_tokens_per_batch: int,
    seed: int | None,
    plan_position: PlanPosition | None = None,
    process_index: int = 0,
    process_count: int = 1,
    tokenizer: Tokenizer | None = None,
) -> BatchMaker:
    """What makes the batches of a split.

    Args:
        tokenizer: of the training examples, with which they are augmented as the format says; None = they are not.
        seed: of shuffle and transforms; None = the examples' own order, and the transforms of seed 0.

    Raises:
        ValueError: target_tokens_per_batch, bucket_lengths, transforms and process_count do not suit each other, or the
            weights of a mixture leave nothing to train on.
    """
    shapes = row_shapes(batch_format, target_tokens_per_batch)
    # The other shapes have a multiple of its rows.
    longest = shapes[-1]
    if longest.rows % process_count:
        raise ValueError(
            f"the {longest.rows} rows of a batch cannot be shared by {process_count} processes: set "
            f"target_tokens_per_batch to a multiple of {process_count} rows of {longest.target_length} tokens"
        )
    batch_format.check(vocabulary)
    make = BatchMaker(
        store=store,
        batch_format=batch_format,
        shapes=shapes,
        seed=seed,
        plan_position=plan_position,
        vocabulary=vocabulary,
        process_index=process_index,
        process_count=process_count,
        augments=_augments(batch_format, tokenizer),
    )
    # Without any example `select` says why.
    if batch_format.mixing is not None and seed is not None and not make.selection.dropped.all():
        batch_format.mixing.check(store.columns["part"].values[~make.selection.dropped])
    return make


def _augments(batch_format: BatchFormat, tokenizer: Tokenizer | None) -> Augments:
    if tokenizer is None or not any(config.is_on for config in batch_format.augmentations):
        return ()
    return tuple(config.build(tokenizer) for config in batch_format.augmentations)
