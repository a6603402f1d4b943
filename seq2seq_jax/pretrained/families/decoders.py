"""GPT-2, Llama, Mistral, Qwen2, Qwen3 and Gemma 1 to 3: decoders without an encoder."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.modules.position import RotaryConfig
from seq2seq_jax.pretrained.family import (
    OUTPUT,
    TARGET,
    Described,
    Family,
    attention,
    convolution,
    linear,
    norm,
    table_row,
)
from seq2seq_jax.pretrained.fields import REQUIRED, Only, activation
from seq2seq_jax.pretrained.table import Entry


class Gpt2(Family):
    """Pre-norm, learned positions, query, key and value in one matrix."""

    model_type = "gpt2"
    part = "decoder"
    architecture = "GPT2LMHeadModel"
    read: ClassVar[Mapping[str, Any]] = {
        "vocab_size": REQUIRED,
        "n_embd": REQUIRED,
        "n_layer": REQUIRED,
        "n_head": REQUIRED,
        "n_positions": REQUIRED,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": None,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "pad_token_id": None,
    }
    only: ClassVar[Mapping[str, Only]] = {
        "scale_attn_weights": Only((True,), "scores that are not scaled are not built for GPT-2"),
        "scale_attn_by_inverse_layer_idx": Only((False,), "scores that are scaled by the layer are not built"),
        "add_cross_attention": Only((False,), "a GPT-2 with cross-attention is not built"),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "embd_pdrop": "resid_pdrop is used for embeddings, too",
        "n_ctx": "n_positions says it",
        "reorder_and_upcast_attn": "scores are float32 here",
        **dict.fromkeys(
            (
                "summary_activation",
                "summary_first_dropout",
                "summary_proj_to_labels",
                "summary_type",
                "summary_use_proj",
            ),
            "is of another head",
        ),
    }
    prefixes = ("transformer.", "")
    unused = (r"h\.\d+\.attn\.(masked_)?bias",)
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {TARGET: ("wte.weight",), OUTPUT: ("lm_head.weight",)}

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        decoder = TransformerDecoderConfig(
            num_layers=values["n_layer"],
            model_dim=values["n_embd"],
            num_heads=values["n_head"],
            hidden_dim=values["n_inner"] or 4 * values["n_embd"],
            activation=activation(values["activation_function"], origin=origin),
            normalization="layer",
            norm_position="pre",
            norm_epsilon=values["layer_norm_epsilon"],
            positions="learned",
            max_positions=values["n_positions"],
            dropout=float(values["resid_pdrop"]),
            attention_dropout=float(values["attn_pdrop"]),
        )
        return Described(values=values, decoder=decoder, vocabulary_size=values["vocab_size"])

    def table(self, described: Described) -> tuple[Entry, ...]:
        layer, path, own = "h.{layer}", "decoder/layer", "decoder/layer/self_attention"
        return (
            table_row("wpe.weight", "decoder/frame/learned/table"),
            *norm("ln_f", "decoder/frame/norm"),
            *norm(f"{layer}.ln_1", f"{path}/self_residual/norm"),
            *convolution(f"{layer}.attn.c_attn", [f"{own}/{part}" for part in ("query", "key", "value")]),
            *convolution(f"{layer}.attn.c_proj", [f"{own}/output"], inputs=2),
            *norm(f"{layer}.ln_2", f"{path}/feed_forward_residual/norm"),
            *convolution(f"{layer}.mlp.c_fc", [f"{path}/feed_forward/expand"]),
            *convolution(f"{layer}.mlp.c_proj", [f"{path}/feed_forward/contract"]),
        )


class Llama(Family):
    """Pre-norm with RMSNorm, rotary positions, grouped heads, a gate."""

    model_type = "llama"
    part = "decoder"
    architecture = "LlamaForCausalLM"
    read: ClassVar[Mapping[str, Any]] = {
        "vocab_size": REQUIRED,
        "hidden_size": REQUIRED,
        "num_hidden_layers": REQUIRED,
        "num_attention_heads": REQUIRED,
        "num_key_value_heads": None,
        "intermediate_size": REQUIRED,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rope_theta": None,
        "rope_scaling": None,
        "rope_parameters": None,
        "tie_word_embeddings": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    only: ClassVar[Mapping[str, Only]] = {
        "mlp_bias": Only((False,), "biases of Llama's feed-forward layer are not built"),
        "partial_rotary_factor": Only((None, 1.0), "rotating a part of a head is not built"),
        "rope_interleaved": Only((False,), "pairs of neighbours are not rotated here"),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "max_position_embeddings": "rotary positions have no limit",
        "max_sequence_length": "rotary positions have no limit",
        "is_llama_config": "says nothing of the model",
        "pretraining_tp": "changes only the order of sums",
    }
    prefixes = ("model.", "")
    unused = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {TARGET: ("embed_tokens.weight",), OUTPUT: ("lm_head.weight",)}

    def settings(self, values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
        """Settings of the stack in which the families differ."""
        return {"attention_bias": bool(values["attention_bias"])}

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        settings = {
            "num_layers": values["num_hidden_layers"],
            "model_dim": values["hidden_size"],
            "num_heads": values["num_attention_heads"],
            "num_kv_heads": values["num_key_value_heads"],
            "head_dim": values["head_dim"],
            "hidden_dim": values["intermediate_size"],
            "activation": activation(values["hidden_act"], origin=origin),
            "gated": True,
            "normalization": "rms",
            "norm_position": "pre",
            "norm_epsilon": values["rms_norm_eps"],
            "positions": "rotary",
            "dropout": 0.0,
            "attention_dropout": float(values["attention_dropout"]),
        }
        settings |= self.settings(values, origin=origin)
        if "rotary" not in settings:
            settings["rotary"] = rotary(values, origin=origin)
        decoder = TransformerDecoderConfig(**settings)
        is_scaled = decoder.normalization == "rms_plus_one"
        return Described(values=values, decoder=decoder, vocabulary_size=values["vocab_size"], is_scaled=is_scaled)

    def table(self, described: Described) -> tuple[Entry, ...]:
        decoder, layer, path = described.decoder, "layers.{layer}", "decoder/layer"
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
        names = {part: f"{layer}.self_attn.{name}" for part, name in names.items()}
        rows = [
            *norm("norm", "decoder/frame/norm", bias=False),
            *norm(f"{layer}.input_layernorm", f"{path}/self_residual/norm", bias=False),
            *attention(names, f"{path}/self_attention", biases=decoder.biases),
            *norm(f"{layer}.post_attention_layernorm", f"{path}/feed_forward_residual/norm", bias=False),
        ]
        for name, part in (("gate_proj", "expand"), ("up_proj", "gate"), ("down_proj", "contract")):
            rows += linear(f"{layer}.mlp.{name}", f"{path}/feed_forward/{part}", bias=False)
        if decoder.query_key_norm:
            for part in ("query", "key"):
                rows += norm(f"{layer}.self_attn.{part[0]}_norm", f"{path}/self_attention/{part}_norm", bias=False)
        return tuple(rows)


def windows(
    window: int | None, layer_types: Sequence[str] | None, *, num_layers: int, every: int | None, origin: str
) -> dict[str, Any]:
    """Settings of a stack with windows in its self-attention.

    Args:
        window: tokens; None = there is none.
        layer_types: sliding_attention or full_attention, by layer; None = each n-th layer is full.
        every: that n; None = no layer is.

    Raises:
        ValueError: other types, or layers in another order.
    """
    if layer_types is not None:
        full = [index for index, kind in enumerate(layer_types, 1) if kind == "full_attention"]
        every = full[0] if full else None
        expected = [
            "full_attention" if every and not index % every else "sliding_attention"
            for index in range(1, num_layers + 1)
        ]
        if list(layer_types) != expected:
            raise ValueError(
                f"{origin} has the layer_types {' '.join(layer_types)}; built are sliding_attention in all layers, or "
                "in all but each n-th, which has full_attention."
            )
    if window is None or every == 1:
        return {}
    return {"attention_window": window, "full_attention_every": every}


def rotary(values: Mapping[str, Any], *, origin: str) -> RotaryConfig:
    """Frequencies, as the fields rope_parameters, or rope_theta and rope_scaling, say.

    Raises:
        ValueError: a way to scale that is not built.
    """
    scaling = dict(values["rope_parameters"] or values["rope_scaling"] or {})
    base = float(scaling.get("rope_theta") or values["rope_theta"] or 10_000.0)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return RotaryConfig(base=base)
    if kind == "linear":
        return RotaryConfig(base=base, factor=float(scaling["factor"]))
    if kind == "llama3":
        return RotaryConfig(
            base=base,
            factor=float(scaling["factor"]),
            keep_above=float(scaling["high_freq_factor"]),
            divide_below=float(scaling["low_freq_factor"]),
            trained_length=scaling["original_max_position_embeddings"],
        )
    raise ValueError(f"{origin} has rotary positions of the type {kind!r}; built are default, linear and llama3.")


class Mistral(Llama):
    """Llama, in which all layers may have a window."""

    model_type = "mistral"
    architecture = "MistralForCausalLM"
    read: ClassVar[Mapping[str, Any]] = Llama.read | {"sliding_window": None}

    def settings(self, values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
        found = windows(
            values["sliding_window"], None, num_layers=values["num_hidden_layers"], every=None, origin=origin
        )
        return {"attention_bias": False, **found}


class Qwen2(Llama):
    """Llama with biases on query, key and value."""

    model_type = "qwen2"
    architecture = "Qwen2ForCausalLM"
    only: ClassVar[Mapping[str, Only]] = Llama.only | {
        "use_sliding_window": Only((False,), "sliding windows of the upper layers alone are not built"),
        "use_mrope": Only((False,), "positions in several dims are not built"),
    }
    ignored: ClassVar[Mapping[str, str]] = Llama.ignored | dict.fromkeys(
        ("sliding_window", "max_window_layers", "layer_types"), "use_sliding_window is False"
    )

    def settings(self, values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
        return {"biased_projections": ("query", "key", "value")}


class Qwen3(Qwen2):
    """Llama with normalised queries and keys."""

    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    read: ClassVar[Mapping[str, Any]] = Llama.read | {"head_dim": 128}

    def settings(self, values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
        return {"query_key_norm": True, "attention_bias": bool(values["attention_bias"])}


class Gemma(Llama):
    """Llama with scaled embeddings and norms by 1 plus their parameter."""

    model_type = "gemma"
    architecture = "GemmaForCausalLM"
    read: ClassVar[Mapping[str, Any]] = Llama.read | {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": None,
        "head_dim": 256,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    only: ClassVar[Mapping[str, Only]] = Llama.only | {
        "use_bidirectional_attention": Only((None, False), "attention in both directions is not built for decoders"),
    }

    def settings(self, values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
        # The first configs of Gemma say gelu, and have always meant the tanh.
        old = "gelu_pytorch_tanh" if values["hidden_act"] == "gelu" else values["hidden_act"]
        return {
            "activation": activation(values["hidden_activation"] or old, origin=origin),
            "normalization": "rms_plus_one",
            "attention_bias": bool(values["attention_bias"]),
        }


def gemma2_settings(values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """In what Gemma 2 differs from Gemma: norms on both sides of a branch, caps, a scale of its own, windows."""
    return {
        "norm_position": "both",
        "attention_scale": values["query_pre_attn_scalar"] ** -0.5,
        "attention_cap": values["attn_logit_softcapping"],
        **windows(
            values["sliding_window"],
            values["layer_types"],
            num_layers=values["num_hidden_layers"],
            every=values.get("sliding_window_pattern", 2),
            origin=origin,
        ),
    }


class Gemma2(Gemma):
    """Gemma with norms before and behind a branch, bounded scores and logits, windows in every second layer."""

    model_type = "gemma2"
    architecture = "Gemma2ForCausalLM"
    read: ClassVar[Mapping[str, Any]] = Gemma.read | {
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "layer_types": None,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    }
    ignored: ClassVar[Mapping[str, str]] = Gemma.ignored | {
        "cache_implementation": "says nothing of the model",
        "sliding_window_size": "sliding_window says it",
    }

    def settings(self, values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
        return super().settings(values, origin=origin) | gemma2_settings(values, origin=origin)

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        described = super().describe(values, names, origin=origin)
        return dataclasses.replace(described, model={"logit_cap": values["final_logit_softcapping"]})

    def table(self, described: Described) -> tuple[Entry, ...]:
        rows = super().table(described)
        layer, path = "layers.{layer}", "decoder/layer"
        # What Llama has between its branches stands behind the first of them.
        moved = f"{layer}.post_attention_layernorm.weight"
        return (
            *(row for row in rows if row.name != moved),
            *norm(f"{layer}.post_attention_layernorm", f"{path}/self_residual/norm_after", bias=False),
            *norm(f"{layer}.pre_feedforward_layernorm", f"{path}/feed_forward_residual/norm", bias=False),
            *norm(f"{layer}.post_feedforward_layernorm", f"{path}/feed_forward_residual/norm_after", bias=False),
        )


class Gemma3(Gemma2):
    """Gemma 2 without caps, with normalised queries and keys, windows in five of six layers, which have another
    rotary base.
    """

    model_type = "gemma3_text"
    architecture = "Gemma3ForCausalLM"
    read: ClassVar[Mapping[str, Any]] = Gemma2.read | {
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10_000.0,
    }
    only: ClassVar[Mapping[str, Only]] = Gemma2.only | {
        "attn_logit_softcapping": Only((None,), "transformers does not bound the scores of Gemma 3"),
    }
    ignored: ClassVar[Mapping[str, str]] = Gemma2.ignored | {"_sliding_window_pattern": "layer_types say it"}

    def settings(self, values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
        settings = super().settings(values, origin=origin) | {"query_key_norm": True}
        parameters = values["rope_parameters"]
        if parameters is None:
            whole, local = values, {**values, "rope_theta": values["rope_local_base_freq"], "rope_scaling": None}
        else:
            whole, local = (
                {**values, "rope_parameters": parameters[kind]} for kind in ("full_attention", "sliding_attention")
            )
        settings["rotary"] = rotary(whole, origin=origin)
        if "attention_window" in settings:
            settings["window_rotary"] = rotary(local, origin=origin)
        return settings


FAMILIES = (Gpt2(), Llama(), Mistral(), Qwen2(), Qwen3(), Gemma(), Gemma2(), Gemma3())
