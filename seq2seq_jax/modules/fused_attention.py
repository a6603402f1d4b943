"""Attention as one cuDNN kernel, for bfloat16 on NVIDIA GPUs: scores and weights never exist in memory.

The one place that touches JAX's private bindings of cuDNN: packing by offsets is not in the public ones, and neither
is a name for the softmax statistics, without which rematerialisation runs the kernel twice.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.modules.segments import Segments, segment_mask
from seq2seq_jax.parallel.mesh import length_shards, platform, shards_of_rows

OUTPUT_NAME, STATISTICS_NAME = SAVED_NAMES = ("attention_output", "attention_statistics")
"""What the kernel's backward pass needs of its forward pass, as names for a policy of `jax.checkpoint`."""

LARGEST_HEAD = 128
"""Widest head that the kernel takes on every GPU that it runs on."""

LONGEST_MASKED = 1024
"""Queries and keys of a row (their geometric mean) up to which packed rows are masked by a bias on the scores, and
above which by the offsets of their segments. Measured on an H100 with segments of 27 tokens on average, forward and
backward pass by offsets and by a mask: 7.1 and 0.8 ms for 256 rows of 128, 3.7 and 1.1 ms for 64 of 512, 2.8 and 1.6 ms
for 32 of 1,024. Each segment fills tiles of 128 positions of its own; the cost of a mask grows with the row."""

MASKED_BIAS = -(2.0**41)
"""Of a pair that may not attend: what JAX's own bindings add for a mask, finite so that a query without any key is."""

OFFSETS_CAPABILITY = "9.0"
"""Compute capability from which on the kernel takes offsets of segments (Hopper)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A GPU that programs are compiled for and that is not attached.

    Attributes:
        capability: compute capability, such as "9.0".
        cudnn_version: as cuDNN counts it, such as 91900.
    """

    capability: str
    cudnn_version: int


_TARGET: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


@contextlib.contextmanager
def compiling_for(target: Target | None) -> Iterator[None]:
    """Answer for the target what JAX's bindings of cuDNN ask a GPU of this process while they trace and lower: its
    compute capability and the version of cuDNN. None = nothing is changed.
    """
    if target is None:
        yield
        return
    capability = _numbers(target.capability)
    answers = {
        "check_cudnn_version": lambda: target.cudnn_version,
        "check_compute_capability": lambda least: capability >= _numbers(least),
        "is_cuda_compute_capability_equal": lambda other: capability == _numbers(other),
    }
    before = {name: getattr(cudnn, name) for name in answers}
    token = _TARGET.set(target)
    for name, answer in answers.items():
        setattr(cudnn, name, answer)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(cudnn, name, function)
        _TARGET.reset(token)


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))


def _takes_offsets() -> bool:
    """Whether the target takes them, or the GPU of this process; where there is neither, nothing is compiled."""
    if _TARGET.get() is None and jax.default_backend() != "gpu":
        return True
    return cudnn.check_compute_capability(OFFSETS_CAPABILITY)


@flax.struct.dataclass
class Bounds:
    """Where segments lie in rows, as cuDNN is given them; offsets are None where every row is one segment.

    Attributes:
        query_lengths: tokens of each segment; -1 = there is no such segment.
        query_offsets: place in the row where each segment begins; -1 = there is no such segment.
    """

    query_lengths: Int[Array, "batch segments"] | Int[Array, "batch"]
    key_lengths: Int[Array, "batch segments"] | Int[Array, "batch"]
    query_offsets: Int[Array, "batch segments_and_end"] | None
    key_offsets: Int[Array, "batch segments_and_end"] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """What a call of the kernel is given besides its arrays.

    Attributes:
        scale: of the scores.
        causal: whether a query reads no key that stands after it in the row.
        learned_bias: whether the gradient of the bias is wanted.
    """

    scale: float
    causal: bool
    learned_bias: bool


