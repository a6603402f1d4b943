"""Tables of names, read in both directions: what a stored tensor is called, which parameters it holds, and how."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from seq2seq_jax.pretrained.safetensors_files import FLOATS, StoredTensor, describe_names, will_need
from seq2seq_jax.pretrained.transforms import Transform

LAYER = "{layer}"
"""Stands in a name for the number of a layer."""
LAYERS = "/layer/"
"""Stands in the path of a parameter whose first dim is the layers of a stack."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
        name: of the stored tensor, with {layer} where there is one per layer.
        paths: of the parameters that it holds.
        transform: between the two.
    """

    name: str
    paths: tuple[str, ...]
    transform: Transform


@dataclasses.dataclass(frozen=True)
class Place:
    """A stored tensor, and the parts of parameters that it holds.

    Attributes:
        entry: its row in the table.
        layer: its layer; None = the parameters have none.
    """

    entry: Entry
    layer: int | None

    def shapes(self, layouts: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """Shapes of the parts."""
        return [tuple(layouts[path].shape[self.layer is not None :]) for path in self.entry.paths]

    def stored_shape(self, layouts: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of the stored tensor."""
        return self.entry.transform.stored_shape(self.shapes(layouts))


def places(table: Sequence[Entry], layouts: Mapping[str, Any]) -> dict[str, Place]:
    """Name of each stored tensor -> where it belongs.

    Args:
        layouts: path of each parameter -> what has its shape.
    """
    found = {}
    for entry in table:
        if LAYER not in entry.name:
            found[entry.name] = Place(entry, None)
            continue
        for layer in range(layouts[entry.paths[0]].shape[0]):
            found[entry.name.replace(LAYER, str(layer))] = Place(entry, layer)
    paths = [path for entry in table for path in entry.paths]
    assert len(paths) == len(set(paths)), "a parameter is in two rows of the table"
    return found


