"""python -m studies.curves: what several runs logged, in one picture and one table."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from seq2seq_jax.benchmark import report
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.training.telemetry import Record, read_records

PROGRAM = "python -m studies.curves"
DESCRIPTION = """\
Draw metrics of several runs' metrics.jsonl over minutes of training, one panel a metric; a training metric is the mean
of the records around each point. Print what each run reached.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurvesArguments:
    """Command line of the comparison of curves."""

    metrics: tuple[str, ...] = ("train/reward", "train/entropy", "validation/bleu", "validation/chrf")
    """Metrics that are drawn: train/NAME or validation/NAME, as in TensorBoard."""
    smoothing: int = 5
    """Records that a point of a training metric is the mean of."""
    plot: str | None = None
    """PNG file for the picture."""
    json: str | None = None
    """File for the metrics of the table, as JSON."""


def points(records: Sequence[Record], metric: str, *, smoothing: int) -> list[tuple[float, float]]:
    """(minutes of training, value) of each record that has a metric.

    Args:
        metric: kind/name.
        smoothing: records that a value of training is the mean of, those around it; fewer at the ends.
    """
    kind, _, name = metric.partition("/")
    seconds, found, values = 0.0, [], []
    for record in records:
        seconds = record.get("seconds", seconds)
        if record["kind"] == kind and name in record:
            found.append(seconds / 60.0)
            values.append(record[name])
    half = smoothing // 2 if kind == "train" else 0
    windows = [values[max(0, index - half) : index + half + 1] for index in range(len(values))]
    return [(minutes, sum(window) / len(window)) for minutes, window in zip(found, windows, strict=True)]


def curves(runs: dict[str, Sequence[Record]], metrics: Sequence[str], *, smoothing: int) -> Figure:
    """A panel a metric, a line a run that has it.

    Args:
        runs: records by the name of the run.
    """
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.0 * columns, 3.6 * rows), dpi=100, layout="constrained")
    colors = dict(zip(runs, itertools.cycle(f"C{index}" for index in range(10))))
    for index, metric in enumerate(metrics):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name, records in runs.items():
            line = points(records, metric, smoothing=smoothing)
            if line:
                marker = "o" if metric.startswith("validation/") else None
                axes.plot(*zip(*line, strict=True), color=colors[name], label=name, marker=marker, markersize=4)
        axes.set_title(metric)
        axes.set_xlabel("minutes of training")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", frameon=False)
    return figure


def reached(records: Sequence[Record]) -> dict[str, int | float]:
    """Steps, minutes, and the validation scores of the best checkpoint of a run."""
    validations = [record for record in records if record["kind"] == "validation"]
    best = next((record for record in reversed(validations) if record["best"]), {})
    figures = {"steps": records[-1]["step"], "minutes": max(record.get("seconds", 0.0) for record in records) / 60.0}
    return figures | {name: best[name] for name in ("step", "bleu", "chrf") if name in best}


def main(arguments: list[str]) -> None:
    """Parse the command line, draw, print a table.

    Raises:
        ValueError: a directory has no metrics.jsonl, no run has a metric, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(CurvesArguments(), rest, program=f"{PROGRAM} RUN [RUN ...]", description=DESCRIPTION)
    if not directories:
        raise ValueError(f"{PROGRAM} needs the directory of at least one RUN. See {PROGRAM} --help.")
    if chosen.smoothing < 1:
        raise ValueError(f"--smoothing must be at least 1 record, not {chosen.smoothing}.")
    runs = {}
    for directory in directories:
        records = read_records(Path(directory) / "metrics.jsonl")
        if not records:
            raise ValueError(f"{directory} has no records in a metrics.jsonl. Give the directory of a run.")
        runs[Path(directory).name] = records
    for metric in chosen.metrics:
        if not any(points(records, metric, smoothing=1) for records in runs.values()):
            raise ValueError(f"no run has logged {metric!r}. Give train/NAME or validation/NAME.")
    figures = {name: reached(records) for name, records in runs.items()}
    rows = [
        (
            name,
            f"{found['steps']:,}",
            f"{found['minutes']:.1f}",
            *(f"{found[score]:.2f}" if score in found else "" for score in ("bleu", "chrf")),
        )
        for name, found in figures.items()
    ]
    header = ("run", "steps", "minutes", "best validation BLEU", "its chrF")
    report.output().print(report.table(header, rows, title="What each run reached"))
    report.write_json(figures, chosen.json)
    if chosen.plot is not None:
        curves(runs, chosen.metrics, smoothing=chosen.smoothing).savefig(chosen.plot)


if __name__ == "__main__":
    report.run_script(main)
