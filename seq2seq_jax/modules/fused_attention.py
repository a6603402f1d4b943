"""Attention as one cuDNN kernel, for bfloat16 on NVIDIA GPUs: scores and weights never exist in memory.

The one place that touches JAX's private bindings of cuDNN: packing by offsets is not in the public ones, and neither
is a name for the softmax statistics, without which rematerialisation runs the kernel twice.
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.segments import Segments
from seq2seq_jax.parallel.mesh import parts_of_length

OUTPUT_NAME, STATISTICS_NAME = SAVED_NAMES = ("attention_output", "attention_statistics")
"""What the kernel's backward pass needs of its forward pass, as names for a policy of `jax.checkpoint`."""

LARGEST_HEAD = 128
"""Widest head that the kernel takes on every GPU that it runs on."""

PACKED_CAPABILITY = 9.0
"""Compute capability from which on the kernel takes packed rows (Hopper)."""


@flax.struct.dataclass
class Bounds:
    """Where segments lie in rows, as cuDNN is told; offsets are None where every row is one segment.

    Attributes:
        query_lengths: tokens of each segment; -1 = there is no such segment.
        query_offsets: place in the row where each segment begins; -1 = there is no such segment.
    """

    query_lengths: Int[Array, "batch segments"] | Int[Array, "batch"]
    key_lengths: Int[Array, "batch segments"] | Int[Array, "batch"]
    query_offsets: Int[Array, "batch segments_and_end"] | None
    key_offsets: Int[Array, "batch segments_and_end"] | None


