"""The device mesh, and the sharding of arrays over it by logical axes."""

import math
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from seq2seq_jax.parallel.compilations import compilations, last_compilation
from seq2seq_jax.parallel.mesh_config import AXES

# Configs name it by this module.
from seq2seq_jax.parallel.mesh_config import MeshConfig as MeshConfig

BATCH_AXES = ("data", "fsdp")
"""Mesh axes over which the rows of a batch are sharded."""

RULES = (
    ("batch", BATCH_AXES),
    ("length", "sequence"),
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

MAX_REPLICATED_BYTES = 2**20
"""Size (bytes) above which an array is sharded over the fsdp axis even without a model dim, if a dim is divisible."""


def lay_out(sizes: tuple[int, ...], devices: list[Any] | None) -> Mesh:
    """The mesh of `MeshConfig.build`, of sizes along AXES."""
    devices = jax.devices() if devices is None else devices
    sizes = list(sizes)
    if -1 in sizes:
        rest, remainder = divmod(len(devices), -math.prod(sizes))
        if remainder or rest == 0:
            raise ValueError(
                f"mesh {tuple(sizes)} of {AXES} cannot be made of {len(devices)} devices: the fixed sizes must "
                "divide their number. Lower one of the mesh sizes."
            )
        sizes[sizes.index(-1)] = rest
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"mesh {tuple(sizes)} of {AXES} needs {math.prod(sizes)} devices, and there are {len(devices)}. "
            "Change the mesh sizes, or set one to -1 for the rest."
        )
    groups = {_fast_group(device) for device in devices}
    across, left = [], len(groups)
    for size in sizes:
        across.append(math.gcd(size, left))
        left //= across[-1]
    if left > 1 or len(devices) % len(groups):
        raise ValueError(
            f"mesh {tuple(sizes)} of {AXES} cannot be laid over {len(groups)} hosts or slices of "
            f"{len(devices) // len(groups)} devices. Make mesh.data a multiple of {len(groups)}."
        )
    axis_types = (AxisType.Auto,) * len(AXES)
    if len(groups) == 1:
        # A pod's torus of 8 x 8 x 16 chips has no axis of 4: it may be split.
        laid = mesh_utils.create_device_mesh(tuple(sizes), devices, allow_split_physical_axes=True)
        return Mesh(laid, AXES, axis_types=axis_types)
    within = tuple(size // parts for size, parts in zip(sizes, across, strict=True))
    laid = mesh_utils.create_hybrid_device_mesh(
        within, across, devices, process_is_granule=not _has_slices(devices[0]), allow_split_physical_axes=True
    )
    return Mesh(laid, AXES, axis_types=axis_types)


def _has_slices(device: Any) -> bool:
    return device.platform == "tpu" and getattr(device, "slice_index", None) is not None


def _fast_group(device: Any) -> int:
    """The slice of a TPU, the host of any other device."""
    return device.slice_index if _has_slices(device) else device.process_index


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows sharded over the batch axes; all other dims replicated."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """Number of shards of the rows of a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def gather_length(x: Array, dim: int) -> Array:
    """The array, gathered along the sequence axis: the keys and values that every position attends to."""
    return _along_length(x, dim, None)


def shard_length(x: Array, dim: int) -> Array:
    """The array, sharded over the sequence axis."""
    return _along_length(x, dim, "sequence")


def gather_features(x: Array, axis: str | None) -> Array:
    """The features (last dim) that a parameter reads or makes: not sharded, where fsdp shards the parameter's dim.

    Activations have no shards along it anywhere, but between two products the choice is the compiler's, and XLA's
    partitioner has a fault (with jax 0.10.2 and 0.11.2): on a mesh of 2 x 2 x 2, a product of rows over
    P(("data", "fsdp"), "tensor") with a matrix over P("tensor", "fsdp") into P(("data", "fsdp"), "tensor") multiplies
    the rows in another order of devices and does not restore it. On other meshes nothing is constrained.

    Args:
        axis: logical axis of the parameter's dim.
    """
    mesh = jax.sharding.get_abstract_mesh()
    sharded = {
        name
        for name, type_ in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if type_ == AxisType.Auto and mesh.shape[name] > 1
    }
    if dict(RULES).get(axis) != "fsdp" or not {*BATCH_AXES, "tensor"} <= sharded:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[PartitionSpec.UNCONSTRAINED] * (x.ndim - 1), None))


def length_shards() -> int:
    """Number of shards of the positions of a row on the mesh in use."""
    return jax.sharding.get_abstract_mesh().shape.get("sequence", 1)


