"""A Transformer as the files of a CTranslate2 model, from our own parameters.

Not by way of transformers: of CTranslate2's own loaders some are silently wrong (T5 1.1), and some refuse (BART without
normalize_before).
"""

import importlib
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.position import sinusoidal
from seq2seq_jax.modules.transformer import TransformerConfig

Quantization = Literal["float32", "float16", "bfloat16", "int16", "int8", "int8_float16"]

ACTIVATIONS = {"relu": "RELU", "gelu": "GELUTanh", "gelu_exact": "GELU", "silu": "SWISH"}
"""Name of an activation here -> there."""


def check_model(model: ModelConfig, *, name: str) -> None:
    """Refuse what CTranslate2 has not.

    Args:
        name: of the run, for messages.

    Raises:
        ValueError: with what stands in the way.
    """
    reason = _obstacle(model)
    if reason is not None:
        raise ValueError(f"{name} has a model that CTranslate2 has not: {reason}.")
    if importlib.util.find_spec("ctranslate2") is None:
        raise ValueError("--format ctranslate2 needs the package ctranslate2, which is not installed: pip install it.")


def _obstacle(model: ModelConfig) -> str | None:
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        if not isinstance(stack, TransformerConfig):
            return f"its {side} is no Transformer"
        if stack.norm_position == "both":
            return f"model.{side}.norm_position is both"
        if stack.query_key_norm:
            return f"model.{side}.query_key_norm is True"
        if stack.attention_cap is not None or stack.attention_window is not None:
            return f"model.{side} has an attention_cap or an attention_window"
        if side == "encoder" and stack.convolution_kernel is not None:
            return "model.encoder.convolution_kernel is set"
        if stack.positions == "rotary" and (stack.rotary.factor != 1.0 or stack.rotary.trained_length is not None):
            return f"model.{side}.rotary scales positions"
    if model.front_end is not None:
        return "its sources are frames (model.front_end)"
    if model.logit_cap is not None:
        return f"model.logit_cap is {model.logit_cap:g}"
    if model.copying or model.num_experts > 1:
        return "it copies from its source" if model.copying else "it has several experts"
    epsilons = [stack.norm_epsilon for stack in (model.encoder, model.decoder)]
    if epsilons[0] != epsilons[1]:
        return f"norm_epsilon is {epsilons[0]:g} in its encoder and {epsilons[1]:g} in its decoder"
    return None


def build_spec(model: ModelConfig, params: Mapping[str, Any], vocabulary: Vocabulary, *, longest: int) -> Any:
    """The specification of CTranslate2, filled.

    Args:
        params: of the model, by path, without changes of low rank.
        vocabulary: of the model.
        longest: positions of each side where positions have no limit of their own.
    """
    specs = importlib.import_module("ctranslate2.specs")
    # Copies, since quantisation scales them in place.
    arrays = {path: np.array(values, np.float32) for path, values in params.items()}
    stacks = {}
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        kind = getattr(specs.transformer_spec, f"Transformer{side.title()}Spec")
        settings: dict[str, Any] = {
            "pre_norm": stack.norm_position == "pre",
            "activation": specs.common_spec.Activation[ACTIVATIONS[stack.activation]],
            "layernorm_embedding": stack.embedding_norm,
            "relative_attention_bias": stack.positions == "relative",
            "ffn_glu": stack.gated,
            "rms_norm": stack.normalization != "layer",
            "head_dim": stack.dim_per_head,
            "num_heads_kv": stack.kv_heads if stack.kv_heads != stack.num_heads else None,
        }
        if stack.positions == "rotary":
            settings |= {
                "rotary_dim": stack.dim_per_head,
                "rotary_interleave": False,
                "rotary_base": stack.rotary.base,
            }
        spec = kind(stack.num_layers, stack.num_heads, **settings)
        _fill_stack(spec, stack, side, arrays, longest=longest)
        is_scaled = model.scaled_embeddings in ("both", "source" if side == "encoder" else "target")
        spec.scale_embeddings = math.sqrt(stack.model_dim) if is_scaled else False
        stacks[side] = spec
    target = arrays["target_embedding/table"]
    stacks["encoder"].embeddings[0].weight = arrays.get("source_embedding/table", target)
    decoder = stacks["decoder"]
    decoder.embeddings.weight = target
    decoder.projection.weight = arrays.get("output/table", target)
    if model.logit_bias:
        decoder.projection.bias = arrays["logit_bias"]
    if model.logit_scale is not None:
        decoder.scale_outputs = np.float32(model.logit_scale)
    return specs.transformer_spec.TransformerSpec(stacks["encoder"], decoder)


