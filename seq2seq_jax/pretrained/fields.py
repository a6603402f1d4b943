"""Fields of another project's config: read, allowed with some values only, or ignored by name with the reason.

A field that is none of these is refused: whatever it says would be lost in silence.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from seq2seq_jax.pretrained.safetensors_files import describe_names

GENERATION = "how text is generated is a setting of this project"
BOOKKEEPING = "says nothing of the model"
INITIALIZATION = "is of new parameters"
HEADS = "is of another head than that of a language model"

IGNORED: dict[str, str] = {
    **dict.fromkeys(
        (
            "_name_or_path", "_attn_implementation_autoset", "_num_labels", "add_cross_attention", "architectures",
            "auto_map", "chunk_size_feed_forward", "dtype", "finetuning_task", "id2label", "is_decoder",
            "is_encoder_decoder", "label2id", "model_type", "output_attentions", "output_hidden_states", "output_past",
            "problem_type", "pruned_heads", "return_dict", "tokenizer_class", "torch_dtype", "torchscript",
            "transformers_version", "transformers.js_config", "use_bfloat16", "use_cache",
        ),
        BOOKKEEPING,
    ),
    **dict.fromkeys(
        (
            "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
            "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "length_penalty", "max_length",
            "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences",
            "output_scores", "prefix", "remove_invalid_values", "repetition_penalty", "return_dict_in_generate",
            "suppress_tokens", "task_specific_params", "temperature", "top_k", "top_p", "typical_p",
            "return_all_captions",
        ),
        GENERATION,
    ),
    **dict.fromkeys(("init_std", "initializer_range", "initializer_factor"), INITIALIZATION),
    **dict.fromkeys(("classifier_dropout", "classifier_dropout_prob", "classif_dropout", "num_labels"), HEADS),
    "encoder_layerdrop": "layers are not dropped in training here",
    "decoder_layerdrop": "layers are not dropped in training here",
    "layerdrop": "layers are not dropped in training here",
    "gradient_checkpointing": "model.encoder.remat and model.decoder.remat say it here",
    "sep_token_id": "the tokenizer has it",
    "cross_attention_hidden_size": "the encoder has it",
    "num_hidden_layers": "each side has its own number",
    "quantization_config": BOOKKEEPING,
}  # fmt: skip
"""Field -> why no family reads it."""

REQUIRED = object()
"""Stands for the default of a field that must be there."""


@dataclasses.dataclass(frozen=True)
class Only:
    """A field that may have some values alone.

    Attributes:
        values: those; one that is left out is as if it had the first.
        reason: what is not built.
    """

    values: tuple[Any, ...]
    reason: str


def read_fields(
    config: Mapping[str, Any],
    *,
    read: Mapping[str, Any],
    only: Mapping[str, Only],
    ignored: Mapping[str, str],
    allowed: Collection[str] = (),
    origin: str,
) -> dict[str, Any]:
    """The values of the fields that are read.

    Args:
        config: as JSON gave it.
        read: name -> default, or REQUIRED.
        only: name -> values that it may have.
        ignored: name -> why it is ignored, beside `IGNORED`.
        allowed: further names that the user has said may be ignored.
        origin: the file, for messages.

    Raises:
        ValueError: a field is missing, has a value that is not built, or is not known.
    """
    missing = [name for name, default in read.items() if default is REQUIRED and config.get(name) is None]
    if missing:
        raise ValueError(f"{origin} lacks {describe_names(missing)}, which its model_type needs. Add them.")
    for name, values in only.items():
        value = config.get(name, values.values[0])
        if value not in values.values and name not in allowed:
            raise ValueError(
                f"{origin} has {name} = {value!r}, and {values.reason}; expected "
                f"{' or '.join(repr(each) for each in values.values)}."
            )
    unknown = sorted(config.keys() - read.keys() - only.keys() - ignored.keys() - IGNORED.keys() - set(allowed))
    if unknown:
        raise ValueError(
            f"{origin} has fields that are not known here: {describe_names(unknown)}. If they change nothing of the "
            "model, name them with --ignore_fields."
        )
    return {name: config.get(name, default) for name, default in read.items()}


ACTIVATIONS = {
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Name of an activation there -> here."""


def activation(name: str, *, origin: str) -> str:
    """The name of an activation here.

    Raises:
        ValueError: it is not built.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"{origin} has the activation {name!r}; built are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def activation_there(name: str) -> str:
    """The inverse of `activation`."""
    return {"gelu_exact": "gelu", "gelu": "gelu_new"}.get(name, name)
