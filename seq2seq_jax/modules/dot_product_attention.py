"""Attention as products and a softmax: on all scores at once, or on those of one block of queries after the other."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from seq2seq_jax.modules.cap import capped
from seq2seq_jax.modules.dropout import dropped
from seq2seq_jax.modules.fused_attention import OUTPUT_NAME
from seq2seq_jax.modules.precision import Precision, product
from seq2seq_jax.modules.segments import Segments
from seq2seq_jax.parallel.mesh import length_shards, shard_length

MASKED_SCORE = -1e9
"""Score of a pair that may not attend: finite, so that a query with no key at all stays finite too."""

BLOCK = 256
"""Queries of a block, of each part of a row where the mesh divides rows."""


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
    cap: float | None = None,
) -> tuple[Float[Array, "batch target heads head_dim"], Float[Array, "batch heads target source"]]:
    """softmax(Q K^T / sqrt(head_dim) + bias) V, consecutive query heads sharing a head of keys and values.

    Args:
        bias: added to the scores.
        dropout: probability that a weight is dropped out.
        dropout_key: what is drawn from; None = no dropout.
        cap: bound of the scores, before the bias; None = there is none.

    Returns:
        The context of each query, and its weights before dropout.
    """
    batch, target, heads, head_dim = queries.shape
    kv_heads = keys.shape[2]
    # Each head's a matrix that products take as it lies, forward and backward: XLA:CPU would copy it before each.
    queries, keys, values = (x.transpose(0, 2, 1, 3) for x in (queries * head_dim**-0.5, keys, values))
    groups = (batch, kv_heads, heads // kv_heads, target, -1)
    scores = product("bkgtd,bksd->bkgts", queries.reshape(groups), keys, precision=precision).astype(jnp.float32)
    scores = capped(scores.reshape(batch, heads, target, -1), cap)
    if bias is not None:
        scores = scores + bias
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, MASKED_SCORE), axis=-1)
    kept = weights if dropout_key is None else dropped(weights, dropout_key, dropout)
    kept = kept.reshape(groups).astype(values.dtype)
    context = product("bkgts,bksd->bkgtd", kept, values, precision=precision)
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
    cap: float | None = None,
) -> Float[Array, "batch target heads head_dim"]:
    """What `dot_product_attention` computes under the mask of segments, with memory that is linear in the length.

    The scores of a block of queries with all keys are all that exists at a time: the backward pass computes them again.
    """
    batch, target, heads, head_dim = queries.shape
    # Where rows are divided a block takes as many queries of each part, so that all devices work on it.
    parts = length_shards()
    if target % parts:
        parts = 1
    length = target // parts
    block = min(BLOCK, length)
    blocks = -(-length // block)

    def divided(array, dim):
        """The blocks of a dim of the array, padded to full ones, as the array's first dim."""
        before, after = array.shape[:dim], array.shape[dim + 1 :]
        padding = [(0, 0)] * (array.ndim + 1)
        padding[dim + 1] = (0, blocks * block - length)
        array = jnp.pad(array.reshape(*before, parts, length, *after), padding)
        array = array.reshape(*before, parts, blocks, block, *after)
        return jnp.moveaxis(array, dim + 1, 0).reshape(blocks, *before, parts * block, *after)

    def attend(own):
        mask = segments.replace(queries=own["segments"]).mask(places=own["places"])
        context, _ = dot_product_attention(
            shard_length(own["queries"], 1),
            keys,
            values,
            mask,
            bias=own.get("bias"),
            dropout=dropout,
            dropout_key=None if dropout_key is None else jax.random.fold_in(dropout_key, own["index"]),
            precision=precision,
            cap=cap,
        )
        return shard_length(context, 1)

    of_blocks = {
        "index": jnp.arange(blocks),
        "places": divided(jnp.arange(target), 0),
        "queries": divided(queries, 1),
        "segments": divided(segments.queries, 1),
    }
    if bias is not None:
        of_blocks["bias"] = divided(bias, 2)
    # A loop keeps XLA from computing once what is to be computed twice.
    context = jax.lax.map(jax.checkpoint(attend, prevent_cse=False), of_blocks)
    context = jnp.moveaxis(context.reshape(blocks, batch, parts, block, heads, head_dim), 0, 2)
    context = context.reshape(batch, parts, blocks * block, heads, head_dim)[:, :, :length].reshape(queries.shape)
    return checkpoint_name(context, OUTPUT_NAME)
