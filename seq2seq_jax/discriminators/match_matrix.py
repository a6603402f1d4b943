"""The match matrix: every source token against every token of the text, and a convolutional network over them."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import TokenRows, Vocabulary
from seq2seq_jax.discriminators.discriminator import DiscriminatorConfig, DiscriminatorModule
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.embedding import Embedding
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.settings import check_rates, check_sizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchMatrixConfig(DiscriminatorConfig):
    """Pairs of tokens, source by text, as an image of `channels[0]` channels; convolutions with kernels of
    `kernel_size` squared, each but the last followed by maxima over squares of 2; the maximum and the mean over what is
    left; and a hidden layer (Hu et al. 2014; Wu et al. 2017, Adversarial-NMT, section 3.2).
    """

    requires_unpacked_rows: ClassVar[bool] = True

    model_dim: int = 64
    """Width of the embeddings."""
    channels: tuple[int, ...] = (32, 32)
    """Channels of the image, and of each convolution."""
    kernel_size: int = 3
    """Tokens on each side of a kernel; odd."""
    hidden_dim: int = 64
    """Width of the hidden layer."""
    dropout: float = 0.1
    """Dropout on the embeddings, and before the hidden layer."""

    def __post_init__(self):
        super().__post_init__()
        check_sizes(self, "model_dim", "hidden_dim")
        check_rates(self, "dropout")
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ValueError(
                "MatchMatrixConfig.channels needs those of the image and of at least one convolution, each at least 1, "
                f"and is {self.channels}."
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"MatchMatrixConfig.kernel_size must be odd and positive, not {self.kernel_size}.")

    def module(self, model: ModelConfig, vocabulary: Vocabulary) -> "MatchMatrix":
        """See DiscriminatorConfig.module."""
        return MatchMatrix(self, vocabulary, model.precision)

    def forward_flops(self, source: Amount, target: Amount, *, model: ModelConfig, texts: int = 1) -> Amount:
        """See DiscriminatorConfig.forward_flops."""
        first = self.channels[0]
        pairs = source * target
        convolutions = 0.0
        for inputs, outputs in zip(self.channels[:-1], self.channels[1:], strict=True):
            convolutions += product_flops(pairs, self.kernel_size**2 * inputs, outputs)
            pairs = pairs / 4
        of_text = product_flops(target, self.model_dim, first) + convolutions
        of_text += product_flops(1, 2 * self.channels[-1], self.hidden_dim)
        return product_flops(source, self.model_dim, first) + texts * of_text


@flax.struct.dataclass
class _Side:
    """The source's part of the image, and where there are tokens."""

    values: Float[Array, "batch source channels"]
    mask: Bool[Array, "batch source"]


class MatchMatrix(DiscriminatorModule):
    """The module. The image of a pair (i, j) is relu(V x_i + W y_j + (V x_i) (W y_j) + b)."""

    config: MatchMatrixConfig
    vocabulary: Vocabulary
    precision: Precision

    def setup(self):
        config, vocabulary, precision = self.config, self.vocabulary, self.precision
        self.source_embedding = Embedding(vocabulary.source_size, config.model_dim, precision)
        self.target_embedding = Embedding(vocabulary.target_size, config.model_dim, precision)

        def linear(inputs, outputs):
            return Linear(
                input_dims=(inputs,),
                output_dims=(outputs,),
                axes=("model", None),
                bias=True,
                precision="float32",
            )

        self.source_projection = linear(config.model_dim, config.channels[0])
        self.target_projection = linear(config.model_dim, config.channels[0])
        self.convolutions = [
            nn.Conv(channels, (config.kernel_size,) * 2, padding="SAME") for channels in config.channels[1:]
        ]
        self.hidden = linear(2 * config.channels[-1], config.hidden_dim)
        self.score = linear(config.hidden_dim, 1)
        self.dropout = Dropout(config.dropout)

    def encode(self, source: TokenRows, *, deterministic: bool) -> _Side:
        """See DiscriminatorModule.encode."""
        embedded = self.dropout(self.source_embedding(source.tokens), deterministic=deterministic)
        return _Side(self.source_projection(embedded.astype(jnp.float32)), source.mask)

    def embed(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        """See DiscriminatorModule.embed."""
        return self.target_embedding(tokens)

    def judge(
        self, embedded: Float[Array, "batch target model"], target: TokenRows, encoded: Any, *, deterministic: bool
    ) -> Float[Array, "batch target"]:
        """See DiscriminatorModule.judge: the same logit at all positions of a row."""
        embedded = self.dropout(embedded, deterministic=deterministic).astype(jnp.float32)
        source, text = encoded.values[:, :, None], self.target_projection(embedded)[:, None]
        mask = encoded.mask[:, :, None] & target.mask[:, None]
        # Where there are no tokens the image is 0, its least value, so that padding changes nothing.
        image = jnp.where(mask[..., None], nn.relu(source + text + source * text), 0.0)
        for index, convolution in enumerate(self.convolutions):
            if index:
                image, mask = _maxima_of_squares(image), _maxima_of_squares(mask[..., None])[..., 0]
            image = jnp.where(mask[..., None], nn.relu(convolution(image)), 0.0)
        mean = jnp.sum(image, axis=(1, 2)) / jnp.maximum(jnp.sum(mask, axis=(1, 2)), 1)[:, None]
        pooled = jnp.concatenate([jnp.max(image, axis=(1, 2)), mean], axis=-1)
        hidden = nn.relu(self.hidden(self.dropout(pooled, deterministic=deterministic)))
        return jnp.broadcast_to(self.score(hidden), target.tokens.shape)


def _maxima_of_squares(image: Array) -> Array:
    """Maxima over squares of 2 by 2. By slices: the gradient of the gradient of `reduce_window` is not known to jax."""
    batch, rows, columns, channels = image.shape
    padded = jnp.pad(image, ((0, 0), (0, rows % 2), (0, columns % 2), (0, 0)))
    squares = padded.reshape(batch, (rows + 1) // 2, 2, (columns + 1) // 2, 2, channels)
    return jnp.max(squares, axis=(2, 4))
