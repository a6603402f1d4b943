"""Batches made by hand: examples in rows, alone or packed."""

import numpy as np

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary

Pair = tuple[list[int], list[int]]
"""Token ids of a source and of its target, each ending in the EOS token."""


def random_pairs(rng: np.random.Generator, source_lengths, target_lengths, vocabulary: Vocabulary) -> list[Pair]:
    """One pair for each two lengths (tokens, the EOS token counted)."""

    def example(length, size):
        return [*rng.integers(vocabulary.eos_id + 1, size, length - 1).tolist(), vocabulary.eos_id]

    return [
        (example(source, vocabulary.source_size), example(target, vocabulary.target_size))
        for source, target in zip(source_lengths, target_lengths, strict=True)
    ]


def sequence(rows: list[list[list[int]]], length: int, pad_id: int) -> TokenRows:
    """The examples of each row one after the other, then padding."""
    arrays = [np.full((len(rows), length), fill, np.int32) for fill in (pad_id, 0, 0)]
    for row, examples in enumerate(rows):
        begin = 0
        for segment, ids in enumerate(examples, 1):
            place = row, slice(begin, begin + len(ids))
            for array, values in zip(arrays, (ids, segment, range(len(ids))), strict=True):
                array[place] = values
            begin += len(ids)
        assert begin <= length
    tokens, segment_ids, positions = arrays
    return TokenRows(tokens=tokens, segment_ids=segment_ids, positions=positions)


def batch(rows: list[list[Pair]], source_length: int, target_length: int, vocabulary: Vocabulary) -> Batch:
    """The pairs of each row one after the other, then padding."""
    sources, targets = ([[pair[side] for pair in row] for row in rows] for side in (0, 1))
    return Batch(
        source=sequence(sources, source_length, vocabulary.pad_id),
        target=sequence(targets, target_length, vocabulary.pad_id),
    )


def by_example(values: np.ndarray, segment_ids: np.ndarray) -> list[np.ndarray]:
    """What stands at the places of each example: row after row, segment after segment."""
    return [
        row_values[row_segments == segment]
        for row_values, row_segments in zip(np.asarray(values), np.asarray(segment_ids), strict=True)
        for segment in range(1, row_segments.max(initial=0) + 1)
    ]