def obstacle(
    segments: Segments,
    *,
    head_dim: int,
    precision: Precision,
    relative: bool,
    dropout: bool,
    cap: float | None = None,
) -> str | None:
    """Why the kernel cannot serve an attention, in words; None = it can.

    Args:
        relative: whether there is a bias on the scores.
        dropout: whether attention weights are dropped out. cuDNN would draw from a count of its own calls, which a
            run that is continued does not have.
        cap: bound of the scores; None = there is none.
    """
    if platform() not in ("gpu", "cuda"):
        return f"it runs on NVIDIA GPUs, and this is for {platform()}"
    if precision != "bfloat16":
        return f"it computes in bfloat16, and model.precision is {precision}"
    if head_dim % 8 or head_dim > LARGEST_HEAD:
        return f"a head must be a multiple of 8 wide, {LARGEST_HEAD} at most, and is {head_dim}"
    if dropout:
        return "it does not drop out attention weights: set attention_dropout to 0"
    if segments.window is not None:
        return "it has no windows: set attention_window to None"
    if cap is not None:
        return "it does not bound scores: set attention_cap to None"
    if segments.max_segments is None:
        return "the most examples of a row must be known: set data.max_examples_per_row, or data.packing to False"
    if segments.max_segments > 1:
        if relative:
            return "with relative positions a row must hold one example: set data.packing to False"
        if not _is_masked(segments) and not _takes_offsets():
            return (
                f"long rows of several examples need compute capability {OFFSETS_CAPABILITY}: set data.packing to False"
            )
    if relative and (segments.queries.shape[1] % 2 or segments.keys.shape[1] % 2):
        return "with relative positions the rows must be of even lengths"
    if length_shards() > 1:
        return "rows are divided: set mesh.sequence to 1"
    return None


def _is_masked(segments: Segments) -> bool:
    """Whether a bias on the scores says which pairs may not attend; else lengths and offsets of segments do."""
    queries, keys = segments.queries.shape[1], segments.keys.shape[1]
    # The kernel takes a bias for even lengths alone.
    return segments.max_segments > 1 and queries * keys <= LONGEST_MASKED**2 and queries % 2 == keys % 2 == 0


def mask_bias(segments: Segments) -> Float[Array, "batch 1 target source"]:
    """0 where the query's segment is the key's, else `MASKED_BIAS`, in bfloat16; causality is not in it."""
    mask = segment_mask(segments.queries, segments.keys)
    return jnp.where(mask, 0.0, MASKED_BIAS).astype(jnp.bfloat16)[:, None]


def bounds_of(segments: Segments) -> Bounds:
    """Lengths and offsets of the segments, source and target paired: one that a side lacks is left out on both.

    A row without any token is taken for one of a single token, as the kernel gives NaN for a segment without keys
    (cuDNN before 9.25), which the gradient of a bias would sum over the batch.
    """
    if segments.max_segments == 1:
        query_lengths, key_lengths = (
            jnp.maximum(jnp.sum(ids == 1, axis=1, dtype=jnp.int32), 1) for ids in (segments.queries, segments.keys)
        )
        return Bounds(query_lengths, key_lengths, None, None)

    def places(ids):
        inside = ids[:, None, :] == jnp.arange(1, segments.max_segments + 1)[:, None]
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
    inside = [(ids > 0) & (ids <= segments.max_segments) for ids in (segments.queries, segments.keys)]
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
    queries, keys, values = (
        nn.with_logical_constraint(x.astype(jnp.bfloat16), ("batch", None, "heads", None))
        for x in (queries, keys, values)
    )
    read_queries, read_keys = read_places(segments)
    bounds = None
    if _is_masked(segments):
        bias = nn.with_logical_constraint(mask_bias(segments), ("batch", None, None, None))
    else:
        # The gradient at a place that the kernel does not write is undefined. The forward pass needs no copies without
        # these places, which it does not read: they were 5% of the memory traffic of T5-large's step.
        queries = _with_cleared_gradient(queries, read_queries)
        keys, values = _with_cleared_gradient(keys, read_keys), _with_cleared_gradient(values, read_keys)
        bounds = jax.tree.map(lambda x: nn.with_logical_constraint(x, ("batch", None)[: x.ndim]), bounds_of(segments))
        if bias is not None:
            bias = nn.with_logical_constraint(bias.astype(jnp.bfloat16), (None, "heads", None, None))
    settings = KernelSettings(scale=head_dim**-0.5, causal=segments.causal, learned_bias=bounds is not None)
    return _cleared(_kernel(queries, keys, values, bias, bounds, settings), read_queries)


def _cleared(x, read):
    return jnp.where(read[:, :, None, None], x, jnp.zeros((), x.dtype))


