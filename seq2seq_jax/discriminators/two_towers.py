"""Two towers: source and text each become a vector, and a small network compares these."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Memory, TokenRows, Vocabulary
from seq2seq_jax.discriminators.discriminator import DiscriminatorConfig, DiscriminatorModule
from seq2seq_jax.encoders.convolutional import ConvolutionalEncoderConfig
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.embedding import Embedding
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.settings import check_rates, check_sizes
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class PooledConvolutionConfig:
    """Convolutions of several widths, each followed by its maximum over the text, and a highway layer (Kim 2014; Yu et
    al. 2017, SeqGAN, section 3.2).
    """

    model_dim: int = 64
    """Width of the embeddings."""
    widths: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Widths of the windows (tokens)."""
    filters: tuple[int, ...] = (64, 64, 64, 64, 64)
    """Filters of each width."""
    highway: bool = True
    """Whether a highway layer follows."""
    dropout: float = 0.25
    """Dropout on the vector of a text."""

    def __post_init__(self):
        check_values(self, type(self).__name__)
        check_sizes(self, "model_dim")
        check_rates(self, "dropout")
        if len(self.widths) != len(self.filters) or not self.widths or min(*self.widths, *self.filters) < 1:
            raise ValueError(
                "PooledConvolutionConfig needs as many filters as widths, each at least 1, and has widths = "
                f"{self.widths} and filters = {self.filters}."
            )

    @property
    def summary_dim(self) -> int:
        """Width of the vector of a text."""
        return sum(self.filters)

    def forward_flops(self, source: Amount) -> Amount:
        """Model FLOPs of a text of this many tokens."""
        widths = zip(self.widths, self.filters, strict=True)
        windows = sum(product_flops(source, width * self.model_dim, filters) for width, filters in widths)
        return windows + (2 * product_flops(1, self.summary_dim, self.summary_dim) if self.highway else 0.0)

    def build(self, *, precision: Precision) -> "PooledConvolution":
        """The module."""
        return PooledConvolution(self, precision)


class PooledConvolution(nn.Module):
    """The module. A window begins at each token, and what of it lies behind the end of a text is 0."""

    config: PooledConvolutionConfig
    precision: Precision

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch length model"], source: TokenRows, *, deterministic: bool) -> Memory:
        """See TransformerEncoder: the states are the inputs, and a segment's summary is its vector."""
        config, ids = self.config, source.segment_ids
        batch, length = ids.shape
        x = inputs.astype(jnp.float32)
        shifted = []
        for offset in range(max(config.widths)):
            room = ((0, 0), (0, offset))
            same = jnp.pad(ids, room)[:, offset:] == ids
            shifted.append(jnp.where(same[..., None], jnp.pad(x, (*room, (0, 0)))[:, offset:], 0.0))
        found = []
        for width, filters in zip(config.widths, config.filters, strict=True):
            product = Linear(
                input_dims=(width * config.model_dim,),
                output_dims=(filters,),
                axes=("model", "hidden"),
                bias=True,
                precision=self.precision,
                name=f"width_{width}",
            )
            found.append(nn.relu(product(jnp.concatenate(shifted[:width], axis=-1))))
        values = jnp.concatenate(found, axis=-1)
        if source.max_segments == 1:
            pooled = jnp.max(jnp.where(source.mask[..., None], values, 0.0), axis=1, keepdims=True)
            summary = jnp.pad(pooled, ((0, 0), (0, length - 1), (0, 0)))
        else:
            # Values are not negative, so the maximum of nothing is 0.
            segments = jnp.where(source.mask, ids - 1, length) + (length + 1) * jnp.arange(batch)[:, None]
            flat = jax.ops.segment_max(
                values.reshape(batch * length, -1), segments.reshape(-1), num_segments=batch * (length + 1)
            )
            summary = jnp.maximum(flat, 0.0).reshape(batch, length + 1, -1)[:, :length]
        if config.highway:
            size = config.summary_dim
            gate, change = (
                Linear(
                    input_dims=(size,),
                    output_dims=(size,),
                    axes=("model", "hidden"),
                    bias=True,
                    precision=self.precision,
                    name=name,
                )(summary)
                for name in ("highway_gate", "highway_change")
            )
            # Begins by carrying the vector on (Srivastava et al. 2015).
            gate = nn.sigmoid(gate - 2.0)
            summary = gate * nn.relu(change) + (1.0 - gate) * summary
        summary = Dropout(config.dropout)(summary, deterministic=deterministic)
        return Memory(states=inputs, values=inputs, summary=summary, segment_ids=ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowersConfig(DiscriminatorConfig):
    """A vector of the source and one of the text, projected to one width, and a network of one hidden layer over both
    and their product (Yang et al. 2018). Packs.
    """

    source: PooledConvolutionConfig | RecurrentEncoderConfig | TransformerEncoderConfig | ConvolutionalEncoderConfig = (
        PooledConvolutionConfig()
    )
    """What makes the vector of the source; of encoders their summary."""
    target: PooledConvolutionConfig | RecurrentEncoderConfig | TransformerEncoderConfig | ConvolutionalEncoderConfig = (
        PooledConvolutionConfig()
    )
    """What makes the vector of the text."""
    hidden_dim: int = 64
    """Width of what is compared, and of the hidden layer."""

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self, "hidden_dim")

    def module(self, model: ModelConfig, vocabulary: Vocabulary) -> "TwoTowers":
        """See DiscriminatorConfig.module."""
        return TwoTowers(self, vocabulary, model.precision)

    def forward_flops(self, source: Amount, target: Amount, *, model: ModelConfig, texts: int = 1) -> Amount:
        """See DiscriminatorConfig.forward_flops."""
        dim = self.hidden_dim
        of_source = self.source.forward_flops(source) + product_flops(1, self.source.summary_dim, dim)
        of_text = self.target.forward_flops(target) + product_flops(1, self.target.summary_dim, dim)
        return of_source + texts * (of_text + product_flops(1, 3 * dim, dim) + product_flops(1, dim, 1))


