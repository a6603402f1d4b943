"""`seq2seq compile`: what a config costs on chips that are not there."""

import dataclasses
import json
import math
from collections.abc import Sequence

from seq2seq_jax.commands.console import Display, columns, duration, table
from seq2seq_jax.commands.options import CompileOptions
from seq2seq_jax.commands.outputs import refuse_unwritable
from seq2seq_jax.compilation import StepName
from seq2seq_jax.compilation.cost import ASSUMPTIONS
from seq2seq_jax.compilation.programs import build_step
from seq2seq_jax.compilation.report import KNOWN_OF_GPUS, UNKNOWN_OF_GPUS, StepReport, compile_step
from seq2seq_jax.compilation.topology import HINT, Topology
from seq2seq_jax.experiment import CommandLine, Experiment, to_json
from seq2seq_jax.parallel.mesh import AXES, MeshConfig
from seq2seq_jax.paths import user_path

GIGABYTE = 1e9


def run(arguments: list[str], parsed: CommandLine) -> None:
    """Compile, show what was found."""
    name, _, chosen = parsed
    refuse_unwritable(chosen.json)
    if chosen.topology is None:
        raise ValueError(f"--topology is required. {HINT}")
    topology = Topology.parse(chosen.topology)
    meshes = [mesh_of(sizes) for sizes in chosen.sweep] or [chosen.experiment.mesh]
    topology.prepare()
    devices = topology.devices()
    reports: list[StepReport] = []
    refused: dict[str, str] = {}
    try:
        with Display() as display, topology.target():
            for step in chosen.steps:
                for mesh in meshes:
                    experiment = dataclasses.replace(chosen.experiment, mesh=mesh)
                    try:
                        program = build_step(step, experiment, devices)
                    except ValueError as error:
                        if not chosen.sweep:
                            raise
                        refused[f"{step}, mesh {'x'.join(map(str, dataclasses.astuple(mesh)))}"] = str(error)
                        continue
                    shown = f"{step} of {name} for {topology.name}, {mesh_sizes(dict(program.mesh.shape))}"
                    display.line(f"compiling {shown}")
                    reports.append(compile_step(program, topology))
    finally:
        # Of a sweep that is interrupted, or fails, what was compiled in minutes is shown and kept.
        if reports or refused:
            _show_all(chosen, name, topology, reports, refused)


def _show_all(
    chosen: CompileOptions, name: str, topology: Topology, reports: Sequence[StepReport], refused: dict[str, str]
) -> None:
    """Print what was found, then write the file."""
    if chosen.sweep:
        for step in chosen.steps:
            of_step = [report for report in reports if report.step == step]
            _show_sweep(of_step, name, topology, own=sizes_on(chosen.experiment.mesh, topology.num_chips))
        for what, reason in refused.items():
            print(f"{what}: {reason}")
    else:
        for report in reports:
            _show(report, name, topology, sound=_seconds_of_sound(chosen.experiment, report.step))
        meshes = other_meshes(reports[0].mesh)
        if meshes:
            print(f"This mesh is not tuned. To compare it with others: --sweep {' '.join(meshes)}")
    _show_assumptions(topology)
    if chosen.json is not None:
        _write(chosen, name, topology, reports, refused)


def mesh_of(sizes: str) -> MeshConfig:
    """The mesh of sizes such as 1x256x4, in order of the axes; those that are left out are 1.

    Raises:
        ValueError: it has more axes, or a size is no number.
    """
    parts = sizes.split("x")
    if len(parts) > len(AXES) or not all(part.removeprefix("-").isdecimal() and len(part) < 10 for part in parts):
        raise ValueError(
            f"--sweep takes meshes as up to {len(AXES)} sizes with x between them ({' x '.join(AXES)}; one may be -1), "
            f"and {sizes!r} is none."
        )
    given = dict(zip(AXES, map(int, parts), strict=False))
    return MeshConfig(**dict.fromkeys(AXES, 1) | given)


def sizes_on(mesh: MeshConfig, num_chips: int) -> dict[str, int]:
    """Devices along each axis of a mesh of n chips."""
    sizes = dataclasses.asdict(mesh)
    rest = num_chips // -math.prod(sizes.values())
    return {axis: rest if size == -1 else size for axis, size in sizes.items()}


