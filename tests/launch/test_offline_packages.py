"""offline_packages.txt: every package that the project needs and that jax, flax and optax do not bring."""

import importlib.metadata
import pathlib
import re

from packaging.requirements import Requirement

REPOSITORY = pathlib.Path(__file__).parents[2]


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(names):
    """Names of packages and of all that they need, as installed here."""
    found, todo = set(), [Requirement(name) for name in names]
    while todo:
        requirement = todo.pop()
        if (normalized(requirement.name), *requirement.extras) in found:
            continue
        found.add((normalized(requirement.name), *requirement.extras))
        for line in importlib.metadata.requires(requirement.name) or []:
            further = Requirement(line)
            extras = [*requirement.extras, ""]
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(further)
    return {name for name, *_ in found}


def lines(path):
    return [line.partition(";")[0].strip() for line in path.read_text().splitlines() if not line.startswith("#")]


def test_no_package_is_missing_and_none_is_too_much():
    pinned = [line for line in lines(REPOSITORY / "requirements.txt") if not line.startswith("jax==")]
    there = needed(["jax", "flax", "optax"])
    assert set(lines(REPOSITORY / "launch" / "offline_packages.txt")) == needed(pinned) - there
