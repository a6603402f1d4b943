"""The config, gated convolutions and multi-step attention of convolutional encoders and decoders."""

import dataclasses
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.effects import changes
from seq2seq_jax.modules.attention import MASKED_SCORE, record
from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.layers import ACTIVATION_AXES, Remat
from seq2seq_jax.modules.position import LearnedPositions
from seq2seq_jax.modules.precision import Precision, activation_dtype, matrix_product, product
from seq2seq_jax.modules.settings import check_rates, check_sizes
from seq2seq_jax.values import check_values

HALF = math.sqrt(0.5)
"""Factor of a sum of two terms that preserves their variance (Gehring et al. 2017, section 3.4)."""

EMBEDDING_DEVIATION = 0.1
"""Initial standard deviation of the embeddings of tokens and of positions (ibid., section 3.5).

It decides whether deep stacks learn: gates pass more than half of large inputs, so that the variance grows from layer
to layer. On dates with 10 + 10 layers, the loss after 300 steps was 0.49 with 0.1 and 2.3 with 0.3; with 1 it diverged,
even with scores divided by the square root of model_dim.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvolutionalConfig:
    """Settings of a stack of gated convolutions."""

    num_layers: int = 20
    """Layers of the stack."""
    model_dim: int = 512
    """Width of the embeddings and of the stack's output."""
    hidden_dim: int = 512
    """Channels of the convolutions."""
    kernel_size: int = 3
    """Width of a convolution's kernel (tokens)."""
    max_positions: int
    """Rows of the table of learned positions (tokens)."""
    dropout: float = dataclasses.field(default=0.1, metadata=changes("numbers"))
    """Dropout on embeddings and on the input of each convolution (and on a decoder's output)."""
    scan_layers: bool = dataclasses.field(default=False, metadata=changes("numbers"))
    """Compile one layer and loop over it, instead of unrolling all layers: deep stacks compile faster. The parameters
    are the same."""
    remat: Remat = dataclasses.field(default="none", metadata=changes("numbers"))
    """What the backward pass recomputes: nothing, whole layers, or all but matrix products."""

    def __post_init__(self):
        check_values(self, type(self).__name__)
        check_sizes(self, "num_layers", "model_dim", "hidden_dim", "kernel_size", "max_positions")
        check_rates(self, "dropout")

    def convolution(self, *, causal: bool, precision: Precision) -> "GatedConvolution":
        """A convolution of this stack."""
        return GatedConvolution(
            hidden_dim=self.hidden_dim,
            kernel_size=self.kernel_size,
            causal=causal,
            dropout=self.dropout,
            precision=precision,
        )

    def convolution_flops(self, length: Amount) -> Amount:
        """FLOPs of one layer's convolution."""
        return product_flops(length, self.kernel_size * self.hidden_dim, 2 * self.hidden_dim)

    def projection_flops(self, length: Amount) -> Amount:
        """FLOPs of the linear maps into and out of the channels."""
        return 2 * product_flops(length, self.model_dim, self.hidden_dim)

    @property
    def position_limit(self) -> int:
        """Upper bound on the tokens of an example: the rows of the table of positions."""
        return self.max_positions

    @property
    def sharded_sizes(self) -> dict[str, tuple[str, int]]:
        """Field -> logical axis and size of each dim that a mesh shards."""
        return {"hidden_dim": ("hidden", self.hidden_dim), "model_dim": ("model", self.model_dim)}


def weight_normalized(
    module: nn.Module, shape: tuple[int, ...], axes: tuple[str | None, ...], *, deviation: float
) -> Float[Array, "..."]:
    """A kernel with separate parameters for direction and length of each output's weights (the last dim): g v / |v|.

    Adds the parameters `kernel` (v) and `scale` (g), initialised to |v|. The gradient of v is orthogonal to v, so that
    |v| does not shrink to 0.

    Args:
        axes: logical axis name of each dim.
        deviation: standard deviation of the initial values.

    Source: Salimans and Kingma 2016, equation 2.
    """
    kernel = module.param("kernel", nn.with_logical_partitioning(nn.initializers.normal(deviation), axes), shape)
    norm = jnp.sqrt(jnp.sum(jnp.square(kernel), axis=range(len(shape) - 1)))
    scale = module.param("scale", nn.with_logical_partitioning(lambda _: norm, axes[-1:]))
    return kernel * (scale / norm)


