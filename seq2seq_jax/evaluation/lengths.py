"""Sources of like length, to be scored together."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

NUM_GROUPS = 4
"""Groups where no bounds are given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Sources of like length."""

    name: str
    """Their words, such as "9–12"."""
    members: tuple[int, ...]
    """Their indices."""


def by_length(sources: Sequence[str], bounds: Sequence[int] | None = None) -> list[Group]:
    """Groups of sources by their words between white space, shortest first.

    Args:
        bounds: most words of each group but the last; None = such that groups have about as many sources each.

    Raises:
        ValueError: the bounds do not ascend, or a group would be empty.
    """
    words = [len(source.split()) for source in sources]
    if bounds is None:
        ordered = sorted(words)
        quantiles = {ordered[len(ordered) * index // NUM_GROUPS] for index in range(1, NUM_GROUPS)}
        bounds = sorted(bound for bound in quantiles if 0 < bound < ordered[-1])
    elif list(bounds) != sorted(set(bounds)) or not bounds or bounds[0] < 1:
        raise ValueError(f"--bounds must ascend from at least 1 word, and are {' '.join(map(str, bounds))}.")
    groups = []
    for low, high in itertools.pairwise((-1, *bounds, math.inf)):
        if high == math.inf:
            name = f"> {low}" if bounds else "all"
        else:
            name = f"≤ {high}" if low < 0 else f"{low + 1}–{high}"
        members = tuple(index for index, count in enumerate(words) if low < count <= high)
        if not members:
            raise ValueError(f"no source has {name} words; give other --bounds than {' '.join(map(str, bounds))}.")
        groups.append(Group(name=name, members=members))
    return groups
