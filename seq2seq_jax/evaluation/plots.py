"""Plots of a training run, from the records of its metrics.jsonl."""

import dataclasses
import io
import math
import os
import pathlib
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from seq2seq_jax.files import write_whole

_WIDTH = 10.0  # inches, of 100 pixels
_PANEL_HEIGHT = 4.0  # inches


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Curve:
    """One metric over steps."""

    kind: Literal["train", "validation"]
    metric: str
    label: str
    color: str
    best: Literal["lowest", "highest"] | None = None
    unless: str | None = None
    """Records with this metric are left out, as their unit differs."""
    set: str | None = None
    """Name of the validation set; None = there is one alone."""
    style: str = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Panel:
    """Curves with the same unit."""

    title: str
    unit: str
    from_zero: bool
    curves: tuple[_Curve, ...]


_STYLES = ("-", "--", ":", "-.")
"""Of the lines of the validation sets, in their order."""
_FIRST_COLOR = 2  # Of scores: the losses have those before.
_NUM_COLORS = 10  # Of matplotlib's cycle.

_TRAINING_PANELS = (
    _Panel(
        title="Reward of samples",
        unit="reward",
        from_zero=False,
        curves=(
            _Curve(kind="train", metric="reward", label="mean", color="C0"),
            _Curve(kind="train", metric="reward_spread", label="standard deviation within a source", color="C1"),
            _Curve(kind="train", metric="advantage", label="advantage, absolute", color="C2"),
        ),
    ),
    _Panel(
        title="Policy",
        unit="nats per token",
        from_zero=True,
        curves=(
            _Curve(kind="train", metric="entropy", label="entropy", color="C0"),
            _Curve(kind="train", metric="kl", label="KL divergence from the initial model", color="C1"),
        ),
    ),
    _Panel(
        title="Length of samples",
        unit="tokens",
        from_zero=True,
        curves=(_Curve(kind="train", metric="sample_length", label="mean", color="C0"),),
    ),
    _Panel(
        title="Samples that end in the EOS token",
        unit="fraction",
        from_zero=True,
        curves=(_Curve(kind="train", metric="ended_fraction", label="ended before the limit", color="C0"),),
    ),
    _Panel(
        title="Rewards computed",
        unit="samples per second",
        from_zero=True,
        curves=(_Curve(kind="train", metric="rewards_per_second", label="training", color="C0"),),
    ),
    _Panel(
        title="Throughput",
        unit="tokens per second",
        from_zero=True,
        curves=(_Curve(kind="train", metric="tokens_per_second", label="training", color="C0"),),
    ),
    _Panel(
        title="Learning rate",
        unit="learning rate",
        from_zero=True,
        curves=(_Curve(kind="train", metric="learning_rate", label="training", color="C0"),),
    ),
)


