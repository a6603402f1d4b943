"""T5 1.0, 1.1, Flan and ByT5, mT5, and UMT5."""

import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
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

PROJECTIONS = {"query": "q", "key": "k", "value": "v", "output": "o"}


class T5(Family):
    """Pre-norm with RMSNorm, no biases, scores that are not scaled, a relative bias that all layers share."""

    model_type = "t5"
    part = "encoder_decoder"
    architecture = "T5ForConditionalGeneration"
    read: ClassVar[Mapping[str, Any]] = {
        "vocab_size": REQUIRED,
        "d_model": REQUIRED,
        "d_kv": REQUIRED,
        "d_ff": REQUIRED,
        "num_layers": REQUIRED,
        "num_decoder_layers": None,
        "num_heads": REQUIRED,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": None,
        "scale_decoder_outputs": None,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "dense_act_fn": "feed_forward_proj says it",
        "is_gated_act": "feed_forward_proj says it",
        "n_positions": "distances have no limit",
    }
    unused = (
        # Written by old versions, and read by none.
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    )
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {
        TARGET: ("shared.weight", "decoder.embed_tokens.weight"),
        SOURCE: ("encoder.embed_tokens.weight",),
        OUTPUT: ("lm_head.weight",),
    }
    # transformers writes true for 1.1, too, whose output has a table of its own.
    flag_decides_tie = False
    never_scales: ClassVar[bool] = False
    relative_per_layer: ClassVar[bool] = False

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        projection = values["feed_forward_proj"].split("-")
        gated = len(projection) == 2 and projection[0] == "gated"
        if not gated and len(projection) != 1:
            raise ValueError(
                f"{origin} has feed_forward_proj = {values['feed_forward_proj']!r}; expected an activation, such as "
                "relu or gated-gelu."
            )
        # What T5 1.1 calls gated-gelu has always been computed with the tanh.
        name = "gelu_new" if values["feed_forward_proj"] == "gated-gelu" else projection[-1]
        stack = {
            "model_dim": values["d_model"],
            "num_heads": values["num_heads"],
            "head_dim": values["d_kv"],
            "hidden_dim": values["d_ff"],
            "activation": activation(name, origin=origin),
            "gated": gated,
            "feed_forward_bias": False,
            "attention_bias": False,
            "attention_scale": 1.0,
            "normalization": "rms",
            "norm_position": "pre",
            "norm_epsilon": values["layer_norm_epsilon"],
            "positions": "relative",
            "relative_buckets": values["relative_attention_num_buckets"],
            "relative_max_distance": values["relative_attention_max_distance"],
            "relative_per_layer": self.relative_per_layer,
            "dropout": float(values["dropout_rate"]),
            "attention_dropout": float(values["dropout_rate"]),
            "hidden_dropout": float(values["dropout_rate"]),
        }
        decoder_layers = values["num_decoder_layers"] or values["num_layers"]
        # T5 1.0 scales, and its configs may not say so; those of 1.1 say that nothing is tied, and mean that.
        scales = values["scale_decoder_outputs"]
        scales = values["tie_word_embeddings"] is not False if scales is None else scales
        is_scaled = scales and not self.never_scales
        return Described(
            values=values,
            encoder=TransformerEncoderConfig(num_layers=values["num_layers"], **stack),
            decoder=TransformerDecoderConfig(num_layers=decoder_layers, **stack),
            model={"logit_scale": values["d_model"] ** -0.5 if is_scaled else None},
            vocabulary_size=values["vocab_size"],
        )

    def table(self, described: Described) -> tuple[Entry, ...]:
        rows: list[Entry] = []
        for side, stack in (("encoder", described.encoder), ("decoder", described.decoder)):
            layer, path = f"{side}.block.{{layer}}.layer", f"{side}/layer"
            own, residual = ("attention", "attention") if side == "encoder" else ("self_attention", "self")
            place = (layer, path) if stack.relative_per_layer else (f"{side}.block.0.layer", f"{side}/frame")
            rows.append(
                table_row(f"{place[0]}.0.SelfAttention.relative_attention_bias.weight", f"{place[1]}/relative/table")
            )
            rows += _branch(f"{layer}.0", "SelfAttention", f"{path}/{own}", f"{path}/{residual}_residual")
            last = f"{layer}.1"
            if side == "decoder":
                rows += _branch(f"{layer}.1", "EncDecAttention", f"{path}/cross_attention", f"{path}/cross_residual")
                last = f"{layer}.2"
            names = {"wi_0": "expand", "wi_1": "gate", "wo": "contract"}
            names = names if stack.gated else {"wi": "expand", "wo": "contract"}
            for name, part in names.items():
                rows += linear(f"{last}.DenseReluDense.{name}", f"{path}/feed_forward/{part}", bias=False)
            rows += norm(f"{last}.layer_norm", f"{path}/feed_forward_residual/norm", bias=False)
            rows += norm(f"{side}.final_layer_norm", f"{side}/frame/norm", bias=False)
        return tuple(rows)

    def config_of(self, model: ModelConfig, vocabulary: Any, *, longest: int) -> dict[str, Any]:
        encoder, decoder = model.encoder, model.decoder
        expected = {
            "normalization": "rms",
            "norm_position": "pre",
            "embedding_norm": False,
            "query_key_norm": False,
            "positions": "relative",
            "relative_per_layer": self.relative_per_layer,
            "biases": (),
            "attention_scale": 1.0,
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
            if stack.feed_forward_bias or (stack.feed_forward_bias is None and not stack.gated):
                raise ValueError(f"model.{side}'s feed-forward layers have biases")
            if stack.kv_heads != stack.num_heads:
                raise ValueError(f"model.{side} has grouped heads")
        for name in (
            "model_dim", "num_heads", "dim_per_head", "hidden_dim", "activation", "gated", "norm_epsilon",
            "relative_buckets", "relative_max_distance",
        ):  # fmt: skip
            if getattr(encoder, name) != getattr(decoder, name):
                raise ValueError(f"model.encoder.{name} and model.decoder.{name} differ")
        if model.scaled_embeddings != "none" or model.num_experts > 1 or model.logit_bias or model.logit_cap:
            raise ValueError(
                "model.scaled_embeddings is not none, or the model has experts, a logit_bias or a logit_cap"
            )
        scales = model.logit_scale is not None
        if scales and not math.isclose(model.logit_scale, encoder.model_dim**-0.5):
            raise ValueError(f"model.logit_scale is {model.logit_scale} instead of 1 / sqrt(model_dim)")
        if not model.shares_inputs:
            raise ValueError(f"model.tied_embeddings is {model.tied_embeddings!r}")
        if model.tied_embeddings == "all" and not scales:
            raise ValueError("model.tied_embeddings is 'all' without model.logit_scale = 1 / sqrt(model_dim)")
        name = activation_there(encoder.activation)
        if encoder.gated and encoder.activation == "gelu_exact":
            raise ValueError("a gate with the exact GELU has no name in T5's configs")
        name = "gelu" if encoder.gated and encoder.activation == "gelu" else name
        return {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            "is_encoder_decoder": True,
            "vocab_size": vocabulary.target_size,
            "d_model": encoder.model_dim,
            "d_kv": encoder.dim_per_head,
            "d_ff": encoder.hidden_dim,
            "num_layers": encoder.num_layers,
            "num_decoder_layers": decoder.num_layers,
            "num_heads": encoder.num_heads,
            "relative_attention_num_buckets": encoder.relative_buckets,
            "relative_attention_max_distance": encoder.relative_max_distance,
            "dropout_rate": encoder.dropout,
            "layer_norm_epsilon": encoder.norm_epsilon,
            "feed_forward_proj": f"gated-{name}" if encoder.gated else name,
            "tie_word_embeddings": scales,
            "scale_decoder_outputs": scales,
            "pad_token_id": vocabulary.pad_id,
            "bos_token_id": vocabulary.bos_id,
            "eos_token_id": vocabulary.eos_id,
            "decoder_start_token_id": vocabulary.bos_id,
        }


class MT5(T5):
    """The names and switches of T5 1.1, whatever its config says of ties."""

    model_type = "mt5"
    architecture = "MT5ForConditionalGeneration"
    read: ClassVar[Mapping[str, Any]] = T5.read | {"feed_forward_proj": "gated-gelu"}
    ignored: ClassVar[Mapping[str, str]] = T5.ignored | {"tokenizer_class": "says nothing of the model"}
    only: ClassVar[Mapping[str, Only]] = {}
    never_scales = True

    def config_of(self, model: ModelConfig, vocabulary: Any, *, longest: int) -> dict[str, Any]:
        raise ValueError("T5 says the same")


class UMT5(T5):
    """T5 1.1 with a relative bias in each layer."""

    model_type = "umt5"
    architecture = "UMT5ForConditionalGeneration"
    read: ClassVar[Mapping[str, Any]] = T5.read | {"feed_forward_proj": "gated-gelu"}
    ignored: ClassVar[Mapping[str, str]] = T5.ignored | {
        "tokenizer_class": "says nothing of the model",
        "scalable_attention": "transformers does not read it",
    }
    relative_per_layer = True


def _branch(name: str, kind: str, path: str, residual: str) -> list[Entry]:
    names = {part: f"{name}.{kind}.{own}" for part, own in PROJECTIONS.items()}
    return [*attention(names, path, biases=()), *norm(f"{name}.layer_norm", f"{residual}/norm", bias=False)]


FAMILIES = (T5(), MT5(), UMT5())
