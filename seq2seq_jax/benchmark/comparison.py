"""What moved beyond noise from one benchmark to another."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seq2seq_jax.benchmark.harness import Spread

THRESHOLD = 0.03
"""Change of a median below which nothing is said, whatever the quartiles."""

ENVIRONMENT = (
    "cpu", "cores", "devices", "num_devices", "platform", "python", "versions", "variables", "matmul_precision"
)  # fmt: skip
"""What must be the same for two benchmarks to say something about the code."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moved:
    """A figure that is another than it was.

    Attributes:
        unit: "seconds" or "bytes"; of both, less is better.
        ratio: of the new median to the old one.
    """

    name: str
    unit: str
    old: Spread
    new: Spread
    ratio: float

    @property
    def verdict(self) -> str:
        """In a word."""
        more, less = ("slower", "faster") if self.unit == "seconds" else ("more", "less")
        return more if self.ratio > 1.0 else less


def read(path: str) -> dict[str, Any]:
    """The measurements that an earlier `seq2seq benchmark --json` wrote.

    Raises:
        ValueError: there is no such file, or it is something else.
    """
    try:
        figures = json.loads(Path(path).read_text(encoding="utf-8"))
        spreads = [_spread(each) for each in figures["measurements"].values()]
        _ = figures["environment"], figures["experiment"]
    except OSError as error:
        raise ValueError(f"--compare {path} cannot be read: {error.strerror}. Give a file of --json.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--compare {path} is not what seq2seq benchmark --json writes ({type(error).__name__}: {error}). Give "
            "such a file."
        ) from error
    if not spreads:
        raise ValueError(f"--compare {path} has no measurements. Give a file of a benchmark that ran.")
    return figures


def moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Moved]:
    """The measurements of both whose quartiles do not overlap, and whose medians differ by more than THRESHOLD.

    Args:
        old: measurements of an earlier benchmark.
        new: those of this one.

    Returns:
        Those that changed the most first.
    """
    found = []
    for name in (name for name in new["measurements"] if name in old["measurements"]):
        before, after = _spread(old["measurements"][name]), _spread(new["measurements"][name])
        if before.median <= 0.0 or after.median <= 0.0:
            continue
        ratio = after.median / before.median
        apart = after.lower_quartile > before.upper_quartile or after.upper_quartile < before.lower_quartile
        if apart and not 1.0 / (1.0 + THRESHOLD) <= ratio <= 1.0 + THRESHOLD:
            unit = new["measurements"][name]["unit"]
            found.append(Moved(name=name, unit=unit, old=before, new=after, ratio=ratio))
    return sorted(found, key=lambda each: -max(each.ratio, 1.0 / each.ratio))


def warnings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why two benchmarks may differ for other reasons than the code, a sentence each."""
    found = []
    for name in ENVIRONMENT:
        before, after = old["environment"].get(name), new["environment"].get(name)
        if before != after:
            found.append(f"{name} was {_described(before)}, and is {_described(after)}")
    before, after = _flat(old["experiment"]), _flat(new["experiment"])
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    found += [f"{name} was {before.get(name)!r}, and is {after.get(name)!r}" for name in changed]
    only = [name for name in new["measurements"] if name not in old["measurements"]]
    gone = [name for name in old["measurements"] if name not in new["measurements"]]
    found += [f"only this one measured {', '.join(only)}"] if only else []
    found += [f"only that one measured {', '.join(gone)}"] if gone else []
    return found


def _spread(values: Mapping[str, Any]) -> Spread:
    return Spread(**{field.name: float(values[field.name]) for field in dataclasses.fields(Spread)})


def _described(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else repr(value)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of an experiment as JSON, of this version or of another."""
    if not isinstance(values, dict):
        return {prefix: values}
    return {
        name: inner
        for key, value in values.items()
        for name, inner in _flat(value, f"{prefix}.{key}".removeprefix(".")).items()
    }
