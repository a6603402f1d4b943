"""Products with parameters that are sharded over fsdp, their collectives written out for the TPU compiler.

Elsewhere XLA partitions a product by itself: it gathers the parameter, and sums the parameter's gradient by a
reduce-scatter. XLA's TPU compiler replaces collectives that it has no algorithm for by an all-reduce, which sends twice
as much: a reduce-scatter (and on a three-dimensional torus an all-gather) among all chips of a slice, and one whose
shards are not whole tiles of memory, as those of a model dim of 1,024 over 256 chips. Here a parameter is communicated
as whole tiles, and among all chips in two stages.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seq2seq_jax.parallel.mesh import BATCH_AXES, RULES

LANES = 128
"""Elements of the minor dim of a tile in a TPU's memory."""

GATHERED_NAME = "gathered_parameter"
"""Name, for a policy of `jax.checkpoint`, of parameters as gathered over fsdp: kept for the backward pass, those of all
layers would be the whole model on every device."""

KINDS = ("TPU v5", "TPU v5p")
"""Kinds of TPU with explicit collectives. For v5e, libtpu 0.0.42 fails on a reduce-scatter among a part of the chips
("Failed to create limited ICI routing replica info table"); no other kind has been tried."""


class _Layout(NamedTuple):
    """How the arrays of a product lie on the mesh.

    Attributes:
        dim: dim of the parameter that is sharded over fsdp.
        fsdp: number of shards along it.
        in_two_stages: whether these are on all devices of the mesh.
        parameter: of the parameter's shards.
        gathered: of the parameter, gathered over fsdp.
        inputs, outputs: of what goes into the product and comes out.
        sums_outputs: whether the product sums over a dim that is sharded over tensor.
        sums_inputs: whether the gradient of its input does.
    """

    dim: int
    fsdp: int
    in_two_stages: bool
    parameter: PartitionSpec
    gathered: PartitionSpec
    inputs: PartitionSpec
    outputs: PartitionSpec
    sums_outputs: bool
    sums_inputs: bool


