"""What every transform of examples has in common, and the keys of its random numbers."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt64

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.data.shuffle import epoch_keys
from seq2seq_jax.hashing import mixed_64


@runtime_checkable
class Transform(Protocol):
    """Makes examples of examples when a batch is assembled. What it does to one depends on the example and its key
    alone, so that processes, workers and the batch that it is in change nothing.
    """

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        """The columns of the same examples, in the same order.

        Args:
            examples: their columns, by name.
            keys: of their random numbers.
        """
        ...

    def length_bound(
        self, lengths: Mapping[str, Int[np.ndarray, " examples"]]
    ) -> dict[str, Int[np.ndarray, " examples"]]:
        """Lengths that the columns of examples have at most, whatever the keys: what batches are planned from.

        Args:
            lengths: of the columns, or bounds on them.
        """
        ...


@runtime_checkable
class TransformConfig(Protocol):
    """What a transform is: as it stands in a config, without a tokenizer."""

    def build(self, vocabulary: Vocabulary) -> Transform:
        """The transform of examples with these token ids."""
        ...


def example_keys(
    seed: int, epochs: Int[np.ndarray, " examples"], examples: Int[np.ndarray, " examples"]
) -> UInt64[np.ndarray, " examples"]:
    """A key for each example in its epoch.

    Args:
        seed: of the run, at least 0.
        examples: their indices in the split.
    """
    keys = np.empty(len(examples), np.uint64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        keys[chosen] = mixed_64(epoch_keys(seed, epoch)[1] ^ mixed_64(examples[chosen].astype(np.uint64)))
    return keys


def transformed(
    examples: Mapping[str, Ragged], transforms: Sequence[Transform], keys: UInt64[np.ndarray, " examples"]
) -> Mapping[str, Ragged]:
    """Examples after one transform after the other.

    Raises:
        ValueError: a transform made an example longer than its bound.
    """
    for transform in transforms:
        bounds = transform.length_bound({name: column.lengths for name, column in examples.items()})
        examples = transform(examples, keys)
        for name, bound in bounds.items():
            if (longer := examples[name].lengths > bound).any():
                first = int(np.argmax(longer))
                raise ValueError(
                    f"expected {type(transform).__name__} to make at most {bound[first]} values of {name}, as its "
                    f"length_bound says; it made {examples[name].lengths[first]}: correct the transform"
                )
        keys = mixed_64(keys)
    return examples


def length_bounds(
    lengths: Mapping[str, Int[np.ndarray, " examples"]], transforms: Sequence[Transform]
) -> Mapping[str, Int[np.ndarray, " examples"]]:
    """Lengths that examples have at most after all transforms."""
    for transform in transforms:
        lengths = transform.length_bound(lengths)
    return lengths
