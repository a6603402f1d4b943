"""Attention as products and a softmax: on all scores at once, or on those of one block of queries after the other."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from seq2seq_jax.modules.dropout import dropped
from seq2seq_jax.modules.fused_attention import SAVED_NAMES
from seq2seq_jax.modules.precision import Precision, product
from seq2seq_jax.modules.segments import Segments

MASKED_SCORE = -1e9
"""Score of a pair that may not attend: finite, so that a query with no key at all stays finite too."""

BLOCK = 256
"""Queries of a block."""


def dot_product_attention(
    queries: Float[Array, "batch target heads head_dim"],
    keys: Float[Array, "batch source kv_heads head_dim"],
    values: Float[Array, "batch source kv_heads head_dim"],
    mask: Bool[Array, "batch target source"],
    *,
    bias: Float[Array, "#batch heads target source"] | None,
    dropout: float,
    dropout_key: jax.Array | None,
    precision: Precision,
) -> tuple[Float[Array, "batch target heads head_dim"], Float[Array, "batch heads target source"]]:
    """softmax(Q K^T / sqrt(head_dim) + bias) V, consecutive query heads sharing a head of keys and values.

    Args:
        bias: added to the scores.
        dropout: probability that a weight is dropped out.
        dropout_key: what is drawn from; None = no dropout.

    Returns:
        The context of each query, and its weights before dropout.
    """
    batch, target, heads, head_dim = queries.shape
    kv_heads = keys.shape[2]
    # Each head's a matrix that products take as it lies, forward and backward: XLA:CPU would copy it before each.
    queries, keys, values = (x.transpose(0, 2, 1, 3) for x in (queries * head_dim**-0.5, keys, values))
    groups = (batch, kv_heads, heads // kv_heads, target, -1)
    scores = product("bkgtd,bksd->bkgts", queries.reshape(groups), keys, precision=precision).astype(jnp.float32)
    scores = scores.reshape(batch, heads, target, -1)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, MASKED_SCORE), axis=-1)
    kept = dropped(weights, dropout_key, dropout).astype(values.dtype)
    context = product("bkgts,bksd->bkgtd", kept.reshape(groups), values, precision=precision)
    return context.reshape(batch, heads, target, head_dim).transpose(0, 2, 1, 3), weights


def blocked_attention(
    queries: Float[Array, "batch target heads head_dim"],
    keys: Float[Array, "batch source kv_heads head_dim"],
    values: Float[Array, "batch source kv_heads head_dim"],
    segments: Segments,
    *,
    bias: Float[Array, "#batch heads target source"] | None,
    dropout: float,
    dropout_key: jax.Array | None,
    precision: Precision,
) -> Float[Array, "batch target heads head_dim"]:
    """What `dot_product_attention` computes under the mask of segments, with memory that is linear in the length.

    The scores of a block of queries with all keys are all that exists at a time: the backward pass computes them again.
    """
    batch, target, heads, head_dim = queries.shape
    blocks = -(-target // BLOCK)

    def of_blocks(array, dim):
        """The blocks of a dim of the array, padded to full ones, as the array's first dim."""
        padding = [(0, 0)] * array.ndim
        padding[dim] = (0, blocks * BLOCK - target)
        array = jnp.pad(array, padding)
        return jnp.moveaxis(array.reshape(*array.shape[:dim], blocks, BLOCK, *array.shape[dim + 1 :]), dim, 0)

    def attend(block):
        mask = dataclasses.replace(segments, queries=block["segments"]).mask(first=block["index"] * BLOCK)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, block["index"])
        context, _ = dot_product_attention(
            block["queries"],
            keys,
            values,
            mask,
            bias=block.get("bias"),
            dropout=dropout,
            dropout_key=key,
            precision=precision,
        )
        return context

    parts = {
        "index": jnp.arange(blocks),
        "queries": of_blocks(queries, 1),
        "segments": of_blocks(segments.queries, 1),
    }
    if bias is not None:
        parts["bias"] = of_blocks(bias, 2)
    # A loop keeps XLA from computing once what is to be computed twice.
    context = jax.lax.map(jax.checkpoint(attend, prevent_cse=False), parts)
    context = jnp.moveaxis(context, 0, 1).reshape(batch, blocks * BLOCK, heads, head_dim)[:, :target]
    return checkpoint_name(context, SAVED_NAMES[0])
