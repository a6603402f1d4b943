"""The architectures that the contracts of a model are run over. A new family is one more row of the table."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary
from seq2seq_jax.decoders.convolutional import ConvolutionalDecoderConfig
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.global_attention import AdditiveAttentionConfig, DotAttentionConfig, GeneralAttentionConfig
from seq2seq_jax.modules.position import RotaryConfig
from seq2seq_jax.modules.precision import Precision

VOCABULARY = Vocabulary(source_size=29, target_size=29, joint=True, pad_id=0, bos_id=2, eos_id=3)
TINY_VOCABULARY = Vocabulary(source_size=6, target_size=6, joint=True, pad_id=0, bos_id=1, eos_id=2)

STACK = {
    "num_layers": 2,
    "model_dim": 16,
    "num_heads": 4,
    "hidden_dim": 32,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row of the table.

    Attributes:
        config: of the model.
        tolerance: how far two ways to the same logit (of order 1) or to the same gradient of a mean loss may lie
            apart. Rounding decides: bfloat16 keeps 8 bits, so that one rounding is an error of up to 2^-9 = 0.002 of a
            value, and a sum in another order rounds otherwise, once per layer and branch.
    """

    config: ModelConfig
    tolerance: float = 1e-5


def transformer(*, tied_embeddings="all", precision="float32", **settings) -> ModelConfig:
    """The same settings on both sides; `encoder` and `decoder` hold those of one side."""
    encoder, decoder = settings.pop("encoder", {}), settings.pop("decoder", {})
    return ModelConfig(
        encoder=TransformerEncoderConfig(**STACK | settings | encoder),
        decoder=TransformerDecoderConfig(**STACK | settings | decoder),
        tied_embeddings=tied_embeddings,
        precision=precision,
    )


def recurrent(*, tied_embeddings="all", precision="float32", **settings) -> ModelConfig:
    """The same settings on both sides; `encoder` and `decoder` hold those of one side."""
    encoder, decoder = settings.pop("encoder", {}), settings.pop("decoder", {})
    # Two directions of 8 are as wide as a decoder of 16, so that dots can be taken.
    widths = {"hidden_dim": 8}, {"hidden_dim": 16}
    settings = {"model_dim": 16, "dropout": 0.1} | settings
    return ModelConfig(
        encoder=RecurrentEncoderConfig(**widths[0] | settings | encoder),
        decoder=RecurrentDecoderConfig(**widths[1] | settings | decoder),
        tied_embeddings=tied_embeddings,
        precision=precision,
    )


def convolutional(*, tied_embeddings="all", precision="float32", **settings) -> ModelConfig:
    """The same settings on both sides; `encoder` and `decoder` hold those of one side."""
    encoder, decoder = settings.pop("encoder", {}), settings.pop("decoder", {})
    stack = {"num_layers": 2, "model_dim": 16, "hidden_dim": 24, "kernel_size": 3, "max_positions": 24, "dropout": 0.1}
    return ModelConfig(
        encoder=ConvolutionalEncoderConfig(**stack | settings | encoder),
        decoder=ConvolutionalDecoderConfig(**stack | settings | decoder),
        tied_embeddings=tied_embeddings,
        precision=precision,
    )


RELATIVE = {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 12}