def other_meshes(mesh: dict[str, int]) -> list[str]:
    """This mesh, and those with 2 and 4 times as many shards along tensor instead of fsdp, or of data if there are none
    along fsdp, as --sweep takes them; empty if there is no other.
    """
    found = []
    for factor in (1, 2, 4):
        source = "fsdp" if mesh["fsdp"] > 1 else "data"
        if mesh[source] % factor == 0:
            sizes = mesh | {source: mesh[source] // factor, "tensor": mesh["tensor"] * factor}
            shown = [str(sizes[axis]) for axis in AXES]
            found.append("x".join(shown if sizes["sequence"] > 1 else shown[:-1]))
    return found if len(found) > 1 else []


def _write(
    chosen: CompileOptions, name: str, topology: Topology, reports: Sequence[StepReport], refused: dict[str, str]
) -> None:
    figures = {
        "config": name,
        "topology": topology.name,
        "chips": topology.num_chips,
        "chip": dataclasses.asdict(topology.chip),
        "compiler": topology.compiler,
        "steps": [report.to_json(topology) for report in reports],
        "refused": refused,
        "assumptions": ASSUMPTIONS,
        "experiment": to_json(chosen.experiment),
    }
    user_path(chosen.json).write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def gigabytes(size: int | float) -> str:
    """Bytes as a person reads them."""
    return f"{size / GIGABYTE:,.2f} GB"


def mesh_sizes(mesh: dict[str, int]) -> str:
    """The axes that have more than one device."""
    return " ".join(f"{axis}={size}" for axis, size in mesh.items() if size > 1) or "one device"


def estimate(report: StepReport) -> tuple[str, str]:
    """Estimated time and utilisation of a compiled step, each from best to worst."""
    low, high = report.step_seconds
    best, worst = report.utilization
    return f"{1e3 * low:,.1f} to {1e3 * high:,.1f} ms", f"{100 * worst:.1f} to {100 * best:.1f}%"


def _seconds_of_sound(experiment: Experiment, step: StepName) -> float | None:
    """Of the full rows of a step of training; None = sources are no sound."""
    seconds = experiment.model.seconds_per_position
    if seconds is None or step == "generation":
        return None
    return experiment.rows_per_batch * experiment.max_source_length * seconds


def _show(report: StepReport, name: str, topology: Topology, *, sound: float | None = None) -> None:
    """All that is known of one step.

    Args:
        sound: seconds of sound in a batch; None = there is none.
    """
    chip = topology.chip
    rows = [
        ("compiler", topology.compiler),
        ("step", f"{report.step}: {report.work}"),
        ("mesh", f"{mesh_sizes(report.mesh)}; {topology.num_chips:,} chips"),
        ("compiled in", duration(report.compile_seconds)),
    ]
    rows += [(f"memory: {group}", gigabytes(size)) for group, size in report.groups.items()]
    if report.memory is None:
        rows.append(("memory", f"DOES NOT FIT in {gigabytes(chip.memory)}: {report.refusal}"))
        table(rows, title=f"{name} on {topology.name}")
        return
    memory, cost = report.memory, report.cost
    verdict = "fits" if report.fits(topology) else "DOES NOT FIT"
    time, utilization = estimate(report)
    rows += [
        ("memory: all arguments", gigabytes(memory.arguments)),
        ("memory: temporaries", f"{gigabytes(memory.temporaries)} (gradients, activations, gathered parameters)"),
        ("memory: results, program", f"{gigabytes(memory.results)}, {gigabytes(memory.program)}"),
        (
            "memory: peak",
            f"{gigabytes(memory.peak)} of {gigabytes(chip.memory)}, {100 * memory.peak / chip.memory:.0f}%: {verdict}",
        ),
        ("model FLOPs", f"{report.model_flops:.4g}, {report.model_flops / topology.num_chips:.4g} a chip"),
        ("computed FLOPs", f"{cost.flops:.4g} a chip, recomputation and padding included"),
        ("memory traffic", f"{gigabytes(cost.memory_bytes)} a chip"),
    ]
    rows += [
        (
            f"products in {each.dtype}",
            f"{each.flops:.4g} FLOPs a chip, {100 * each.flops / cost.flops:.2f}%, in {each.count:,.0f}",
        )
        for each in cost.products
    ]
    rows += [
        (
            f"kernels: {each.kind}",
            f"{each.count:,.0f}, {each.flops:.4g} FLOPs, {gigabytes(each.bytes)}, {1e3 * each.seconds:,.2f} ms at "
            "peak rates",
        )
        for each in (() if topology.is_simulated else cost.kernels)
    ]
    rows += [
        (
            f"{each.kind} over {each.axes}",
            f"{gigabytes(each.bytes)} sent by a chip in {each.count:,.0f}, {1e3 * each.seconds:,.2f} ms alone, "
            f"{100 * each.overlapped:.0f}% of it able to overlap",
        )
        for each in cost.exchanges
    ]
    rows += [
        ("operations", f"{1e3 * cost.operation_seconds:,.1f} ms"),
        ("exchanges", f"{1e3 * cost.exchange_seconds:,.1f} ms"),
        ("estimated time", time),
        ("estimated MFU", utilization),
    ]
    if sound is not None and report.step_seconds is not None:
        least, most = (f"{sound / seconds:,.0f}" for seconds in reversed(report.step_seconds))
        rows.append(("estimated speed", f"{least} to {most} seconds of sound per second"))
    if cost.open_loops:
        bounds = ", ".join(f"{trips:,.0f}" for trips in sorted(set(cost.open_loops.values())))
        rows.append(("loops to a bound", f"{len(cost.open_loops)}, counted to {bounds} trips"))
    table(rows, title=f"{name} on {topology.name}")


def _show_sweep(reports: Sequence[StepReport], name: str, topology: Topology, *, own: dict[str, int]) -> None:
    """A line a mesh, the fastest first, those that do not fit last; then the fastest against the config's own."""
    ordered = sorted(
        reports, key=lambda report: (not report.fits(topology), report.step_seconds or (float("inf"),) * 2)
    )
    rows = []
    for report in ordered:
        needed = "more" if report.memory is None else gigabytes(report.memory.peak)
        figures = ("", "", "") if report.cost is None else (
            *estimate(report), gigabytes(sum(each.bytes for each in report.cost.exchanges))
        )  # fmt: skip
        rows.append((mesh_sizes(report.mesh), "yes" if report.fits(topology) else "NO", needed, *figures))
    if ordered:
        columns(
            ("mesh", "fits", "peak memory", "estimated time", "estimated MFU", "sent by a chip"),
            rows,
            title=f"{name} on {topology.name}: {ordered[0].step}, {ordered[0].work}",
        )
        estimates = [(report.mesh, report.step_seconds if report.fits(topology) else None) for report in ordered]
        if comparison := faster_mesh(estimates, own=own):
            print(comparison)


def faster_mesh(
    estimates: Sequence[tuple[dict[str, int], tuple[float, float] | None]], *, own: dict[str, int]
) -> str | None:
    """What to set for the fastest mesh of a sweep; None if that is the config's own, which the sweep has, or none fits.

    Args:
        estimates: devices along each axis of a mesh, and the least and most time of a step (seconds; None = it does not
            fit), the fastest first.
        own: devices along each axis of the config's mesh.
    """
    fastest, best_times = estimates[0]
    if best_times is None or fastest == own:
        return None
    options = " ".join(f"--mesh.{axis} {size}" for axis, size in fastest.items() if size > 1 or own[axis] != size)
    compared = next((times for mesh, times in estimates if mesh == own and times is not None), None)
    if compared is None:
        return f"Fastest: {options}. The config's own mesh, {mesh_sizes(own)}, is not among these."
    times = " to ".join(f"{theirs / best:.2f}" for theirs, best in zip(compared, best_times, strict=True))
    return f"Fastest: {options}. The config's own mesh, {mesh_sizes(own)}, takes {times} times as long."


def _show_assumptions(topology: Topology) -> None:
    chip = topology.chip
    print(
        f"Times are estimates from the compiled program, not measurements. Peaks of {chip.name}: "
        f"{chip.flops / 1e12:,.0f} TFLOP/s, {chip.memory_bandwidth / GIGABYTE:,.0f} GB/s of memory, "
        f"{chip.interconnect_bandwidth / GIGABYTE:,.0f} GB/s sent ({chip.source}). Assumed:"
    )
    for assumption in ASSUMPTIONS:
        print(f"- {assumption};")
    if topology.is_gpu:
        print(UNKNOWN_OF_GPUS if topology.is_simulated else KNOWN_OF_GPUS)
