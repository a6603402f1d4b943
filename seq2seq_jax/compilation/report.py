"""What is known of a compiled step: memory of a chip, work, exchanges, and estimates of time and utilisation."""

import dataclasses
import time
from typing import Any

import jax

from seq2seq_jax.compilation import StepName
from seq2seq_jax.compilation.cost import Cost, cost_of
from seq2seq_jax.compilation.programs import Step
from seq2seq_jax.compilation.topology import Topology

UNKNOWN_OF_GPUS = (
    "The CPU's compiler stands in for that of the GPU: shapes, their division and the kinds of collectives are as on "
    "GPUs; temporaries, fusions, what overlaps, and the precision in which bfloat16 is exchanged and added are not "
    "known."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one chip's memory.

    Attributes:
        arguments: what goes in: state and batch.
        results: what comes out and does not take the place of an argument.
        temporaries: what lives in between: gradients, activations, gathered parameters.
        program: the compiled code.
    """

    arguments: int
    results: int
    temporaries: int
    program: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> "Memory":
        """What the compiler says."""
        stats = compiled.memory_analysis()
        return cls(
            arguments=stats.argument_size_in_bytes,
            results=stats.output_size_in_bytes - stats.alias_size_in_bytes,
            temporaries=stats.temp_size_in_bytes,
            program=stats.generated_code_size_in_bytes,
        )

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.arguments + self.results + self.temporaries + self.program


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step, compiled or refused for lack of memory.

    Attributes:
        step: which.
        work: what one run of it does.
        mesh: devices along each axis.
        groups: see Step.
        model_flops: of all chips together.
        compile_seconds: how long that took.
        memory: of a chip; None = the compiler refused.
        refusal: what it said, in one line.
        cost: of a chip; None = it refused.
        step_seconds: estimated, with all exchanges beside the operations and with none.
        utilization: model FLOPs over the peak of all chips in these two times.
    """

    step: StepName
    work: str
    mesh: dict[str, int]
    groups: dict[str, int]
    model_flops: float
    compile_seconds: float
    memory: Memory | None
    refusal: str | None
    cost: Cost | None
    step_seconds: tuple[float, float] | None
    utilization: tuple[float, float] | None

    def fits(self, topology: Topology) -> bool:
        """Whether it runs in a chip's memory."""
        return self.memory is not None and self.memory.peak <= topology.chip.memory

    def to_json(self, topology: Topology) -> dict[str, Any]:
        """All figures (bytes, FLOPs, seconds), as JSON has them."""
        figures = dataclasses.asdict(self)
        if self.memory is not None:
            figures["memory"]["peak"] = self.memory.peak
        return figures | {"fits": self.fits(topology)}


def compile_step(step: Step, topology: Topology) -> StepReport:
    """Compile a step for the topology whose devices it was built for."""
    start = time.perf_counter()
    memory = cost = seconds = utilization = refusal = None
    try:
        compiled = step.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        refusal = _refusal(str(error))
    compile_seconds = time.perf_counter() - start
    if refusal is None:
        memory = Memory.of(compiled)
        cost = cost_of(
            compiled.as_text(),
            mesh=step.mesh,
            chip=topology.chip,
            torus_dims=topology.torus_dims,
            unbounded_trips=step.longest_output,
        )
        seconds = cost.seconds
        peak = topology.chip.flops * topology.num_chips
        utilization = tuple(step.model_flops / (each * peak) for each in seconds)
    return StepReport(
        step=step.name,
        work=step.work,
        mesh=dict(step.mesh.shape),
        groups={group: size for group, size in step.groups.items() if size},
        model_flops=step.model_flops,
        compile_seconds=compile_seconds,
        memory=memory,
        refusal=refusal,
        cost=cost,
        step_seconds=seconds,
        utilization=utilization,
    )


def _refusal(message: str) -> str:
    """What the TPU compiler says when a program has no room, in one line."""
    return " ".join(message.removeprefix("RESOURCE_EXHAUSTED: ").split("\n\n")[0].split())
