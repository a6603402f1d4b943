"""python -m studies.gpu_estimates: the tables of docs/results/gpu_estimates.md, compiled without a GPU."""

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seq2seq_jax.benchmark import report
from seq2seq_jax.compilation import StepName, gpu_targets
from seq2seq_jax.compilation.programs import build_step
from seq2seq_jax.compilation.report import compile_step
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.experiment import load_config_by_name
from seq2seq_jax.files import write_whole
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.overrides import override

PROGRAM = "python -m studies.gpu_estimates"
DESCRIPTION = """\
Compile steps of models for H100 and H200 GPUs that need not be here, each in a process of its own that leaves a file in
the directory, and so the parts of launch/gpu_benchmark.sh; then print all as Markdown tables. What has a file is not
compiled again, so that the same command continues where it was stopped; what did not end in its minutes has a file that
says so. Needs jax's CUDA plugin.
"""
SIBLING = {"h100": "h200", "h200": "h100"}
"""Both are Hopper GPUs of the same compute capability: a program for one is also estimated with the rates and the
memory of the other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EstimatesArguments:
    """Command line of the study."""

    directory: str = "gpu_estimates"
    """Directory of one JSON file per row."""
    minutes: float = 30.0
    """Time limit of a row."""
    only: tuple[str, ...] = ()
    """Compile only these rows, in this order (names of files)."""
    table: bool = False
    """Print the tables of what has a file, and compile nothing."""
    row: str | None = None
    """Compile this row in this process (what the study starts for each row)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """A step whose batch grows with the number of GPUs.

    Attributes:
        title: in the table.
        config: its name.
        step: which step.
        options: further settings, as on the command line.
        tokens: target tokens of the batch per GPU (source tokens, of generation), by number of GPUs.
        fsdp: GPUs among which parameters are divided, where there are as many.
        sampled_length: tokens of each sample of policy gradients; None = as the config's lengths say.
    """

    title: str
    config: str
    tokens: dict[int, int]
    step: StepName = "train"
    options: tuple[str, ...] = ()
    fsdp: int = 1
    sampled_length: int | None = None


SAVE_PRODUCTS = ("--model.encoder.remat", "save_products", "--model.decoder.remat", "save_products")

ONE_LAYER = ("--model.encoder.num_layers", "1", "--model.decoder.num_layers", "1")

