"""The config and the layers that recurrent encoders and decoders share."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.effects import changes
from seq2seq_jax.modules.dropout import Dropout, dropout_mask
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.precision import Precision, matrix_product
from seq2seq_jax.modules.recurrence import (
    CELLS,
    CellKind,
    cell_step,
    gate_inputs,
    reset_state,
    scan_cell,
    scan_with_products,
    zero_state,
)
from seq2seq_jax.modules.segments import is_first, is_last
from seq2seq_jax.modules.settings import check_rates, check_sizes
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """Settings of a stack of recurrent layers."""

    cell: CellKind = "lstm"
    """Cell of the layers."""
    num_layers: int = 1
    """Layers of the stack."""
    model_dim: int = 512
    """Width of the embeddings, and of the input of the decoder's output projection."""
    hidden_dim: int = 512
    """Width of a cell's state, per direction."""
    residual_from: int | None = None
    """First layer (2 or later) with a residual connection (GNMT: 3); None = no residual connections."""
    layer_norm: bool = False
    """Layer normalisation inside the cells."""
    full_product_bias: bool = False
    """Whether a GRU's product with its state has a bias in all gates, as PyTorch and cuDNN keep it; False = that of the
    candidate alone, since those of the reset and the update gate add to others that are there."""
    dropout: float = dataclasses.field(default=0.1, metadata=changes("numbers"))
    """Dropout on the inputs of each layer, and on the output of a decoder."""
    variational_dropout: bool = dataclasses.field(default=False, metadata=changes("numbers"))
    """Use one dropout mask per row for all of its time steps."""
    recurrent_dropout: float = dataclasses.field(default=0.0, metadata=changes("numbers"))
    """Dropout on the hidden state that a cell reads, with one mask per row for all of its time steps."""

    def __post_init__(self):
        check_values(self, type(self).__name__)
        name = type(self).__name__
        check_sizes(self, "num_layers", "model_dim", "hidden_dim")
        check_rates(self, "dropout", "recurrent_dropout")
        if self.residual_from is not None and not 2 <= self.residual_from <= self.num_layers:
            raise ValueError(
                f"{name}.residual_from must be None or one of layers 2 to num_layers = {self.num_layers}, not "
                f"{self.residual_from}."
            )
        if self.full_product_bias and self.cell != "gru":
            raise ValueError(f"{name}.full_product_bias has no effect with cell = {self.cell}: set it to False.")
        if self.variational_dropout and self.dropout == 0.0:
            raise ValueError(f"{name}.variational_dropout needs a dropout above 0.")

    @property
    def position_limit(self) -> None:
        """Upper bound on the tokens of an example; None = unbounded."""
        return None

    @property
    def sharded_sizes(self) -> dict[str, tuple[str, int]]:
        """Field -> logical axis and size of each dim that a mesh shards."""
        return {"hidden_dim": ("hidden", self.hidden_dim), "model_dim": ("model", self.model_dim)}

    def layer_flops(self, length: Amount, *, input_dim: int) -> Amount:
        """FLOPs of one layer in one direction."""
        gates = CELLS[self.cell].num_gates * self.hidden_dim
        return product_flops(length, input_dim + self.hidden_dim, gates)

    def layer(self, *, input_dim: int, precision: Precision) -> "RecurrentLayer":
        """A layer of this stack."""
        return RecurrentLayer(
            cell=self.cell,
            input_dim=input_dim,
            hidden_dim=self.hidden_dim,
            layer_norm=self.layer_norm,
            recurrent_dropout=self.recurrent_dropout,
            precision=precision,
            full_product_bias=self.full_product_bias,
        )

    def input_dropout(self) -> Dropout:
        """The dropout module of this stack."""
        return Dropout(self.dropout, whole_rows=self.variational_dropout)

    def is_residual(self, index: int) -> bool:
        """Whether the layer of this index, from 0, has a residual connection."""
        return self.residual_from is not None and index + 1 >= self.residual_from


