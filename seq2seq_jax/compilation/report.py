"""Report of a compiled step: memory per chip, work, collectives, and estimates of time and utilisation."""

import dataclasses
import time
from typing import Any

import jax

from seq2seq_jax.compilation import StepName
from seq2seq_jax.compilation.cost import Cost, cost_of
from seq2seq_jax.compilation.gpu_targets import installation
from seq2seq_jax.compilation.memory import OUT_OF_MEMORY, MemoryUse
from seq2seq_jax.compilation.programs import StepProgram
from seq2seq_jax.compilation.topology import Topology

UNKNOWN_OF_GPUS = (
    "This is a simulation, in which the CPU compiler replaces the GPU compiler: shapes, sharding and kinds of "
    "collectives are as on GPUs; temporaries, kernels, fusions, overlap, and the precision in which bfloat16 is "
    f"communicated and accumulated are unknown. The GPU compiler needs no GPU: {installation()}"
)

KNOWN_OF_GPUS = (
    "Compiled by XLA's GPU compiler without a GPU: it tries no kernels, so that on a GPU other matrix products may "
    "come from a library. JAX reserves 75% of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step, compiled or refused for lack of memory.

    Attributes:
        step: which step.
        work: description of one execution.
        mesh: devices along each axis.
        groups: see Step.
        model_flops: of all chips.
        compile_seconds: compilation time.
        memory: per chip; None = the compiler refused.
        refusal: the compiler's message, in one line.
        cost: per chip; None = the compiler refused.
        step_seconds: estimated time, with all collectives overlapping with operations and with none.
        utilization: MFU for these two times: model FLOPs over the peak of all chips.
    """

    step: StepName
    work: str
    mesh: dict[str, int]
    groups: dict[str, int]
    model_flops: float
    compile_seconds: float
    memory: MemoryUse | None
    refusal: str | None
    cost: Cost | None
    step_seconds: tuple[float, float] | None
    utilization: tuple[float, float] | None

    def fits(self, topology: Topology) -> bool:
        """Whether it fits into a chip's memory."""
        return self.memory is not None and self.memory.peak <= topology.chip.memory

    def to_json(self, topology: Topology) -> dict[str, Any]:
        """All values (bytes, FLOPs, seconds), as JSON values."""
        figures = dataclasses.asdict(self)
        if self.memory is not None:
            figures["memory"]["peak"] = self.memory.peak
        return figures | {"fits": self.fits(topology)}


def compile_step(step: StepProgram, topology: Topology) -> StepReport:
    """Compile a step for the topology that it was built for."""
    start = time.perf_counter()
    memory = cost = seconds = utilization = refusal = None
    try:
        compiled = step.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        refusal = _refusal(str(error))
    compile_seconds = time.perf_counter() - start
    if refusal is None:
        memory = MemoryUse.of(compiled)
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
        groups=step.groups,
        model_flops=step.model_flops,
        compile_seconds=compile_seconds,
        memory=memory,
        refusal=refusal,
        cost=cost,
        step_seconds=seconds,
        utilization=utilization,
    )


def _refusal(message: str) -> str:
    """The TPU compiler's out-of-memory message, in one line."""
    return " ".join(message.removeprefix(f"{OUT_OF_MEMORY}: ").split("\n\n")[0].split())