def _fill_stack(
    spec: Any, stack: TransformerConfig, side: str, arrays: Mapping[str, np.ndarray], *, longest: int
) -> None:
    """Fill all of a stack but its embeddings."""
    frame = f"{side}/frame"
    types = arrays[f"{frame}/types"][0] if stack.token_types else None
    encodings = None
    if stack.positions == "learned":
        encodings = arrays[f"{frame}/learned/table"][stack.position_offset :]
    elif stack.positions in ("sinusoidal", "sinusoidal_open"):
        positions = jnp.arange(longest) + stack.position_offset
        is_open = stack.positions == "sinusoidal_open"
        encodings = np.asarray(sinusoidal(positions, model_dim=stack.model_dim, is_open=is_open))
    elif types is not None:
        raise ValueError(f"model.{side}.token_types without positions that are added is not exported to CTranslate2.")
    if encodings is not None:
        # All tokens have the first type.
        spec.position_encodings.encodings = encodings if types is None else encodings + types
    if stack.embedding_norm:
        _fill_norm(spec.layernorm_embedding, f"{frame}/embedding_norm", stack, arrays)
    if stack.norm_position == "pre":
        _fill_norm(spec.layer_norm, f"{frame}/norm", stack, arrays)
    own, residual = ("attention", "attention") if side == "encoder" else ("self_attention", "self")
    for index, layer in enumerate(spec.layer):
        of_layer = {
            path.removeprefix(f"{side}/layer/"): values[index]
            for path, values in arrays.items()
            if path.startswith(f"{side}/layer/")
        }
        _fill_attention(layer.self_attention, own, of_layer, stack, is_self=True)
        _fill_norm(layer.self_attention.layer_norm, f"{residual}_residual/norm", stack, of_layer)
        if stack.positions == "relative":
            own_bias = of_layer.get("relative/table")
            layer.self_attention.relative_attention_bias = (
                arrays[f"{frame}/relative/table"] if own_bias is None else own_bias
            )
            layer.self_attention.relative_attention_max_distance = np.int32(stack.relative_max_distance)
        if side == "decoder":
            _fill_attention(layer.attention, "cross_attention", of_layer, stack, is_self=False)
            _fill_norm(layer.attention.layer_norm, "cross_residual/norm", stack, of_layer)
        names = {"expand": "linear_0", "gate": "linear_0_noact", "contract": "linear_1"}
        for part, name in names.items():
            if part != "gate" or stack.gated:
                _fill_linear(getattr(layer.ffn, name), [f"feed_forward/{part}"], of_layer)
        _fill_norm(layer.ffn.layer_norm, "feed_forward_residual/norm", stack, of_layer)


def _fill_norm(spec: Any, path: str, stack: TransformerConfig, arrays: Mapping[str, np.ndarray]) -> None:
    spec.gamma = arrays[f"{path}/scale"] + (1.0 if stack.normalization == "rms_plus_one" else 0.0)
    if stack.normalization == "layer":
        spec.beta = arrays[f"{path}/bias"]


def _fill_attention(
    spec: Any, path: str, arrays: Mapping[str, np.ndarray], stack: TransformerConfig, *, is_self: bool
) -> None:
    joined = [["query", "key", "value"]] if is_self else [["query"], ["key", "value"]]
    for linear, parts in zip(spec.linear, [*joined, ["output"]], strict=True):
        _fill_linear(linear, [f"{path}/{part}" for part in parts], arrays, inputs=2 if parts == ["output"] else 1)
    if stack.attention_scale is not None:
        spec.queries_scale = np.float32(stack.attention_scale)


def _fill_linear(spec: Any, paths: list[str], arrays: Mapping[str, np.ndarray], *, inputs: int = 1) -> None:
    """Linear layers beside each other; a bias that some of them lack is zero."""
    kernels = [arrays[f"{path}/kernel"] for path in paths]
    flat = [kernel.reshape(math.prod(kernel.shape[:inputs]), -1) for kernel in kernels]
    spec.weight = np.ascontiguousarray(np.concatenate(flat, axis=1).T)
    if any(f"{path}/bias" in arrays for path in paths):
        spec.bias = np.concatenate(
            [arrays[f"{path}/bias"].reshape(-1) if f"{path}/bias" in arrays else np.zeros(kernel.shape[1], np.float32)
             for path, kernel in zip(paths, flat, strict=True)]
        )  # fmt: skip


def tokens_of(tokenizer: Tokenizer) -> dict[str, list[str]]:
    """The tokens of each side as CTranslate2 names them: pieces, made different where two are the same."""
    found = {}
    for side in ("source", "target"):
        pieces = (tokenizer.source_pieces if side == "source" else tokenizer.target_pieces)(
            range(getattr(tokenizer.vocabulary, f"{side}_size"))
        )
        seen: set[str] = set()
        names = []
        for token, piece in enumerate(pieces):
            name = piece if piece and piece not in seen else f"{piece}<{token}>"
            seen.add(name)
            names.append(name)
        found[side] = names
    return found


def write_model(
    directory: Path,
    model: ModelConfig,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    longest: int,
    quantization: Quantization,
) -> None:
    """Write model.bin, config.json and the vocabularies.

    Args:
        params: see `build_spec`.
        longest: see `build_spec`.
    """
    vocabulary, tokens = tokenizer.vocabulary, tokens_of(tokenizer)
    spec = build_spec(model, params, vocabulary, longest=longest)
    spec.register_source_vocabulary(tokens["source"])
    spec.register_target_vocabulary(tokens["target"])
    unknown = tokenizer.unknown_id
    spec.config.unk_token = tokens["target"][vocabulary.pad_id if unknown is None else unknown]
    spec.config.bos_token = tokens["target"][vocabulary.bos_id]
    spec.config.eos_token = tokens["target"][vocabulary.eos_id]
    spec.config.decoder_start_token = tokens["target"][vocabulary.bos_id]
    # Sources are given with the token that ends them.
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.config.layer_norm_epsilon = model.encoder.norm_epsilon
    spec.validate()
    spec.optimize(None if quantization == "float32" else quantization)
    spec.save(str(directory))


def scores(directory: Path, source: list[str], target: list[str], *, quantization: Quantization) -> list[float]:
    """What a written model gives for a pair: the log-probability of each target token.

    Args:
        source, target: tokens, without the target's EOS token, whose log-probability is the last one.
    """
    ctranslate2 = importlib.import_module("ctranslate2")
    exact = {"compute_type": "float32"} if quantization in ("float32", "float16", "bfloat16") else {}
    translator = ctranslate2.Translator(str(directory), device="cpu", intra_threads=1, **exact)
    [result] = translator.score_batch([source], [target])
    return list(result.log_probs)
