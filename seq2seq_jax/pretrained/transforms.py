"""How a tensor lies in another project's files and in this project's parameters, each with its inverse.

All are exact: dims are moved, merged or joined, and no number is changed. Arrays from memory-mapped files stay views,
but for kernels of convolutions, so that of a sharded parameter only the part is read that is used.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

Shape = tuple[int, ...]


class Transform(abc.ABC):
    """Of a stored tensor and the parameters that it holds, of one layer, which are as a rule one."""

    @abc.abstractmethod
    def stored_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of the stored tensor for parameters of these shapes."""

    @abc.abstractmethod
    def own(self, stored: np.ndarray, index: int, shapes: Sequence[Shape]) -> np.ndarray:
        """The parameter with an index, a view of the stored tensor."""

    @abc.abstractmethod
    def stored(self, own: Sequence[np.ndarray]) -> np.ndarray:
        """The stored tensor: the inverse of `own`."""


@dataclasses.dataclass(frozen=True)
class Reshaped(Transform):
    """The same numbers in the same order: vectors, and biases of heads. `leading` dims of 1 come before them."""

    leading: int = 0

    def stored_shape(self, shapes: Sequence[Shape]) -> Shape:
        [shape] = shapes
        return (*(1,) * self.leading, math.prod(shape))

    def own(self, stored: np.ndarray, index: int, shapes: Sequence[Shape]) -> np.ndarray:
        return stored.reshape(shapes[index])

    def stored(self, own: Sequence[np.ndarray]) -> np.ndarray:
        [values] = own
        return values.reshape(self.stored_shape([values.shape]))


@dataclasses.dataclass(frozen=True)
class Table(Transform):
    """A table as it is: [rows, model]."""

    def stored_shape(self, shapes: Sequence[Shape]) -> Shape:
        [shape] = shapes
        return shape

    def own(self, stored: np.ndarray, index: int, shapes: Sequence[Shape]) -> np.ndarray:
        return stored

    def stored(self, own: Sequence[np.ndarray]) -> np.ndarray:
        [values] = own
        return values


@dataclasses.dataclass(frozen=True)
class Matrix(Transform):
    """A kernel [*inputs, *outputs], stored as PyTorch's linear layers have it: [outputs, inputs].

    Attributes:
        inputs: number of input dims.
    """

    inputs: int = 1

    def stored_shape(self, shapes: Sequence[Shape]) -> Shape:
        [shape] = shapes
        return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

    def own(self, stored: np.ndarray, index: int, shapes: Sequence[Shape]) -> np.ndarray:
        shape, dims = shapes[index], len(shapes[index])
        outputs = dims - self.inputs
        return stored.reshape(*shape[self.inputs :], *shape[: self.inputs]).transpose(
            *range(outputs, dims), *range(outputs)
        )

    def stored(self, own: Sequence[np.ndarray]) -> np.ndarray:
        [values] = own
        flat = values.reshape(math.prod(values.shape[: self.inputs]), -1)
        return flat.T


@dataclasses.dataclass(frozen=True)
class Convolution(Transform):
    """A kernel [window * inputs, outputs] over unfolded windows, stored as PyTorch has it: [outputs, inputs, window].

    Attributes:
        window: vectors that the kernel reads.
    """

    window: int

    def stored_shape(self, shapes: Sequence[Shape]) -> Shape:
        [(rows, outputs)] = shapes
        return outputs, rows // self.window, self.window

    def own(self, stored: np.ndarray, index: int, shapes: Sequence[Shape]) -> np.ndarray:
        return stored.transpose(2, 1, 0).reshape(shapes[index])

    def stored(self, own: Sequence[np.ndarray]) -> np.ndarray:
        [values] = own
        return values.reshape(self.window, -1, values.shape[1]).transpose(2, 1, 0)


@dataclasses.dataclass(frozen=True)
class Joined(Transform):
    """Several kernels [input, *outputs], or biases, beside each other: [input, all outputs], as GPT-2 has them.

    Attributes:
        inputs: number of input dims, 0 for biases.
    """

    inputs: int = 1

    def _widths(self, shapes: Sequence[Shape]) -> list[int]:
        return [math.prod(shape[self.inputs :]) for shape in shapes]

    def stored_shape(self, shapes: Sequence[Shape]) -> Shape:
        width = sum(self._widths(shapes))
        return (math.prod(shapes[0][: self.inputs]), width) if self.inputs else (width,)

    def own(self, stored: np.ndarray, index: int, shapes: Sequence[Shape]) -> np.ndarray:
        widths = self._widths(shapes)
        start = sum(widths[:index])
        # Splitting a dim of a slice is a view.
        return stored[..., start : start + widths[index]].reshape(shapes[index])

    def stored(self, own: Sequence[np.ndarray]) -> np.ndarray:
        if not self.inputs:
            return np.concatenate([values.reshape(-1) for values in own])
        return np.concatenate([values.reshape(math.prod(values.shape[: self.inputs]), -1) for values in own], axis=1)


@dataclasses.dataclass(frozen=True)
class ChosenRows(Transform):
    """A parameter that has some rows of another, or zeros: a table of tokens whose ids were chosen, or padded.

    Attributes:
        inner: how the whole parameter is stored, its first dim being the rows.
        rows: row of the parameter -> row of the whole, or -1 for zeros.
        size: rows of the whole.
        kept: gives the stored tensor, of which rows that were not chosen are taken; None = all were chosen.
    """

    inner: Transform
    rows: tuple[int, ...]
    size: int
    kept: Callable[[], np.ndarray] | None = None

    def _whole(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [(self.size, *shape[1:]) for shape in shapes]

    def stored_shape(self, shapes: Sequence[Shape]) -> Shape:
        return self.inner.stored_shape(self._whole(shapes))

    def own(self, stored: np.ndarray, index: int, shapes: Sequence[Shape]) -> np.ndarray:
        whole, rows = self.inner.own(stored, index, self._whole(shapes)), np.array(self.rows)
        found = np.zeros((len(rows), *whole.shape[1:]), whole.dtype)
        found[rows >= 0] = whole[rows[rows >= 0]]
        return found

    def stored(self, own: Sequence[np.ndarray]) -> np.ndarray:
        [values] = own
        rows, shape = np.array(self.rows), (self.size, *values.shape[1:])
        if self.kept is None:
            whole = np.zeros(shape, values.dtype)
        else:
            whole = np.array(self.inner.own(self.kept(), 0, [shape]).astype(values.dtype))
        whole[rows[rows >= 0]] = values[rows >= 0]
        return self.inner.stored([whole])