ARCHITECTURES = {
    "transformer": Architecture(config=transformer()),
    "post_norm": Architecture(
        config=transformer(
            norm_position="post",
            positions="learned",
            max_positions=24,
            activation="gelu",
            tied_embeddings="decoder",
            scan_layers=True,
            remat="save_products",
            attention_kernel="blocked",
        )
    ),
    "rotary": Architecture(
        config=transformer(
            normalization="rms",
            positions="rotary",
            gated=True,
            activation="silu",
            num_kv_heads=2,
            attention_bias=False,
            attention_window=4,
            full_attention_every=2,
            window_rotary=RotaryConfig(base=100.0),
            tied_embeddings="none",
            scan_layers=True,
        )
    ),
    "relative": Architecture(
        config=transformer(
            normalization="rms",
            gated=True,
            activation="gelu",
            attention_bias=False,
            scan_layers=True,
            attention_kernel="blocked",
            **RELATIVE,
        )
    ),
    "conformer": Architecture(config=transformer(num_layers=1, positions="rotary", encoder={"convolution_kernel": 5})),
    "post_norm_scanned": Architecture(
        config=transformer(norm_position="post", normalization="rms", num_kv_heads=1, scan_layers=True, remat="full")
    ),
    "sides_differ": Architecture(
        config=transformer(
            encoder={"num_layers": 1, "model_dim": 24, "num_heads": 2, "positions": "rotary"},
            decoder={"head_dim": 6, "num_kv_heads": 2, "relative_per_layer": True, **RELATIVE},
            tied_embeddings="decoder",
        )
    ),
    "switches_of_imported_models": Architecture(
        config=dataclasses.replace(
            transformer(
                normalization="rms_plus_one",
                norm_position="both",
                norm_epsilon=1e-3,
                embedding_norm=True,
                query_key_norm=True,
                positions="learned",
                max_positions=26,
                position_offset=2,
                token_types=2,
                attention_scale=0.4,
                attention_cap=1.5,
                attention_window=3,
                biased_projections=("query", "value"),
                activation="gelu_exact",
                tied_embeddings="inputs",
            ),
            scaled_embeddings="none",
            logit_scale=0.5,
            logit_bias=True,
            logit_cap=2.0,
        )
    ),
    "bfloat16": Architecture(
        config=transformer(precision="bfloat16", num_kv_heads=2, scan_layers=True), tolerance=0.05
    ),
    "bfloat16_products": Architecture(
        config=transformer(precision="bfloat16_products", positions="rotary", scan_layers=True), tolerance=0.05
    ),
    "gru_additive_feeding": Architecture(
        config=recurrent(
            cell="gru",
            decoder={
                "input_feeding": True,
                "attention": AdditiveAttentionConfig(attention_dim=10),
                "deep_output": True,
            },
        )
    ),
    "lstm_coverage": Architecture(config=recurrent(decoder={"attention": AdditiveAttentionConfig(coverage=True)})),
    "gru_general_feeding": Architecture(
        config=recurrent(
            cell="gru",
            num_layers=2,
            residual_from=2,
            layer_norm=True,
            recurrent_dropout=0.1,
            variational_dropout=True,
            decoder={"attention": GeneralAttentionConfig(), "attention_layer": "first", "input_feeding": True},
        )
    ),
    "gru_dot_reversed": Architecture(
        config=recurrent(
            cell="gru",
            hidden_dim=12,
            encoder={"bidirectional_layers": 0, "reverse_source": True, "recurrent_dropout": 0.1},
            decoder={"attention": DotAttentionConfig()},
            tied_embeddings="none",
        )
    ),
    "gnmt": Architecture(
        config=recurrent(
            num_layers=3,
            residual_from=3,
            layer_norm=True,
            encoder={"bidirectional_layers": 1},
            decoder={
                "attention": DotAttentionConfig(scaled=True),
                "attention_layer": "first",
                "num_layers": 4,
                "hidden_dim": 8,
            },
        )
    ),
    "gnmt_bfloat16": Architecture(
        config=recurrent(
            num_layers=3,
            residual_from=3,
            encoder={"bidirectional_layers": 1},
            decoder={"attention_layer": "first"},
            precision="bfloat16",
        ),
        tolerance=0.03,
    ),
    "lstm_bfloat16_products": Architecture(
        config=recurrent(
            decoder={"attention": GeneralAttentionConfig(), "input_feeding": True}, precision="bfloat16_products"
        ),
        tolerance=0.05,
    ),
    "convolutional_scanned": Architecture(
        config=convolutional(
            scan_layers=True, remat="save_products", tied_embeddings="decoder", decoder={"kernel_size": 1}
        )
    ),
    "convolutional_even": Architecture(
        config=convolutional(
            scan_layers=True,
            remat="full",
            tied_embeddings="none",
            encoder={"kernel_size": 5},
            decoder={"kernel_size": 4},
        )
    ),
    "convolutional_widths": Architecture(
        config=convolutional(
            tied_embeddings="decoder", encoder={"model_dim": 20, "num_layers": 1}, decoder={"hidden_dim": 12}
        )
    ),
    "convolutional_bfloat16": Architecture(config=convolutional(precision="bfloat16"), tolerance=0.02),
    "convolutional_bfloat16_products": Architecture(
        config=convolutional(precision="bfloat16_products"), tolerance=0.02
    ),
}

ATTENTIONS = {
    "none": None,
    "additive": AdditiveAttentionConfig(),
    "general": GeneralAttentionConfig(),
    "dot": DotAttentionConfig(),
    "scaled_dot": DotAttentionConfig(scaled=True),
}

