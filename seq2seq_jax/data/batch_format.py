"""How stored examples become batches: columns, transforms, and the shapes of rows."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.augmentation import AugmentationConfig
from seq2seq_jax.data.columns import Column
from seq2seq_jax.data.mixing import Mixing
from seq2seq_jax.data.packing import RowShape
from seq2seq_jax.data.transforms.transform import TransformConfig, length_bounds

NUM_DEFAULT_BUCKETS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchFormat:
    """What batches are made of, and how they are laid out.

    After the transforms an example has a column `source` and a column `target`, which make up the rows.
    """

    columns: Mapping[str, Column]
    """Those of the store that are fetched, by name."""
    transforms: tuple[TransformConfig, ...] = ()
    """What is done to examples, in order."""
    augmentations: tuple[AugmentationConfig, ...] = ()
    """What is done to training examples before that, of each part of the data, in the order of the labels in the column
    `part`; one = of all of it, empty = nothing."""
    mixing: Mixing | None = None
    """How often an epoch of training holds the examples of each part, by the column `part`; None = once."""
    max_source_length: int
    """Tokens of the longest source row."""
    max_target_length: int
    """Tokens of the longest target row."""
    packing: bool = False
    """Several examples per row. Otherwise one a row, in batches of like length."""
    max_examples_per_row: int | None = None
    """With packing: the most examples of a row; None = as many as fit."""
    bucket_lengths: tuple[int, ...] = ()
    """Without packing: row lengths, ascending; empty = an eighth to the whole of the longer max length, in eighths."""
    window: int = 16_384
    """Examples of the seeded shuffle that are packed (or bucketed) together."""

    @property
    def is_uniform(self) -> bool:
        """Whether all examples are of a length (but perhaps the last), so that no length need be looked at."""
        return any(column.is_uniform for column in self.columns.values())

    def row_lengths(self, side: str, lengths: Int[np.ndarray, " examples"]) -> Int[np.ndarray, " examples"]:
        """Positions of a row that a side of examples takes up.

        Args:
            side: source or target.
            lengths: of the values that the transforms make.
        """
        column = self.columns.get(side)
        return lengths if column is None else column.row_lengths(lengths)

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse transforms that make more than a row of an example.

        Raises:
            ValueError: with the lengths.
        """
        longest = {name: np.array([column.max_length or 0]) for name, column in self.columns.items()}
        bounds = length_bounds(longest, [transform.build(vocabulary) for transform in self.transforms])
        for name, limit in (("source", self.max_source_length), ("target", self.max_target_length)):
            if name not in bounds:
                names = [type(transform).__name__ for transform in self.transforms]
                raise ValueError(
                    f"expected examples with a column {name}; after the transforms {', '.join(names) or '(none)'} they "
                    f"have {', '.join(bounds)}: correct the task"
                )
            longest_row = self.row_lengths(name, bounds[name])[0]
            if longest_row > limit:
                raise ValueError(
                    f"expected at most max_{name}_length {limit} tokens of {name}; the transforms may make "
                    f"{longest_row} of the longest example: raise max_{name}_length, or shorten the columns"
                )


def row_shapes(batch_format: BatchFormat, target_tokens_per_batch: int) -> tuple[RowShape, ...]:
    """The shapes of the global batches: one with packing, otherwise one a bucket, shortest first.

    A bucket's rows stand to the max lengths as its length to the longer of them. All buckets have a multiple of the
    rows of the longest, so that processes and devices that can share those can share any.

    Args:
        target_tokens_per_batch: target tokens of a global batch, padding counted; no shape has more.

    Raises:
        ValueError: target_tokens_per_batch is less than a row, or bucket_lengths do not suit the rows.
    """
    max_source, max_target = batch_format.max_source_length, batch_format.max_target_length
    min_rows = target_tokens_per_batch // max_target
    if not min_rows:
        raise ValueError(
            f"target_tokens_per_batch is {target_tokens_per_batch}, less than one row of max_target_length "
            f"{max_target}: set it to a multiple of {max_target}"
        )
    if batch_format.is_uniform:
        return (RowShape(rows=min_rows, source_length=max_source, target_length=max_target),)
    if batch_format.packing:
        if batch_format.bucket_lengths:
            raise ValueError("bucket_lengths have no effect with packing: leave them empty or turn packing off")
        return (
            RowShape(
                rows=min_rows,
                source_length=max_source,
                target_length=max_target,
                max_examples=batch_format.max_examples_per_row,
            ),
        )
    longest = max(max_source, max_target)
    eighths = (-(-longest * part // NUM_DEFAULT_BUCKETS) for part in range(1, NUM_DEFAULT_BUCKETS + 1))
    lengths = batch_format.bucket_lengths or tuple(dict.fromkeys(eighths))
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
