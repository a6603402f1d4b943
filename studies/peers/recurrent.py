"""LSTM encoder of two directions and LSTM decoder with attention, here and in PyTorch."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional

from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig, GeneralAttentionConfig
from seq2seq_jax.objectives.objective import Params
from studies.peers.pytorch import Weights
from studies.peers.task import Task

Attention = Literal["general", "additive"]
ATTENTIONS = {"general": GeneralAttentionConfig(), "additive": AdditiveAttentionConfig()}


def model_config(task: Task, attention: Attention, *, dropout: float) -> ModelConfig:
    """This project's model, one layer per side and without input feeding, so that PyTorch can use its fused LSTM."""
    stack = {"num_layers": 1, "model_dim": task.model_dim, "hidden_dim": task.hidden_dim, "dropout": dropout}
    return ModelConfig(
        encoder=RecurrentEncoderConfig(**stack),
        decoder=RecurrentDecoderConfig(attention=ATTENTIONS[attention], **stack),
    )


class RecurrentPeer(nn.Module):
    """The same model in PyTorch: `nn.LSTM` over all time steps at once, attention to all source states at once.

    `nn.LSTM` adds two biases, of which the second is held at 0 and not trained: the parameters are as many as here.
    """

    def __init__(self, task: Task, attention: Attention, *, dropout: float):
        super().__init__()
        model, hidden = task.model_dim, task.hidden_dim
        self.scale = model**0.5
        self.attention = attention
        self.embedding = nn.Embedding(task.vocabulary_size, model)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.LSTM(model, hidden, bidirectional=True, batch_first=True)
        self.bridge = nn.Linear(2 * hidden, 2 * hidden)
        self.decoder = nn.LSTM(model, hidden, batch_first=True)
        self.key = nn.Linear(2 * hidden, hidden, bias=attention == "additive")
        if attention == "additive":
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.vector = nn.Parameter(torch.zeros(hidden))
        self.output = nn.Linear(3 * hidden, model)
        for lstm in (self.encoder, self.decoder):
            for name, parameter in lstm.named_parameters():
                if name.startswith("bias_hh"):
                    nn.init.zeros_(parameter)
                    parameter.requires_grad_(False)

    def forward(
        self, source: Int[torch.Tensor, "batch source"], inputs: Int[torch.Tensor, "batch target"]
    ) -> Float[torch.Tensor, "batch target vocab"]:
        """Logits of every label."""
        states, (summary, _) = self.encoder(self.dropout(self.embedding(source) * self.scale))
        hidden, cell = self.bridge(torch.cat([summary[0], summary[1]], dim=-1)).tanh().unsqueeze(0).chunk(2, dim=-1)
        embedded = self.dropout(self.embedding(inputs) * self.scale)
        queries, _ = self.decoder(embedded, (hidden.contiguous(), cell.contiguous()))
        context = torch.bmm(self.scores(queries, self.key(states)).softmax(dim=-1), states)
        read = self.output(torch.cat([queries, context], dim=-1)).tanh()
        return functional.linear(self.dropout(read), self.embedding.weight)

    def scores(
        self, queries: Float[torch.Tensor, "batch target hidden"], keys: Float[torch.Tensor, "batch source hidden"]
    ) -> Float[torch.Tensor, "batch target source"]:
        """Of all source states, for each target token."""
        if self.attention == "general":
            return torch.bmm(queries, keys.transpose(1, 2))
        return torch.tanh(keys[:, None] + self.query(queries)[:, :, None]) @ self.vector


def weights(params: Params) -> Weights:
    """The parameters of this project's model (or their gradients) by the names that they have in the peer."""
    encoder, decoder = params["encoder"], params["decoder"]
    bridge, attention = decoder["bridge"], decoder["cross_attention"]
    hidden = decoder["output"].shape[0] // 3
    found = {
        "embedding.weight": params["target_embedding"]["table"],
        "bridge.weight": np.reshape(bridge["kernel"], (2 * hidden, -1)).T,
        "bridge.bias": np.reshape(bridge["bias"], -1),
        "key.weight": attention["memory"]["kernel"].T,
        "output.weight": decoder["output"].T,
        "output.bias": decoder["output_bias"],
    }
    if "vector" in attention:
        found |= {
            "key.bias": attention["memory"]["bias"],
            "query.weight": attention["query"].T,
            "vector": attention["vector"],
        }
    for name, layer in (
        ("encoder.{}_l0", encoder["layers_0_0"]),
        ("encoder.{}_l0_reverse", encoder["layers_0_1"]),
        ("decoder.{}_l0", decoder["layers_0"]),
    ):
        # Both have their gates in the order input, forget, candidate, output.
        found[name.format("weight_ih")] = np.reshape(layer["input"], (layer["input"].shape[0], -1)).T
        found[name.format("weight_hh")] = np.reshape(layer["kernel"], (hidden, -1)).T
        found[name.format("bias_ih")] = np.reshape(layer["bias"], -1)
    return {name: np.asarray(value) for name, value in found.items()}
