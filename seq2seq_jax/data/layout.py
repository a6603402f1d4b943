"""Rows of arrays from examples of any length, and batches of sequences that are given.

All arrays are numpy's, on the host: int32, and frames as they are stored.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from seq2seq_jax.batch import Batch, FrameRows, SourceRows, TokenRows, Vocabulary
from seq2seq_jax.data.columns import Column, Frames, Ragged, Tokens, ragged
from seq2seq_jax.data.packing import BatchPlan, BatchRows, RowShape

SHORTEST_SOURCE_ROW = 16
TOKENS = Tokens()


def lay_out(tokens: Ragged, rows: BatchRows, row_length: int, *, pad_id: int) -> TokenRows:
    """The arrays of one side of some rows, [rows, row_length].

    Args:
        tokens: of each example, in the order of the rows.
    """
    if rows.max_examples == 1:
        row_lengths = np.zeros((len(rows.counts), 1), np.int32)
        row_lengths[rows.counts == 1, 0] = tokens.lengths
        positions = np.arange(row_length, dtype=np.int32)
        inside = positions < row_lengths
        values = np.full(inside.shape, pad_id, np.int32)
        values[inside] = tokens.values
        return TokenRows(
            tokens=values,
            segment_ids=inside.astype(np.int32),
            positions=np.where(inside, positions, 0),
            max_segments=1,
        )
    # No loop over examples: every array here has one value an example of the batch, or one a token.
    lengths, num_before = tokens.lengths, tokens.offsets
    first_of_row = np.cumsum(rows.counts) - rows.counts
    row = np.repeat(np.arange(len(rows.counts)), rows.counts)
    begins = row * row_length + num_before[:-1] - num_before[first_of_row[row]]

    positions = np.arange(num_before[-1]) - np.repeat(num_before[:-1], lengths)
    places = np.repeat(begins, lengths) + positions
    shape = (len(rows.counts), row_length)
    arrays = {
        name: np.full(shape[0] * shape[1], padding, np.int32)
        for name, padding in (("tokens", pad_id), ("segment_ids", 0), ("positions", 0))
    }
    arrays["tokens"][places] = tokens.values
    arrays["segment_ids"][places] = np.repeat(np.arange(len(row)) - first_of_row[row] + 1, lengths)
    arrays["positions"][places] = positions
    return TokenRows(**{name: array.reshape(shape) for name, array in arrays.items()}, max_segments=rows.max_examples)


def lay_out_frames(frames: Ragged, rows: BatchRows, row_length: int, *, column: Frames) -> FrameRows:
    """The arrays of a side of frames of some rows.

    Args:
        frames: of each example, in the order of the rows.
        row_length: positions of a row.
        column: what they are.
    """
    stride, lengths = column.stride, frames.lengths
    shape = len(rows.counts), row_length
    values = np.zeros((*shape, stride, column.num_features), frames.values.dtype)
    counts, segment_ids, positions = np.zeros((3, *shape), np.int32)
    flat = values.reshape(shape[0], -1, column.num_features)
    sizes = column.row_lengths(lengths).tolist()
    example = 0
    for row, number in enumerate(rows.counts.tolist()):
        begin = 0
        for segment in range(1, number + 1):
            size, length = sizes[example], int(lengths[example])
            flat[row, begin * stride : begin * stride + length] = frames[example]
            places = np.arange(size, dtype=np.int32)
            counts[row, begin : begin + size] = np.minimum(length - places * stride, stride)
            segment_ids[row, begin : begin + size] = segment
            positions[row, begin : begin + size] = places
            begin += size
            example += 1
    return FrameRows(
        values=values, counts=counts, segment_ids=segment_ids, positions=positions, max_segments=rows.max_examples
    )


class EvaluationBatch(NamedTuple):
    """One process's share of a batch, and which examples it holds."""

    batch: Batch
    examples: Int[np.ndarray, " examples"]
    """Indices of the examples, by row and then segment."""


class SourceBatch(NamedTuple):
    """Sources to generate from, one a row; rows past the last index are all padding."""

    source: SourceRows
    indices: Int[np.ndarray, " sequences"]
    """Which of the given sequences each row is."""


