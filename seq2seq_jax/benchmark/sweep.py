"""One or more fields of an experiment through several values: the values, and the picture of what was found."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.benchmark.training import TrainingFigures
from seq2seq_jax.experiment import Experiment, flatten, override

HINT = (
    "Give FIELD=VALUE,VALUE,..., several fields of one value as FIELD+FIELD=VALUE,..., and after it others that change "
    "with it, of as many values."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """Fields that have one value together.

    Attributes:
        fields: dotted names.
        values: as on a command line, one after the other.
    """

    fields: tuple[str, ...]
    values: tuple[str, ...]


def parse(specifications: Sequence[str], experiment: Experiment) -> tuple[Axis, ...]:
    """The axes of a sweep, which all change together.

    Args:
        specifications: such as "training.target_tokens_per_batch=1024,2048" or
            "data.max_source_length+data.window=8,16".
        experiment: whose fields they are.

    Raises:
        ValueError: there is no such field, or the numbers of values differ.
    """
    known = flatten(experiment)
    axes = []
    for specification in specifications:
        names, equals, values = specification.partition("=")
        if not equals or not all(values.split(",")):
            raise ValueError(f"--sweep cannot be {specification!r}. {HINT}")
        fields = tuple(names.replace("-", "_").split("+"))
        for field in fields:
            if field not in known:
                near = difflib.get_close_matches(field, known, n=1)
                meant = f" Did you mean {near[0]}?" if near else ""
                raise ValueError(f"--sweep: this config has no field {field!r}.{meant}")
        axes.append(Axis(fields=fields, values=tuple(values.split(","))))
    counts = {len(axis.values) for axis in axes}
    if len(counts) > 1:
        raise ValueError(
            f"--sweep: what changes together needs as many values, and there are "
            f"{' and '.join(str(len(axis.values)) for axis in axes)}. {HINT}"
        )
    return tuple(axes)


def labels(axes: Sequence[Axis]) -> list[str]:
    """What each row is called: its values."""
    return [", ".join(values) for values in zip(*(axis.values for axis in axes), strict=True)]


def title(axes: Sequence[Axis]) -> str:
    """What changes, in words."""
    return ", ".join(" + ".join(axis.fields) for axis in axes)


def experiment_at(experiment: Experiment, axes: Sequence[Axis], index: int, *, program: str) -> Experiment:
    """The experiment of one row.

    Args:
        program: how the command was called, for messages.

    Raises:
        ValueError: a value does not fit.
    """
    arguments = [part for axis in axes for field in axis.fields for part in (f"--{field}", axis.values[index])]
    return override(experiment, arguments, program=program)


def plot(found: Mapping[str, TrainingFigures], axes: Sequence[Axis], *, heading: str) -> Figure:
    """Tokens per second, MFU (where it is known) and memory against the values of the first axis.

    Args:
        found: by the row's label, those that could be run.
    """
    names = labels(axes)
    rows = [(axes[0].values[names.index(label)], figures) for label, figures in found.items()]
    numbers = [_number(value) for value, _ in rows]
    is_numeric = None not in numbers
    places = numbers if is_numeric else list(range(len(rows)))
    results = [figures for _, figures in rows]
    has_peak = all(each.peak_flops is not None for each in results)
    figure = Figure(figsize=(4.4 * (3 if has_peak else 2), 3.8), dpi=100, layout="constrained")
    panels = list(figure.subplots(1, 3 if has_peak else 2))
    speed = panels[0]
    rates = [each.per_second(each.target_tokens) for each in results]
    _line(speed, places, [rate.median for rate in rates], color="C0", spreads=rates)
    speed.set_title("target tokens per second")
    speed.yaxis.set_major_formatter(EngFormatter(sep=""))
    if has_peak:
        shares = [each.utilization for each in results]
        _line(panels[1], places, [100 * share.median for share in shares], color="C2")
        panels[1].set_title("MFU (percent)")
    memory = panels[-1]
    plans = [each.largest.memory for each in results]
    _line(memory, places, [plan.peak for plan in plans], color="C3", label="all")
    _line(memory, places, [plan.temporaries for plan in plans], color="C1", label="temporaries")
    memory.set_title("memory of a device, as compiled")
    memory.yaxis.set_major_formatter(EngFormatter(unit="B"))
    memory.legend(fontsize="small", frameon=False)
    for panel in panels:
        panel.set_ylim(bottom=0)
        panel.set_xlabel("\n".join(_halved(" + ".join(axes[0].fields))), fontsize="small")
        panel.grid(alpha=0.3)
        _ticks(panel, places, [value for value, _ in rows], logarithmic=is_numeric and panel is not memory)
    figure.suptitle(heading, fontsize="medium")
    return figure


def _line(
    axes: Axes,
    places: Sequence[int | float],
    values: Sequence[int | float],
    *,
    spreads: Sequence[Spread] = (),
    **style: Any,
) -> None:
    axes.plot(places, values, marker="o", markersize=4, **style)
    if spreads:
        low, high = [each.lower_quartile for each in spreads], [each.upper_quartile for each in spreads]
        axes.fill_between(places, low, high, alpha=0.2, linewidth=0, color=style["color"])


def _ticks(axes: Axes, places: Sequence[int | float], names: Sequence[str], *, logarithmic: bool) -> None:
    """The values themselves below the axis; on the axis of memory, which has even steps, those that do not touch."""
    if logarithmic and min(places) > 0:
        axes.set_xscale("log", base=2)
        kept = list(zip(places, names, strict=True))
    else:
        width = (max(places) - min(places)) / 8
        kept = []
        for place, name in sorted(zip(places, names, strict=True), reverse=True):
            if not kept or kept[-1][0] - place >= width:
                kept.append((place, name))
    axes.xaxis.set_major_locator(FixedLocator([place for place, _ in kept]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([name for _, name in kept], fontsize="small")


def _halved(text: str) -> list[str]:
    """A text as one line, or as two where it is long."""
    first, plus, rest = text.partition(" + ")
    return [f"{first} +", rest] if plus and len(text) > 40 else [text]


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