class TwoTowers(DiscriminatorModule):
    """The module."""

    config: TwoTowersConfig
    vocabulary: Vocabulary
    precision: Precision

    def setup(self):
        config, vocabulary, precision = self.config, self.vocabulary, self.precision
        self.source_embedding = Embedding(vocabulary.source_size, config.source.model_dim, precision)
        self.target_embedding = Embedding(vocabulary.target_size, config.target.model_dim, precision)
        self.source_tower = config.source.build(precision=precision)
        self.target_tower = config.target.build(precision=precision)

        def linear(inputs, outputs):
            return Linear(
                input_dims=(inputs,),
                output_dims=(outputs,),
                axes=("model", None),
                bias=True,
                precision="float32",
            )

        dim = config.hidden_dim
        self.source_projection = linear(config.source.summary_dim, dim)
        self.target_projection = linear(config.target.summary_dim, dim)
        self.hidden = linear(3 * dim, dim)
        self.score = linear(dim, 1)

    def encode(self, source: TokenRows, *, deterministic: bool) -> Float[Array, "batch segments hidden"]:
        """See DiscriminatorModule.encode: the projected vector of each segment."""
        memory = self.source_tower(self.source_embedding(source.tokens), source, deterministic=deterministic)
        return self.source_projection(memory.summary.astype(jnp.float32))

    def embed(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        """See DiscriminatorModule.embed."""
        return self.target_embedding(tokens)

    def judge(
        self, embedded: Float[Array, "batch target model"], target: TokenRows, encoded: Any, *, deterministic: bool
    ) -> Float[Array, "batch target"]:
        """See DiscriminatorModule.judge: at each position the logit of its text."""
        memory = self.target_tower(embedded, target, deterministic=deterministic)
        text = self.target_projection(memory.summary.astype(jnp.float32))
        segments = min(text.shape[1], encoded.shape[1])
        if target.max_segments == 1:
            segments = 1
        text, source = text[:, :segments], encoded[:, :segments]
        hidden = nn.relu(self.hidden(nn.tanh(jnp.concatenate([text, source, text * source], axis=-1))))
        logits = self.score(hidden)[..., 0]
        chosen = target.segment_ids[:, :, None] == jnp.arange(1, segments + 1)
        return jnp.einsum("bts,bs->bt", chosen.astype(logits.dtype), logits, precision=jax.lax.Precision.HIGHEST)