@jax.custom_vjp
def _with_cleared_gradient(x, read):
    """The array, whose gradient is 0 where it is not read."""
    return x


def _forward_of_cleared(x, read):
    return x, read


def _backward_of_cleared(read, gradient):
    return _cleared(gradient, read), None


_with_cleared_gradient.defvjp(_forward_of_cleared, _backward_of_cleared)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _kernel(queries, keys, values, bias, bounds, settings):
    call = _call(cudnn._dot_product_attention_fwd_p_wrapper, is_training=False, **_attributes(bias, bounds, settings))
    (context,) = call(*_operands(queries, keys, values, bias, bounds))
    return context


def _forward(queries, keys, values, bias, bounds, settings):
    call = _call(cudnn._dot_product_attention_fwd_p_wrapper, is_training=True, **_attributes(bias, bounds, settings))
    context, statistics = call(*_operands(queries, keys, values, bias, bounds))
    context, statistics = checkpoint_name(context, OUTPUT_NAME), checkpoint_name(statistics, STATISTICS_NAME)
    return context, (queries, keys, values, bias, bounds, statistics, context)


def _backward(settings, saved, gradient):
    queries, keys, values, bias, bounds, statistics, context = saved
    call = _call(cudnn._dot_product_attention_bwd_p_wrapper, **_attributes(bias, bounds, settings))
    gradients = call(*_operands(queries, keys, values, bias, bounds), statistics, context, gradient)
    bias_gradient = gradients[3] if bias is not None and settings.learned_bias else None
    return *gradients[:3], bias_gradient, None


_kernel.defvjp(_forward, _backward)


def _call(primitive, **attributes):
    """A function that calls the kernel, and that `jax.vmap` can be applied to.

    JAX 0.10 does not vectorise the kernel over samples that attend to the same keys.
    """

    @jax.custom_batching.custom_vmap
    def call(*operands):
        return tuple(primitive.bind(*operands, **attributes))

    @call.def_vmap
    def of_all(size, batched, *operands):
        has_bias, _ = attributes["variadic_args"]
        if has_bias:
            # The kernel sums the gradient of a bias over its rows.
            moved = tuple(each for each, own in zip(operands, batched, strict=True) if own)

            def of_one(moved):
                moved = iter(moved)
                return call(*(next(moved) if own else each for each, own in zip(operands, batched, strict=True)))

            results = jax.lax.map(of_one, moved)
        else:
            rows = [
                each if own else jnp.broadcast_to(each, (size, *each.shape))
                for each, own in zip(operands, batched, strict=True)
            ]
            # Samples and rows become one dim. Where rows are sharded they are its outer part: as the inner one they
            # would be gathered, and every device would attend for all. (On one device that order would only copy.)
            are_sharded = shards_of_rows(rows[0].shape[1]) > 1
            if are_sharded:
                rows = [each.swapaxes(0, 1) for each in rows]
            results = call(*(each.reshape(-1, *each.shape[2:]) for each in rows))
            if are_sharded:
                results = tuple(each.reshape(-1, size, *each.shape[1:]).swapaxes(0, 1) for each in results)
            else:
                results = tuple(each.reshape(size, -1, *each.shape[1:]) for each in results)
        return results, tuple(True for _ in results)

    return call


def _operands(queries, keys, values, bias, bounds):
    """In the order of the bindings, which take an empty array for what there is not."""
    none = jnp.zeros(0, queries.dtype)
    fields = ("query_lengths", "key_lengths", "query_offsets", "key_offsets")
    optional = (bias, *(None if bounds is None else getattr(bounds, field) for field in fields))
    page_tables = (none, none)
    return queries, keys, values, *(none if each is None else each for each in optional), *page_tables


def _attributes(bias, bounds, settings):
    mask = cudnn.MaskType
    if bounds is not None and bounds.query_offsets is None:
        kind = mask.PADDING_CAUSAL if settings.causal else mask.PADDING
    else:
        kind = mask.CAUSAL if settings.causal else mask.NO_MASK
    return {
        "scale": settings.scale,
        "seed": 0,
        "dropout_rate": 0.0,
        # Whether there is a bias, and whether its gradient is wanted.
        "variadic_args": (bias is not None, bias is not None and settings.learned_bias),
        "mask_type": kind,
        "layout": cudnn.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }
