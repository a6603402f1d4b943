"""The Transformer: this project's in the forms of its peers, and a lean one in PyTorch."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.position import sinusoidal
from seq2seq_jax.objectives.objective import Params
from studies.peers.pytorch import Weights
from studies.peers.task import Task

EPSILON = 1e-6
"""Added to the variance in every normalisation of this project."""


def model_config(task: Task, *, dropout: float, **form: Any) -> ModelConfig:
    """This project's model.

    Args:
        form: fields of its stacks; none of them = sinusoidal positions, biases, LayerNorm before each branch.
    """
    stack = {
        "num_layers": task.transformer_layers,
        "model_dim": task.model_dim,
        "num_heads": task.num_heads,
        "hidden_dim": task.feed_forward_dim,
        "dropout": dropout,
        "scan_layers": task.scan_layers,
        "remat": task.remat,
        **form,
    }
    return ModelConfig(
        encoder=TransformerEncoderConfig(**stack),
        decoder=TransformerDecoderConfig(**stack),
        precision=task.precision,
    )


def weights_by_layer(params: Params) -> Weights:
    """The parameters of this project's model (or their gradients), a name a layer, matrices as [output, input].

    The names are embedding.weight, SIDE.norm.PART, SIDE.relative.weight, SIDE.LAYER.self_norm.PART (cross_norm,
    feed_forward_norm), SIDE.LAYER.self_attention.query.PART (cross_attention; key, value, output) and
    SIDE.LAYER.feed_forward.expand.PART (contract), where PART is weight or bias.
    """
    found = {"embedding.weight": params["target_embedding"]["table"]}

    def normalization(name, layer):
        found.update({f"{name}.{'weight' if part == 'scale' else part}": value for part, value in layer.items()})

    for side in ("encoder", "decoder"):
        frame = params[side].get("frame", {})
        if "norm" in frame:
            normalization(f"{side}.norm", frame["norm"])
        if "relative" in frame:
            found[f"{side}.relative.weight"] = frame["relative"]["table"]
        for part, layers in params[side]["layer"].items():
            # The encoder attends in one way only, and says no more than that.
            part = {"attention": "self_attention", "attention_residual": "self_residual"}.get(part, part)
            num_layers = len(next(iter(next(iter(layers.values())).values())))
            for index in range(num_layers):
                if part.endswith("_residual"):
                    norm = {name: value[index] for name, value in layers["norm"].items()}
                    normalization(f"{side}.{index}.{part.removesuffix('_residual')}_norm", norm)
                    continue
                for name, layer in layers.items():
                    kernel = layer["kernel"][index]
                    columns = kernel.shape[-1] if name == "output" else -1
                    rows = -1 if name == "output" else kernel.shape[0]
                    found[f"{side}.{index}.{part}.{name}.weight"] = kernel.reshape(rows, columns).T
                    if "bias" in layer:
                        found[f"{side}.{index}.{part}.{name}.bias"] = layer["bias"][index].reshape(-1)
    return {name: np.asarray(value) for name, value in found.items()}


def position_table(num_positions: int, model_dim: int) -> Float[torch.Tensor, "positions model"]:
    """This project's sinusoidal positions, from 0."""
    return torch.from_numpy(np.array(sinusoidal(jnp.arange(num_positions), model_dim=model_dim), np.float32))


