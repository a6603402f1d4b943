"""What a run sees of its data: lengths, limits, padding, and how much of the vocabulary is used."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from seq2seq_jax.batch import PADDING_SEGMENT, Batch, SourceRows, TokenRows
from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.batch_maker import SelectionCounts, selection_of
from seq2seq_jax.data.columns import Chunks, Column, Label, Ragged, Tokens
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import BYTE_PIECE, Tokenizer

QUANTILES = (0.5, 0.9, 0.99, 1.0)
"""Of the lengths of a column."""
MOST_COUNTED = 50_000_000
"""Tokens of a column, from the first, in which ids are counted."""
NOTICEABLE_PADDING = 0.5
"""Share of the positions of a side: if padding has more, a person should know."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnSummary:
    """A column of a split."""

    examples: int
    """Number of examples, or of chunks where texts are run together and cut."""
    tokens: int
    """Sum of their lengths."""
    mean: float
    """Mean length."""
    quantiles: dict[float, int]
    """Fraction of the examples -> the length that they have at most."""
    limit: int | None
    """The length that an example may have; None = any."""
    ids_used: int | None = None
    """Ids that occur; None = the column has no token ids."""
    vocabulary_size: int | None = None
    """Ids that there are; None likewise."""
    byte_fraction: float | None = None
    """Fraction of the tokens that are bytes of characters without a piece; None likewise."""
    unknown_fraction: float | None = None
    """Fraction of the tokens that are unknown; None likewise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """A split."""

    columns: dict[str, ColumnSummary]
    """By name."""
    limits: SelectionCounts
    """What the length limits do to its examples."""


def summary_of(store: Store, batch_format: BatchFormat, tokenizer: Tokenizer) -> SplitSummary:
    """What there is in a split."""
    return SplitSummary(
        columns={
            name: _column(column, column.examples(store.columns[name]), tokenizer)
            for name, column in batch_format.columns.items()
            if not isinstance(column, Label)
        },
        limits=selection_of(store, batch_format.columns).counts,
    )


def lengths_of(examples: Ragged | Chunks) -> Int[np.ndarray, " examples"]:
    """Length of every example of a column."""
    if isinstance(examples, Chunks):
        return examples.bounds(np.arange(len(examples)))[1]
    return examples.lengths


def _column(column: Column, examples: Ragged | Chunks, tokenizer: Tokenizer) -> ColumnSummary:
    lengths = lengths_of(examples)
    of_ids = _ids(column, examples.values[:MOST_COUNTED], tokenizer) if isinstance(column, Tokens) else {}
    return ColumnSummary(
        examples=len(lengths),
        tokens=int(lengths.sum()),
        mean=float(lengths.mean()) if len(lengths) else 0.0,
        quantiles={
            quantile: int(np.quantile(lengths, quantile, method="higher")) if len(lengths) else 0
            for quantile in QUANTILES
        },
        limit=column.max_length,
        **of_ids,
    )


def _ids(column: Tokens, values: np.ndarray, tokenizer: Tokenizer) -> dict[str, Any]:
    vocabulary = tokenizer.vocabulary
    is_source = column.side == "source"
    size = vocabulary.source_size if is_source else vocabulary.target_size
    pieces = (tokenizer.source_pieces if is_source else tokenizer.target_pieces)(range(size))
    counts = np.bincount(values, minlength=size)
    is_byte = np.array([BYTE_PIECE.fullmatch(piece) is not None for piece in pieces])
    total = max(1, int(counts.sum()))
    unknown = tokenizer.unknown_id
    return {
        "ids_used": int((counts > 0).sum()),
        "vocabulary_size": size,
        "byte_fraction": float(counts[is_byte].sum() / total),
        "unknown_fraction": 0.0 if unknown is None else float(counts[unknown] / total),
    }


def parts_of(store: Store, batch_format: BatchFormat, *, seed: int) -> list[tuple[int, int]]:
    """Of each part of a mixture its examples, and the copies of them that the first epoch holds.

    Args:
        seed: of the run.

    Returns:
        Nothing for data without parts.
    """
    if batch_format.mixing is None:
        return []
    parts = store.columns["part"].values
    # As in training, which mixes those that fit a row.
    fitting = parts[~selection_of(store, batch_format.columns).dropped]
    counts = batch_format.mixing.repetitions(fitting, 0, seed=seed)
    number = len(batch_format.mixing.weights)
    sizes, drawn = np.bincount(parts, minlength=number), np.bincount(fitting, weights=counts, minlength=number)
    return [(int(size), int(copies)) for size, copies in zip(sizes, drawn, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaddingSummary:
    """Of some training batches."""

    batches: int
    """Number of them."""
    source: float
    """Fraction of the source positions that is padding."""
    target: float
    """Likewise of the target."""
    examples_per_row: float
    """Mean, of the rows that have any."""


def padding_of(batches: Sequence[Batch]) -> PaddingSummary:
    """How full batches are.

    Args:
        batches: numpy arrays; at least one.
    """

    def padding(rows: list[SourceRows]) -> float:
        return 1.0 - sum(int(each.mask.sum()) for each in rows) / sum(each.segment_ids.size for each in rows)

    examples = np.concatenate([batch.target.segment_ids.max(axis=1) for batch in batches])
    return PaddingSummary(
        batches=len(batches),
        source=padding([batch.source for batch in batches]),
        target=padding([batch.target for batch in batches]),
        examples_per_row=float(examples[examples > 0].mean()) if (examples > 0).any() else 0.0,
    )


def padding_hint(padding: PaddingSummary, columns: dict[str, ColumnSummary]) -> str:
    """What to do about a side that is mostly padding: the row length with which both sides fill alike, and that keeps
    99% of its examples; "" = neither is.
    """
    for side, other in (("source", "target"), ("target", "source")):
        if getattr(padding, side) <= NOTICEABLE_PADDING or side not in columns or other not in columns:
            continue
        mine, others = columns[side], columns[other]
        if mine.limit is None or others.limit is None or not others.mean:
            continue
        fills = int(np.ceil(others.limit * mine.mean / others.mean))
        length = max(fills, mine.quantiles[0.99])
        if length < mine.limit:
            return (
                f"{getattr(padding, side):.0%} of the {side} positions are padding: --data.max_{side}_length {length} "
                f"instead of {mine.limit} fills both sides alike"
            )
    return ""


def segments_of(rows: TokenRows, row: int) -> list[list[int]]:
    """Token ids of each segment of a row, in order."""
    segments = rows.segment_ids[row]
    return [
        rows.tokens[row][segments == number].tolist()
        for number in range(PADDING_SEGMENT + 1, int(segments.max(initial=PADDING_SEGMENT)) + 1)
    ]
