"""The attention of recurrent decoders: one query per target token, over all states of its source segment."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seq2seq_jax.modules.attention import MASKED_SCORE, record
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision, matrix_product, product
from seq2seq_jax.modules.recurrence import Kernel, Project, shard_for_scan, shard_rows

AttentionKind = Literal["none", "additive", "general", "dot", "scaled_dot"]


class GlobalAttention(nn.Module):
    """context = Σ softmax(score(query, state)) value.

    - additive: score = v^T tanh(W1 state + b + W2 query); with coverage, + w (sum of the weights so far) inside tanh
    - general: query^T W state
    - dot: query^T state; scaled_dot: the same over the square root of the width

    Source: Bahdanau et al. 2015, appendix A.1.2 (additive); Luong et al. 2015, equation 8 (general, dot); Tu et al.
    2016 and See et al. 2017, equation 11 (coverage, its fertility 1).
    """

    kind: AttentionKind
    query_dim: int
    memory_dim: int
    attention_dim: int
    coverage: bool
    precision: Precision

    def setup(self):
        def parameter(name, initializer, axes, *shape):
            return self.param(name, nn.with_logical_partitioning(initializer, axes), shape)

        if self.kind == "additive":
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
        elif self.kind == "general":
            self.memory = Linear(
                input_dims=(self.memory_dim,),
                output_dims=(self.query_dim,),
                axes=("model", "hidden"),
                bias=False,
                precision=self.precision,
            )

    def keys(self, states: Float[Array, "batch source memory"]) -> Float[Array, "batch source key"]:
        """The keys, which are the same for all queries."""
        if self.kind == "scaled_dot":
            return states * self.memory_dim**-0.5
        return states if self.kind == "dot" else self.memory(states)

    def constants(self) -> dict[str, Array]:
        """Further parameters that `attend` reads, besides kernels."""
        if self.kind != "additive":
            return {}
        return {"vector": self.vector} | ({"coverage_vector": self.coverage_vector} if self.coverage else {})

    def kernels(
        self, keys: Float[Array, "batch source key"], values: Float[Array, "batch source memory"]
    ) -> dict[str, Kernel]:
        """The right operands of the products of `attend`."""
        kernels = {"values": values}
        if self.kind == "additive":
            return kernels | {"query": self.query}
        return kernels | {"keys": jnp.swapaxes(keys, 1, 2)}

    def __call__(
        self,
        queries: Float[Array, "batch target query"],
        keys: Float[Array, "batch source key"],
        values: Float[Array, "batch source memory"],
        mask: Bool[Array, "batch target source"],
    ) -> Float[Array, "batch target memory"]:
        """Contexts of all target positions at once; without coverage."""
        if self.kind == "additive":
            rows = queries.reshape(-1, self.query_dim)
            projected = matrix_product(rows, self.query, precision=self.precision)
            scores = additive_scores(keys, projected.reshape(*queries.shape[:2], -1), self.vector)
        else:
            scores = product("btk,bsk->bts", queries, keys, precision=self.precision)
        weights = jax.nn.softmax(jnp.where(mask, scores.astype(jnp.float32), MASKED_SCORE), axis=-1)
        record(self, weights[None, :, None])
        return product("bts,bsm->btm", weights, values, precision=self.precision)


def attend(
    project: Project,
    constants: dict[str, Array],
    query: Float[Array, "rows query"],
    keys: Float[Array, "batch source key"],
    mask: Bool[Array, "rows source"],
    coverage: Float[Array, "rows source"] | None,
) -> tuple[Float[Array, "rows memory"], Float[Array, "rows source"]]:
    """Context and weights of one step, inside a loop over time.

    Args:
        project: multiplies by the kernels of `GlobalAttention.kernels`.
        constants: result of `GlobalAttention.constants`.
        query: of each hypothesis; the hypotheses of one source are consecutive, so that its keys are read once.
        coverage: sum of the weights of earlier steps.
    """
    if "vector" in constants:
        scores = jax.checkpoint(_additive_step)(constants, keys, project("query", query), coverage)
    else:
        scores = project("keys", query)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE), axis=-1)
    return project("values", weights), weights


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
