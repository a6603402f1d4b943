"""Tables of names, read in both directions: what a stored tensor is called, which parameters it holds, and how."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from seq2seq_jax.pretrained.safetensors_files import FLOATS, StoredTensor, describe_names
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
    """Parameters by path, laid out as they shall be; each process reads what its own devices hold.

    Layers are read one by one into the part of a device, so that beside the result no more than one such part exists.

    Args:
        layouts: shapes, dtypes and shardings (ShapeDtypeStruct) by path.
        paths: of the parameters that are wanted; None = all.
        progress: called with (parameters done, all).
    """
    holders: dict[str, list[tuple[str, Place, int]]] = {}
    for name, place in expected.items():
        for index, path in enumerate(place.entry.paths):
            if paths is None or path in paths:
                holders.setdefault(path, []).append((name, place, index))
    loaded = {}
    for done, (path, held) in enumerate(holders.items()):
        layout = layouts[path]

        def part(where: tuple[slice, ...], held=held, layout=layout) -> np.ndarray:
            where = tuple(slice(*each.indices(size)[:2]) for each, size in zip(where, layout.shape, strict=True))
            values = np.empty([each.stop - each.start for each in where], layout.dtype)
            for name, place, index in held:
                source = place.entry.transform.own(tensors[name].open(), index, place.shapes(layouts))
                if place.layer is None:
                    values[...] = source[where]
                elif where[0].start <= place.layer < where[0].stop:
                    values[place.layer - where[0].start] = source[where[1:]]
            return values

        loaded[path] = _placed(layout, part)
        progress(done + 1, len(holders))
    return loaded


def _placed(layout: jax.ShapeDtypeStruct, part: Callable[[tuple[slice, ...]], np.ndarray]) -> jax.Array:
    if layout.sharding is None:
        return jax.numpy.asarray(part((slice(None),) * len(layout.shape)))
    return jax.make_array_from_callback(layout.shape, layout.sharding, part)


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
