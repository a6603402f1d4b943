"""Whisper: an encoder of frames, and a decoder."""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.modules.front_end import FeaturesConfig
from seq2seq_jax.pretrained.families.bart import SIDES, Bart
from seq2seq_jax.pretrained.family import OUTPUT, TARGET, Described
from seq2seq_jax.pretrained.fields import REQUIRED, Only, activation
from seq2seq_jax.pretrained.table import Entry
from seq2seq_jax.pretrained.transforms import Convolution, Reshaped

WINDOW = 3
"""Vectors that a convolution reads."""
LEFT_OUT = ("max_position_embeddings", "scale_embedding")
"""Fields of BART's config that Whisper's has not, or has for nothing."""


class Whisper(Bart):
    """Pre-norm, two convolutions over log-mel frames, keys without biases.

    The log-mel features themselves are made outside: sources are frames of features, 30 seconds of them, as Whisper was
    trained with.
    """

    model_type = "whisper"
    architecture = "WhisperForConditionalGeneration"
    norm_position = "pre"
    embedding_norm = False
    read: ClassVar[Mapping[str, Any]] = {
        **{name: default for name, default in Bart.read.items() if name not in LEFT_OUT},
        "num_mel_bins": 80,
        "max_source_positions": 1_500,
        "max_target_positions": 448,
        "decoder_start_token_id": REQUIRED,
        "suppress_tokens": None,
        "dropout": 0.0,
        "pad_token_id": 50_256,
        "bos_token_id": 50_256,
        "eos_token_id": 50_256,
    }
    only: ClassVar[Mapping[str, Only]] = {
        "scale_embedding": Only((False,), "transformers does not scale Whisper's embeddings"),
        "use_weighted_layer_sum": Only((False,), "sums of layers are of another head"),
    }
    ignored: ClassVar[Mapping[str, str]] = {
        "classifier_proj_size": "is of another head",
        "median_filter_width": "is of timestamps of words",
        "forced_decoder_ids": "the tokenizer begins targets",
        **dict.fromkeys(
            (
                "apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob",
                "mask_feature_length", "mask_feature_min_masks",
            ),
            "model.front_end.spec_augment masks frames",
        ),
    }  # fmt: skip
    tied: ClassVar[Mapping[str, tuple[str, ...]]] = {
        TARGET: ("model.decoder.embed_tokens.weight",),
        OUTPUT: ("proj_out.weight",),
    }

    def describe(self, values: Mapping[str, Any], names: Collection[str], *, origin: str) -> Described:
        limits = {"encoder": "max_source_positions", "decoder": "max_target_positions"}
        stacks = {
            side: {
                "model_dim": values["d_model"],
                "num_layers": values[f"{side}_layers"],
                "num_heads": values[f"{side}_attention_heads"],
                "hidden_dim": values[f"{side}_ffn_dim"],
                "activation": activation(values["activation_function"], origin=origin),
                "norm_epsilon": values["norm_epsilon"],
                "biased_projections": ("query", "value", "output"),
                "positions": "learned",
                "max_positions": values[limits[side]],
                "dropout": float(values["dropout"]),
                "attention_dropout": float(values["attention_dropout"]),
                "hidden_dropout": float(values["activation_dropout"]),
            }
            for side in SIDES
        }
        front_end = FeaturesConfig(
            features=values["num_mel_bins"],
            normalization="none",
            convolutions=2,
            strides=(1, 2),
            kernel_size=WINDOW,
            activation="gelu_exact",
            projection=False,
            dropout=0.0,
        )
        return Described(
            values=values,
            encoder=TransformerEncoderConfig(**stacks["encoder"]),
            decoder=TransformerDecoderConfig(**stacks["decoder"]),
            model={"logit_bias": False, "front_end": front_end},
            vocabulary_size=values["vocab_size"],
        )

    def table(self, described: Described) -> tuple[Entry, ...]:
        rows = list(super().table(described))
        for index in range(2):
            name, path = f"model.encoder.conv{index + 1}", f"front_end/convolutions_{index}/Linear_0"
            rows.append(Entry(f"{name}.weight", (f"{path}/kernel",), Convolution(WINDOW)))
            rows.append(Entry(f"{name}.bias", (f"{path}/bias",), Reshaped()))
        return tuple(rows)


FAMILIES = (Whisper(),)