def product_with_parameter(
    product: Callable[[Array, Array], Array],
    x: Float[Array, "..."],
    parameter: Float[Array, "..."],
    *,
    axes: tuple[str | None, ...],
    num_inputs: int,
    dtype: DTypeLike,
    gradient_dtype: DTypeLike,
) -> Float[Array, "..."]:
    """`product(x, parameter)`; on TPUs of some kinds, if the parameter is sharded over fsdp, with explicit collectives.

    Args:
        product: sums over the last `num_inputs` dims of x and the first ones of the parameter, and takes these sizes
            from its arguments; the parameter's other dims are the last ones of the result.
        axes: logical axis of each dim of the parameter.
        dtype: in which the product reads the parameter, and in which it is gathered.
        gradient_dtype: in which the parameter's gradient is summed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    layout = _layout(mesh, x.shape, parameter.shape, axes, num_inputs) if communicates_explicitly(mesh) else None
    if layout is None:
        return product(x, parameter)

    def on_each_device(function, inputs, outputs):
        return jax.shard_map(function, in_specs=inputs, out_specs=outputs, check_vma=False)

    @jax.custom_vjp
    def apply(x, parameter):
        return forward(x, parameter)[0]

    def forward(x, parameter):
        def of_shard(x, own):
            whole = _gather(own.astype(dtype), layout)
            # The product converts what it reads, here without loss.
            result = product(x, whole.astype(parameter.dtype))
            return jax.lax.psum(result, "tensor") if layout.sums_outputs else result, whole

        specs = (layout.inputs, layout.parameter), (layout.outputs, layout.gathered)
        result, whole = on_each_device(of_shard, *specs)(x, parameter)
        return result, (x, checkpoint_name(whole, GATHERED_NAME))

    def backward(residuals, gradient):
        def of_shard(x, whole, gradient):
            of_x, of_parameter = jax.vjp(product, x, whole.astype(parameter.dtype))[1](gradient)
            if layout.sums_inputs:
                of_x = jax.lax.psum(of_x, "tensor")
            shard = _sum_and_scatter(of_parameter.astype(gradient_dtype), layout)
            return of_x, jax.lax.psum(shard, ("data", "sequence")).astype(parameter.dtype)

        specs = (layout.inputs, layout.gathered, layout.outputs), (layout.inputs, layout.parameter)
        return on_each_device(of_shard, *specs)(*residuals, gradient)

    apply.defvjp(forward, backward)
    return apply(x, parameter)


def communicates_explicitly(mesh: jax.sharding.AbstractMesh) -> bool:
    """Whether products on a mesh have explicit collectives: on TPUs of some kinds with several shards along fsdp."""
    device = mesh.abstract_device
    return device is not None and device.device_kind in KINDS and mesh.shape.get("fsdp", 1) > 1


def _layout(
    mesh: jax.sharding.AbstractMesh,
    x_shape: tuple[int, ...],
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    num_inputs: int,
) -> _Layout | None:
    """The layout of a product; None = the parameter is not sharded over fsdp, a mesh axis does not divide a dim that it
    shards, or a surrounding `shard_map` has made mesh axes manual.
    """
    parameter = list(nn.logical_to_mesh_axes(axes, RULES))
    leading = [BATCH_AXES, "sequence"]
    if (
        "fsdp" not in parameter
        or len(x_shape) != len(leading) + num_inputs
        or any(kind != AxisType.Auto for kind in mesh.axis_types)
    ):
        return None
    gathered = [None if axis == "fsdp" else axis for axis in parameter]
    inputs, outputs = gathered[:num_inputs], gathered[num_inputs:]
    for sizes, spec in ((x_shape, leading), (shape, parameter)):
        for size, axis in zip(sizes, spec, strict=False):
            parts = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
            if size % math.prod(mesh.shape[part] for part in parts):
                return None
    fsdp = mesh.shape["fsdp"]
    return _Layout(
        dim=parameter.index("fsdp"),
        fsdp=fsdp,
        in_two_stages=fsdp == mesh.size and fsdp > 2 and fsdp % 2 == 0,
        parameter=PartitionSpec(*parameter),
        gathered=PartitionSpec(*gathered),
        inputs=PartitionSpec(*leading, *inputs),
        outputs=PartitionSpec(*leading, *outputs),
        sums_outputs="tensor" in inputs and mesh.shape["tensor"] > 1,
        sums_inputs="tensor" in outputs and mesh.shape["tensor"] > 1,
    )


def _gather(own: Float[Array, "..."], layout: _Layout) -> Float[Array, "..."]:
    """A device's part of a parameter, from the shards along fsdp."""
    shape = list(own.shape)
    shape[layout.dim] *= layout.fsdp
    tiles = _tiles(own, layout.dim)
    for groups in reversed(_stages(layout)):
        tiles = jax.lax.all_gather(tiles, "fsdp", axis=0, axis_index_groups=groups, tiled=True)
    return _from_tiles(tiles, shape, layout.dim)


def _sum_and_scatter(parts: Float[Array, "..."], layout: _Layout) -> Float[Array, "..."]:
    """A device's shard of the sum over fsdp."""
    shape = list(parts.shape)
    shape[layout.dim] //= layout.fsdp
    tiles = _tiles(parts, layout.dim)
    for groups in _stages(layout):
        tiles = jax.lax.psum_scatter(tiles, "fsdp", scatter_dimension=0, axis_index_groups=groups, tiled=True)
    return _from_tiles(tiles, shape, layout.dim)


def _stages(layout: _Layout) -> list[list[list[int]] | None]:
    """The groups of devices along fsdp among which each stage scatters: None = all; or every other, then pairs.

    The first stage of two sends almost all bytes, and its groups span all dims of the torus.
    """
    if not layout.in_two_stages:
        return [None]
    devices = range(layout.fsdp)
    return [[list(devices[first::2]) for first in (0, 1)], [list(devices[first:][:2]) for first in devices[::2]]]


def _tiles(array: Float[Array, "..."], dim: int) -> Float[Array, "dim tiles lanes"]:
    """An array as tiles for each element of a dim."""
    size = array.size // array.shape[dim]
    lanes = LANES if size % LANES == 0 else size
    return array.swapaxes(0, dim).reshape(array.shape[dim], size // lanes, lanes)


def _from_tiles(tiles: Float[Array, "dim tiles lanes"], shape: list[int], dim: int) -> Float[Array, "..."]:
    """The inverse of `_tiles`, for an array of this shape."""
    swapped = list(shape)
    swapped[0], swapped[dim] = shape[dim], shape[0]
    return tiles.reshape(swapped).swapaxes(0, dim)