def _along_length(x: Array, dim: int, axis: str | None) -> Array:
    """Constrain the sharding of one dim on the mesh in use, if lengths are sharded; other dims are up to the
    compiler.
    """
    if length_shards() == 1:
        return x
    spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[dim] = axis
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def rows_of_process(mesh: Mesh) -> tuple[int, int]:
    """The smallest shard of the rows of a batch that contains all rows of this process's devices.

    Devices that differ only along tensor and sequence have the same rows. On a torus the rows of a host may not be
    contiguous: then its shard contains more rows than its devices need.

    Returns:
        Index of the shard, and number of equal shards.
    """
    shards = batch_shards(mesh)
    process = jax.process_index()
    parts = enumerate(mesh.devices.reshape(shards, -1))
    own = [part for part, devices in parts if any(device.process_index == process for device in devices)]
    counts = (count for count in range(shards, 0, -1) if shards % count == 0)
    count = next(count for count in counts if own[0] * count // shards == own[-1] * count // shards)
    return own[0] * count // shards, count


def global_batch(rows: Any, mesh: Mesh, *, shard: tuple[int, int]) -> Any:
    """Global arrays with rows sharded over the mesh, from the host arrays of each process.

    Args:
        rows: host arrays with the rows of this process's shard.
        shard: index of the shard, and number of shards; see `rows_of_process`.
    """
    index, count = shard
    sharding = batch_sharding(mesh)

    def place(array):
        begin = index * len(array)

        def rows_of_device(indices):
            first, last, _ = indices[0].indices(len(array) * count)
            return array[first - begin : last - begin]

        return jax.make_array_from_callback((len(array) * count, *array.shape[1:]), sharding, rows_of_device)

    return jax.tree.map(place, rows)


def shardings(mesh: Mesh, boxed: Any) -> Any:
    """The NamedSharding of every leaf of a tree of shapes.

    Args:
        boxed: result of `jax.eval_shape`, with parameters boxed with their logical axes (flax.linen's
            LogicallyPartitioned). Leaves without axes, and dims that are not divisible by their mesh axis, are
            replicated. Large arrays without a model dim, such as factored moments, are sharded over fsdp along their
            last divisible dim.
    """

    def of_leaf(leaf):
        if not isinstance(leaf, nn.LogicallyPartitioned):
            return replicated(mesh)
        spec = nn.logical_to_mesh_axes(leaf.names, RULES)
        fitting = [
            axis if axis is None or size % mesh.shape[axis] == 0 else None
            for axis, size in zip(spec, leaf.value.shape, strict=True)
        ]
        if leaf.value.size * leaf.value.dtype.itemsize > MAX_REPLICATED_BYTES and "fsdp" not in fitting:
            fitting = _with_fsdp(fitting, leaf.value.shape, mesh)
        return NamedSharding(mesh, PartitionSpec(*fitting))

    return jax.tree.map(of_leaf, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


def _with_fsdp(spec: list[str | None], shape: tuple[int, ...], mesh: Mesh) -> list[Any]:
    """The spec with fsdp added to the last dim that it divides, if there is one.

    The last dim is preferred, since a loop over layers slices the first.
    """
    for dim, (axis, size) in reversed(list(enumerate(zip(spec, shape, strict=True)))):
        taken = 1 if axis is None else mesh.shape[axis]
        if size % (taken * mesh.shape["fsdp"]) == 0:
            return [*spec[:dim], "fsdp" if axis is None else (axis, "fsdp"), *spec[dim + 1 :]]
    return spec


def bytes_per_device(layout: Any) -> int:
    """Bytes per device of a tree of shapes and shardings (ShapeDtypeStruct leaves)."""
    leaves = jax.tree.leaves(layout)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


class JittedOnMesh:
    """A jitted function that is traced under a mesh and the rules for its logical axes.

    Attributes:
        compilations: programs that its calls (and `compile`) have had compiled in this process.
        compiling_seconds: what these have taken until the programs were there.
    """

    def __init__(self, function: Callable[..., Any], mesh: Mesh, **options: Any):
        """Args:
        options: options of `jax.jit`.
        """
        self._compiled = jax.jit(function, **options)
        self._mesh = mesh
        self.compilations = 0
        self.compiling_seconds = 0.0

    def __call__(self, *arguments: Any) -> Any:
        """The function's result."""
        before, started = compilations(), time.perf_counter()
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(RULES):
            results = self._compiled(*arguments)
        self._count(before, started)
        return results

    def compile(self, *arguments: Any) -> jax.stages.Compiled:
        """The program for arguments, which stay as they are. A call with the same arguments compiles nothing anew."""
        before, started = compilations(), time.perf_counter()
        compiled = self.lower(*arguments).compile()
        self._count(before, started)
        return compiled

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """The lowered function, for arguments or their shapes."""
        with jax.set_mesh(self._mesh), nn.logical_axis_rules(RULES):
            return self._compiled.lower(*arguments)

    def _count(self, before: int, started: float) -> None:
        """Count what was compiled since `before` programs were there, at `started`."""
        if compilations() > before:
            self.compilations += compilations() - before
            self.compiling_seconds += last_compilation() - started


def platform() -> str:
    """What the program that is traced will run on: the devices of the mesh in use, else those of the process.

    Not `jax.lax.platform_dependent`: its gradient keeps what the backward passes of all platforms need.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def shards_of_rows(rows: int) -> int:
    """Number of shards that `on_each_shard` splits the rows into; 1 = no sharding."""
    axes = _free_batch_axes()
    shards = math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in axes)
    return 1 if rows % shards else shards


def _free_batch_axes() -> tuple[str, ...]:
    """Batch axes of the mesh in use, except for those that a surrounding `shard_map` has made manual."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return tuple(axis for axis in BATCH_AXES if types.get(axis) == AxisType.Auto)


def on_each_shard(function: Callable[..., Any], *arrays: PyTree) -> Any:
    """Apply a function to arrays, or trees of them, whose first dim is the batch, on each device with its own rows.

    The rows of a batch must not depend on each other. Without a mesh in use, or if its shards do not divide the rows,
    the function is called once with all rows.
    """
    if shards_of_rows(len(jax.tree.leaves(arrays)[0])) == 1:
        return function(*arrays)
    rows = PartitionSpec(_free_batch_axes())
    return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*arrays)
