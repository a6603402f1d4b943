"""python -m studies.compiled_cost: what `seq2seq compile` predicts, against what a step really takes."""

import ctypes
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.compilation.cost import cost_of
from seq2seq_jax.compilation.memory import MemoryUse
from seq2seq_jax.compilation.programs import system_without_data
from seq2seq_jax.compilation.topology import Topology
from seq2seq_jax.data.batch_format import row_shapes
from seq2seq_jax.experiment import Experiment, load_config_by_name, override
from seq2seq_jax.modules.flops import TRAINING
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.run.system import System

PROGRAM = "python -m studies.compiled_cost"
DESCRIPTION = """\
Run the training step of Transformers of several widths on 2 x 2 x 2 devices of this machine's CPU, and compare what
`seq2seq compile` says of it: memory with the growth of the resident memory, and FLOPs of the program that
loops over its layers with XLA's own count of the same program without the loop. Linux only.
"""
TOPOLOGY = "h100:8"
MEGABYTE = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledCostArguments:
    """Command line of the comparison."""

    widths: tuple[int, ...] = (128, 256, 512)
    """Model dims, multiples of 32; a feed-forward layer is four times as wide."""
    layers: int = 4
    """Layers of encoder and decoder each."""
    rows: int = 128
    """Pairs of 64 + 66 tokens in a batch."""
    steps: int = 3
    """Steps that are system."""
    json: str | None = None
    """File for all measurements, as JSON."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of one width; bytes of all devices together, and FLOPs of one device.

    Attributes:
        predicted_memory: arguments, results and temporaries.
        measured_memory: growth of the resident memory.
        predicted_flops: products of the program that loops over its layers, with trips.
        counted_flops: XLA's count of the program without the loop, what is done element by element included.
        model_flops: by the formula of the model.
    """

    width: int
    parameters: int
    predicted_memory: int
    measured_memory: int
    predicted_flops: float
    counted_flops: float
    model_flops: float


def experiment_of(width: int, *, layers: int, rows: int, scan_layers: bool) -> Experiment:
    """The training that is compared: Multi30k's small Transformer, in another size."""
    base = load_config_by_name("multi30k/transformer_small")
    stack = {
        "model_dim": width,
        "num_heads": 4,
        "hidden_dim": 4 * width,
        "num_layers": layers,
        "dropout": 0.0,
        "scan_layers": scan_layers,
    }
    return dataclasses.replace(
        base,
        model=dataclasses.replace(
            base.model,
            encoder=dataclasses.replace(base.model.encoder, **stack),
            decoder=dataclasses.replace(base.model.decoder, **stack),
            precision="float32",
        ),
        training=dataclasses.replace(base.training, target_tokens_per_batch=rows * base.max_target_length),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )


def compare(width: int, *, layers: int, rows: int, steps: int, topology: Topology) -> Comparison:
    """Compile the step of a width, run it, and compare."""
    devices = topology.devices()
    system = system_without_data(experiment_of(width, layers=layers, rows=rows, scan_layers=True), devices)
    compiled, batch = _compiled(system)
    cost = cost_of(
        compiled.as_text(), mesh=system.mesh, chip=topology.chip, torus_dims=topology.torus_dims, unbounded_trips=1
    )
    memory = MemoryUse.of(compiled)
    predicted = (memory.arguments + memory.results + memory.temporaries) * system.mesh.size
    # Once before what is measured, so that what the runtime keeps for good is there already.
    state, _ = compiled(system.initial_state(), system.place(batch))
    jax.block_until_ready(state)
    del state
    before = _resident_memory()
    state, placed = jax.block_until_ready((system.initial_state(), system.place(batch)))
    _resident_memory()
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(steps):
        state, _ = jax.block_until_ready(compiled(state, placed))
    measured = _status("VmHWM") - before
    unrolled, _ = _compiled(
        system_without_data(experiment_of(width, layers=layers, rows=rows, scan_layers=False), devices)
    )
    pair = system.experiment.model.forward_flops(
        system.experiment.max_source_length,
        system.experiment.max_target_length,
        vocabulary=system.model.vocabulary,
    )
    return Comparison(
        width=width,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(system.layout.players["model"].params)),
        predicted_memory=predicted,
        measured_memory=measured,
        predicted_flops=cost.flops,
        counted_flops=unrolled.cost_analysis()["flops"],
        model_flops=TRAINING * rows * pair / system.mesh.size,
    )


def _compiled(system: System) -> tuple[jax.stages.Compiled, Batch]:
    """The compiled update, and a batch for it."""
    shape = row_shapes(system.experiment.batch_format, system.experiment.training.target_tokens_per_batch)[-1]

    def sequence(length):
        places = np.broadcast_to(np.arange(length, dtype=np.int32), (shape.rows, length)).copy()
        return TokenRows(tokens=places + 4, segment_ids=np.ones_like(places), positions=places)

    batch = Batch(source=sequence(shape.source_length), target=sequence(shape.target_length))
    return system.build_update().lower(system.layout, batch).compile(), batch


def _resident_memory() -> int:
    """Bytes, after what is free was given back."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _status(field: str) -> int:
    """A size of this process as the kernel tells it (bytes)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"the kernel does not tell {field}: this comparison needs Linux.")


def _difference(found: float, expected: float) -> str:
    return f"{100 * (found / expected - 1):+.1f}%"


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print a table.

    Raises:
        ValueError: a value does not fit.
    """
    chosen: Any = override(CompiledCostArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    if any(width % 32 or width < 32 for width in chosen.widths):
        raise ValueError(f"--widths must be multiples of 32, not {' '.join(map(str, chosen.widths))}.")
    topology = Topology.parse(TOPOLOGY)
    topology.prepare()
    environment = harness.environment()
    found = [
        compare(width, layers=chosen.layers, rows=chosen.rows, steps=chosen.steps, topology=topology)
        for width in chosen.widths
    ]
    rows = [
        (
            f"{each.width}, {each.parameters / MEGABYTE:.1f}M",
            f"{each.predicted_memory / MEGABYTE:,.0f} MB",
            f"{each.measured_memory / MEGABYTE:,.0f} MB",
            _difference(each.predicted_memory, each.measured_memory),
            f"{each.predicted_flops:.4g}",
            f"{each.counted_flops:.4g}",
            _difference(each.predicted_flops, each.counted_flops),
            _difference(each.model_flops, each.counted_flops),
        )
        for each in found
    ]
    header = ("width, parameters", "memory predicted", "measured", "error", "FLOPs of a device", "counted by XLA")
    header += ("error", "error of the model's formula")
    console = report.output()
    console.print(report.table(header, rows, title=f"{chosen.layers} + {chosen.layers} layers, 8 devices"))
    console.print(report.environment_line(environment))
    report.write_json(
        {"environment": environment, "comparisons": [dataclasses.asdict(each) for each in found]}, chosen.json
    )


if __name__ == "__main__":
    report.run_script(main, keep_memory=False)