class WeightNormalizedLinear(nn.Module):
    """A linear map with a bias and weight normalisation.

    Attributes:
        axes: logical axis names of input and output.
        dropout: dropout rate of the input, for the variance of the initial values.
    """

    input_dim: int
    output_dim: int
    axes: tuple[str, str]
    precision: Precision
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*dims input"]) -> Float[Array, "*dims output"]:
        shape = (self.input_dim, self.output_dim)
        deviation = math.sqrt((1.0 - self.dropout) / self.input_dim)
        kernel = weight_normalized(self, shape, self.axes, deviation=deviation)
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, self.axes[-1:]), shape[-1:])
        result = matrix_product(x.reshape(-1, self.input_dim), kernel, axes=self.axes, precision=self.precision)
        return (result + bias.astype(result.dtype)).reshape(*x.shape[:-1], self.output_dim)


def unfold(
    x: Float[Array, "batch length input"], segment_ids: Int[Array, "batch length"], *, kernel_size: int, before: int
) -> Float[Array, "batch length window"]:
    """The window of vectors that a kernel reads at each position; 0 for vectors of other segments.

    Args:
        before: number of positions in the window before the current one.
    """
    length = x.shape[1]
    margins = (before, kernel_size - 1 - before)
    values = jnp.pad(x, ((0, 0), margins, (0, 0)))
    segments = jnp.pad(segment_ids, ((0, 0), margins), constant_values=-1)
    copies = [
        jnp.where((segments[:, index : index + length] == segment_ids)[..., None], values[:, index : index + length], 0)
        for index in range(kernel_size)
    ]
    return jnp.concatenate(copies, axis=-1)


