"""PyTorch's training step: loss, gradient, clipping and update of a peer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from seq2seq_jax.batch import Batch
from seq2seq_jax.benchmark.harness import usable_cores
from seq2seq_jax.benchmark.peers.task import Task, shifted
from seq2seq_jax.training.optimizer import AdamWConfig

Weights = Mapping[str, Float[np.ndarray, "..."]]
"""Arrays by the names of a peer's parameters."""


class PyTorchTraining:
    """The training step of a peer on one batch.

    PyTorch is set to what was fastest on a CPU: a thread a core, gradients freed not zeroed, its fused optimizer.
    On an AMD EPYC of 2 cores these changed nothing, or were slower: a time-major LSTM, convolutions over
    [batch, length, channels], and the output projection as a convolution, for oneDNN to compute instead of MKL.
    """

    def __init__(self, peer: nn.Module, task: Task, batch: Batch, *, compiled: bool, threads: int | None):
        """Args:
        peer: (source tokens, decoder inputs) -> logits.
        compiled: whether its forward and backward pass go through torch.compile.
        threads: of PyTorch; None = one a core.
        """
        torch.set_num_threads(threads or usable_cores())
        self.peer = peer
        self.parameters = {name: value for name, value in peer.named_parameters() if value.requires_grad}
        self._task = task
        self._arrays = [
            torch.from_numpy(np.asarray(tokens, np.int64))
            for tokens in (batch.source.tokens, shifted(batch.target.tokens), batch.target.tokens)
        ]
        self._loss = torch.compile(self._mean_loss) if compiled else self._mean_loss
        config = task.optimizer
        assert isinstance(config, AdamWConfig) and config.clip_norm is not None
        self._clip_norm = config.clip_norm
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def load(self, weights: Weights) -> None:
        """Take these values for the parameters, all of them."""
        assert weights.keys() == self.parameters.keys(), weights.keys() ^ self.parameters.keys()
        with torch.no_grad():
            for name, value in self.parameters.items():
                assert value.shape == weights[name].shape, (name, value.shape, weights[name].shape)
                value.copy_(torch.from_numpy(np.array(weights[name], np.float32)))

    def _mean_loss(
        self,
        source: Int[torch.Tensor, "batch source"],
        inputs: Int[torch.Tensor, "batch target"],
        labels: Int[torch.Tensor, "batch target"],
    ) -> Float[torch.Tensor, ""]:
        logits = self.peer(source, inputs)
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), label_smoothing=self._task.label_smoothing
        )

    def loss_and_gradient(self) -> tuple[float, Weights]:
        """Mean loss of the batch (nats a target token), and its gradient."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*self._arrays)
        loss.backward()
        return loss.item(), {name: value.grad.numpy().copy() for name, value in self.parameters.items()}

    def __call__(self) -> float:
        """Update once; returns the loss before the update."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*self._arrays)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), self._clip_norm, foreach=True)
        self._optimizer.step()
        return loss.item()


def num_parameters(training: PyTorchTraining) -> int:
    """Numbers that are trained."""
    return sum(value.numel() for value in training.parameters.values())


def environment() -> dict[str, Any]:
    """PyTorch's version and settings."""
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