# One layer each: how layers follow each other is seen in the variants above.
SHALLOW = {"transformer": transformer(num_layers=1), "convolutional": convolutional(num_layers=1)}
ENCODERS = {name: config.encoder for name, config in SHALLOW.items()} | {"recurrent": recurrent().encoder}
DECODERS = {name: config.decoder for name, config in SHALLOW.items()} | {
    f"recurrent_{name}": recurrent(decoder={"attention": attention}).decoder for name, attention in ATTENTIONS.items()
}
VARIANTS = dict(ARCHITECTURES)
"""The settings of each family; on both sides, where both sides have them."""

ARCHITECTURES |= {
    f"{encoder}-{decoder}": Architecture(config=ModelConfig(encoder=ENCODERS[encoder], decoder=DECODERS[decoder]))
    for encoder in ENCODERS
    for decoder in DECODERS
    if (encoder, decoder) != ("transformer", "transformer")
}
"""Any encoder with any decoder and any attention, beside the variants of each family above."""


COPYING = {
    "copying_transformer": transformer(num_layers=1),
    "copying_recurrent": recurrent(
        decoder={"attention": AdditiveAttentionConfig(coverage=True), "input_feeding": True}
    ),
    "copying_convolutional": convolutional(num_layers=1, tied_embeddings="decoder", encoder={"model_dim": 20}),
}
ARCHITECTURES |= {
    name: Architecture(config=dataclasses.replace(config, copying=True, copying_in_order=name != "copying_transformer"))
    for name, config in COPYING.items()
}
"""The same, with copies of source tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """An encoder, or a decoder, by itself.

    Attributes:
        config: of the encoder or the decoder.
        precision: of its model.
        memory_dim: width of an encoder's states.
        summary_dim: width of its summaries.
        tolerance: see `Architecture`.
    """

    config: Any
    precision: Precision
    memory_dim: int
    summary_dim: int
    tolerance: float


def _sides(side: str) -> dict[str, Side]:
    """Every encoder or every decoder of the variants, and every kind of attention, once."""
    rows = VARIANTS | {
        name.partition("-")[2]: architecture
        for name, architecture in ARCHITECTURES.items()
        if name.startswith("recurrent-recurrent")
    }
    found = {}
    for name, architecture in rows.items():
        model = architecture.config
        config = getattr(model, side)
        row = Side(
            config=config,
            precision=model.precision,
            memory_dim=model.encoder.memory_dim,
            summary_dim=model.encoder.summary_dim,
            tolerance=architecture.tolerance,
        )
        found.setdefault((config, model.precision), (name, row))
    return dict(found.values())


EVERY_ENCODER, EVERY_DECODER = _sides("encoder"), _sides("decoder")

FAMILIES = (
    "recurrent-transformer",
    "convolutional-convolutional",
    "transformer-recurrent_none",
    "gru_additive_feeding",
    "lstm_coverage",
    "gru_general_feeding",
    "gru_dot_reversed",
    "gnmt",
    "copying_transformer",
)
"""Names of pairs that have every encoder, every decoder and every kind of attention, for tests that take longer."""

MORE_FAMILIES = tuple(
    f"{encoder}-recurrent_{attention}"
    for encoder, attention in (
        ("recurrent", "additive"),
        ("convolutional", "general"),
        ("transformer", "dot"),
        ("recurrent", "scaled_dot"),
    )
)
"""The same kinds of attention without anything else."""


def random_parameters(module: nn.Module, *inputs: Any, seed: int = 0, **arguments: Any) -> Any:
    """Noise in the shapes of a module's parameters, for inputs like these.

    Initial values would hide what adds a bias of 0 or multiplies with a scale of 1; and to compile a module's
    initialisation takes as long as to compile the module.
    """
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **arguments))["params"]
    rng = np.random.default_rng(seed)

    def values(path, leaf):
        noise = rng.normal(scale=0.3, size=leaf.shape)
        return jnp.asarray(noise + 1.0 if path[-1].key == "scale" else noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(values, nn.meta.unbox(shapes))


def parameters(model: EncoderDecoder, seed: int = 0) -> Any:
    """`random_parameters` of a model."""
    ones = jnp.ones((1, 2), jnp.int32)
    sequence = TokenRows(tokens=ones, segment_ids=ones, positions=ones)
    return random_parameters(model, Batch(source=sequence, target=sequence), seed=seed)
