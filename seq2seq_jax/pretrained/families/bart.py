"""BART and what has its names: mBART, Pegasus, Marian, M2M-100 (NLLB), FSMT."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.position import sinusoidal
from seq2seq_jax.modules.transformer import TransformerConfig
from seq2seq_jax.pretrained.family import (
    OUTPUT,
    SOURCE,
    TARGET,
    Described,
    Family,
    attention,
    linear,
    norm,
    table_row,
)
from seq2seq_jax.pretrained.fields import REQUIRED, Only, activation, activation_there
from seq2seq_jax.pretrained.table import Entry
from seq2seq_jax.pretrained.transforms import Reshaped

EPSILON = 1e-5
"""Of PyTorch's LayerNorm, which no config of these says."""
BIAS = "final_logits_bias"
PREFIX = "model."
"""Of all names but those of what makes logits."""
SIDES = ("encoder", "decoder")


class Bart(Family):
    """Post-norm, learned positions behind an offset of 2, embeddings normalised."""

    model_type = "bart"
    part = "encoder_decoder"
    architecture = "BartForConditionalGeneration"
    read: ClassVar[Mapping[str, Any]] = {
        "vocab_size": REQUIRED,
        "d_model": REQUIRED,
        "encoder_layers": REQUIRED,
        "decoder_layers": REQUIRED,
        "encoder_attention_heads": REQUIRED,
        "decoder_attention_heads": REQUIRED,
        "encoder_ffn_dim": REQUIRED,
        "decoder_ffn_dim": REQUIRED,
        "max_position_embeddings": REQUIRED,
        "activation_function": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": False,
        "tie_word_embeddings": None,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": None,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
        "force_bos_token_to_be_generated": False,
        "norm_epsilon": EPSILON,
    }
    only: ClassVar[Mapping[str, Only]] = {
        "normalize_before": Only((False,), "BART's layers normalise residual sums"),
        "add_final_layer_norm": Only((False,), "BART has no norm behind its layers"),
        "normalize_embedding": Only((True,), "BART normalises embeddings"),
        "add_bias_logits": Only((False,), "the bias of logits is in the file, or there is none"),
        "static_position_embeddings": Only((False,), "BART's positions are learned"),
        "is_valid_mbart": Only((False, True), ""),
        "gradient_checkpointing": Only((False, True), ""),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "grapheme_chars": "the tokenizer is made of it",
        "phoneme_chars": "the tokenizer is made of it",
        "extra_pos_embeddings": "each architecture has one first row of positions, and the shape of the table shows it",
        **dict.fromkeys(
            ("replacing_rate", "save_step", "student_decoder_layers", "student_encoder_layers"),
            "is of a distillation that is over",
        ),
    }
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {
        TARGET: ("model.shared.weight", "model.decoder.embed_tokens.weight"),
        SOURCE: ("model.encoder.embed_tokens.weight",),
        OUTPUT: ("lm_head.weight",),
    }

    # Written by old versions, and read by none.
    unused = (r"model\.(encoder|decoder)\.version",)

    norm_position: ClassVar[str] = "post"
    embedding_norm: ClassVar[bool] = True
    has_logit_bias: ClassVar[bool] = True

    def values(self, config: Mapping[str, Any], *, allowed: Collection[str] = (), origin: str) -> dict[str, Any]:
        found = super().values(config, allowed=allowed, origin=origin)
        if found["force_bos_token_to_be_generated"] and found["forced_bos_token_id"] is None:
            # As configs of before transformers 4.1 say it.
            found["forced_bos_token_id"] = found["bos_token_id"]
        return found

    def own_name(self, name: str) -> str:
        # A model that was saved without what makes logits, such as bart-base, lacks the prefix.
        return name if name.startswith(PREFIX) or name in (BIAS, *self.tied[OUTPUT]) else PREFIX + name

    def positions(self, values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        """Settings of the positions of a stack."""
        return {"positions": "learned", "max_positions": values["max_position_embeddings"] + 2, "position_offset": 2}

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        shared = {
            "model_dim": values["d_model"],
            "activation": activation(values["activation_function"], origin=origin),
            "normalization": "layer",
            "norm_position": self.norm_position,
            "norm_epsilon": values["norm_epsilon"],
            "embedding_norm": self.embedding_norm,
            "dropout": float(values["dropout"]),
            "attention_dropout": float(values["attention_dropout"]),
            "hidden_dropout": float(values["activation_dropout"]),
            **self.positions(values, names),
        }
        stacks = {
            side: {
                **shared,
                "num_layers": values[f"{side}_layers"],
                "num_heads": values[f"{side}_attention_heads"],
                "hidden_dim": values[f"{side}_ffn_dim"],
            }
            for side in SIDES
        }
        return Described(
            values=values,
            encoder=TransformerEncoderConfig(**stacks["encoder"]),
            decoder=TransformerDecoderConfig(**stacks["decoder"]),
            model={"logit_bias": BIAS in names},
            vocabulary_size=values["vocab_size"],
            is_scaled=bool(values["scale_embedding"]),
        )

    def table(self, described: Described) -> tuple[Entry, ...]:
        rows: list[Entry] = []
        for side, stack in (("encoder", described.encoder), ("decoder", described.decoder)):
            name = f"model.{side}"
            if stack.positions == "learned":
                rows.append(table_row(f"{name}.embed_positions.weight", f"{side}/frame/learned/table"))
            if stack.embedding_norm:
                rows += norm(f"{name}.layernorm_embedding", f"{side}/frame/embedding_norm")
            if stack.norm_position == "pre":
                rows += norm(f"{name}.layer_norm", f"{side}/frame/norm")
            layer, path = f"{name}.layers.{{layer}}", f"{side}/layer"
            own, residual = ("attention", "attention") if side == "encoder" else ("self_attention", "self")
            rows += self._attention(f"{layer}.self_attn", f"{path}/{own}", stack)
            rows += norm(f"{layer}.self_attn_layer_norm", f"{path}/{residual}_residual/norm")
            if side == "decoder":
                rows += self._attention(f"{layer}.encoder_attn", f"{path}/cross_attention", stack)
                rows += norm(f"{layer}.encoder_attn_layer_norm", f"{path}/cross_residual/norm")
            rows += linear(f"{layer}.fc1", f"{path}/feed_forward/expand", bias=True)
            rows += linear(f"{layer}.fc2", f"{path}/feed_forward/contract", bias=True)
            rows += norm(f"{layer}.final_layer_norm", f"{path}/feed_forward_residual/norm")
        if described.model["logit_bias"]:
            rows.append(Entry(BIAS, ("logit_bias",), Reshaped(leading=1)))
        return tuple(rows)

    @staticmethod
    def _attention(name: str, path: str, stack: TransformerConfig) -> list[Entry]:
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
        return attention({part: f"{name}.{own}" for part, own in names.items()}, path, biases=stack.biases)


class MBart(Bart):
    """Pre-norm, otherwise as BART."""

    model_type = "mbart"
    architecture = "MBartForConditionalGeneration"
    norm_position = "pre"
    only: ClassVar[Mapping[str, Only]] = Bart.only | {
        "normalize_before": Only((True,), "mBART's layers normalise the input of their branches"),
        "add_final_layer_norm": Only((True,), "mBART has a norm behind its layers"),
    }


class Sinusoidal(Bart):
    """What has sinusoids, of which a file may hold a table."""

    embedding_norm = False
    only: ClassVar[Mapping[str, Only]] = Bart.only | {
        "normalize_before": Only((False,), "Marian's layers normalise residual sums"),
        "normalize_embedding": Only((False,), "embeddings are not normalised there"),
        "static_position_embeddings": Only((True,), "positions are sinusoids there"),
    }
    norm_position = "post"
    read: ClassVar[Mapping[str, Any]] = Bart.read | {"positions": None, "position_offset": 0}

    unused = (*Bart.unused, r"model\.(encoder|decoder)\.embed_positions\.weight")

    def is_unused(self, name: str, described: Described) -> bool:
        is_parameter = described.encoder.positions == "learned" and name.endswith("embed_positions.weight")
        return not is_parameter and super().is_unused(name, described)

    def optional_names(self, model: ModelConfig) -> tuple[str, ...]:
        learned = tuple(
            f"model.{side}.embed_positions.weight" for side in SIDES if getattr(model, side).positions == "learned"
        )
        return (*learned, BIAS) if model.logit_bias else learned

    def own_tensors(self, model: ModelConfig, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The tables of positions that transformers reads."""
        rows = jnp.arange(config["max_position_embeddings"])
        found = {}
        for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
            if stack.positions == "learned":
                continue
            is_open = stack.positions == "sinusoidal_open"
            table = sinusoidal(rows + stack.position_offset, model_dim=stack.model_dim, is_open=is_open)
            found[f"model.{side}.embed_positions.weight"] = np.asarray(table, np.float32)
        return found

    def positions(self, values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        if values["positions"] is not None:
            return {"positions": values["positions"], "position_offset": values["position_offset"]}
        if any(name.endswith("embed_positions.weight") for name in names):
            return {"positions": "learned", "max_positions": values["max_position_embeddings"]}
        return {"positions": "sinusoidal_open"}


class Pegasus(Sinusoidal):
    """Pre-norm with sinusoids."""

    model_type = "pegasus"
    architecture = "PegasusForConditionalGeneration"
    norm_position = "pre"
    # Masks and other tokens of pre-training come first.
    piece_offset = 103
    only: ClassVar[Mapping[str, Only]] = Sinusoidal.only | {
        "normalize_before": Only((True,), "Pegasus' layers normalise the input of their branches"),
        "add_final_layer_norm": Only((True,), "Pegasus has a norm behind its layers"),
    }
    read: ClassVar[Mapping[str, Any]] = Sinusoidal.read | {
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "decoder_start_token_id": 0,
    }

    def config_of(self, model: ModelConfig, vocabulary: Any, *, longest: int) -> dict[str, Any]:
        return _config_of(self, model, vocabulary, longest=longest)


class Marian(Sinusoidal):
    """Post-norm with sinusoids."""

    model_type = "marian"
    architecture = "MarianMTModel"
    read: ClassVar[Mapping[str, Any]] = Sinusoidal.read | {
        "pad_token_id": REQUIRED,
        "eos_token_id": 0,
        "bos_token_id": None,
        "decoder_vocab_size": None,
    }
    only: ClassVar[Mapping[str, Only]] = Sinusoidal.only | {
        "share_encoder_decoder_embeddings": Only((True,), "two vocabularies are not built for Marian"),
        "tie_encoder_decoder_embeddings": Only((True,), "two vocabularies are not built for Marian"),
    }
    ignored: ClassVar[Mapping[str, str]] = Bart.ignored | {"decoder_vocab_size": "it is that of the source"}

    def config_of(self, model: ModelConfig, vocabulary: Any, *, longest: int) -> dict[str, Any]:
        return _config_of(self, model, vocabulary, longest=longest) | {"share_encoder_decoder_embeddings": True}


class M2M100(Bart):
    """Pre-norm with sinusoids behind an offset (NLLB, too)."""

    model_type = "m2m_100"
    architecture = "M2M100ForConditionalGeneration"
    norm_position = "pre"
    embedding_norm = False
    read: ClassVar[Mapping[str, Any]] = Bart.read | {"activation_function": "relu", "scale_embedding": True}
    only: ClassVar[Mapping[str, Only]] = {}
    unused = (*Bart.unused, r"model\.(encoder|decoder)\.embed_positions\.weights?")

    def positions(self, values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        return {"positions": "sinusoidal", "position_offset": values["pad_token_id"] + 1}


class Fsmt(Bart):
    """Post-norm with sinusoids behind an offset, a vocabulary per side."""

    model_type = "fsmt"
    architecture = "FSMTForConditionalGeneration"
    embedding_norm = False
    read: ClassVar[Mapping[str, Any]] = {
        **{name: default for name, default in Bart.read.items() if name != "vocab_size"},
        "src_vocab_size": REQUIRED,
        "tgt_vocab_size": REQUIRED,
        "activation_function": "relu",
        "scale_embedding": True,
        "decoder_start_token_id": 2,
    }
    only: ClassVar[Mapping[str, Only]] = {}
    ignored: ClassVar[Mapping[str, str]] = Bart.ignored | dict.fromkeys(
        ("langs", "vocab_size", "decoder"), "says nothing of the model"
    )
    unused = (*Bart.unused, r"model\.(encoder|decoder)\.embed_positions\.weight")
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {
        TARGET: ("model.decoder.embed_tokens.weight",),
        SOURCE: ("model.encoder.embed_tokens.weight",),
        OUTPUT: ("model.decoder.output_projection.weight",),
    }

    def positions(self, values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
        return {"positions": "sinusoidal", "position_offset": values["pad_token_id"] + 1}

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        described = super().describe({**values, "vocab_size": values["tgt_vocab_size"]}, names, origin=origin)
        return dataclasses.replace(described, source_vocabulary_size=values["src_vocab_size"])


def _config_of(family: Sinusoidal, model: ModelConfig, vocabulary: Any, *, longest: int) -> dict[str, Any]:
    """The config of a Transformer that was trained here, whose positions are written as a table."""
    encoder, decoder = model.encoder, model.decoder
    expected = {
        "normalization": "layer",
        "norm_position": family.norm_position,
        "embedding_norm": False,
        "query_key_norm": False,
        "gated": False,
        "biases": ("query", "key", "value", "output"),
        "attention_scale": None,
        "attention_cap": None,
        "attention_window": None,
        "token_types": 0,
    }
    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        if not isinstance(stack, TransformerConfig):
            raise ValueError(f"model.{side} is no Transformer")
        for name, value in expected.items():
            if getattr(stack, name) != value:
                raise ValueError(f"model.{side}.{name} is {getattr(stack, name)!r} instead of {value!r}")
        if stack.feed_forward_bias is False:
            raise ValueError(f"model.{side}.feed_forward_bias is False")
        if stack.positions not in ("sinusoidal", "sinusoidal_open", "learned"):
            raise ValueError(f"model.{side}.positions is {stack.positions!r}")
        if stack.kv_heads != stack.num_heads or stack.dim_per_head * stack.num_heads != stack.model_dim:
            raise ValueError(f"model.{side} has grouped heads, or heads that are not model_dim / num_heads wide")
    if "learned" in (encoder.positions, decoder.positions) and encoder.position_offset:
        raise ValueError(f"model.encoder.position_offset is {encoder.position_offset} with learned positions")
    for name in (
        "positions",
        "position_offset",
        "model_dim",
        "activation",
        "norm_epsilon",
    ):
        if getattr(encoder, name) != getattr(decoder, name):
            raise ValueError(f"model.encoder.{name} and model.decoder.{name} differ")
    if model.tied_embeddings != "all" or model.logit_scale or model.logit_cap or model.num_experts > 1:
        raise ValueError("model.tied_embeddings is not all, or the model has a logit_scale, a logit_cap or experts")
    if model.scaled_embeddings not in ("both", "none"):
        raise ValueError("model.scaled_embeddings differs between the sides")
    rows = {stack.max_positions - stack.position_offset for stack in (encoder, decoder) if stack.max_positions}
    if len(rows) > 1:
        raise ValueError("model.encoder.max_positions and model.decoder.max_positions differ")
    return {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "is_encoder_decoder": True,
        "vocab_size": vocabulary.target_size,
        "d_model": encoder.model_dim,
        "encoder_layers": encoder.num_layers,
        "decoder_layers": decoder.num_layers,
        "encoder_attention_heads": encoder.num_heads,
        "decoder_attention_heads": decoder.num_heads,
        "encoder_ffn_dim": encoder.hidden_dim,
        "decoder_ffn_dim": decoder.hidden_dim,
        "max_position_embeddings": min(rows, default=longest),
        "activation_function": activation_there(encoder.activation),
        "dropout": encoder.dropout,
        "attention_dropout": encoder.attention_dropout,
        "activation_dropout": encoder.hidden_dropout,
        "scale_embedding": model.scaled_embeddings == "both",
        "tie_word_embeddings": True,
        "pad_token_id": vocabulary.pad_id,
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "decoder_start_token_id": vocabulary.bos_id,
        # Of this project, which transformers keeps and does not read.
        "norm_epsilon": encoder.norm_epsilon,
        "positions": None if encoder.positions == "learned" else encoder.positions,
        "position_offset": encoder.position_offset,
    }


FAMILIES = (Bart(), MBart(), Pegasus(), Marian(), M2M100(), Fsmt())
