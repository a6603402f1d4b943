"""Weights of features that make the best texts of n-best lists score highest by a metric of the whole corpus.

Along a direction in the space of weights, the score of each text is a line, and which text of a list is the best one
changes where lines of its upper envelope cross. Between crossings the metric is constant, so that its maximum along the
direction is found exactly (Och 2003, section 4). This is done along every feature and along random directions, from
several starts, as long as it helps.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

Choice = Int[np.ndarray, " lists"]
"""The index of the chosen text of each list."""
Changes = Sequence[tuple[int, int]]
"""(list, text that is chosen from here on), one after the other."""


@runtime_checkable
class Quality(Protocol):
    """How good a choice is; higher is better."""

    def after(self, choice: Choice, changes: Changes) -> Float[np.ndarray, " choices"]:
        """Of a choice, and of what becomes of it after each change; NaN where it is not computed."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SummedQuality:
    """A quality that is a function of sums over the lists, such as BLEU of numbers of n-grams: computed everywhere.

    Attributes:
        statistics: what is summed, for each text of each list.
        value: of the sums.
    """

    statistics: Sequence[Float[np.ndarray, "_ numbers"]]
    value: Callable[[Float[np.ndarray, " numbers"]], float]

    def after(self, choice: Choice, changes: Changes) -> Float[np.ndarray, " choices"]:
        """See `Quality`."""
        sums = np.sum([of_list[chosen] for of_list, chosen in zip(self.statistics, choice, strict=True)], axis=0)
        current, values = list(choice), [self.value(sums)]
        for index, chosen in changes:
            sums = sums + self.statistics[index][chosen] - self.statistics[index][current[index]]
            current[index] = chosen
            values.append(self.value(sums))
        return np.array(values)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WholeQuality:
    """Any quality, computed after as many changes as there is time for, evenly spread.

    Attributes:
        value: of a choice.
        evaluations: how often it is computed for each line.
    """

    value: Callable[[Choice], float]
    evaluations: int = 16

    def after(self, choice: Choice, changes: Changes) -> Float[np.ndarray, " choices"]:
        """See `Quality`."""
        computed = set(
            np.linspace(0, len(changes), min(self.evaluations, len(changes) + 1)).round().astype(int).tolist()
        )
        current, values = np.array(choice), np.full(len(changes) + 1, np.nan)
        for place in range(len(changes) + 1):
            if place:
                index, chosen = changes[place - 1]
                current[index] = chosen
            if place in computed:
                values[place] = self.value(current)
        return values


def best_texts(features: Sequence[Float[np.ndarray, "_ features"]], weights: Float[np.ndarray, " features"]):
    """The text of each list with the highest weighted sum; of equal ones the first."""
    return np.array([int(np.argmax(of_list @ weights)) for of_list in features])


def tune(
    features: Sequence[Float[np.ndarray, "_ features"]],
    quality: Quality,
    start: Float[np.ndarray, " features"],
    *,
    restarts: int = 8,
    seed: int = 0,
    iterations: int = 20,
) -> Float[np.ndarray, " features"]:
    """Weights of the highest quality that is found; absolute values sum to 1.

    Args:
        features: finite, for each text of each list.
        quality: of the texts that weights choose.
        start: the weights to begin with, which are kept where nothing is better.
        restarts: further starts, from random weights.
        seed: of the random starts and directions.
        iterations: rounds over all directions from each start, at most.
    """
    centred = np.concatenate([of_list - of_list.mean(axis=0) for of_list in features])
    # In units in which features differ alike within lists; one that never differs does not matter.
    scales = np.where(centred.std(axis=0) > 0, centred.std(axis=0), 1.0)
    scaled = [of_list / scales for of_list in features]
    rng = np.random.default_rng(seed)
    starts = [start * scales, *rng.normal(size=(restarts, len(start)))]
    found = [_climb(scaled, quality, weights, rng=rng, iterations=iterations) for weights in starts]
    best = max(range(len(found)), key=lambda index: (found[index][1], -index))
    weights = found[best][0] / scales
    total = np.abs(weights).sum()
    return weights / total if total > 0 else weights


def _climb(features, quality, weights, *, rng, iterations):
    """The weights at which no direction leads higher, and their quality."""
    size = len(weights)
    reached = float(quality.after(best_texts(features, weights), ())[0])
    for _ in range(iterations):
        before = reached
        for direction in [*np.eye(size), *rng.normal(size=(size, size))]:
            moved = weights + _step(features, quality, weights, direction) * direction
            value = float(quality.after(best_texts(features, moved), ())[0])
            # As computed at the new weights: rounding may choose another text than the line search saw.
            if value > reached + 1e-9:
                weights, reached = moved, value
        if reached <= before:
            break
    return weights, reached


def _step(features, quality, weights, direction) -> float:
    """How far to go along a direction: to the middle of the best stretch; of equal ones the widest."""
    choice, crossings = [], []
    for index, of_list in enumerate(features):
        first, *others = envelope(of_list @ weights, of_list @ direction)
        choice.append(first[1])
        crossings += [(place, index, chosen) for place, chosen in others]
    crossings.sort()
    places = np.array([place for place, _, _ in crossings])
    values = quality.after(np.array(choice), [(index, chosen) for _, index, chosen in crossings])
    # Beyond the outermost crossings as far as they lie from each other, so that steps stay bounded.
    margin = max(1.0, np.ptp(places)) if len(places) else 1.0
    ends = [places[0] - margin, *places, places[-1] + margin] if len(places) else [-margin, margin]
    widths = np.diff(ends)
    values = np.where(widths > 1e-9, values, np.nan)
    if np.isnan(values).all():
        return 0.0
    best = np.flatnonzero(values >= np.nanmax(values) - 1e-12)
    widest = best[np.argmax(np.minimum(widths[best], margin))]
    return float((ends[widest] + ends[widest + 1]) / 2)


def envelope(offsets: Float[np.ndarray, " lines"], slopes: Float[np.ndarray, " lines"]) -> list[tuple[float, int]]:
    """The upper envelope of lines offset + slope x, from left to right: (where it begins, index of the line).

    The first begins at -inf. Of equal lines the first counts.
    """
    order = sorted(range(len(offsets)), key=lambda line: (slopes[line], -offsets[line], line))
    hull: list[tuple[float, int]] = []
    for line in _steeper(order, slopes):
        while hull:
            begins, last = hull[-1]
            crossing = (offsets[last] - offsets[line]) / (slopes[line] - slopes[last])
            if crossing > begins:
                hull.append((float(crossing), line))
                break
            hull.pop()
        else:
            hull.append((-np.inf, line))
    return hull


def _steeper(order: Sequence[int], slopes: Float[np.ndarray, " lines"]) -> Iterator[int]:
    """Of lines in order of their slopes, the first of each slope."""
    last = None
    for line in order:
        if slopes[line] != last:
            last = slopes[line]
            yield line
