"""Token embeddings, which may also be the output projection."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.modules.precision import Precision, activation_dtype, matrix_product


class Embedding(nn.Module):
    """A table [vocab, model].

    Called with token ids it returns rows scaled by the square root of the model dim; `logits` multiplies with the
    unscaled table (Press and Wolf 2017; Vaswani et al. 2017, section 3.4).
    """

    vocabulary_size: int
    model_dim: int
    precision: Precision

    def setup(self):
        initializer = nn.with_logical_partitioning(nn.initializers.normal(self.model_dim**-0.5), ("vocab", "model"))
        self.table = self.param("table", initializer, (self.vocabulary_size, self.model_dim))

    def __call__(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        return (self.table[tokens] * self.model_dim**0.5).astype(activation_dtype(self.precision))

    def logits(self, hidden: Float[Array, "*dims model"]) -> Float[Array, "*dims vocab"]:
        """Scores of every token, in float32."""
        rows = hidden.reshape(-1, self.model_dim)
        logits = matrix_product(rows, self.table, precision=self.precision, transposed=True)
        return logits.reshape(*hidden.shape[:-1], self.vocabulary_size).astype(jnp.float32)
