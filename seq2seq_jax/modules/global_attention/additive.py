"""Additive attention."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.global_attention.base import GlobalAttention, GlobalAttentionConfig
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision, matrix_product
from seq2seq_jax.modules.recurrence import Kernel, Project, shard_for_scan, shard_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdditiveAttentionConfig(GlobalAttentionConfig):
    """Additive attention: a small network scores each pair."""

    attention_dim: int | None = None
    """Width inside; None = that of the queries, the decoder's hidden_dim."""
    coverage: bool = False
    """Whether scores read the sum of the previous weights (Tu et al. 2016)."""

    def __post_init__(self):
        super().__post_init__()
        if self.attention_dim is not None and self.attention_dim < 1:
            raise ValueError(f"AdditiveAttentionConfig.attention_dim must be at least 1, not {self.attention_dim}.")

    @property
    def has_coverage(self) -> bool:
        return self.coverage

    def build(self, *, query_dim: int, memory_dim: int, precision: Precision) -> "AdditiveAttention":
        width = self.attention_dim or query_dim
        return AdditiveAttention(query_dim, memory_dim, precision, attention_dim=width, coverage=self.coverage)

    def score_flops(
        self, source: Amount, target: Amount, *, query_dim: int, memory_dim: int, hypotheses: int
    ) -> Amount:
        width = self.attention_dim or query_dim
        each = product_flops(target, query_dim, width) + product_flops(source * target, width, 1)
        return product_flops(source, memory_dim, width) + hypotheses * each


class AdditiveAttention(GlobalAttention):
    """score = v^T tanh(W1 state + b + W2 query); with coverage, + w (sum of the weights so far) inside tanh.

    Source: Bahdanau et al. 2015, appendix A.1.2; Tu et al. 2016 and See et al. 2017, equation 11 (coverage, its
    fertility 1).
    """

    attention_dim: int = dataclasses.field(kw_only=True)
    coverage: bool = dataclasses.field(kw_only=True)

    def setup(self):
        def parameter(name, initializer, axes, *shape):
            return self.param(name, nn.with_logical_partitioning(initializer, axes), shape)

        self.memory = Linear(
            input_dims=(self.memory_dim,),
            output_dims=(self.attention_dim,),
            axes=("model", "hidden"),
            bias=True,
            precision=self.precision,
        )
        glorot = nn.initializers.glorot_uniform()
        self.query = parameter("query", glorot, ("model", "hidden"), self.query_dim, self.attention_dim)
        vector = nn.initializers.normal(self.attention_dim**-0.5)
        self.vector = parameter("vector", vector, ("hidden",), self.attention_dim)
        if self.coverage:
            self.coverage_vector = parameter("coverage_vector", vector, ("hidden",), self.attention_dim)

    def keys(self, states: Float[Array, "batch source memory"]) -> Float[Array, "batch source key"]:
        return self.memory(states)

    def constants(self) -> dict[str, Array]:
        return {"vector": self.vector} | ({"coverage_vector": self.coverage_vector} if self.coverage else {})

    def kernels(
        self, keys: Float[Array, "batch source key"], values: Float[Array, "batch source memory"]
    ) -> dict[str, Kernel]:
        return {"values": values, "query": self.query}

    def scores(
        self, queries: Float[Array, "batch target query"], keys: Float[Array, "batch source key"]
    ) -> Float[Array, "batch target source"]:
        rows = queries.reshape(-1, self.query_dim)
        projected = matrix_product(rows, self.query, axes=("model", "hidden"), precision=self.precision)
        return additive_scores(keys, projected.reshape(*queries.shape[:2], -1), self.vector)

    @staticmethod
    def step_scores(
        project: Project,
        constants: dict[str, Array],
        query: Float[Array, "rows query"],
        keys: Float[Array, "batch source key"],
        coverage: Float[Array, "rows source"] | None,
    ) -> Float[Array, "rows source"]:
        return jax.checkpoint(_additive_step)(constants, keys, project("query", query), coverage)


def _additive_step(constants, keys, query, coverage):
    batch, source, dim = keys.shape
    inner = keys[:, None].astype(jnp.float32) + query.reshape(batch, -1, 1, dim)
    if coverage is not None:
        inner = inner + coverage.reshape(batch, -1, source)[..., None] * constants["coverage_vector"]
    scores = jnp.tanh(inner).reshape(-1, dim) @ constants["vector"]
    return scores.reshape(-1, source)


@jax.custom_vjp
def additive_scores(
    keys: Float[Array, "batch source attention"],
    queries: Float[Array, "batch target attention"],
    vector: Float[Array, "attention"],
) -> Float[Array, "batch target source"]:
    """vector^T tanh(key + query) of all pairs, float32.

    Forward and backward pass loop over target positions, so that [batch, target, source, attention] never exists at
    once.
    """

    keys, queries, vector = shard_for_scan((keys, queries, vector))

    def step(_, query):
        return None, _tanh(keys, query).reshape(-1, keys.shape[-1]) @ vector

    _, scores = jax.lax.scan(step, None, jnp.swapaxes(queries, 0, 1))
    return jnp.swapaxes(scores.reshape(queries.shape[1], *keys.shape[:2]), 0, 1)


def _tanh(keys, query):
    return jnp.tanh(keys.astype(jnp.float32) + query[:, None].astype(jnp.float32))


def _additive_forward(keys, queries, vector):
    return additive_scores(keys, queries, vector), (keys, queries, vector)


def _additive_backward(residuals, gradient):
    keys, queries, vector = shard_for_scan(residuals)
    gradient = shard_rows(gradient)

    def step(sums, per_target):
        of_keys, of_vector = sums
        query, gradient = per_target
        tanh = _tanh(keys, query)
        of_vector = of_vector + gradient.reshape(-1) @ tanh.reshape(-1, tanh.shape[-1])
        of_inner = gradient[..., None] * vector * (1.0 - tanh * tanh)
        return (of_keys + of_inner, of_vector), jnp.sum(of_inner, axis=1)

    zeros = jnp.zeros(keys.shape, jnp.float32), jnp.zeros(vector.shape, jnp.float32)
    per_target = jnp.swapaxes(queries, 0, 1), jnp.swapaxes(gradient, 0, 1)
    (of_keys, of_vector), of_queries = jax.lax.scan(step, zeros, per_target)
    return of_keys.astype(keys.dtype), jnp.swapaxes(of_queries, 0, 1).astype(queries.dtype), of_vector


additive_scores.defvjp(_additive_forward, _additive_backward)