class RecurrentLayer(nn.Module):
    """One cell over time, in one direction.

    Attributes:
        layer_norm: normalises both products and, in an LSTM, the cell state (Ba et al. 2016, equations 20 to 22).
        recurrent_dropout: dropout rate of h before U, with one mask per row for all steps (Gal and Ghahramani 2016).
    """

    cell: CellKind
    input_dim: int
    hidden_dim: int
    layer_norm: bool
    recurrent_dropout: float
    precision: Precision
    full_product_bias: bool = False

    def setup(self):
        cell, hidden = CELLS[self.cell], self.hidden_dim

        def parameter(name, initializer, *shape, axes=()):
            axes = axes or (None,) * (len(shape) - 1) + ("hidden",)
            return self.param(name, nn.with_logical_partitioning(initializer, axes), shape)

        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        matrix = ("model", None, "hidden")
        glorot = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=0, out_axis=(1, 2))
        self.input = parameter("input", glorot, self.input_dim, cell.num_gates, hidden, axes=matrix)
        self.kernel = parameter("kernel", _orthogonal_gates, hidden, cell.num_gates, hidden, axes=matrix)
        self.bias = parameter("bias", _remembering if self.cell == "lstm" else zeros, cell.num_gates, hidden)
        if self.full_product_bias:
            self.product_bias = parameter("product_bias", zeros, cell.num_gates, hidden)
        elif self.cell == "gru":
            self.candidate_bias = parameter("candidate_bias", zeros, hidden)
        if self.layer_norm:
            self.input_scale = parameter("input_scale", ones, cell.num_gates, hidden)
            self.product_scale = parameter("product_scale", ones, cell.num_gates, hidden)
            if self.cell == "lstm":
                self.cell_scale = parameter("cell_scale", ones, hidden)
                self.cell_bias = parameter("cell_bias", zeros, hidden)

    def gate_inputs(self, x: Float[Array, "*dims input"]) -> Float[Array, "*dims gates"]:
        """The inputs' contribution to the gates, for any number of steps: W x + b, with layer normalisation if set."""
        product = matrix_product(x, self.input_kernel(), axes=("model", "hidden"), precision=self.precision)
        return gate_inputs(self.constants(), product)

    def input_kernel(self) -> Float[Array, "input gates"]:
        """W."""
        return self.input.reshape(self.input_dim, -1)

    def recurrent_kernel(self) -> Float[Array, "hidden gates"]:
        """U."""
        return self.kernel.reshape(self.hidden_dim, -1)

    def constants(self) -> dict[str, Array]:
        """Further parameters that `gate_inputs` and `cell_step` read."""
        constants = {"bias": self.bias.reshape(-1)}
        if self.full_product_bias:
            constants["product_bias"] = self.product_bias.reshape(-1)
        elif self.cell == "gru":
            constants["product_bias"] = jnp.pad(self.candidate_bias, (2 * self.hidden_dim, 0))
        if self.layer_norm:
            constants["input_scale"] = self.input_scale.reshape(-1)
            constants["product_scale"] = self.product_scale.reshape(-1)
            if self.cell == "lstm":
                constants |= {"cell_scale": self.cell_scale, "cell_bias": self.cell_bias}
        return constants

    def mask(self, batch: int, *, deterministic: bool) -> Float[Array, "batch hidden"] | None:
        """The mask of recurrent dropout; None = no dropout."""
        if deterministic or self.recurrent_dropout == 0.0:
            return None
        return dropout_mask(self.make_rng("dropout"), self.recurrent_dropout, (batch, self.hidden_dim))

    def __call__(
        self,
        x: Float[Array, "batch length input"],
        segment_ids: Int[Array, "batch length"],
        *,
        start: tuple[Float[Array, "batch length hidden"], ...] | None,
        reverse: bool,
        deterministic: bool,
    ) -> Float[Array, "batch length hidden"]:
        """The outputs at all positions; the state is reset where a segment starts.

        Args:
            start: initial states of segments, at their first positions; 0 elsewhere. None = 0.
            reverse: whether to read from right to left.
        """
        begins = is_last(segment_ids) if reverse else is_first(segment_ids)
        inputs = self.gate_inputs(jnp.swapaxes(x, 0, 1))
        keep = 1.0 - begins.T[..., None].astype(jnp.float32)
        start = jax.tree.map(lambda part: jnp.swapaxes(part, 0, 1).astype(jnp.float32), start)
        mask = self.mask(x.shape[0], deterministic=deterministic)
        constants = self.constants()
        if not self.layer_norm:
            bias = constants.get("product_bias")
            outputs = scan_cell(
                CELLS[self.cell], reverse, self.precision, inputs, self.recurrent_kernel(), bias, keep, start, mask
            )
            return jnp.swapaxes(outputs, 0, 1)

        def step(project, constants, state, per_step):
            inputs, keep, start = per_step
            state = reset_state(state, keep, start)
            state = cell_step(self.cell, constants, inputs, state, functools.partial(project, "kernel"), mask)
            return state, state[0].astype(inputs.dtype)

        state = zero_state(self.cell, x.shape[0], self.hidden_dim)
        per_step = inputs, keep, start
        if reverse:
            per_step = jax.tree.map(lambda leaf: leaf[::-1], per_step)
        kernels = {"kernel": self.recurrent_kernel()}
        _, outputs = scan_with_products(step, kernels, constants, state, per_step, precision=self.precision)
        return jnp.swapaxes(outputs[::-1] if reverse else outputs, 0, 1)


def _orthogonal_gates(key, shape):
    hidden, gates, _ = shape
    orthogonal = nn.initializers.orthogonal()
    return jnp.stack([orthogonal(gate_key, (hidden, hidden)) for gate_key in jax.random.split(key, gates)], axis=1)


def _remembering(key, shape):
    """A forget-gate bias of 1 (Gers et al. 2000; Jozefowicz et al. 2015)."""
    return jnp.zeros(shape).at[1].set(1.0)
