"""Words, each of which is to be said twice."""

import dataclasses
import functools
import random

from seq2seq_jax.data.source import PairSource
from seq2seq_jax.data.texts import pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twice(PairSource):
    """Pairs such as "b a" and "b b a a", made up."""

    pairs: int = 64
    """Training pairs; the other splits have an eighth."""

    def open(self, splits=("train", "validation", "test"), *, read_only=()):
        """The pairs of splits."""
        sizes = {split: self.pairs if split == "train" else self.pairs // 8 for split in splits}
        return pairs({split: functools.partial(_pairs, split, size) for split, size in sizes.items()})


def _pairs(split, size):
    draw = random.Random(split)
    for _ in range(size):
        words = draw.choices("abcdefgh", k=draw.randint(1, 4))
        yield " ".join(words), " ".join(f"{word} {word}" for word in words)