class GatedConvolution(nn.Module):
    """A * sigmoid(B), where A and B are the halves of a weight-normalised convolution within each segment.

    It is one matrix product over the unfolded windows, the fastest of five implementations on a CPU: forward and
    backward of 64 x 32 tokens with 256 and 512 channels took 26 and 117 ms in float32 and 15 and 30 ms with
    bfloat16_products; a sum of kernel_size products with shifted results took 28, 128, 16 and 37 ms. XLA's convolution
    (26 and 112 ms) does not support segments, nor bfloat16 on every backend.

    Attributes:
        causal: whether the window ends at the current position, or is centred on it (kernel_size is odd).
        dropout: dropout rate of the input, for the variance of the initial values.

    Source: Gehring et al. 2017, section 3.2; Dauphin et al. 2017, equation 1.
    """

    hidden_dim: int
    kernel_size: int
    causal: bool
    dropout: float
    precision: Precision

    def setup(self):
        assert self.causal or self.kernel_size % 2
        self.kernel = weight_normalized(
            self,
            (self.kernel_size, self.hidden_dim, 2 * self.hidden_dim),
            (None, "model", "hidden"),
            deviation=math.sqrt(4.0 * (1.0 - self.dropout) / (self.kernel_size * self.hidden_dim)),
        )
        initializer = nn.with_logical_partitioning(nn.initializers.zeros, ("hidden",))
        self.bias = self.param("bias", initializer, (2 * self.hidden_dim,))

    def __call__(
        self, x: Float[Array, "batch length hidden"], segment_ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch length hidden"]:
        before = self.kernel_size - 1 if self.causal else self.kernel_size // 2
        return self.of_windows(unfold(x, segment_ids, kernel_size=self.kernel_size, before=before))

    def of_windows(self, windows: Float[Array, "batch length window"]) -> Float[Array, "batch length hidden"]:
        """The result for windows of kernel_size vectors, one after the other."""
        rows = windows.reshape(-1, windows.shape[-1])
        kernel = self.kernel.reshape(rows.shape[1], -1)
        result = matrix_product(rows, kernel, axes=("model", "hidden"), precision=self.precision)
        result = (result + self.bias.astype(result.dtype)).reshape(*windows.shape[:-1], -1)
        values, gates = jnp.split(result, 2, axis=-1)
        return values * jax.nn.sigmoid(gates)


class Attended(NamedTuple):
    """The keys, values and mask of attention, the same for all layers.

    Attributes:
        keys: compared with the queries.
        values: of which attention returns the weighted sum.
        mask: True where a query attends to a key.
    """

    keys: Float[Array, "batch source model"]
    values: Float[Array, "batch source model"]
    mask: Bool[Array, "batch target source"]


class MultiStepAttention(nn.Module):
    """Attention of one decoder layer; its query is the sum of the layer's state and the embedding of the decoder's
    input.

    The weighted sum of n values is scaled by sqrt(n), since equal weights of 1 / n divide the standard deviation of the
    sum by sqrt(n).

    Source: Gehring et al. 2017, section 3.3 and, for the scales, 3.4.
    """

    model_dim: int
    hidden_dim: int
    precision: Precision

    def setup(self):
        self.query = WeightNormalizedLinear(self.hidden_dim, self.model_dim, ("hidden", "model"), self.precision)
        self.output = WeightNormalizedLinear(self.model_dim, self.hidden_dim, ("model", "hidden"), self.precision)

    def __call__(
        self,
        x: Float[Array, "batch target hidden"],
        embeddings: Float[Array, "batch target model"],
        attended: Attended,
    ) -> Float[Array, "batch target hidden"]:
        queries = (self.query(x) + embeddings) * HALF
        scores = product("btm,bsm->bts", queries, attended.keys, precision=self.precision).astype(jnp.float32)
        weights = jax.nn.softmax(jnp.where(attended.mask, scores, MASKED_SCORE), axis=-1)
        record(self, weights[:, None])
        # Scaling the weights is cheaper than scaling the wide context.
        weights = weights * jnp.sqrt(jnp.sum(attended.mask, axis=-1, keepdims=True, dtype=jnp.float32))
        context = product("bts,bsm->btm", weights, attended.values, precision=self.precision)
        return self.output(context)


class PositionsAndProjections(nn.Module):
    """What surrounds the layers: embeddings with positions, and linear maps into and out of the channels."""

    config: ConvolutionalConfig
    precision: Precision

    def setup(self):
        config = self.config
        self.positions = LearnedPositions(config.max_positions, config.model_dim)
        self.dropout = Dropout(config.dropout)
        self.expand = WeightNormalizedLinear(
            config.model_dim, config.hidden_dim, ("model", "hidden"), self.precision, dropout=config.dropout
        )
        self.contract = WeightNormalizedLinear(config.hidden_dim, config.model_dim, ("hidden", "model"), self.precision)

    def before_layers(
        self,
        inputs: Float[Array, "batch length model"],
        positions: Int[Array, "batch length"],
        *,
        deterministic: bool,
    ) -> tuple[Float[Array, "batch length model"], Float[Array, "batch length hidden"]]:
        """Embeddings with positions and dropout, and the first layer's input.

        Args:
            inputs: embedded tokens, scaled to a standard deviation of 1.
        """
        # Position embeddings are initialised with a deviation of 1 / sqrt(model_dim), and scaled as token embeddings
        # are.
        embeddings = (inputs + self.positions(positions) * self.config.model_dim**0.5) * EMBEDDING_DEVIATION
        embeddings = self.dropout(embeddings.astype(activation_dtype(self.precision)), deterministic=deterministic)
        embeddings = nn.with_logical_constraint(embeddings, ACTIVATION_AXES)
        return embeddings, nn.with_logical_constraint(self.expand(embeddings), ACTIVATION_AXES)

    def after_layers(self, x: Float[Array, "batch length hidden"]) -> Float[Array, "batch length model"]:
        """The stack's output."""
        return nn.with_logical_constraint(self.contract(x), ACTIVATION_AXES)