def source_batches(
    sequences: Sequence[Sequence[int] | np.ndarray],
    *,
    vocabulary: Vocabulary,
    source_tokens_per_batch: int,
    max_length: int,
    column: Column = TOKENS,
    shapes_of: int = 0,
) -> Iterator[SourceBatch]:
    """Batches to generate from, of like length and in few shapes, so that little is compiled.

    Row lengths are 16, 24, 32, 48, 64, 96, ... up to max_length. A length has always the same number of rows, unless
    there are fewer sequences than that: then it is the next power of two above their number.

    Args:
        sequences: source ids, each ending in the EOS token, or frames.
        column: what they are.
        source_tokens_per_batch: positions of a batch, padding counted, where a row is not longer than that.
        max_length: the longest row that the model takes.
        shapes_of: a number of sequences, if these are fewer, whose shapes are used.

    Returns:
        An iterator of batches of numpy int32 arrays, shortest first; `indices` restores the order.

    Raises:
        ValueError: a sequence is longer than max_length.
    """
    lengths = column.row_lengths(np.array([len(sequence) for sequence in sequences], np.int64))
    if not len(lengths):
        return iter(())
    if lengths.max() > max_length:
        raise ValueError(
            f"sequence {lengths.argmax()} has {lengths.max()} tokens, more than the {max_length} that the model takes: "
            f"cut it before"
        )
    row_lengths = [*itertools.takewhile(lambda length: length < max_length, _row_lengths()), max_length]
    most_rows = 1 << (max(len(sequences), shapes_of) - 1).bit_length()
    shapes = tuple(
        RowShape(
            rows=min(most_rows, max(1, source_tokens_per_batch // length)), source_length=length, target_length=length
        )
        for length in row_lengths
    )
    given = _together(sequences, column)
    order = np.argsort(lengths, kind="stable")
    plan = BatchPlan(
        lengths[order], lengths[order], examples=order, shapes=shapes, packing=False, window=len(order), seed=None
    )
    return (
        SourceBatch(_laid_out(given, rows, rows.source_length, vocabulary, column=column), rows.examples)
        for rows in plan.epoch()
    )


def pair_batches(
    sources: Sequence[Sequence[int] | np.ndarray],
    targets: list[list[int]],
    *,
    vocabulary: Vocabulary,
    max_weights_per_batch: int,
    column: Column = TOKENS,
) -> Iterator[EvaluationBatch]:
    """Batches of given pairs, of like length and in few shapes, one pair per row.

    Both sides of a row are equally long, by the longer of them: 16, 24, 32, 48, ... tokens, as in `source_batches`.

    Args:
        sources: source ids, each ending in the EOS token, or frames.
        targets: as many targets, ids.
        column: what sources are.
        max_weights_per_batch: (target, source) places of a batch, padding counted, where a row has no more than that.

    Returns:
        An iterator of (Batch of numpy int32 arrays, indices of its pairs), shortest first.
    """
    lengths = np.array([[len(source), len(target)] for source, target in zip(sources, targets, strict=True)], np.int64)
    if not len(lengths):
        return iter(())
    lengths[:, 0] = column.row_lengths(lengths[:, 0])
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
    given_sources, target_tokens = _together(sources, column), ragged(targets, np.uint32)
    return (
        EvaluationBatch(
            Batch(
                source=_laid_out(given_sources, rows, rows.source_length, vocabulary, column=column),
                target=_laid_out(target_tokens, rows, rows.target_length, vocabulary, column=TOKENS),
            ),
            rows.examples,
        )
        for rows in plan.epoch()
    )


def _together(sequences: Sequence[Sequence[int] | np.ndarray], column: Column) -> Ragged:
    """Sequences, one after the other."""
    if not isinstance(column, Frames):
        return ragged(sequences, np.uint32)
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in sequences], dtype=np.int64)])
    return Ragged(np.concatenate(sequences), offsets)


def _laid_out(given: Ragged, rows: BatchRows, row_length: int, vocabulary: Vocabulary, *, column: Column) -> SourceRows:
    # As long as they are: whoever gives them has cut them.
    kept = dataclasses.replace(column, max_length=None) if isinstance(column, Frames) else TOKENS
    found = kept.fetch(given, rows.examples, vocabulary=vocabulary)
    return lay_out_side(found, rows, row_length, column=kept, pad_id=vocabulary.pad_id)


def lay_out_side(values: Ragged, rows: BatchRows, row_length: int, *, column: Column | None, pad_id: int) -> SourceRows:
    """The arrays of one side of some rows.

    Args:
        column: what the values are; None = tokens.
    """
    if isinstance(column, Frames):
        return lay_out_frames(values, rows, row_length, column=column)
    return lay_out(values, rows, row_length, pad_id=pad_id)


def _row_lengths() -> Iterator[int]:
    """16, 24, 32, 48, 64, 96, ... without end."""
    return (SHORTEST_SOURCE_ROW * half_steps // 2 << octave for octave in itertools.count() for half_steps in (2, 3))
