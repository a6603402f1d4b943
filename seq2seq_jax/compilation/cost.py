"""The cost of a compiled program per device: floating-point operations, memory traffic, collectives, roofline time."""

import dataclasses
import math
from typing import Any

import numpy as np
from jax.sharding import Mesh

from seq2seq_jax.compilation.gpu_targets import GPUS_PER_HOST
from seq2seq_jax.compilation.hlo import (
    Collective,
    Computation,
    Instruction,
    Program,
    collectives,
)
from seq2seq_jax.compilation.kernels import dot_flops, kind_of, product_dtype, products_of
from seq2seq_jax.parallel.chips import Chip

COLLECTIVE_MEMORY = "S(1)"
"""In a GPU's program, main memory that takes part in collectives; in a TPU's, memory of the core."""

ASSUMPTIONS = (
    "operations run one after the other, each at the chip's published peak or at its full memory bandwidth, whichever "
    "takes longer; operations other than matrix products cost memory traffic only; arrays in a core's own memory cost "
    "nothing",
    "collectives are rings over the links of the torus dims that their groups span (for GPUs: over NVLink within a "
    "host, over the network between hosts), at full bandwidth and without latency",
    "in the lower time all collectives overlap with operations, in the upper time none do",
    "loops whose end depends on the data run to their bound; both branches of a condition count",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exchange:
    """All collectives of one kind over the same mesh axes, in one execution of the program.

    Attributes:
        kind: such as "all-gather".
        axes: of the mesh, such as "fsdp" or "data+fsdp".
        count: number of executions.
        bytes: total bytes that each device sends.
        seconds: total time, without overlap.
        overlapped: fraction of the bytes in collectives that the compiler lets overlap with other operations.
    """

    kind: str
    axes: str
    count: int
    bytes: float
    seconds: float
    overlapped: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernels:
    """All operations of one kind, in one execution of the program on one device.

    Attributes:
        kind: see `seq2seq_jax.compilation.kernels.kind_of`.
        count: number of executions.
        flops: FLOPs of matrix products.
        bytes: read from and written to main memory.
        seconds: total time at the chip's peak rates.
    """

    kind: str
    count: int
    flops: float
    bytes: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Products:
    """All matrix products of one dtype, in one execution of the program on one device.

    Attributes:
        dtype: of the operands, as HLO names it ("bf16"; "bf16 x f32" if they differ).
        count: number of executions.
        flops: total FLOPs.
    """

    dtype: str
    count: int
    flops: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one execution of a program, per device.

    Attributes:
        flops: FLOPs of matrix products and convolutions, recomputation and padding included.
        memory_bytes: bytes read from and written to main memory.
        operation_seconds: time of all operations except for collectives.
        exchanges: collectives by kind and axes, the longest first.
        kernels: operations other than collectives by kind, the longest first.
        products: matrix products by dtype, those with the most FLOPs first.
        open_loops: loops that were counted up to a bound.
    """

    flops: float
    memory_bytes: float
    operation_seconds: float
    exchanges: tuple[Exchange, ...]
    kernels: tuple[Kernels, ...]
    products: tuple[Products, ...]
    open_loops: dict[str, int]

    @property
    def exchange_seconds(self) -> float:
        """Time of all collectives."""
        return math.fsum(each.seconds for each in self.exchanges)

    @property
    def seconds(self) -> tuple[float, float]:
        """Time of one execution: with all collectives overlapping with operations, and with none."""
        return max(self.operation_seconds, self.exchange_seconds), self.operation_seconds + self.exchange_seconds


def cost_of(text: str, *, mesh: Mesh, chip: Chip, torus_dims: int, unbounded_trips: int) -> Cost:
    """The cost of a compiled program.

    Args:
        text: result of `jax.stages.Compiled.as_text`.
        mesh: the mesh that it was compiled for.
        torus_dims: dims of the chips' torus; 0 = GPUs in hosts.
        unbounded_trips: trip count of loops without a static bound.
    """
    if not torus_dims:
        text = text.replace(COLLECTIVE_MEMORY, "")
    program = Program(text, unbounded_trips=unbounded_trips)
    kernels: dict[str, list[Kernels]] = {}
    products: dict[str, list[Products]] = {}
    for run in program.runs():
        trips, operations = run.trips, dot_flops(run.instruction, run.computation)
        if operations:
            dtype = product_dtype(run.instruction, run.computation)
            products.setdefault(dtype, []).append(Products(dtype=dtype, count=trips, flops=trips * operations))
        kind = None if run.fused else kind_of(program, run.instruction, run.computation)
        if kind is None:
            continue
        operations = math.fsum(products_of(program, run.instruction, run.computation))
        traffic = _traffic(program, run.instruction, run.computation)
        seconds = max(operations / chip.flops, traffic / chip.memory_bandwidth)
        kernels.setdefault(kind, []).append(
            Kernels(kind=kind, count=trips, flops=trips * operations, bytes=trips * traffic, seconds=trips * seconds)
        )
    by_kind = sorted(map(_sum, kernels.values()), key=lambda each: -each.seconds)
    exchanges: dict[tuple[str, str], list[tuple[Collective, float]]] = {}
    for each in collectives(program, mesh.size):
        taken = each.trips * each.bytes_sent / _bandwidth(each.groups, mesh, chip, torus_dims)
        exchanges.setdefault((each.kind, axes_of(each.groups, mesh)), []).append((each, taken))
    summed = [
        Exchange(
            kind=kind,
            axes=axes,
            count=sum(each.trips for each, _ in found),
            bytes=(total := sum(each.trips * each.bytes_sent for each, _ in found)),
            seconds=sum(taken for _, taken in found),
            overlapped=sum(each.trips * each.bytes_sent for each, _ in found if each.overlapped) / total,
        )
        for (kind, axes), found in exchanges.items()
    ]
    return Cost(
        flops=math.fsum(each.flops for each in by_kind),
        memory_bytes=math.fsum(each.bytes for each in by_kind),
        operation_seconds=math.fsum(each.seconds for each in by_kind),
        exchanges=tuple(sorted(summed, key=lambda each: -each.seconds)),
        kernels=tuple(by_kind),
        products=tuple(sorted(map(_sum, products.values()), key=lambda each: -each.flops)),
        open_loops=program.open_loops,
    )


def _sum(parts: list[Any]) -> Any:
    """The first of some dataclasses, with the sums of their numbers."""
    numbers = [
        field.name for field in dataclasses.fields(parts[0]) if isinstance(getattr(parts[0], field.name), int | float)
    ]
    return dataclasses.replace(parts[0], **{name: sum(getattr(part, name) for part in parts) for name in numbers})


def axes_of(groups: np.ndarray, mesh: Mesh) -> str:
    """The axes of a mesh along which the members of groups differ.

    Args:
        groups: [groups, members] indices of devices in the mesh.
    """
    indices = np.unravel_index(groups, tuple(mesh.shape.values()))
    return "+".join(axis for axis, index in zip(mesh.axis_names, indices, strict=True) if np.any(index != index[:, :1]))


def _bandwidth(groups: np.ndarray, mesh: Mesh, chip: Chip, torus_dims: int) -> float:
    """Bytes per second that a device can send to the other members of its group."""
    devices = mesh.devices.reshape(-1)
    if not torus_dims:
        hosts = np.array([device.id // GPUS_PER_HOST for device in devices])[groups]
        inside = np.all(hosts == hosts[:, :1])
        return chip.interconnect_bandwidth if inside else chip.network_bandwidth
    coordinates = np.array([device.coords[:torus_dims] for device in devices])[groups]
    spanned = np.any(coordinates != coordinates[:, :1], axis=(0, 1)).sum()
    return chip.interconnect_bandwidth * max(spanned, 1) / torus_dims


def _traffic(program: Program, instruction: Instruction, computation: Computation) -> float:
    """Bytes that an operation reads from and writes to main memory.

    Only the slices of a sliced array, and only the updated part of an array that is updated in place, are counted.
    """
    opcode = instruction.opcode
    operands = [computation.instructions[name] for name in instruction.operands]
    if instruction.operation == "fusion":
        fused = program.computations[instruction.called[0]]
        read = math.fsum(_read_of_parameter(program, fused, number) for number in fused.parameters)
        return read + _written(program, fused, fused.root)
    if opcode.endswith("-start"):
        # A copy or slice between memories, whose result also contains its operand.
        moved = instruction.arrays[0] if opcode == "copy-start" else instruction.arrays[-2]
        return 2.0 * moved.bytes_in_memory if moved.bytes_in_memory else moved.bytes
    if opcode == "custom-call" and len(instruction.arrays) > 1 and instruction.target.startswith("__cu"):
        # The last result is the library's scratch memory.
        return math.fsum(map(_memory_bytes, operands)) + math.fsum(
            array.bytes_in_memory for array in instruction.arrays[:-1]
        )
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _memory_bytes(instruction)
    if opcode in ("dynamic-update-slice", "scatter"):
        return 2.0 * _memory_bytes(operands[-1] if opcode == "scatter" else operands[1])
    return math.fsum(map(_memory_bytes, operands)) + _memory_bytes(instruction)


def _memory_bytes(instruction: Instruction) -> float:
    return math.fsum(array.bytes_in_memory for array in instruction.arrays)


def _read_of_parameter(program: Program, computation: Computation, number: int) -> float:
    """Bytes that a fusion reads of one parameter."""
    parameter = computation.parameters[number]
    return min(_memory_bytes(parameter), _read(program, computation, parameter.name, bool(_memory_bytes(parameter))))


def _read(program: Program, computation: Computation, name: str, in_memory: bool) -> float:
    total = 0.0
    for user in computation.users[name]:
        if user.opcode in ("slice", "dynamic-slice", "gather") and user.operands[0] == name:
            total += math.fsum(array.bytes for array in user.arrays) * in_memory
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode == "bitcast":
            total += _read(program, computation, user.name, in_memory)
        elif user.opcode == "fusion":
            inner = program.computations[user.called[0]]
            for number, operand in enumerate(user.operands):
                if operand == name:
                    total += _read(program, inner, inner.parameters[number].name, in_memory)
        else:
            return math.inf if in_memory else 0.0
    return total


def _written(program: Program, computation: Computation, name: str) -> float:
    """Bytes that a fusion writes for this result."""
    instruction = computation.instructions[name]
    if instruction.opcode == "tuple":
        return math.fsum(_written(program, computation, operand) for operand in instruction.operands)
    if instruction.opcode == "bitcast":
        return _written(program, computation, instruction.operands[0])
    if instruction.opcode == "dynamic-update-slice":
        update = computation.instructions[instruction.operands[1]]
        return math.fsum(array.bytes for array in update.arrays) if _memory_bytes(instruction) else 0.0
    if instruction.opcode == "fusion":
        inner = program.computations[instruction.called[0]]
        return _written(program, inner, inner.root)
    return _memory_bytes(instruction)
