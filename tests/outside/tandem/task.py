"""Translation of sources that have gaps, others in every epoch."""

import dataclasses

import numpy as np

from seq2seq_jax.data.columns import Ragged
from seq2seq_jax.hashing import random_words
from seq2seq_jax.tasks.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaveOut:
    """Leaves out each source token but the last with a probability."""

    probability: float = 0.25

    def build(self, vocabulary):
        """Itself: it needs no token ids."""
        return self

    def __call__(self, examples, keys):
        """The examples with shorter sources."""
        source, kept = examples["source"], []
        for index, key in enumerate(keys):
            tokens = source[index]
            stays = random_words(np.array([key]), len(tokens))[0] >= np.uint64(self.probability * 2**64)
            stays[-1] = True
            kept.append(tokens[stays])
        offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in kept], dtype=np.int64)])
        return {**examples, "source": Ragged(np.concatenate(kept or [source.values]), offsets)}

    def length_bound(self, lengths):
        """No source becomes longer."""
        return dict(lengths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaps(Translation):
    """Translation from sources with gaps."""

    leave_out: LeaveOut = LeaveOut()

    def batch_format(self, data):
        """See Task.batch_format."""
        return dataclasses.replace(super().batch_format(data), transforms=(self.leave_out,))