def plot_learning_curves(
    records: list[dict], path: str | os.PathLike, *, loss_scale: Literal["linear", "log"] = "linear"
) -> None:
    """Write `learning_curves` to a PNG file, 1,000 pixels wide; its directory is made if need be.

    Raises:
        ValueError: the records have no metric to plot.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    learning_curves(records, loss_scale=loss_scale).savefig(picture, format="png")
    write_whole(path, picture.getvalue())


def learning_curves(records: list[dict], *, loss_scale: Literal["linear", "log"] = "linear") -> Figure:
    """A figure of loss, validation scores, what a policy gradient logs, tokens per second and learning rate over steps.

    Panels without data are left out. A star marks the best value of each validation metric. If a step is recorded
    twice, as in a resumed run, the later record counts.

    Args:
        records: lines of metrics.jsonl, each with "step", "kind" ("train" or "validation") and metrics of that step; in
            "metrics" what the scores of a validation are, and in "set" which set it is of.
        loss_scale: of the panel with the losses of training and validation; losses of 0 or less have no place on a
            logarithmic one.

    Returns:
        A figure, 1,000 pixels wide, that is not registered with pyplot.

    Raises:
        ValueError: the records have no metric to plot.
    """
    candidates = (_loss_panel(records), *_score_panels(records), *_TRAINING_PANELS)
    panels = [panel for panel in candidates if any(_points(records, curve) for curve in panel.curves)]
    if not panels:
        raise ValueError(
            f"expected records with training or validation metrics, got {len(records)} records without any: "
            "plot a run that has logged a step"
        )
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(_WIDTH, _PANEL_HEIGHT * rows), dpi=100, layout="constrained")
    first = None
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1, sharex=first)
        _draw(axes, panel, records, scale=loss_scale if panel is candidates[0] else "linear")
        first = first or axes
    if signatures := _signatures(records):
        figure.supxlabel(signatures, fontsize="xx-small")
    return figure


def _validations(records: list[dict]) -> list[dict]:
    return [record for record in records if record["kind"] == "validation"]


def _sets(records: list[dict]) -> list[str | None]:
    """Names of the validation sets, in their order; None = that of records without a name."""
    return list(dict.fromkeys(record.get("set") for record in _validations(records))) or [None]


def _of_set(label: str, name: str | None) -> str:
    return label if name is None else f"{label} ({name})"


def _loss_panel(records: list[dict]) -> _Panel:
    return _Panel(
        title="Loss",
        unit="loss (nats per token)",
        from_zero=False,
        curves=(
            _Curve(kind="train", metric="loss", label="training", color="C0", unless="reward"),
            *(
                _Curve(
                    kind="validation", metric="loss", label=_of_set("validation", name), color="C1", best="lowest",
                    set=name, style=_STYLES[index % len(_STYLES)],
                )
                for index, name in enumerate(_sets(records))
            ),
        ),
    )  # fmt: skip


def _score_panels(records: list[dict]) -> list[_Panel]:
    """A panel for each unit of the scores, with what the records say of them."""
    described = {name: facts for record in _validations(records) for name, facts in record.get("metrics", {}).items()}
    colors = {name: f"C{(_FIRST_COLOR + index) % _NUM_COLORS}" for index, name in enumerate(described)}
    return [
        _Panel(
            title="Validation scores" if unit == "percent" else f"Validation, {unit}",
            unit=f"score ({unit})",
            from_zero=True,
            curves=tuple(
                _Curve(
                    kind="validation", metric=name, label=_of_set(facts["label"], of), color=colors[name],
                    best="highest" if facts["higher_is_better"] else "lowest", set=of,
                    style=_STYLES[index % len(_STYLES)],
                )
                for name, facts in described.items()
                if facts["unit"] == unit
                for index, of in enumerate(_sets(records))
            ),
        )
        for unit in dict.fromkeys(facts["unit"] for facts in described.values())
    ]  # fmt: skip


def _signatures(records: list[dict]) -> str:
    """How the scores were computed, a line for each way."""
    labels: dict[str, dict[str, None]] = {}
    for record in _validations(records):
        for facts in record.get("metrics", {}).values():
            if facts["signature"]:
                labels.setdefault(facts["signature"], {})[facts["label"]] = None
    return "\n".join(f"{', '.join(names)}: {signature}" for signature, names in labels.items())


def _points(records: list[dict], curve: _Curve) -> dict[int, float]:
    """Step -> value, in the order of steps."""
    points = {
        record["step"]: record[curve.metric]
        for record in records
        if record["kind"] == curve.kind
        and record.get(curve.metric) is not None
        and curve.unless not in record
        and record.get("set") == curve.set
    }
    return dict(sorted(points.items()))


def _draw(axes: Axes, panel: _Panel, records: list[dict], *, scale: Literal["linear", "log"]) -> None:
    for curve in panel.curves:
        points = _points(records, curve)
        if not points:
            continue
        label = curve.label
        finite = {step: value for step, value in points.items() if math.isfinite(value)}
        if curve.best and finite:
            step = (min if curve.best == "lowest" else max)(finite, key=finite.__getitem__)
            label += f", best {finite[step]:.4g} at step {step:,}"
            axes.plot([step], [finite[step]], marker="*", markersize=14, color=curve.color, zorder=3)
        # A single point has no line.
        marker = "o" if curve.kind == "validation" or len(points) == 1 else None
        axes.plot(
            list(points), list(points.values()), color=curve.color, label=label, marker=marker, markersize=3,
            linestyle=curve.style,
        )  # fmt: skip
    axes.set_title(panel.title)
    axes.set_xlabel("step (optimizer updates)")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    if panel.from_zero:
        axes.set_ylim(bottom=0)
    if scale == "log":
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", style="scientific", scilimits=(-2, 5))
    # Below the axes, so that it covers no curve.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize="small", frameon=False)
