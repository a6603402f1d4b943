"""The device mesh and how logical axes of arrays lie on it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which the rows of a batch are divided."""

RULES = (
    ("batch", BATCH_AXES),
    ("length", None),
    ("activation", None),
    ("vocab", "tensor"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("hidden", "tensor"),
    ("model", "fsdp"),
    ("head_dim", None),
    ("norm", None),
    ("layers", None),
)
"""Logical axis of a parameter or an activation -> mesh axes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1 for all that are left."""

    data: int = -1
    """Copies of the parameters, each with its share of the rows."""
    fsdp: int = 1
    """Shards of the parameters along the model dim, each with its share of the rows."""
    tensor: int = 1
    """Shards of heads, hidden dims and vocabulary, all with the same rows."""

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"mesh sizes must be at least 1, one of them may be -1 (the rest); they are {sizes}.")

    def build(self, devices: list[jax.Device] | None = None) -> Mesh:
        """The mesh over `devices` (by default all).

        Raises:
            ValueError: the sizes do not make up the number of devices.
        """
        devices = jax.devices() if devices is None else devices
        sizes = list(dataclasses.astuple(self))
        if -1 in sizes:
            rest, remainder = divmod(len(devices), -math.prod(sizes))
            if remainder or rest == 0:
                raise ValueError(
                    f"mesh {tuple(sizes)} of {AXES} cannot be made of {len(devices)} devices: the fixed sizes must "
                    "divide their number. Lower one of the mesh sizes."
                )
            sizes[sizes.index(-1)] = rest
        if math.prod(sizes) > len(devices):
            raise ValueError(
                f"mesh {tuple(sizes)} of {AXES} needs {math.prod(sizes)} devices, and there are {len(devices)}. "
                "Lower one of the mesh sizes, or set one to -1."
            )
        # A pod's torus of 8 x 8 x 16 chips has no axis of 4: it may be split.
        grid = mesh_utils.create_device_mesh(
            tuple(sizes), devices[: math.prod(sizes)], allow_split_physical_axes=True
        )
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows divided over the batch axes, all else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


LARGEST_WHOLE = 2**20
"""Bytes of the largest array that all devices of the fsdp axis hold whole, where one of its dims can be divided."""


def shardings(mesh: Mesh, boxed: Any) -> Any:
    """The NamedSharding of every leaf of a tree of shapes.

    Args:
        boxed: what `jax.eval_shape` gives, parameters boxed with their logical axes (flax.linen's
            LogicallyPartitioned). A leaf without axes is replicated, and so is a dim that its mesh axis does not
            divide. Large arrays without a model dim, such as moments that have lost it, are divided over fsdp along
            the last dim that can be.
    """

    def of_leaf(leaf):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return replicated(mesh)
        spec = nn.logical_to_mesh_axes(leaf.names, RULES)
        fitting = [
            axis if axis is None or size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, leaf.value.shape, strict=True)
        ]
        if leaf.value.size * leaf.value.dtype.itemsize > LARGEST_WHOLE and "fsdp" not in fitting:
            fitting = _with_fsdp(fitting, leaf.value.shape, mesh)
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree.map(of_leaf, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


def _with_fsdp(spec: list[str | None], shape: tuple[int, ...], mesh: Mesh) -> list[Any]:
    """The spec with fsdp on the last dim that can be divided over it as well, if there is one.

    The last, since a loop over layers takes slices of the first.
    """
    for dim, (axis, size) in reversed(list(enumerate(zip(spec, shape, strict=True)))):
        taken = 1 if axis is None else mesh.shape[axis]
        if size % (taken * mesh.shape["fsdp"]) == 0:
            return [*spec[:dim], "fsdp" if axis is None else (axis, "fsdp"), *spec[dim + 1 :]]
    return spec


class OnMesh:
    """A jitted function that is traced with a mesh and the rules of its logical axes in use."""

    def __init__(self, function: Callable[..., Any], mesh: Mesh, **options: Any):
        """Args:
        options: of `jax.jit`.
        """
        self._compiled = jax.jit(function, **options)
        self._mesh = mesh

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(RULES):
            return self._compiled(*arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """The function for arguments, or for their shapes, before it is compiled."""
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(RULES):
            return self._compiled.lower(*arguments)


def on_each_shard(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """What a function of arrays that lead with the batch gives, each device calling it with the rows that it has.

    The rows of a batch must not depend on each other. Without a mesh in use, or with rows that it does not divide, it
    is called once with all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(axis for axis in BATCH_AXES if types.get(axis) == AxisType.Auto)
    shards = math.prod(mesh.shape[axis] for axis in axes)
    if shards == 1 or len(arrays[0]) % shards:
        return function(*arrays)
    rows = PartitionSpec(axes)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)
