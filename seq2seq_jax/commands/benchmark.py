"""`seq2seq benchmark`: how fast a config trains, generates and reads its data here, and where the time goes."""

import dataclasses
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seq2seq_jax.benchmark import comparison, harness, report, sweep, trace
from seq2seq_jax.benchmark.generation import GenerationFigures, measure_generation
from seq2seq_jax.benchmark.harness import Spread
from seq2seq_jax.benchmark.input_pipeline import InputFigures, measure_input
from seq2seq_jax.benchmark.memory import peak_memory
from seq2seq_jax.benchmark.training import TrainingFigures, TrainingPrograms, measure_training
from seq2seq_jax.benchmark.workload import Workload, prepared
from seq2seq_jax.commands.console import Display
from seq2seq_jax.commands.options import BenchmarkOptions
from seq2seq_jax.commands.outputs import refuse_unwritable
from seq2seq_jax.compilation.memory import OUT_OF_MEMORY
from seq2seq_jax.experiment import CommandLine, differences, to_json
from seq2seq_jax.paths import user_path

PROGRAM = "seq2seq benchmark CONFIG"
PROFILED_STEPS = 3
SHOWN_OPERATIONS = 15
MEBIBYTE = 2**20


def run(arguments: list[str], parsed: CommandLine) -> None:
    """Measure, show what was found."""
    name, default, chosen = parsed
    refuse_unwritable(chosen.json)
    old = None if chosen.compare is None else comparison.read(chosen.compare)
    axes = sweep.parse(chosen.sweep, chosen.experiment)
    figures: dict[str, Any] = {
        "config": name,
        "arguments": arguments,
        "overrides": {field: list(values) for field, values in differences(default, chosen.experiment).items()},
        "experiment": to_json(chosen.experiment),
        "environment": harness.environment(),
        "measurements": {},
    }
    with Display() as display:
        if axes:
            figures |= _sweep(chosen, name, axes, display)
        else:
            figures |= _measure(chosen, name, display)
    console = report.output()
    console.print(report.environment_line(figures["environment"]))
    try:
        if old is not None:
            _show_comparison(chosen.compare, old, figures)
    finally:
        # Last, as what cannot be written takes nothing of what a person reads; and whatever they are compared with.
        report.write_json(figures, chosen.json)


def _measure(chosen: BenchmarkOptions, name: str, display: Display) -> dict[str, Any]:
    """The requested parts, shown as they come."""
    figures: dict[str, Any] = {"parts": {}, "measurements": {}}
    experiment, parts, measurements = chosen.experiment, figures["parts"], figures["measurements"]
    figures["parameters"] = f"of {experiment.init_from}" if experiment.init_from else "new"
    console, training, contender, text = report.output(), None, None, ""
    with prepared(experiment, name, synthetic=chosen.synthetic, progress=display.progress) as workload:
        figures["data"] = "full rows of random tokens" if workload.run is None else "the config's"
        subject = f"{name}, {experiment.model.precision}, {figures['parameters']} parameters"
        if "training" in chosen.parts:
            training, programs = measure_training(
                workload, rounds=chosen.rounds, steps=chosen.steps, progress=display.progress
            )
            parts["training"] = {**training.to_json(), "peak_memory": peak_memory()}
            measurements |= _measurements("training step", training)
            rows = _training_rows(training, parts["training"]["peak_memory"])
            console.print(report.table(("training", "median (quartiles)"), rows, title=f"{subject}; {figures['data']}"))
            if chosen.profile is not None:
                contender, text = _profiled(programs)
            del programs
        if "generation" in chosen.parts:
            found, searches = measure_generation(
                workload, batch_sizes=chosen.batch_sizes, rounds=chosen.rounds, progress=display.progress
            )
            parts["generation"] = {
                "searches": [each.to_json() for each in found],
                "lengths": _lengths_of_texts(workload),
                "peak_memory": peak_memory(),
            }
            for each in found:
                measurements[f"generation, {each.name}"] = {**dataclasses.asdict(each.batch), "unit": "seconds"}
            _show_generation(found, subject, parts["generation"]["lengths"])
            if chosen.profile is not None and contender is None:
                largest = searches[found[-1].beam_size, max(chosen.batch_sizes)]
                contender, text = largest, largest.compiled.as_text()
            del searches
        if "input" in chosen.parts and workload.run is not None:
            made = measure_input(
                workload.run, rounds=chosen.rounds, batches=chosen.input_batches, progress=display.progress
            )
            parts["input"] = made.to_json()
            measurements["input, batch"] = {**dataclasses.asdict(made.batch), "unit": "seconds"}
            if training is not None:
                parts["input"]["times_training"] = training.step.median / made.batch.median
            _show_input(made, training, name)
        if contender is not None:
            figures["profile"] = _profile(contender, text, user_path(chosen.profile), display)
    return figures


def _profiled(programs: TrainingPrograms) -> tuple[Any, str]:
    """Steps on the most frequent shape, and the text of their program."""
    kind = programs.kinds[0]
    return programs.turn(kind, steps=1), programs.compiled[kind.shape].as_text()