def flat(tree: Any) -> dict[str, Any]:
    """Leaves of nested dicts by their paths."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def check_tensors(
    tensors: Mapping[str, StoredTensor], expected: Mapping[str, Place], layouts: Mapping[str, Any], *, origin: str
) -> None:
    """Refuse a checkpoint whose tensors are not those of the table.

    Args:
        tensors: without those that belong to no parameter.

    Raises:
        ValueError: with up to five names.
    """
    missing, unknown = (sorted(set(a) - set(b)) for a, b in ((expected, tensors), (tensors, expected)))
    if missing:
        raise ValueError(
            f"{origin} lacks {len(missing)} tensors that its config.json describes: {describe_names(missing)}. Copy "
            "all of its files, or correct the config."
        )
    if unknown:
        raise ValueError(
            f"{origin} has {len(unknown)} tensors that its config.json does not describe: {describe_names(unknown)}. "
            "Correct the config; what is not part of the model must be left out."
        )
    wrong = [
        f"{name} is {tensor.dtype} {list(tensor.shape)}"
        + ("" if tensor.dtype in FLOATS else f" instead of one of {', '.join(FLOATS)}")
        + ("" if tensor.shape == shape else f" instead of {list(shape)}")
        for name, tensor in tensors.items()
        if tensor.shape != (shape := expected[name].stored_shape(layouts)) or tensor.dtype not in FLOATS
    ]
    if wrong:
        raise ValueError(f"{origin} has other tensors than its config.json describes: {describe_names(wrong)}.")


def load(
    tensors: Mapping[str, StoredTensor],
    expected: Mapping[str, Place],
    layouts: Mapping[str, Any],
    *,
    paths: Collection[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, jax.Array]:
    """Parameters by path, laid out as they shall be. All processes must call this, with the same arguments.

    What a device holds of a tensor that is stored transposed lies all over it. So devices, and with them processes,
    read whole rows of the stored tensors, each other ones, and exchange them, layer by layer, so that beside the result
    not much more than a layer exists.

    Args:
        layouts: shapes, dtypes and shardings (ShapeDtypeStruct) by path.
        paths: of the parameters that are wanted; None = all.
        progress: called with (parameters done, all).
    """
    holders: dict[str, list[_Holder]] = {}
    for name, place in expected.items():
        for index, path in enumerate(place.entry.paths):
            if paths is None or path in paths:
                holders.setdefault(path, []).append(_Holder(tensors[name], place, index, layouts))
    loaded = {}
    for done, (path, held) in enumerate(holders.items()):
        loaded[path] = _placed(layouts[path], held)
        progress(done + 1, len(holders))
    return loaded


@dataclasses.dataclass(frozen=True)
class _Holder:
    """A stored tensor with a parameter or a layer of it, the one with an index among those that it holds."""

    tensor: StoredTensor
    place: Place
    index: int
    layouts: Mapping[str, Any]

    def view(self) -> np.ndarray:
        """Its values, of which those are read that are used."""
        return self.place.entry.transform.own(self.tensor.open(), self.index, self.place.shapes(self.layouts))

    def read(self, where: tuple[slice, ...], layout: jax.ShapeDtypeStruct) -> np.ndarray:
        """A copy of a part, in the dtype of the parameter."""
        part = self.view()[where]
        will_need(part)
        return np.array(part, layout.dtype, order="C")


def _placed(layout: jax.ShapeDtypeStruct, held: Sequence[_Holder]) -> jax.Array:
    """A parameter on its devices.

    Args:
        held: what holds it, or each of its layers.
    """
    is_stacked = held[0].place.layer is not None

    def part(where: tuple[slice, ...]) -> np.ndarray:
        if not is_stacked:
            return held[0].read(where, layout)
        layers = range(layout.shape[0])[where[0]]
        values = None
        for holder in held:
            if holder.place.layer in layers:
                own = holder.read(where[1:], layout)
                values = np.empty((len(layers), *own.shape), layout.dtype) if values is None else values
                values[layers.index(holder.place.layer)] = own
        return values

    if layout.sharding is None:
        return jax.numpy.asarray(part((slice(None),) * len(layout.shape)))
    shape = layout.shape[is_stacked:]
    reading = _sharded_by_rows(layout, shape, rows_dim=int(np.argmax(held[0].view().strides))) if shape else None
    if reading is None:
        return jax.make_array_from_callback(layout.shape, layout.sharding, part)

    def read(holder: _Holder) -> jax.Array:
        return jax.make_array_from_callback(shape, reading, lambda where: holder.read(where, layout))

    if not is_stacked:
        return _mover(layout.sharding)(read(held[0]))
    zeros, with_layer = _stacking(layout.shape, layout.dtype, layout.sharding)
    stacked = zeros()
    for holder in held:
        # One after the other: what is in flight is in memory.
        stacked = jax.block_until_ready(with_layer(stacked, read(holder), holder.place.layer))
    return stacked


LEAST_EXCHANGED = 2**20
"""Bytes of a parameter, or a layer of it, of which devices read other parts than they hold."""


def _sharded_by_rows(
    layout: jax.ShapeDtypeStruct, shape: tuple[int, ...], *, rows_dim: int
) -> jax.sharding.NamedSharding | None:
    """A sharding of the rows of a stored tensor over as many axes of the mesh as divide them; None = it is too small,
    or there is one device.

    Args:
        shape: of a layer.
        rows_dim: its dim whose parts lie apart in the file.
    """
    if len(layout.sharding.device_set) == 1 or math.prod(shape) * layout.dtype.itemsize < LEAST_EXCHANGED:
        return None
    mesh = layout.sharding.mesh
    axes: list[str] = []
    for axis, devices in mesh.shape.items():
        if shape[rows_dim] % (devices * math.prod(mesh.shape[taken] for taken in axes)) == 0:
            axes.append(axis)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*[None] * rows_dim, tuple(axes)))


@functools.cache
def _mover(sharding: jax.sharding.NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda array: array, out_shardings=sharding, donate_argnums=0)


@functools.cache
def _stacking(
    shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.NamedSharding
) -> tuple[Callable[[], jax.Array], Callable[[jax.Array, jax.Array, int], jax.Array]]:
    """What makes an array of zeros, and what puts a layer into it."""
    return (
        jax.jit(lambda: jax.numpy.zeros(shape, dtype), out_shardings=sharding),
        jax.jit(
            lambda stacked, one, layer: jax.lax.dynamic_update_index_in_dim(stacked, one, layer, 0),
            out_shardings=sharding,
            donate_argnums=0,
        ),
    )


def stored_arrays(
    expected: Mapping[str, Place], params: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]:
    """The inverse of `load`: name and shape of each stored tensor, and what gives its values.

    Args:
        params: by path, all of each on the devices of this process.
    """
    for name, place in expected.items():

        def values(place=place) -> np.ndarray:
            own = [params[path] if place.layer is None else params[path][place.layer] for path in place.entry.paths]
            return place.entry.transform.stored([np.asarray(jax.device_get(array)) for array in own])

        yield name, place.stored_shape(params), values


def num_numbers(layouts: Mapping[str, Any]) -> int:
    """Numbers in parameters of these shapes."""
    return sum(math.prod(layout.shape) for layout in layouts.values())
