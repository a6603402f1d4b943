"""Parser of HLO text: computations, loops with trip counts, and collectives with device groups."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

BITS = re.compile(r"(?:pred|bf|f|s|u|c)(\d*)")

ALIASES = ("parameter", "constant", "get-tuple-element", "tuple", "bitcast")
"""Operations without memory traffic."""

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

ASYNC_START = 'custom_call_target="AsyncCollectiveStart"'

SYNCHRONOUS = '"is_sync":true'
"""Of a collective that XLA's GPU compiler writes as a start and a done, and runs as one operation."""

_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """One array of a shape.

    Attributes:
        dtype: as HLO names it ("bf16").
        dims: sizes.
        layout: dims from the innermost to the outermost, tiles and memory space, as HLO writes them.
    """

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def bytes(self) -> float:
        """Size without padding."""
        return math.prod(self.dims) * self._bytes_each

    @property
    def bytes_in_memory(self) -> float:
        """Size with the padding of the layout's tiles; 0 for an array outside of main memory."""
        if re.search(r"S\([1-9]\d*\)", self.layout):
            return 0.0
        dims = list(self.dims)
        order, _, tiles = self.layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles)
        if tile and dims:
            sizes = [int(size) for size in tile[1].split(",")]
            for dim, size in zip(map(int, order.split(",")), reversed(sizes), strict=False):
                dims[dim] = -(-dims[dim] // size) * size
        return math.prod(dims) * self._bytes_each

    @property
    def _bytes_each(self) -> float:
        if self.dtype in ("token", "opaque"):
            return 0.0
        bits = BITS.match(self.dtype)[1]
        return int(bits) / 8 if bits else 1.0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation.

    Attributes:
        arrays: arrays of the result, flattened if it is a tuple.
        operands: names of instructions of the same computation.
        literal: the text between its parentheses, such as a constant's value.
        attributes: the text after the parentheses.
    """

    name: str
    opcode: str
    arrays: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def called(self) -> list[str]:
        """Computations that it calls, without the body of a loop."""
        branches = _BRANCHES.search(self.attributes)
        return _CALLED.findall(self.attributes) + (_NAME.findall(branches[1]) if branches else [])

    @property
    def operation(self) -> str:
        """The opcode, of an asynchronous operation's beginning that of the operation itself."""
        return self.opcode.removesuffix("-start")

    @property
    def target(self) -> str:
        """The library function of a custom call, such as "__cudnn$fmhaSoftmax"; "" for other instructions."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return "" if found is None else found[1]

    def attribute(self, name: str) -> str | None:
        """The value of an attribute, up to the next comma, brace or blank."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return None if found is None else found[1]


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in their order of execution."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        return {int(each.literal): each for each in self.instructions.values() if each.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name -> the instructions that read it."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for each in self.instructions.values():
            for operand in dict.fromkeys(each.operands):
                users[operand].append(each)
        return users


@dataclasses.dataclass(frozen=True)
class Execution:
    """An executed instruction.

    Attributes:
        instruction: the instruction.
        computation: the computation that contains it.
        trips: number of executions per execution of the program.
        fused: whether it is part of a fusion, and so has no memory traffic of its own.
    """

    instruction: Instruction
    computation: Computation
    trips: int
    fused: bool


class Program:
    """A compiled program, parsed from its text (`jax.stages.Compiled.as_text`).

    Attributes:
        open_loops: loops whose trip counts depend on data, with the bounds that are used instead.
    """

    def __init__(self, text: str, *, unbounded_trips: int = 1):
        """Parse a program.

        Args:
            unbounded_trips: trip count of loops without a bound in their condition.

        Raises:
            ValueError: the text is not that of a program.
        """
        self._unbounded_trips = unbounded_trips
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        name, lines = "", {}
        root = ""
        for line in text.splitlines():
            if opening := _COMPUTATION.match(line):
                name, lines, root = opening[2], {}, ""
                if opening[1]:
                    self.entry = name
            elif line.startswith("}") and name:
                self.computations[name] = Computation(name, lines, root)
                name = ""
            elif name and (beginning := _INSTRUCTION.match(line)):
                lines[beginning[2]] = _instruction(beginning[2], line[beginning.end() :])
                if beginning[1]:
                    root = beginning[2]
        if not self.entry:
            raise ValueError("this is not the text of a compiled program: it has no ENTRY computation.")
        self.open_loops: dict[str, int] = {}

    def runs(self) -> Iterator[Execution]:
        """All executed instructions with their trip counts, including both branches of conditions."""
        yield from self._runs(self.computations[self.entry], 1, fused=False)

    def _runs(self, computation: Computation, trips: int, *, fused: bool) -> Iterator[Execution]:
        for instruction in computation.instructions.values():
            yield Execution(instruction, computation, trips, fused)
            if instruction.opcode == "while":
                body = self.computations[instruction.attribute("body")]
                yield from self._runs(body, trips * self.trips(instruction, computation), fused=False)
            elif instruction.operation in ("fusion", "call", "conditional", "async"):
                inside = fused or instruction.operation == "fusion"
                for name in instruction.called:
                    yield from self._runs(self.computations[name], trips, fused=inside)

    def trips(self, loop: Instruction, computation: Computation) -> int:
        """The trip count of a loop.

        It is the compiler's annotation if there is one. Otherwise it follows from the comparison in the loop's
        condition, the initial value of the compared variable, and its increment in the body. A condition with further
        terms can end a loop earlier: such a loop counts with its bound, a loop without a bound with `unbounded_trips`,
        and both are recorded in `open_loops`.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.attribute("condition")]
        bounds = list(self._bounds(condition, condition.root, {}))
        trips = [
            max(0, math.ceil((bound - self._start(computation, loop, index)) / self._increment(loop, index)))
            for index, bound in bounds
        ]
        found = min(trips, default=self._unbounded_trips)
        if len(bounds) != 1 or self._is_more_than_a_bound(condition):
            self.open_loops[loop.name] = found
        return found

    def _is_more_than_a_bound(self, condition: Computation) -> bool:
        """Whether a loop's condition is more than a single comparison."""
        root = condition.instructions[condition.root]
        if root.opcode == "fusion":
            return self._is_more_than_a_bound(self.computations[root.called[0]])
        return root.opcode != "compare"

    def _bounds(
        self, computation: Computation, name: str, arguments: dict[int, tuple[Computation, str]]
    ) -> Iterator[tuple[int, int]]:
        """(index in the loop's state, bound) of every term `state[index] < bound` of a condition."""
        instruction = computation.instructions[name]
        if instruction.opcode == "and":
            for operand in instruction.operands:
                yield from self._bounds(computation, operand, arguments)
        elif instruction.opcode == "fusion":
            inner = self.computations[instruction.called[0]]
            given = {number: (computation, operand) for number, operand in enumerate(instruction.operands)}
            yield from self._bounds(inner, inner.root, given)
        elif instruction.opcode == "compare":
            sides = [self._origin(computation, operand, arguments) for operand in instruction.operands]
            if instruction.attribute("direction") == "GT":
                sides.reverse()
            elif instruction.attribute("direction") != "LT":
                return
            left, right = sides
            if left.opcode == "get-tuple-element" and right.opcode == "constant":
                yield int(left.attribute("index")), int(right.literal)

    def _origin(
        self, computation: Computation, name: str, arguments: dict[int, tuple[Computation, str]]
    ) -> Instruction:
        """The instruction that produces a value, through copies and a fusion's parameters."""
        instruction = computation.instructions[name]
        while instruction.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
            instruction = computation.instructions[instruction.operands[0]]
        if instruction.opcode == "parameter" and int(instruction.literal) in arguments:
            outer, argument = arguments[int(instruction.literal)]
            return self._origin(outer, argument, {})
        return instruction

    def _start(self, computation: Computation, loop: Instruction, index: int) -> int:
        """The initial value of an element of a loop's state; 0 if it is not a constant."""
        state = computation.instructions[loop.operands[0]]
        if state.opcode != "tuple":
            return 0
        origin = self._origin(computation, state.operands[index], {})
        return int(origin.literal) if origin.opcode == "constant" else 0

    def _increment(self, loop: Instruction, index: int) -> int:
        """The increment of an element of a loop's state in its body; 1 if it is not a constant."""
        body = self.computations[loop.attribute("body")]
        new = self._origin(body, body.instructions[body.root].operands[index], {})
        for operand in new.operands if new.opcode == "add" else ():
            origin = self._origin(body, operand, {})
            if origin.opcode == "constant":
                return int(origin.literal)
        return 1

    def operand_arrays(self, instruction: Instruction, computation: Computation) -> list[ArrayShape]:
        """The arrays that an instruction reads."""
        return [array for name in instruction.operands for array in computation.instructions[name].arrays]


def _instruction(name: str, text: str) -> Instruction:
    shape, rest = _balanced(text) if text.startswith("(") else text.split(" ", 1)
    opcode, _, rest = rest.strip().partition("(")
    literal, attributes = _balanced("(" + rest)
    arrays = tuple(
        ArrayShape(dtype, tuple(int(size.lstrip("<=")) for size in dims.split(",") if size), layout)
        for dtype, dims, layout in _ARRAY.findall(shape)
    )
    literal = literal[1:-1]
    operands = () if opcode in ("constant", "parameter") else tuple(_NAME.findall(literal))
    return Instruction(name, opcode, arrays, operands, literal, attributes)


def _balanced(text: str) -> tuple[str, str]:
    """A text that starts with a parenthesis, split after the matching one."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: index + 1], text[index + 1 :]
    raise ValueError(f"parentheses do not close in {text[:80]!r}.")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
        kind: one of COLLECTIVES.
        bytes: size per device of the unsharded data: the result of an all-gather, the operand of other collectives.
        groups: [groups, members] indices in the mesh of the devices that communicate with each other; for a
            collective-permute the pairs of sender and receiver.
        trips: number of executions.
        overlapped: whether it can overlap with other operations.
    """

    kind: str
    bytes: float
    groups: np.ndarray
    trips: int
    overlapped: bool

    @property
    def bytes_sent(self) -> float:
        """Bytes that each device sends per execution, with ring algorithms."""
        fraction = 1.0 - 1.0 / self.groups.shape[1]
        factor = {"all-reduce": 2.0 * fraction, "collective-permute": 1.0}.get(self.kind, fraction)
        return factor * self.bytes


def collectives(program: Program, num_devices: int) -> list[Collective]:
    """The collectives of a program, except those with groups of one device.

    An asynchronous collective is counted where it starts. On a TPU it may run in pieces inside neighbouring fusions,
    each of which then contains it; and a reduce-scatter is a fusion of an all-reduce and a slice.
    """
    found = []
    for run in program.runs():
        instruction = run.instruction
        kind = instruction.operation
        if kind not in COLLECTIVES:
            continue
        neighbours = run.computation.instructions.values()
        starts = any(ASYNC_START in each.attributes for each in neighbours)
        if run.fused and not starts and _belongs_to_async(run.computation):
            continue
        if run.fused and kind == "all-reduce" and any(each.opcode == "dynamic-slice" for each in neighbours):
            kind = "reduce-scatter"
        groups = device_groups(instruction.attributes, num_devices)
        if groups.shape[1] == 1:
            continue
        arrays = program.operand_arrays(instruction, run.computation)
        size = math.fsum(array.bytes for array in arrays)
        found.append(
            Collective(
                kind=kind,
                bytes=size * groups.shape[1] if kind == "all-gather" else size,
                groups=groups,
                trips=run.trips,
                overlapped=starts
                or (instruction.opcode.endswith("-start") and SYNCHRONOUS not in instruction.attributes),
            )
        )
    return found


def _belongs_to_async(computation: Computation) -> bool:
    return computation.name.startswith("async_collective_fusion") or any(
        "AsyncCollective" in each.attributes for each in computation.instructions.values()
    )


def device_groups(attributes: str, num_devices: int) -> np.ndarray:
    """The device groups [groups, members] of a collective.

    HLO has three notations: a list, an iota ([8,4]<=[32], [2,8]<=[8,2]T(1,0)), or axes of a mesh
    (mesh['a'=8,'b'=2] {'a'}).

    Raises:
        ValueError: the notation is unknown.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?\})\}", attributes):
        return _listed(pairs[1])
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}", attributes):
        return _listed(listed[1])
    if re.search(r"replica_groups=\{\}", attributes):
        return np.arange(num_devices)[None]
    if iota := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return _iota(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\](.*?)\{([^}]*)\}", attributes):
        return _mesh_axes(mesh[1], mesh[2], mesh[3])
    raise ValueError(f"unknown notation of the devices of a collective: {attributes[:200]}")


def _listed(text: str) -> np.ndarray:
    return np.array([[int(device) for device in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", text)])


def _iota(text: str) -> np.ndarray:
    shape, dims, order = re.match(r"\[([\d,-]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    dims = [int(size) for size in dims.split(",")]
    devices = np.arange(math.prod(dims)).reshape(dims)
    if order:
        devices = devices.transpose([int(dim) for dim in order.split(",")])
    return devices.reshape([int(size) for size in shape.split(",")])


def _mesh_axes(axes: str, device_ids: str, chosen: str) -> np.ndarray:
    """Groups along some axes of a mesh, or parts of them: 'a':(2)4 is the 4 of an axis that follow its first 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    parts = [
        (name, int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    ]
    split, grouped = [], []
    for name, size in sizes.items():
        done = 1
        for _, before, part in sorted(each for each in parts if each[0] == name):
            if before > done:
                split.append(before // done)
            grouped.append(len(split))
            split.append(part)
            done = before * part
        if done < size:
            split.append(size // done)
    transposed = re.search(r"\(\[([\d,]+)\]T\(([\d,]+)\)\)", device_ids)
    devices = _iota(
        f"[-1]<=[{transposed[1]}]T({transposed[2]})" if transposed else f"[-1]<=[{math.prod(sizes.values())}]"
    )
    kept = [dim for dim in range(len(split)) if dim not in grouped]
    members = math.prod(split[dim] for dim in grouped)
    return devices.reshape(split).transpose(kept + grouped).reshape(-1, members)
