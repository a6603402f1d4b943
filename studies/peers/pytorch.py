"""PyTorch's training step: loss, gradient, clipping and update of a peer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from seq2seq_jax.batch import Batch
from seq2seq_jax.benchmark.harness import usable_cores
from seq2seq_jax.training.optimizer import AdamWConfig
from studies.peers.task import Task, shifted

Weights = Mapping[str, Float[np.ndarray, "..."]]
"""Arrays by the names of a peer's parameters."""
Tensors = tuple[torch.Tensor, ...]
"""Source tokens, decoder inputs and labels of a batch; the mask of its source, where rows have padding."""
IGNORED = -100
"""The label of a place of padding."""


def device() -> torch.device:
    """Where PyTorch computes: the GPU, where it has one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class PyTorchTraining:
    """The training step of a peer.

    PyTorch is set to what was fastest on a CPU: a thread a core, gradients freed not zeroed, its fused optimizer.
    On an AMD EPYC of 2 cores these changed nothing, or were slower: a time-major LSTM, convolutions over
    [batch, length, channels], and the output projection as a convolution, for oneDNN to compute instead of MKL.
    """

    def __init__(
        self, peer: nn.Module, task: Task, *, compiled: bool, threads: int | None, dynamic: bool | None = None
    ):
        """Args:
        peer: (source tokens, decoder inputs) -> logits; with a mask of the source after them, where rows have padding.
        compiled: whether its forward and backward pass go through torch.compile.
        threads: of PyTorch; None = one a core.
        dynamic: whether one compiled program serves batches of all shapes; None = as torch.compile finds.
        """
        torch.set_num_threads(threads or usable_cores())
        self.device = device()
        self.peer = peer.to(self.device)
        self.parameters = {name: value for name, value in peer.named_parameters() if value.requires_grad}
        self._task = task
        self._loss = torch.compile(self._mean_loss, dynamic=dynamic) if compiled else self._mean_loss
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
        load(self.parameters, weights)

    def place(self, batch: Batch) -> Tensors:
        """A batch of one segment per row on the device; without a mask, where there is no padding."""
        labels = np.where(batch.target.mask, batch.target.tokens, IGNORED)
        arrays = [np.asarray(batch.source.tokens), shifted(np.asarray(batch.target.tokens)), labels]
        tensors = [torch.from_numpy(tokens.astype(np.int64)) for tokens in arrays]
        mask = np.asarray(batch.source.mask)
        if not mask.all():
            tensors.append(torch.from_numpy(mask))
        return tuple(tensor.to(self.device) for tensor in tensors)

    def _mean_loss(
        self,
        source: Int[torch.Tensor, "batch source"],
        inputs: Int[torch.Tensor, "batch target"],
        labels: Int[torch.Tensor, "batch target"],
        *mask: Bool[torch.Tensor, "batch source"],
    ) -> Float[torch.Tensor, ""]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._task.precision == "bfloat16"):
            logits = self.peer(source, inputs, *mask)
        return functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            label_smoothing=self._task.label_smoothing,
            ignore_index=IGNORED,
        )

    def loss_and_gradient(self, batch: Tensors) -> tuple[float, Weights]:
        """Mean loss of a batch (nats per target token), and its gradient."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*batch)
        loss.backward()
        return loss.item(), {name: value.grad.cpu().numpy().copy() for name, value in self.parameters.items()}

    def __call__(self, batch: Tensors) -> float:
        """Update once; returns the loss before the update."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), self._clip_norm, foreach=True)
        self._optimizer.step()
        # On a GPU what was started may not be done yet.
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return loss.item()


def load(parameters: Mapping[str, nn.Parameter], weights: Weights) -> None:
    """Copy values into the parameters of the same names, all of them."""
    assert weights.keys() == parameters.keys(), weights.keys() ^ parameters.keys()
    with torch.no_grad():
        for name, value in parameters.items():
            assert value.shape == weights[name].shape, (name, value.shape, weights[name].shape)
            value.copy_(torch.from_numpy(np.array(weights[name], np.float32)))


def num_parameters(training: PyTorchTraining) -> int:
    """Numbers that are trained."""
    return sum(value.numel() for value in training.parameters.values())


def environment() -> dict[str, Any]:
    """PyTorch's version and settings."""
    return {
        "version": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