WORKLOADS = {
    "t5_large": Workload(
        title="T5-large",
        config="c4_span_corruption/t5_large",
        tokens={1: 64 * 114, 8: 64 * 114, 64: 64 * 114},
        options=SAVE_PRODUCTS,
        fsdp=8,
    ),
    "t5_3b": Workload(
        title="T5-3B",
        config="c4_span_corruption/t5_3b",
        tokens={1: 16 * 114, 8: 32 * 114, 64: 32 * 114},
        options=SAVE_PRODUCTS,
        fsdp=8,
    ),
    "t5_11b": Workload(
        title="T5-11B",
        config="c4_span_corruption/t5_11b",
        tokens={1: 8 * 114, 8: 32 * 114, 64: 32 * 114},
        fsdp=8,
    ),
    "transformer_big": Workload(
        title="Transformer-big",
        config="wmt14_de_en/transformer_big",
        tokens={1: 128 * 256, 8: 128 * 256, 64: 128 * 256},
    ),
    "policy_gradient": Workload(
        title="Transformer-big, policy gradients",
        config="wmt14_de_en/transformer_big",
        step="policy_gradient",
        tokens={1: 64 * 256, 8: 64 * 256, 64: 64 * 256},
    ),
    "policy_gradient_128": Workload(
        title="Transformer-big, policy gradients",
        config="wmt14_de_en/transformer_big",
        step="policy_gradient",
        tokens={1: 128 * 256},
    ),
    "generation": Workload(
        title="Transformer-big, generation",
        config="wmt14_de_en/transformer_big",
        step="generation",
        tokens={1: 32 * 256, 8: 32 * 256, 64: 32 * 256},
    ),
    "gnmt": Workload(
        title="GNMT",
        config="wmt14_de_en/gnmt",
        tokens={1: 128 * 256, 8: 16 * 256, 64: 128 * 256},
    ),
    "convolutional": Workload(
        title="multi30k/convolutional",
        config="multi30k/convolutional",
        tokens={1: 32 * 66, 8: 4 * 66, 64: 32 * 66},
        # The config's own is for CPUs, where products of two activations stay in float32.
        options=("--model.precision", "bfloat16"),
    ),
} | {
    f"{kernel}_attention_{length}": Workload(
        title=f"Transformer-big with 1 + 1 layers, {kernel} attention, policy gradients",
        config="wmt14_de_en/transformer_big",
        step="policy_gradient",
        tokens={1: 64 * 256},
        options=(*ONE_LAYER, "--model.encoder.attention_kernel", kernel, "--model.decoder.attention_kernel", kernel),
        sampled_length=length,
    )
    for kernel in ("auto", "plain")
    for length in (394, 100, 37)
}
"""By the first part of the rows' names."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A workload on some GPUs."""

    workload: str
    gpu: str
    count: int

    @property
    def name(self) -> str:
        """Of the row and its file, such as "t5_large-h200-8"."""
        return f"{self.workload}-{self.gpu}-{self.count}"

    @property
    def options(self) -> list[str]:
        """Settings of the config, as `seq2seq compile` takes them."""
        workload = WORKLOADS[self.workload]
        size = "generation.source" if workload.step == "generation" else "training.target"
        options = [*workload.options, f"--{size}_tokens_per_batch", str(workload.tokens[self.count] * self.count)]
        if workload.fsdp > 1 and self.count > 1:
            fsdp = min(workload.fsdp, self.count)
            options += ["--mesh.data", str(self.count // fsdp), "--mesh.fsdp", str(fsdp)]
        return options


ROWS = {
    row.name: row
    for workload, described in WORKLOADS.items()
    for count in described.tokens
    for gpu in SIBLING
    for row in [Row(workload, gpu, count)]
}


def compile_row(row: Row, path: Path) -> None:
    """Compile a row and write its reports: for its own GPUs, and of the same program for their sibling."""
    workload = WORKLOADS[row.workload]
    experiment = override(load_config_by_name(workload.config), row.options, program=PROGRAM, description=DESCRIPTION)
    if workload.sampled_length is not None:
        data = dataclasses.replace(experiment.data, packing=False, max_examples_per_row=None)
        policy = PolicyGradientConfig(maximum_length_ratio=0.0, maximum_length_extra=workload.sampled_length)
        experiment = dataclasses.replace(experiment, data=data, objective=policy)
    topology = Topology.parse(f"{row.gpu}:{row.count}")
    topology.prepare()
    with topology.target():
        program = build_step(workload.step, experiment, topology.devices())
        reports = {}
        for chip in (row.gpu, SIBLING[row.gpu]):
            # The second time, the program is there.
            estimated = Topology.parse(f"{chip}:{row.count}")
            reports[chip] = compile_step(program, estimated).to_json(estimated)
        stats = program.lowered.compile().memory_analysis()
    found = {
        "row": dataclasses.asdict(row),
        "options": row.options,
        "reports": reports,
        # The compiler's own account of its buffers.
        "buffers": {"allocations": stats.total_allocation_bytes, "peak": stats.peak_memory_in_bytes},
    }
    write_whole(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def row_commands(rows: Sequence[Row], directory: Path) -> dict[str, list[str]]:
    """What compiles each row, by its name."""
    study = [sys.executable, "-m", "studies.gpu_estimates", "--directory", str(directory), "--row"]
    return {row.name: [*study, row.name] for row in rows}


SCRIPT = Path(__file__).parents[1] / "launch" / "gpu_benchmark.sh"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A part of launch/gpu_benchmark.sh.

    Attributes:
        seconds: its limit on a GPU.
        arguments: of Python, which compile it for a topology and write a file; the last two are missing.
    """

    seconds: int
    arguments: tuple[str, ...]


def benchmark_parts() -> dict[str, Part]:
    """The parts that compile without a GPU and without PyTorch, by name, as the script would start them."""
    shown = subprocess.run(["bash", str(SCRIPT), "--all", "--dry-run"], capture_output=True, text=True, check=True)
    parts = {}
    for line in shown.stdout.splitlines():
        # timeout --kill-after 5 SECONDS python3 -m MODULE ARGUMENTS --json DIR/NAME.json
        _, _, _, seconds, _, _, module, *arguments, _, path = shlex.split(line)
        if module == "seq2seq_jax.benchmark.gpu":
            command = [module, *arguments]
        elif module == "seq2seq_jax":
            _, config, _, _, *settings = arguments
            command = [module, "compile", config, *settings, "--steps", "train", "generation"]
        else:
            continue
        parts[Path(path).stem] = Part(seconds=int(seconds), arguments=("-m", *command))
    return parts


def part_commands(parts: Mapping[str, Part], directory: Path) -> dict[str, list[str]]:
    """What compiles each part for each GPU, by name."""
    return {
        (name := f"part-{part}-{gpu}"): [
            sys.executable, *described.arguments, "--topology", f"{gpu}:1", "--json", str(directory / f"{name}.json"),
        ]
        for part, described in parts.items()
        for gpu in SIBLING
    }  # fmt: skip


def compile_all(commands: Mapping[str, Sequence[str]], directory: Path, *, minutes: float) -> None:
    """Run commands without a file, one after the other, each of which leaves one."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, command in commands.items():
        path = directory / f"{name}.json"
        if path.exists():
            continue
        print(f"compiling {name}", file=sys.stderr, flush=True)
        with (directory / f"{name}.log").open("w") as log:
            try:
                status = subprocess.run(command, stdout=log, stderr=log, timeout=60 * minutes).returncode
            except subprocess.TimeoutExpired:
                write_whole(path, json.dumps({"minutes": minutes}) + "\n")
                continue
        if status:
            print(f"{name}: status {status}, see {log.name}", file=sys.stderr, flush=True)


COLUMNS = (
    "model", "GPUs", "mesh", "batch", "arguments", "temporaries", "peak", "sent per GPU", "products in bfloat16",
    "estimated time", "estimated MFU", "compiled in",
)  # fmt: skip

NUMBERS = {"arguments", "temporaries", "peak", "products in bfloat16", "estimated time", "estimated MFU", "compiled in"}

SMALLEST_EXCHANGE = 0.05
"""GB; smaller ones are left out of the table."""


def markdown(rows: Sequence[Row], directory: Path) -> str:
    """The table of rows that have a file, or whose sibling has one."""
    lines = [_line(COLUMNS), _line("---:" if column in NUMBERS else "---" for column in COLUMNS)]
    for row in rows:
        own, sibling = (_read(directory, dataclasses.replace(row, gpu=gpu).name) for gpu in (row.gpu, SIBLING[row.gpu]))
        found = next((each for each in (own, sibling) if each is not None and "reports" in each), own)
        if found is not None:
            lines.append(_line(_cells(row, found, is_own=found is own)))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _read(directory: Path, name: str) -> dict[str, Any] | None:
    path = directory / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _cells(row: Row, found: dict[str, Any], *, is_own: bool) -> list[str]:
    title, gpus = WORKLOADS[row.workload].title, f"{row.gpu}:{row.count}"
    if "reports" not in found:
        return [title, gpus, "", f"not compiled in {found['minutes']:.0f} minutes", *[""] * 8]
    step = found["reports"][row.gpu]
    mesh = ", ".join(f"{axis} {size}" for axis, size in step["mesh"].items() if size > 1)
    compiled_in = f"{step['compile_seconds']:.0f} s" if is_own else ""
    memory, cost = step["memory"], step["cost"]
    if memory is None:
        return [title, gpus, mesh, step["work"], "", "", f"**refused: {step['refusal']}**", *[""] * 4, compiled_in]
    capacity = Topology.parse(gpus).chip.memory
    peak = f"{memory['peak'] / 1e9:.1f} of {capacity / 1e9:.0f}"
    if memory["peak"] > capacity:
        peak = f"**{peak}: does not fit by {(memory['peak'] - capacity) / 1e9:.1f}**"
    return [
        title,
        gpus,
        mesh,
        step["work"],
        f"{memory['arguments'] / 1e9:.2f}",
        f"{memory['temporaries'] / 1e9:.2f}",
        peak,
        _exchanges(cost["exchanges"]),
        f"{100 * sum(each['flops'] for each in cost['products'] if each['dtype'] == 'bf16') / cost['flops']:.1f}%",
        f"{_range(*(1e3 * each for each in step['step_seconds']))} ms",
        f"{_range(*sorted(100 * each for each in step['utilization']))}%",
        compiled_in,
    ]


def buffers_markdown(rows: Sequence[Row], directory: Path) -> str:
    """Predicted memory of the rows that have a file, and what the compiler says of its buffers."""
    columns = ("model", "GPUs", "predicted", "all buffers", "difference", "most in use at once")
    lines = [_line(columns), _line(["---", "---", *["---:"] * 4])]
    for row in rows:
        found = _read(directory, row.name)
        if found is None or "buffers" not in found or found["reports"][row.gpu]["memory"] is None:
            continue
        memory = found["reports"][row.gpu]["memory"]
        # The program's code lies in no buffer.
        predicted, allocated = memory["peak"] - memory["program"], found["buffers"]["allocations"]
        lines.append(
            _line(
                (
                    WORKLOADS[row.workload].title,
                    f"{row.gpu}:{row.count}",
                    f"{predicted / 1e9:.2f} GB",
                    f"{allocated / 1e9:.2f} GB",
                    f"{100 * (predicted / allocated - 1):+.1f}%",
                    f"{found['buffers']['peak'] / 1e9:.2f} GB",
                )
            )
        )
    return "\n".join(lines)


def parts_markdown(parts: Mapping[str, Part], directory: Path) -> str:
    """The programs of the parts: memory and compilation for each GPU."""
    columns = ("part", "its limit", "program", *(f"{gpu.upper()}: memory, compiled in" for gpu in SIBLING))
    lines = [_line(columns), _line(["---", "---:", "---", *["---:"] * len(SIBLING)])]
    for part, described in parts.items():
        programs: dict[str, dict[str, str]] = {}
        for gpu in SIBLING:
            found = _read(directory, f"part-{part}-{gpu}") or {}
            for figure in found.get("figures", ()):
                seconds = figure["note"].removeprefix("compiled in ").partition(",")[0]
                fits = "" if "; fits" in figure["note"] else ", **does not fit**"
                shown = f"{figure['value']:.2f} GB{fits}, {seconds}"
                programs.setdefault(figure["name"].removesuffix(": memory"), {})[gpu] = shown
            for step in found.get("steps", ()):
                fits = "" if step["fits"] else ", **does not fit**"
                shown = f"{step['memory']['peak'] / 1e9:.2f} GB{fits}, {step['compile_seconds']:.0f} s"
                programs.setdefault(f"{step['step']}: {step['work']}", {})[gpu] = shown
        for program, shown in programs.items():
            lines.append(
                _line([f"`{part}`", f"{described.seconds} s", program, *(shown.get(gpu, "") for gpu in SIBLING)])
            )
    return "\n".join(lines)


def _exchanges(exchanges: Sequence[dict[str, Any]]) -> str:
    """By axes of the mesh, kinds and GB."""
    by_axes: dict[str, list[str]] = {}
    for each in exchanges:
        if each["bytes"] / 1e9 >= SMALLEST_EXCHANGE:
            by_axes.setdefault(each["axes"], []).append(f"{each['kind']} {each['bytes'] / 1e9:.1f}")
    return "; ".join(f"{axes}: {', '.join(sent)}" for axes, sent in by_axes.items())


def _range(low: float, high: float) -> str:
    digits = 0 if high >= 10 else 1
    shown = [f"{each:,.{digits}f}" for each in (low, high)]
    return "–".join(dict.fromkeys(shown))


def main(arguments: list[str]) -> None:
    """Parse the command line, compile what is missing, print the tables.

    Raises:
        ValueError: there is no such row, or the GPU compiler is not installed.
    """
    chosen = override(EstimatesArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    directory, parts = Path(chosen.directory), benchmark_parts()
    commands = row_commands(list(ROWS.values()), directory) | part_commands(parts, directory)
    for name in chosen.only:
        if name not in commands:
            raise ValueError(f"there is no row {name!r}, but there are: {' '.join(commands)}")
    if not chosen.table and gpu_targets.installed_plugin() is None:
        raise ValueError(f"the GPU compiler is not installed: {gpu_targets.installation()}")
    if chosen.row is not None:
        compile_row(ROWS[chosen.row], directory / f"{chosen.row}.json")
        return
    if not chosen.table:
        names = chosen.only or tuple(commands)
        compile_all({name: commands[name] for name in names}, directory, minutes=chosen.minutes)
    rows = list(ROWS.values())
    print("\n\n".join([markdown(rows, directory), buffers_markdown(rows, directory), parts_markdown(parts, directory)]))


if __name__ == "__main__":
    report.run_script(main)