def platform() -> str:
    """What the program that is traced will run on: the devices of the mesh in use, else those of the process.

    Not `jax.lax.platform_dependent`: its gradient keeps what the backward passes of all platforms need.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def obstacle(
    segments: Segments,
    *,
    head_dim: int,
    precision: Precision,
    relative: bool,
    dropout: bool,
) -> str | None:
    """Why the kernel cannot serve an attention, in words; None = it can.

    Args:
        relative: whether there is a bias on the scores.
        dropout: whether attention weights are dropped out. cuDNN would draw from a count of its own calls, which a
            run that is continued does not have.
    """
    if platform() not in ("gpu", "cuda"):
        return f"it runs on NVIDIA GPUs, and this is for {platform()}"
    if precision != "bfloat16":
        return f"it computes in bfloat16, and model.precision is {precision}"
    if head_dim % 8 or head_dim > LARGEST_HEAD:
        return f"a head must be a multiple of 8 wide, {LARGEST_HEAD} at most, and is {head_dim}"
    if dropout:
        return "it does not drop out attention weights: set attention_dropout to 0"
    if segments.most is None:
        return "the most examples of a row must be known: set data.max_examples_a_row, or data.packing to False"
    if segments.most > 1:
        if relative:
            return "with relative positions a row must hold one example: set data.packing to False"
        if jax.default_backend() == "gpu" and float(jax.local_devices()[0].compute_capability) < PACKED_CAPABILITY:
            return f"rows of several examples need compute capability {PACKED_CAPABILITY}: set data.packing to False"
    if relative and (segments.queries.shape[1] % 2 or segments.keys.shape[1] % 2):
        return "with relative positions the rows must be of even lengths"
    if parts_of_length() > 1:
        return "rows are divided: set mesh.sequence to 1"
    return None


def bounds_of(segments: Segments) -> Bounds:
    """Lengths and offsets of the segments, source and target paired: one that a side lacks is left out on both.

    A row without any token is taken for one of a single token, as the kernel gives NaN for a segment without keys
    (cuDNN before 9.25), which the gradient of a bias would sum over the batch.
    """
    if segments.most == 1:
        query_lengths, key_lengths = (
            jnp.maximum(jnp.sum(ids == 1, axis=1, dtype=jnp.int32), 1) for ids in (segments.queries, segments.keys)
        )
        return Bounds(query_lengths, key_lengths, None, None)

    def places(ids):
        inside = ids[:, None, :] == jnp.arange(1, segments.most + 1)[:, None]
        return jnp.sum(inside, axis=2, dtype=jnp.int32), jnp.argmax(inside, axis=2).astype(jnp.int32)

    (query_lengths, query_starts), (key_lengths, key_starts) = places(segments.queries), places(segments.keys)
    paired = (query_lengths > 0) & (key_lengths > 0)

    def kept(values):
        return jnp.where(paired, values, -1)

    def with_end(starts):
        return jnp.pad(kept(starts), ((0, 0), (0, 1)), constant_values=-1)

    return Bounds(kept(query_lengths), kept(key_lengths), with_end(query_starts), with_end(key_starts))


def read_places(
    segments: Segments,
) -> tuple[Bool[Array, "batch target"], Bool[Array, "batch source"]]:
    """Queries that have a key, and keys that have a query: what the kernel writes; all else it leaves undefined."""
    inside = [(ids > 0) & (ids <= segments.most) for ids in (segments.queries, segments.keys)]
    if segments.queries is segments.keys:
        return tuple(inside)
    met = segments.queries[:, :, None] == segments.keys[:, None, :]
    return inside[0] & met.any(axis=2), inside[1] & met.any(axis=1)


def fused_attention(
    queries: Float[Array, "batch target heads head_dim"],
    keys: Float[Array, "batch source kv_heads head_dim"],
    values: Float[Array, "batch source kv_heads head_dim"],
    segments: Segments,
    *,
    bias: Float[Array, "1 heads target source"] | None,
) -> Float[Array, "batch target heads head_dim"]:
    """softmax(Q K^T / sqrt(head_dim) + bias) V within each segment, in bfloat16 with float32 inside; 0 for a query
    without any key.

    Args:
        bias: added to the scores, the same for all rows.

    Source: Dao 2023 (FlashAttention-2), as cuDNN's scaled dot product attention.
    """
    _, _, heads, head_dim = queries.shape
    # JAX 0.10 gives cuDNN wrong offsets where keys have fewer heads.
    keys, values = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (keys, values))
    read_queries, read_keys = read_places(segments)

    def cleared(x, read):
        # The gradient at a place that the kernel does not write is undefined, and this makes it 0, as the value is.
        return jnp.where(read[:, :, None, None], x, jnp.zeros((), x.dtype))

    def laid_out(x):
        return nn.with_logical_constraint(x, ("batch", None, "heads", None))

    queries, keys, values = (
        laid_out(cleared(x.astype(jnp.bfloat16), read))
        for x, read in ((queries, read_queries), (keys, read_keys), (values, read_keys))
    )
    if bias is not None:
        bias = nn.with_logical_constraint(bias.astype(jnp.bfloat16), (None, "heads", None, None))
    bounds = jax.tree.map(lambda x: nn.with_logical_constraint(x, ("batch", None)[: x.ndim]), bounds_of(segments))
    context = _kernel(queries, keys, values, bias, bounds, head_dim**-0.5, segments.causal)
    return cleared(context, read_queries)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _kernel(queries, keys, values, bias, bounds, scale, causal):
    (context,) = cudnn._dot_product_attention_fwd_p_wrapper.bind(
        *_operands(queries, keys, values, bias, bounds),
        is_training=False,
        **_attributes(bias, bounds, scale, causal),
    )
    return context


def _forward(queries, keys, values, bias, bounds, scale, causal):
    context, statistics = cudnn._dot_product_attention_fwd_p_wrapper.bind(
        *_operands(queries, keys, values, bias, bounds),
        is_training=True,
        **_attributes(bias, bounds, scale, causal),
    )
    context, statistics = checkpoint_name(context, OUTPUT_NAME), checkpoint_name(statistics, STATISTICS_NAME)
    return context, (queries, keys, values, bias, bounds, statistics, context)


def _backward(scale, causal, saved, gradient):
    queries, keys, values, bias, bounds, statistics, context = saved
    gradients = cudnn._dot_product_attention_bwd_p_wrapper.bind(
        *_operands(queries, keys, values, bias, bounds),
        statistics,
        context,
        gradient,
        **_attributes(bias, bounds, scale, causal),
    )
    bias_gradient = None if bias is None else gradients[3]
    return *gradients[:3], bias_gradient, None


_kernel.defvjp(_forward, _backward)


def _operands(queries, keys, values, bias, bounds):
    """In the order of the bindings, which take an empty array for what there is not."""
    none = jnp.zeros(0, queries.dtype)
    optional = (bias, bounds.query_lengths, bounds.key_lengths, bounds.query_offsets, bounds.key_offsets)
    page_tables = (none, none)
    return queries, keys, values, *(none if each is None else each for each in optional), *page_tables


def _attributes(bias, bounds, scale, causal):
    mask = cudnn.MaskType
    if bounds.query_offsets is None:
        kind = mask.PADDING_CAUSAL if causal else mask.PADDING
    else:
        kind = mask.CAUSAL if causal else mask.NO_MASK
    return {
        "scale": scale,
        "seed": 0,
        "dropout_rate": 0.0,
        # Whether there is a bias, and whether its gradient is wanted.
        "variadic_args": (bias is not None, bias is not None),
        "mask_type": kind,
        "layout": cudnn.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }
