"""Hugging Face's Marian, Pegasus and T5, and this project's models that compute the same."""

import functools
from typing import Any

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.objectives.objective import Params
from seq2seq_jax.pretrained.family import TARGET, Described, Family
from seq2seq_jax.pretrained.registry import FAMILIES
from seq2seq_jax.pretrained.table import Entry, flat, places, stored_arrays
from seq2seq_jax.pretrained.transforms import Table
from studies.peers import transformer
from studies.peers.pytorch import Weights
from studies.peers.task import BOS_ID, EOS_ID, PAD_ID, Task
from studies.peers.transformer import EPSILON, position_table

IDS = {
    "pad_token_id": PAD_ID,
    "bos_token_id": BOS_ID,
    "decoder_start_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "forced_eos_token_id": None,
}
RELATIVE_BUCKETS, RELATIVE_MAX_DISTANCE = 32, 128

marian_model_config = functools.partial(transformer.model_config, norm_position="post")
"""This project's model as Marian is: LayerNorm after each residual sum, and none at the end of a stack."""

t5_model_config = functools.partial(
    transformer.model_config,
    normalization="rms",
    positions="relative",
    relative_buckets=RELATIVE_BUCKETS,
    relative_max_distance=RELATIVE_MAX_DISTANCE,
    attention_bias=False,
    feed_forward_bias=False,
)
"""This project's model as T5 is: RMSNorm, one relative bias for all layers of a stack, no other biases."""


def use_our_positions_and_epsilon(model: nn.Module, num_positions: int) -> None:
    """Give a model of the BART family this project's sinusoidal positions, which are constants, and its epsilon."""
    for stack in (model.get_encoder(), model.get_decoder()):
        table = stack.embed_positions.weight
        with torch.no_grad():
            table.copy_(position_table(num_positions, table.shape[1]))
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = EPSILON


class MarianPeer(nn.Module):
    """`MarianMTModel` on PyTorch's fused attention, its tables tied."""

    def __init__(self, task: Task, *, dropout: float):
        super().__init__()
        num_positions = max(task.source_length, task.target_length)
        sizes = {"layers": task.transformer_layers, "attention_heads": task.num_heads, "ffn_dim": task.feed_forward_dim}
        config = transformers.MarianConfig(
            vocab_size=task.vocabulary_size,
            d_model=task.model_dim,
            max_position_embeddings=num_positions,
            activation_function="relu",
            scale_embedding=True,
            dropout=dropout,
            attention_dropout=0.0,
            activation_dropout=0.0,
            use_cache=False,
            attn_implementation="sdpa",
            **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in sizes.items()},
            **IDS,
        )
        self.model = transformers.MarianMTModel(config).train()
        use_our_positions_and_epsilon(self.model, num_positions)

    def forward(
        self,
        source: Int[torch.Tensor, "batch source"],
        inputs: Int[torch.Tensor, "batch target"],
        mask: Bool[torch.Tensor, "batch source"] | None = None,
    ) -> Float[torch.Tensor, "batch target vocab"]:
        """Logits of every label."""
        return self.model(input_ids=source, attention_mask=mask, decoder_input_ids=inputs).logits


class T5Peer(nn.Module):
    """`T5Model` and its tied output on PyTorch's fused attention.

    Three of T5's constants are set to this project's, so that equal parameters are equal functions and are updated
    equally: scores are divided by the square root of the width of a head, embeddings are multiplied by that of the
    model and not divided before the output, and dropout is at the embeddings and at the end of each branch alone.
    """

    def __init__(self, task: Task, *, dropout: float):
        super().__init__()
        head_dim = task.model_dim // task.num_heads
        config = transformers.T5Config(
            vocab_size=task.vocabulary_size,
            d_model=task.model_dim,
            d_kv=head_dim,
            d_ff=task.feed_forward_dim,
            num_layers=task.transformer_layers,
            num_decoder_layers=task.transformer_layers,
            num_heads=task.num_heads,
            relative_attention_num_buckets=RELATIVE_BUCKETS,
            relative_attention_max_distance=RELATIVE_MAX_DISTANCE,
            feed_forward_proj="relu",
            layer_norm_epsilon=EPSILON,
            dropout_rate=dropout,
            use_cache=False,
            attn_implementation="sdpa",
            **IDS,
        )
        self.model = transformers.T5Model(config).train()
        self.scale = task.model_dim**0.5
        self.dropout = nn.Dropout(dropout)
        for name, module in self.model.named_modules():
            if name.endswith("Attention"):
                module.scaling = head_dim**-0.5
                module.dropout = 0.0
            elif name.endswith("DenseReluDense") or name in ("encoder", "decoder"):
                module.dropout = nn.Identity()

    def forward(
        self,
        source: Int[torch.Tensor, "batch source"],
        inputs: Int[torch.Tensor, "batch target"],
        mask: Bool[torch.Tensor, "batch source"] | None = None,
    ) -> Float[torch.Tensor, "batch target vocab"]:
        """Logits of every label."""
        table = self.model.shared.weight

        def embed(tokens):
            return self.dropout(functional.embedding(tokens, table) * self.scale)

        hidden = self.model(
            inputs_embeds=embed(source), attention_mask=mask, decoder_inputs_embeds=embed(inputs)
        ).last_hidden_state
        return functional.linear(hidden, table)


def _stored(params: Params, family: Family, **form: Any) -> Weights:
    """The parameters of this project's model (or their gradients) by the names and in the shapes of transformers.

    Args:
        form: fields of both stacks that decide which parameters there are.
    """
    leaves = flat(params)
    described = Described(
        values={},
        encoder=TransformerEncoderConfig(**form),
        decoder=TransformerDecoderConfig(**form),
        model={"logit_bias": False},
        vocabulary_size=len(leaves[TARGET]),
    )
    rows = [Entry(family.tied[TARGET][0], (TARGET,), Table()), *family.table(described)]
    return {f"model.{name}": values() for name, _, values in stored_arrays(places(rows, leaves), leaves)}


def bart_weights(params: Params) -> Weights:
    """The parameters of this project's model (or their gradients) by the names that BART's descendants give them."""
    if "norm" in params["encoder"].get("frame", {}):
        return _stored(params, FAMILIES["pegasus"])
    return _stored(params, FAMILIES["marian"], norm_position="post")


def t5_weights(params: Params) -> Weights:
    """The parameters of this project's model (or their gradients) by T5's names."""
    return _stored(params, FAMILIES["t5"])
