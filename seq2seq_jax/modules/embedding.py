"""Token embeddings, which may also be the output projection."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.modules.cap import capped
from seq2seq_jax.modules.precision import Precision, activation_dtype, matrix_product, operand_dtype


def gather_scores(scores: Float[Array, "*dims vocab"], tokens: Int[Array, "*dims"]) -> Float[Array, "*dims"]:
    """The score of each token, by a comparison instead of a gather: the gradient needs no scatter, and the vocabulary
    may be sharded.
    """
    return jnp.sum(jnp.where(jnp.arange(scores.shape[-1]) == tokens[..., None], scores, 0.0), axis=-1)


@flax.struct.dataclass
class EmbeddingChange:
    """How embeddings of a side are changed before the model reads them.

    Attributes:
        added: what is added to them; None = nothing.
        kept: False where they become 0; None = nowhere.
    """

    added: Float[Array, "batch length model"] | None = None
    kept: Bool[Array, "batch #length #model"] | None = None

    def apply(self, embedded: Float[Array, "batch length model"]) -> Float[Array, "batch length model"]:
        """The changed embeddings."""
        if self.kept is not None:
            embedded = jnp.where(self.kept, embedded, jnp.zeros((), embedded.dtype))
        return embedded if self.added is None else embedded + self.added.astype(embedded.dtype)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How scores of the vocabulary are computed from the table of the output.

    Attributes:
        precision: of the product.
        cap: bound of the scores, see `capped`; None = there is none.
    """

    precision: Precision
    cap: float | None = None

    def scores(
        self, table: Float[Array, "vocab model"], hidden: Float[Array, "*dims model"]
    ) -> Float[Array, "*dims vocab"]:
        """Scores of every token, in float32."""
        rows = hidden.reshape(-1, hidden.shape[-1]).astype(jnp.float32)
        # In bfloat16, logits of 16 to 32 would be an eighth apart: too coarse for a loss.
        precision = "float32" if self.precision == "float32" else "bfloat16_products"
        logits = matrix_product(rows, table, axes=("model", "vocab"), precision=precision, transposed=True)
        return capped(logits.reshape(*hidden.shape[:-1], len(table)).astype(jnp.float32), self.cap)

    def scores_of_rows(
        self, rows: Float[Array, "batch tokens model"], hidden: Float[Array, "batch length model"]
    ) -> Float[Array, "batch length tokens"]:
        """What `scores` gives for some tokens of each row of a batch, up to rounding, from the rows of the table that
        belong to them.
        """
        dtype = operand_dtype(self.precision)
        products = jnp.einsum(
            "bld,btd->blt", hidden.astype(dtype), rows.astype(dtype), preferred_element_type=jnp.float32
        )
        return capped(products.astype(jnp.float32), self.cap)


class Embedding(nn.Module):
    """A table [vocab, model].

    Calling it with token ids returns rows scaled by the square root of the model dim, or not; `logits` multiplies by
    the unscaled table (Press and Wolf 2017; Vaswani et al. 2017, section 3.4).
    """

    vocabulary_size: int
    model_dim: int
    precision: Precision
    is_scaled: bool = True

    def setup(self):
        initializer = nn.with_logical_partitioning(nn.initializers.normal(self.model_dim**-0.5), ("vocab", "model"))
        self.table = self.param("table", initializer, (self.vocabulary_size, self.model_dim))

    def __call__(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        return Embedding.rows(self.table, tokens, precision=self.precision, is_scaled=self.is_scaled)

    def logits(self, hidden: Float[Array, "*dims model"]) -> Float[Array, "*dims vocab"]:
        """Scores of every token, in float32."""
        return Scoring(self.precision).scores(self.table, hidden)

    @staticmethod
    def rows(
        table: Float[Array, "vocab model"], tokens: Int[Array, "*dims"], *, precision: Precision, is_scaled: bool = True
    ) -> Float[Array, "*dims model"]:
        """The result of calling the module, from its table; usable in JAX's loops, where a module's methods are not."""
        rows = table[tokens]
        return (rows * table.shape[1] ** 0.5 if is_scaled else rows).astype(activation_dtype(precision))
