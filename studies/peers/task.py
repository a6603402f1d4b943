"""What both sides of a comparison are given: sizes, batch, loss and optimizer."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Int

from seq2seq_jax.batch import Batch, Vocabulary
from seq2seq_jax.benchmark.workload import full_rows
from seq2seq_jax.data.packing import RowShape
from seq2seq_jax.modules.layers import Remat
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.training.optimizer import AdamWConfig

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Sizes of the models and of the batch; every row is one segment that fills it."""

    rows: int = 64
    """Rows of the batch."""
    source_length: int = 32
    """Tokens of a source row."""
    target_length: int = 32
    """Tokens of a target row."""
    vocabulary_size: int = 8_000
    """Tokens of the vocabulary, one for both languages; its table is also the output projection."""
    model_dim: int = 256
    """Width of the embeddings."""
    hidden_dim: int = 256
    """Width of a recurrent state in each direction, and channels of the convolutions."""
    transformer_layers: int = 3
    """Layers of the Transformer's encoder, and of its decoder."""
    num_heads: int = 4
    """Attention heads of the Transformer."""
    feed_forward_dim: int = 1_024
    """Width inside the Transformer's feed-forward layers."""
    convolutional_layers: int = 6
    """Layers of the convolutional encoder, and of the decoder."""
    kernel_size: int = 3
    """Tokens that a convolution reads at once."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of both sides. bfloat16 (accelerators): float32 parameters and optimizer, activations and products in
    bfloat16; PyTorch by autocast."""
    scan_layers: bool = False
    """Whether this project's Transformer loops over one compiled layer."""
    remat: Remat = "none"
    """What the backward pass of this project's Transformer recomputes."""
    loss_chunk: int | None = None
    """Target tokens of a row that go through the vocabulary at a time in this project; None = all."""
    dropout: float = 0.1
    """Rate of dropout, at the same places on both sides."""
    label_smoothing: float = 0.1
    """Probability mass of the label that is spread uniformly over the vocabulary."""
    learning_rate: float = 1e-3
    """Of AdamW (decays 0.9 and 0.98, epsilon 1e-9, no weight decay), after clipping the gradient's norm to 1."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Of both sides."""
        return Vocabulary(
            source_size=self.vocabulary_size,
            target_size=self.vocabulary_size,
            joint=True,
            pad_id=PAD_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
        )

    @property
    def objective(self) -> MaximumLikelihoodConfig:
        """The loss, over all target tokens."""
        return MaximumLikelihoodConfig(label_smoothing=self.label_smoothing, loss_chunk=self.loss_chunk)

    @property
    def optimizer(self) -> AdamWConfig:
        """The update rule."""
        return AdamWConfig(learning_rate=self.learning_rate, schedule="constant", warmup_steps=0)

    def batch(self, *, seed: int) -> Batch:
        """Random words in full rows, each ending in the EOS token."""
        shape = RowShape(rows=self.rows, source_length=self.source_length, target_length=self.target_length)
        return full_rows(shape, self.vocabulary, seed=seed)


def shifted(labels: Int[np.ndarray, "batch target"]) -> Int[np.ndarray, "batch target"]:
    """The decoder's inputs: the label before, the start mark at first."""
    return np.concatenate([np.full_like(labels[:, :1], BOS_ID), labels[:, :-1]], axis=1)