def _measurements(name: str, figures: TrainingFigures) -> dict[str, dict[str, Any]]:
    """What two benchmarks are compared by."""
    planned = Spread.of([float(figures.largest.memory.peak)])
    return {
        name: {**dataclasses.asdict(figures.step), "unit": "seconds"},
        f"{name}, memory as compiled": {**dataclasses.asdict(planned), "unit": "bytes"},
    }


def _lengths_of_texts(workload: Workload) -> str:
    if workload.has_new_parameters:
        return "limited to those of the references by length of the source, as new parameters do not end texts"
    return "as the parameters end them"


def _rate(figures: TrainingFigures, amount: float) -> str:
    rate = figures.per_second(amount)
    return f"{rate.median:,.0f} ({rate.lower_quartile:,.0f} to {rate.upper_quartile:,.0f})"


def _training_rows(figures: TrainingFigures, peak: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("step", report.milliseconds(figures.step)),
        ("target tokens/s", _rate(figures, figures.target_tokens)),
        ("source + target tokens/s", _rate(figures, figures.source_tokens + figures.target_tokens)),
        ("pairs/s", _rate(figures, figures.pairs)),
    ]
    if figures.sampled_tokens is not None:
        rows.append(("sampled tokens/s", _rate(figures, figures.sampled_tokens)))
    rows += [
        ("padding", f"{figures.padding_fraction:.1%} of the places of both sides"),
        ("parameters", f"{figures.parameters:,}"),
        ("model FLOPs of a step", f"{figures.model_flops:.4g}"),
        ("MFU", _utilization(figures)),
    ]
    for each in figures.shapes:
        shape, compilation = each.shape, each.compilation
        name = f"{shape.rows} x ({shape.source_length} + {shape.target_length})"
        rows.append(
            (
                name,
                f"{each.share:.0%} of batches, {report.milliseconds(each.step)}; compiled in "
                f"{compilation.seconds:.1f} s",
            )
        )
    plan = figures.largest.memory
    rows.append(
        (
            "memory as compiled",
            f"{_mebibytes(plan.peak)} a device: {_mebibytes(plan.arguments)} state and batch, "
            f"{_mebibytes(plan.temporaries)} temporaries",
        )
    )
    return rows + _peak_rows(peak)


def _peak_rows(peak: Mapping[str, Any]) -> list[tuple[str, str]]:
    device = peak["device_peak_bytes"]
    rows = [] if device is None else [("peak of a device so far", _mebibytes(device))]
    return [*rows, ("peak of the process so far", f"{_mebibytes(peak['process_peak_bytes'])} resident")]


def _utilization(figures: TrainingFigures) -> str:
    share = figures.utilization
    if share is None:
        return "not known: no peak rate is published for this device here"
    return (
        f"{100 * share.median:.1f} ({100 * share.lower_quartile:.1f} to {100 * share.upper_quartile:.1f}) % of "
        f"{figures.peak_flops / 1e12:,.3g} TFLOP/s"
        + (", a matrix product's on this CPU" if jax.devices()[0].platform == "cpu" else "")
    )


def _short_milliseconds(spread: Spread) -> str:
    """As `report.milliseconds`, for a column that names the unit."""
    return report.milliseconds(spread).removesuffix(" ms")


def _mebibytes(size: int | float) -> str:
    return f"{size / MEBIBYTE:,.1f} MiB"


def _show_generation(found: Sequence[GenerationFigures], subject: str, lengths: str) -> None:
    rows = [
        (
            each.name,
            str(each.source_length),
            f"{each.tokens / each.sentences:.1f}",
            _short_milliseconds(each.batch),
            f"{each.sentences / each.batch.median:,.1f}",
            f"{each.tokens / each.batch.median:,.0f}",
            f"{each.compilation.seconds:.1f} s",
            _mebibytes(each.compilation.memory.peak),
        )
        for each in found
    ]
    header = ("generation", "source", "tokens", "ms a batch (quartiles)", "sentences/s", "tokens/s", "compiled in")
    header += ("memory",)
    console = report.output()
    console.print(report.table(header, rows, title=subject))
    console.print(f"Lengths of texts: {lengths}. Memory is that of a device, as compiled.")


def _show_input(made: InputFigures, training: TrainingFigures | None, name: str) -> None:
    rows = [
        ("batch", report.milliseconds(made.batch)),
        ("batches/s", f"{1 / made.batch.median:,.1f}"),
        ("pairs/s", f"{made.pairs / made.batch.median:,.0f}"),
        ("source + target tokens/s", f"{made.tokens / made.batch.median:,.0f}"),
        ("first batch", f"{made.first:.2f} s"),
    ]
    if training is not None:
        rows.append(("beside training", f"{training.step.median / made.batch.median:,.1f} times what it consumes"))
    report.output().print(report.table(("input pipeline alone", "median (quartiles)"), rows, title=name))


