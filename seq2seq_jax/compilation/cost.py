"""The cost of a compiled program per device: floating-point operations, memory traffic, collectives, roofline time."""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np
from jax.sharding import Mesh

from seq2seq_jax.compilation.hlo import (
    ALIASES,
    COLLECTIVES,
    Collective,
    Computation,
    Instruction,
    Program,
    collectives,
)
from seq2seq_jax.compilation.topology import GPUS_PER_HOST
from seq2seq_jax.parallel.chips import Chip

CONTROL = ("while", "conditional", "call", "after-all", "async-start", "async-update", "optimization-barrier")
"""Operations whose memory traffic is that of the operations inside them."""

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
class Cost:
    """The cost of one execution of a program, per device.

    Attributes:
        flops: FLOPs of matrix products and convolutions, recomputation and padding included.
        memory_bytes: bytes read from and written to main memory.
        operation_seconds: time of all operations except for collectives.
        exchanges: collectives by kind and axes, the longest first.
        open_loops: loops that were counted up to a bound.
    """

    flops: float
    memory_bytes: float
    operation_seconds: float
    exchanges: tuple[Exchange, ...]
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
    program = Program(text, unbounded_trips=unbounded_trips)
    flops = memory_bytes = seconds = 0.0
    for run in program.runs():
        operations = 0.0 if run.fused else _operations(program, run.instruction, run.computation)
        traffic = 0.0 if run.fused else _traffic(program, run.instruction, run.computation)
        flops += run.trips * operations
        memory_bytes += run.trips * traffic
        seconds += run.trips * max(operations / chip.flops, traffic / chip.memory_bandwidth)
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
        flops=flops,
        memory_bytes=memory_bytes,
        operation_seconds=seconds,
        exchanges=tuple(sorted(summed, key=lambda each: -each.seconds)),
        open_loops=program.open_loops,
    )


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


def _operations(program: Program, instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a matrix product, or of all matrix products in a fusion."""
    if instruction.opcode != "fusion":
        return dot_flops(instruction, computation)
    return math.fsum(
        dot_flops(each, computation)
        for name in instruction.called
        for each, computation in _fused(program, program.computations[name])
    )


def _fused(program: Program, computation: Computation) -> Iterator[tuple[Instruction, Computation]]:
    for instruction in computation.instructions.values():
        yield instruction, computation
        if instruction.opcode == "fusion":
            yield from _fused(program, program.computations[instruction.called[0]])


def dot_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a `dot` or `convolution`; 0 for other instructions."""
    if instruction.opcode == "dot":
        left = computation.instructions[instruction.operands[0]].arrays[0]
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)[1]
        inner = math.prod(left.dims[int(dim)] for dim in contracted.split(",") if dim)
        return 2.0 * math.prod(instruction.arrays[0].dims) * inner
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, computation)
    return 0.0


def _convolution_flops(instruction: Instruction, computation: Computation) -> float:
    """FLOPs of a convolution, without products with padding or the gaps of dilation.

    A TPU computes batched matrix products as convolutions over windows that are mostly gaps.
    """
    left, right = (computation.instructions[name].arrays[0].dims for name in instruction.operands)
    result = instruction.arrays[0].dims
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    left_labels, right_labels, result_labels = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    spatial = [label for label in result_labels if label.isdigit()]

    def of_dims(name, default):
        return fields[name].split("x") if name in fields else [default] * len(spatial)

    positions = 1
    options = zip(
        spatial,
        of_dims("stride", "1"),
        of_dims("pad", "0_0"),
        of_dims("lhs_dilate", "1"),
        of_dims("rhs_dilate", "1"),
        strict=True,
    )
    for label, stride, pad, left_dilation, right_dilation in options:
        size = left[left_labels.index(label)]
        kernel = right[right_labels.index(label)]
        steps = np.arange(result[result_labels.index(label)])[:, None] * int(stride)
        index = steps + np.arange(kernel)[None] * int(right_dilation) - int(pad.split("_")[0])
        exists = (index >= 0) & (index % int(left_dilation) == 0) & (index // int(left_dilation) < size)
        positions *= int(exists.sum())
    batch = result[result_labels.index("b")]
    columns = result[result_labels.index("f")]
    inner = right[right_labels.index("i")]
    batch_groups = int(instruction.attribute("batch_group_count") or 1)
    return 2.0 * batch * columns * inner * positions / batch_groups


def _traffic(program: Program, instruction: Instruction, computation: Computation) -> float:
    """Bytes that an operation reads from and writes to main memory.

    Only the slices of a sliced array, and only the updated part of an array that is updated in place, are counted.
    """
    opcode = instruction.opcode
    kind = opcode.removesuffix("-start").removesuffix("-done")
    if opcode in ALIASES or opcode in CONTROL or kind in COLLECTIVES or opcode.endswith("-done"):
        return 0.0
    operands = [computation.instructions[name] for name in instruction.operands]
    if opcode == "fusion":
        fused = program.computations[instruction.called[0]]
        read = math.fsum(_read_of_parameter(program, fused, number) for number in fused.parameters)
        return read + _written(program, fused, fused.root)
    if opcode.endswith("-start"):
        # A copy or slice between memories, whose result also contains its operand.
        moved = instruction.arrays[0] if opcode == "copy-start" else instruction.arrays[-2]
        return 2.0 * moved.bytes_in_memory if moved.bytes_in_memory else moved.bytes
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
