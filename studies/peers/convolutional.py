"""Gated convolutions with multi-step attention (Gehring et al. 2017), here and in PyTorch."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from seq2seq_jax.decoders.convolutional import ConvolutionalDecoderConfig
from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.convolution import EMBEDDING_DEVIATION, HALF
from seq2seq_jax.objectives.objective import Params
from studies.peers.pytorch import Weights
from studies.peers.task import Task


def model_config(task: Task, *, dropout: float) -> ModelConfig:
    """This project's model."""
    stack = {
        "num_layers": task.convolutional_layers,
        "model_dim": task.model_dim,
        "hidden_dim": task.hidden_dim,
        "kernel_size": task.kernel_size,
        "max_positions": max(task.source_length, task.target_length),
        "dropout": dropout,
    }
    return ModelConfig(encoder=ConvolutionalEncoderConfig(**stack), decoder=ConvolutionalDecoderConfig(**stack))


class Stack(nn.Module):
    """What encoder and decoder have alike: embeddings with positions, convolutions, a map into and out of channels."""

    def __init__(self, task: Task, *, before: int, dropout: float):
        """Args:
        before: tokens before its own that a convolution reads.
        """
        super().__init__()
        model, hidden, kernel = task.model_dim, task.hidden_dim, task.kernel_size
        self.scale = model**0.5
        self.margins = (before, kernel - 1 - before)
        self.dropout = nn.Dropout(dropout)
        self.positions = nn.Embedding(max(task.source_length, task.target_length), model)
        self.expand = weight_norm(nn.Linear(model, hidden))
        self.contract = weight_norm(nn.Linear(hidden, model))
        symmetric = self.margins[0] == self.margins[1]
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv1d(hidden, 2 * hidden, kernel, padding=before if symmetric else 0))
            for _ in range(task.convolutional_layers)
        )
        self.pads = not symmetric

    def embed(
        self, tokens: Int[torch.Tensor, "batch length"], embedding: nn.Embedding
    ) -> Float[torch.Tensor, "batch length model"]:
        """The first layer's input: embeddings with position encodings and dropout."""
        positions = self.positions.weight[: tokens.shape[1]]
        return self.dropout((embedding(tokens) + positions) * (self.scale * EMBEDDING_DEVIATION))

    def convolve(
        self, index: int, x: Float[torch.Tensor, "batch hidden length"]
    ) -> Float[torch.Tensor, "batch hidden length"]:
        """The gated convolution of a layer."""
        x = self.dropout(x)
        if self.pads:
            x = functional.pad(x, self.margins)
        return functional.glu(self.convolutions[index](x), dim=1)


class ConvolutionalPeer(nn.Module):
    """The same model in PyTorch: `nn.Conv1d` over [batch, channels, length], attention by batched products."""

    def __init__(self, task: Task, *, dropout: float):
        super().__init__()
        model, hidden, kernel = task.model_dim, task.hidden_dim, task.kernel_size
        self.embedding = nn.Embedding(task.vocabulary_size, model)
        self.encoder = Stack(task, before=kernel // 2, dropout=dropout)
        self.decoder = Stack(task, before=kernel - 1, dropout=dropout)
        layers = range(task.convolutional_layers)
        self.queries = nn.ModuleList(weight_norm(nn.Linear(hidden, model)) for _ in layers)
        self.outputs = nn.ModuleList(weight_norm(nn.Linear(model, hidden)) for _ in layers)

    def forward(
        self, source: Int[torch.Tensor, "batch source"], inputs: Int[torch.Tensor, "batch target"]
    ) -> Float[torch.Tensor, "batch target vocab"]:
        """Logits of every label."""
        stack = self.encoder
        embeddings = stack.embed(source, self.embedding)
        x = stack.expand(embeddings).transpose(1, 2)
        for index in range(len(stack.convolutions)):
            x = (x + stack.convolve(index, x)) * HALF
        keys = stack.contract(x.transpose(1, 2))
        values = (keys + embeddings) * (HALF * math.sqrt(source.shape[1]))
        keys = keys.transpose(1, 2)

        stack = self.decoder
        embeddings = stack.embed(inputs, self.embedding)
        x = stack.expand(embeddings).transpose(1, 2)
        for index, (query, output) in enumerate(zip(self.queries, self.outputs, strict=True)):
            branch = stack.convolve(index, x)
            queries = (query(branch.transpose(1, 2)) + embeddings) * HALF
            context = output(torch.bmm(torch.bmm(queries, keys).softmax(dim=-1), values)).transpose(1, 2)
            x = (x + (branch + context) * HALF) * HALF
        return functional.linear(stack.dropout(stack.contract(x.transpose(1, 2))), self.embedding.weight)


def weights(params: Params) -> Weights:
    """The parameters of this project's model (or their gradients) by the names that they have in the peer."""
    found = {"embedding.weight": params["target_embedding"]["table"]}

    def normalized(name, kernel, layer):
        """Length and direction of each output, and the bias."""
        found[f"{name}.parametrizations.weight.original0"] = layer["scale"].reshape(-1, *(1,) * (kernel.ndim - 1))
        found[f"{name}.parametrizations.weight.original1"] = kernel
        found[f"{name}.bias"] = layer["bias"]

    def linear(name, layer):
        normalized(name, layer["kernel"].T, layer)

    for side in ("encoder", "decoder"):
        frame, layers = params[side]["frame"], params[side]["layer"]
        found[f"{side}.positions.weight"] = frame["positions"]["table"]
        linear(f"{side}.expand", frame["expand"])
        linear(f"{side}.contract", frame["contract"])
        for index in range(len(layers["convolution"]["kernel"])):
            convolution = {name: value[index] for name, value in layers["convolution"].items()}
            # Here [kernel, input, output]; there [output, input, kernel].
            normalized(f"{side}.convolutions.{index}", convolution["kernel"].transpose(2, 1, 0), convolution)
            if side == "decoder":
                for name, peer_name in (("query", "queries"), ("output", "outputs")):
                    layer = {part: value[index] for part, value in layers["cross_attention"][name].items()}
                    linear(f"{peer_name}.{index}", layer)
    return {name: np.asarray(value) for name, value in found.items()}