def _profile(contender: Any, text: str, directory: Path, display: Display) -> dict[str, Any]:
    """Trace a few turns, show and return the operations."""
    display.line(f"tracing {PROFILED_STEPS} turns into {directory}")
    path = trace.record(contender, directory, times=PROFILED_STEPS)
    found = trace.operations(path, text)
    console = report.output()
    rows = [
        (category, f"{1e3 * seconds / PROFILED_STEPS:,.2f} ms", f"{count / PROFILED_STEPS:,.0f}", f"{share:.1%}")
        for category, seconds, count, share in trace.by_category(found)[:SHOWN_OPERATIONS]
    ]
    console.print(report.table(("category", "time", "runs", "share"), rows, title="Operations of one turn, by kind"))
    rows = [
        (
            each.name,
            each.category,
            f"{1e3 * each.seconds / PROFILED_STEPS:,.2f} ms",
            f"{each.count / PROFILED_STEPS:,.0f}",
            f"{each.share:.1%}",
            _shortened(each.origin),
        )
        for each in found[:SHOWN_OPERATIONS]
    ]
    header = ("operation", "category", "time", "runs", "share", "from")
    console.print(report.table(header, rows, title=f"The {len(rows)} that take the most of {len(found)}"))
    console.print(f"Times are of all threads or devices together. Trace: {path} (ui.perfetto.dev shows it).")
    return {"trace": str(path), "turns": PROFILED_STEPS, "operations": [dataclasses.asdict(each) for each in found]}


def _shortened(origin: str, limit: int = 48) -> str:
    """The end of an origin, which says the most."""
    return origin if len(origin) <= limit else "…" + origin[1 - limit :]


def _sweep(chosen: BenchmarkOptions, name: str, axes: Sequence[sweep.Axis], display: Display) -> dict[str, Any]:
    """Training for each value; what does not fit is reported in its row."""
    found: dict[str, TrainingFigures] = {}
    refused: dict[str, str] = {}
    for index, label in enumerate(sweep.labels(axes)):
        display.line(f"{label} ({index + 1} of {len(sweep.labels(axes))})")
        try:
            experiment = sweep.experiment_at(chosen.experiment, axes, index, program=PROGRAM)
            with prepared(experiment, name, synthetic=chosen.synthetic, progress=display.progress) as workload:
                found[label] = measure_training(
                    workload, rounds=chosen.rounds, steps=chosen.steps, progress=display.progress
                )[0]
        except ValueError as error:
            refused[label] = _reason(error)
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            refused[label] = f"does not fit in memory: {' '.join(str(error).split())[:200]}"
        # Programs and states of one row are not to take the memory of the next.
        jax.clear_caches()
        gc.collect()
    if not found:
        first, reason = next(iter(refused.items()))
        raise ValueError(f"no value of --sweep could be measured; {first}: {reason}")
    console = report.output()
    console.print(
        report.table(
            ("value", "ms a step (quartiles)", "target tokens/s", "MFU", "memory", "temporaries", "compiled in"),
            [_sweep_row(label, found.get(label)) for label in sweep.labels(axes)],
            title=f"{name}, {chosen.experiment.model.precision}: {sweep.title(axes)}",
        )
    )
    for label, reason in refused.items():
        console.print(f"{label}: {reason}")
    sweep.plot(found, axes, heading=f"{name}, {chosen.experiment.model.precision}").savefig(chosen.plot)
    console.print(f"Picture: {chosen.plot}")
    measurements = {}
    for label, figures in found.items():
        measurements |= _measurements(f"{sweep.title(axes)} = {label}, training step", figures)
    return {
        "sweep": {
            "axes": [dataclasses.asdict(axis) for axis in axes],
            "rows": {label: figures.to_json() for label, figures in found.items()},
            "refused": refused,
        },
        "measurements": measurements,
    }


def _sweep_row(label: str, figures: TrainingFigures | None) -> tuple[str, ...]:
    if figures is None:
        return (label, "see below", "", "", "", "", "")
    share, plan = figures.utilization, figures.largest.memory
    return (
        label,
        _short_milliseconds(figures.step),
        f"{figures.per_second(figures.target_tokens).median:,.0f}",
        "" if share is None else f"{100 * share.median:.1f}%",
        _mebibytes(plan.peak),
        _mebibytes(plan.temporaries),
        f"{figures.compile_seconds:.1f} s",
    )


def _reason(error: ValueError) -> str:
    """Why a value does not fit, without what is said of command lines."""
    described = " ".join(str(error).split()).removeprefix("Error parsing Experiment: ")
    return described.removesuffix(f" See {PROGRAM} --help.")


def _show_comparison(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """What moved, and what else is different."""
    console = report.output()
    found = comparison.moved(old, new)
    rows = [
        (
            each.name,
            _amount(each.old, each.unit),
            _amount(each.new, each.unit),
            f"{each.ratio:.3f}",
            each.verdict,
        )
        for each in found
    ]
    if rows:
        header = ("moved", "before: median (quartiles)", "now: median (quartiles)", "now / before", "")
        console.print(report.table(header, rows, title=f"Compared with {path}"))
    else:
        console.print(f"Nothing moved beyond noise, compared with {path}.")
    for warning in comparison.warnings(old, new):
        console.print(f"differs: {warning}")


def _amount(spread: Spread, unit: str) -> str:
    return report.milliseconds(spread) if unit == "seconds" else _mebibytes(spread.median)