class Attention(nn.Module):
    """Attention whose projections of the same input are one product; the softmax is PyTorch's fused kernel."""

    def __init__(self, task: Task, *, cross: bool):
        super().__init__()
        model = task.model_dim
        self.num_heads = task.num_heads
        self.cross = cross
        if cross:
            self.query = nn.Linear(model, model)
        self.projection = nn.Linear(model, (2 if cross else 3) * model)
        self.output = nn.Linear(model, model)

    def forward(
        self,
        x: Float[torch.Tensor, "batch target model"],
        memory: Float[torch.Tensor, "batch source model"] | None = None,
        *,
        mask: Bool[torch.Tensor, "batch 1 1 source"] | None = None,
        causal: bool = False,
    ) -> Float[torch.Tensor, "batch target model"]:
        """Attend from each position of x, to x itself without a memory."""

        def heads(array):
            return array.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        if self.cross:
            parts = (self.query(x), *self.projection(memory).chunk(2, dim=-1))
        else:
            parts = self.projection(x).chunk(3, dim=-1)
        context = functional.scaled_dot_product_attention(*map(heads, parts), attn_mask=mask, is_causal=causal)
        return self.output(context.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention to oneself, in the decoder to the memory, and feed-forward, each in a pre-norm residual branch."""

    def __init__(self, task: Task, *, decoder: bool, dropout: float):
        super().__init__()
        model = task.model_dim
        self.dropout = nn.Dropout(dropout)
        self.self_norm = nn.LayerNorm(model, eps=EPSILON)
        self.self_attention = Attention(task, cross=False)
        if decoder:
            self.cross_norm = nn.LayerNorm(model, eps=EPSILON)
            self.cross_attention = Attention(task, cross=True)
        self.feed_forward_norm = nn.LayerNorm(model, eps=EPSILON)
        self.expand = nn.Linear(model, task.feed_forward_dim)
        self.contract = nn.Linear(task.feed_forward_dim, model)
        self.decoder = decoder

    def forward(
        self,
        x: Float[torch.Tensor, "batch length model"],
        memory: Float[torch.Tensor, "batch source model"] | None,
        mask: Bool[torch.Tensor, "batch 1 1 source"] | None,
    ) -> Float[torch.Tensor, "batch length model"]:
        """The layer's output.

        Args:
            mask: which source tokens are words.
        """
        y = self.self_norm(x)
        if self.decoder:
            x = x + self.dropout(self.self_attention(y, causal=True))
            x = x + self.dropout(self.cross_attention(self.cross_norm(x), memory, mask=mask))
        else:
            x = x + self.dropout(self.self_attention(y, mask=mask))
        return x + self.dropout(self.contract(functional.relu(self.expand(self.feed_forward_norm(x)))))


class TransformerPeer(nn.Module):
    """The same pre-norm model in PyTorch, with nothing around it, on `scaled_dot_product_attention`."""

    def __init__(self, task: Task, *, dropout: float):
        super().__init__()
        model = task.model_dim
        self.scale = model**0.5
        self.embedding = nn.Embedding(task.vocabulary_size, model)
        self.register_buffer("positions", position_table(max(task.source_length, task.target_length), model))
        self.dropout = nn.Dropout(dropout)
        for side in ("encoder", "decoder"):
            layers = [Layer(task, decoder=side == "decoder", dropout=dropout) for _ in range(task.transformer_layers)]
            setattr(self, side, nn.ModuleList(layers))
            setattr(self, f"{side}_norm", nn.LayerNorm(model, eps=EPSILON))

    def forward(
        self,
        source: Int[torch.Tensor, "batch source"],
        inputs: Int[torch.Tensor, "batch target"],
        mask: Bool[torch.Tensor, "batch source"] | None = None,
    ) -> Float[torch.Tensor, "batch target vocab"]:
        """Logits of every label.

        Args:
            mask: which source tokens are words; None = all.
        """
        mask = None if mask is None else mask[:, None, None]
        memory = None
        for tokens, layers, norm in (
            (source, self.encoder, self.encoder_norm),
            (inputs, self.decoder, self.decoder_norm),
        ):
            x = self.dropout(self.embedding(tokens) * self.scale + self.positions[: tokens.shape[1]])
            for layer in layers:
                x = layer(x, memory, mask)
            memory = norm(x)
        return functional.linear(memory, self.embedding.weight)


def weights(params: Params) -> Weights:
    """The parameters of this project's model (or their gradients) by the names that they have in the lean peer."""
    named = weights_by_layer(params)
    found = {}
    for name, value in named.items():
        layer, projection, part = name.rsplit(".", 2) if name.count(".") > 1 else ("", *name.split("."))
        together = ("key", "value") if layer.endswith("cross_attention") else ("query", "key", "value")
        if not layer.endswith("attention") or projection not in together:
            found[name.replace("coder.norm", "coder_norm").replace("feed_forward.", "")] = value
        elif projection == together[0]:
            found[f"{layer}.projection.{part}"] = np.concatenate([named[f"{layer}.{each}.{part}"] for each in together])
    return found
