"""The position-wise feed-forward layer, plain or gated."""

import functools
from typing import Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from seq2seq_jax.modules.dropout import Dropout
from seq2seq_jax.modules.linear import Linear, Lora
from seq2seq_jax.modules.precision import Precision

Activation = Literal["relu", "gelu", "gelu_exact", "silu"]
"""gelu is the approximation by tanh, which Hugging Face calls gelu_new; gelu_exact has the error function in it."""

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
}


class FeedForward(nn.Module):
    """W2 act(W1 x) or, gated, W2 (act(W1 x) * V x), with or without a bias on each product.

    Attributes:
        lora: changes of low rank of W1 (expand), V (gate) and W2 (contract), by name.

    Source: Vaswani et al. 2017, equation 2; Shazeer 2020, equation 6.
    """

    hidden_dim: int
    activation: Activation
    gated: bool
    bias: bool
    dropout: float
    precision: Precision
    lora: tuple[tuple[str, Lora], ...] = ()

    @nn.compact
    def __call__(self, x: Float[Array, "*dims model"], *, deterministic: bool) -> Float[Array, "*dims model"]:
        model_dim = x.shape[-1]
        activate = ACTIVATIONS[self.activation]

        def expand(name):
            return Linear(
                input_dims=(model_dim,),
                output_dims=(self.hidden_dim,),
                axes=("model", "hidden"),
                bias=self.bias,
                precision=self.precision,
                lora=dict(self.lora).get(name),
                name=name,
            )(x)

        hidden = activate(expand("expand"))
        if self.gated:
            hidden = hidden * expand("gate")
        hidden = Dropout(self.dropout)(hidden, deterministic=deterministic)
        return Linear(
            input_dims=(self.hidden_dim,),
            output_dims=(model_dim,),
            axes=("hidden", "model"),
            bias=self.bias,
            precision=self.precision,
            lora=dict(self.lora).get("contract"),
            name="contract",
        )(hidden)
