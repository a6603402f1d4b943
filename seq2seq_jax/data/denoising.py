"""Denoising: documents cut into chunks, of which spans are taken out to be the target when a batch is assembled.

A split's documents, one after the other, are cut into chunks of the length that corruption makes a whole source row
of; the last is shorter. An epoch is a seeded shuffle of the chunks, and each epoch takes other spans out of them. Which
chunk a row holds, and which spans are taken out, follows from the seed and the row's number in the run alone.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Int, UInt64

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary
from seq2seq_jax.data.document_store import DocumentStore
from seq2seq_jax.data.shuffle import shuffled
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.data.span_corruption import SpanCorruption, corrupt
from seq2seq_jax.hashing import mixed_64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(DataSource):
    """Where documents come from, and how they become rows; one subclass a kind of source.

    A row holds one chunk. The target's length follows from the source's and from the corruption.
    """

    max_source_length: int = 512
    """Source tokens in a row: what stays of a chunk, the sentinels and the EOS token."""
    corruption: SpanCorruption = SpanCorruption()
    """What is taken out of a chunk."""

    @functools.cached_property
    def chunk_length(self) -> int:
        """Tokens of a chunk."""
        return self.corruption.chunk_length(self.max_source_length)

    @property
    def max_target_length(self) -> int:
        """Target tokens in a row: what is taken out of a chunk, the sentinels and the EOS token."""
        return self.corruption.lengths(self.chunk_length)[1]

    @property
    def num_sentinels(self) -> int:
        """Sentinels in a row."""
        return self.corruption.num_noise(self.chunk_length)[1]

    @property
    def has_unpacked_rows(self) -> bool:
        """Always."""
        return True


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DenoisingBatchMaker:
    """Makes a process's share of any batch of a denoising run.

    Attributes:
        rows: of a global batch.
        seed: of the shuffle and the corruption, at least 0.
        too_long, cut: chunks longer than a row; there are none.
    """

    store: DocumentStore
    source_config: Denoising
    rows: int
    seed: int
    vocabulary: Vocabulary
    process_index: int
    process_count: int
    too_long: ClassVar[Int[np.ndarray, " chunks"]] = np.empty(0, np.int64)
    cut: ClassVar[Int[np.ndarray, " chunks"]] = too_long

    def __post_init__(self):
        if len(self.vocabulary.sentinel_ids) < self.source_config.num_sentinels:
            raise ValueError(
                f"the tokenizer has {len(self.vocabulary.sentinel_ids)} sentinels, and a row needs "
                f"{self.source_config.num_sentinels}: set tokenizer.num_sentinels to at least that"
            )

    @property
    def num_examples(self) -> int:
        """Chunks of the split, the shorter last one counted."""
        return -(-len(self.store.tokens) // self.source_config.chunk_length)

    def __call__(self, step: int) -> tuple[Batch, None]:
        """The share of the batch of a training step, from 0, which needs no plan position to be found."""
        epochs, places = np.divmod(self._share(step), self.num_examples)
        chunks, keys = np.empty_like(places), np.empty(len(places), np.uint64)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            order, noise = _keys(self.seed, epoch)
            chunks[of_epoch] = shuffled(places[of_epoch], self.num_examples, key=order)
            keys[of_epoch] = _chunk_keys(noise, chunks[of_epoch])
        return self._assemble(chunks, keys), None

    def epoch(self) -> Iterator[tuple[Batch, Int[np.ndarray, " chunks"]]]:
        """The shares of the batches that hold every chunk once, in order, and which chunks each has."""
        _, noise = _keys(self.seed, 0)
        for step in range(-(-self.num_examples // self.rows)):
            chunks = self._share(step)
            chunks = chunks[chunks < self.num_examples]
            yield self._assemble(chunks, _chunk_keys(noise, chunks)), chunks

    def _share(self, step: int) -> Int[np.ndarray, " rows"]:
        """Numbers in the run of the rows of a batch that this process makes."""
        begin, end = (self.rows * index // self.process_count for index in (self.process_index, self.process_index + 1))
        return step * self.rows + np.arange(begin, end)

    def _assemble(self, chunks: Int[np.ndarray, " chunks"], keys: UInt64[np.ndarray, " chunks"]) -> Batch:
        """A chunk a row; further rows are all padding."""
        config = self.source_config
        starts = chunks * config.chunk_length
        lengths = np.minimum(len(self.store.tokens) - starts, config.chunk_length)
        num_rows = self.rows // self.process_count
        source = np.full((num_rows, config.max_source_length), self.vocabulary.pad_id, np.int32)
        target = np.full((num_rows, config.max_target_length), self.vocabulary.pad_id, np.int32)
        source_lengths, target_lengths = np.zeros((2, num_rows, 1), np.int32)
        # Chunks of a length make sources of a length and targets of a length, and all but the last are equally long.
        for length in set(lengths.tolist()):
            (rows,) = np.nonzero(lengths == length)
            sources, targets = corrupt(
                self.store.tokens[starts[rows, None] + np.arange(length)],
                config.corruption.masks(length, keys[rows]),
                sentinel_ids=self.vocabulary.sentinel_ids,
                eos_id=self.vocabulary.eos_id,
            )
            source_lengths[rows], target_lengths[rows] = sources.shape[1], targets.shape[1]
            source[rows, : sources.shape[1]], target[rows, : targets.shape[1]] = sources, targets
        return Batch(source=_sequence(source, source_lengths), target=_sequence(target, target_lengths))


def _keys(seed: int, epoch: int | np.integer) -> UInt64[np.ndarray, " 2"]:
    """Of an epoch's order, and of its corruption."""
    return np.random.SeedSequence((seed, int(epoch))).generate_state(2, np.uint64)


def _chunk_keys(noise: np.uint64, chunks: Int[np.ndarray, " chunks"]) -> UInt64[np.ndarray, " chunks"]:
    return mixed_64(noise ^ mixed_64(chunks.astype(np.uint64)))


def _sequence(tokens: Int[np.ndarray, "rows length"], lengths: Int[np.ndarray, "rows 1"]) -> TokenRows:
    positions = np.arange(tokens.shape[1], dtype=np.int32)
    inside = positions < lengths
    return TokenRows(
        tokens=tokens,
        segment_ids=inside.astype(np.int32),
        positions=np.where(inside, positions, 0),
        max_segments=1,
    )
