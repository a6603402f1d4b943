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
class Augment(Protocol):
    """Makes other examples of training examples, of any length; evaluation sees none of it. What it does to one depends
    on the example and its key alone.
    """

    def __call__(self, examples: Mapping[str, Ragged], keys: UInt64[np.ndarray, " examples"]) -> dict[str, Ragged]:
        """The columns of the same examples, in the same order; see `Transform`."""
        ...


@runtime_checkable
class AugmentOfKnownLengths(Protocol):
    """An augment whose lengths are known without the values, so that batches of long examples are planned at once."""

    def lengths(
        self, lengths: Mapping[str, Int[np.ndarray, " examples"]], keys: UInt64[np.ndarray, " examples"]
    ) -> dict[str, Int[np.ndarray, " examples"]]:
        """The lengths of the columns that examples of these lengths become, with these keys."""
        ...


@runtime_checkable
class TransformConfig(Protocol):
    """What a transform is: as it stands in a config, without a tokenizer."""

    def build(self, vocabulary: Vocabulary) -> Transform:
        """The transform of examples with these token ids."""
        ...


def example_keys(
    seed: int,
    epochs: Int[np.ndarray, " examples"],
    examples: Int[np.ndarray, " examples"],
    copies: Int[np.ndarray, " examples"] | None = None,
) -> UInt64[np.ndarray, " examples"]:
    """A key for each example in its epoch.

    Args:
        seed: of the run, at least 0.
        examples: their indices in the split.
        copies: which of its copies in the epoch each of them is, from 0; None = it is the only one.
    """
    keys = np.empty(len(examples), np.uint64)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        keys[chosen] = mixed_64(epoch_keys(seed, epoch)[1] ^ mixed_64(examples[chosen].astype(np.uint64)))
    if copies is not None:
        (further,) = np.nonzero(copies)
        keys[further] = mixed_64(keys[further] + copies[further].astype(np.uint64))
    return keys


AUGMENTATION = np.uint64(0xA0761D6478BD642F)
"""Separates the random numbers of augmentation from those of transforms."""


def augmented(
    examples: Mapping[str, Ragged],
    augments: Sequence[Sequence[Augment]],
    keys: UInt64[np.ndarray, " examples"],
    *,
    limits: Mapping[str, int | None],
) -> Mapping[str, Ragged]:
    """Training examples after what is done to those of their part of the data.

    Args:
        augments: of each part, in the order of the labels in the column `part`; one = that of all examples.
        limits: the longest that a column may be, by name. An example that would be longer stays as it was.
    """
    keys = mixed_64(keys ^ AUGMENTATION)
    result = dict(examples)
    for part, own in enumerate(augments):
        chosen = np.arange(len(keys)) if len(augments) == 1 else np.flatnonzero(examples["part"].values == part)
        if not own or not len(chosen):
            continue
        is_all = len(chosen) == len(keys)
        made: Mapping[str, Ragged] = (
            examples if is_all else {name: column.take(chosen) for name, column in examples.items()}
        )
        own_keys = keys[chosen]
        for augment in own:
            made = augment(made, own_keys)
            own_keys = mixed_64(own_keys)
        fits = np.ones(len(chosen), bool)
        for name, limit in limits.items():
            fits &= True if limit is None else made[name].lengths <= limit
        if is_all and fits.all():
            return made
        for name, column in made.items():
            result[name] = result[name].with_examples(chosen[fits], column.take(np.flatnonzero(fits)))
    return result


def augmented_lengths(
    lengths: Mapping[str, Int[np.ndarray, " examples"]],
    augments: Sequence[AugmentOfKnownLengths],
    keys: UInt64[np.ndarray, " examples"],
    *,
    limits: Mapping[str, int | None],
) -> Mapping[str, Int[np.ndarray, " examples"]]:
    """Lengths of the examples that `augmented` makes of those of one part, without their values."""
    own_keys, made = mixed_64(keys ^ AUGMENTATION), lengths
    for augment in augments:
        made = augment.lengths(made, own_keys)
        own_keys = mixed_64(own_keys)
    fits = np.ones(len(keys), bool)
    for name, limit in limits.items():
        fits &= True if limit is None else made[name] <= limit
    return {name: np.where(fits, made[name], before).astype(np.int32) for name, before in lengths.items()}


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
