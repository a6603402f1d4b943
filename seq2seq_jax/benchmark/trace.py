"""Where the time of a program goes: a trace by jax.profiler, read without anything else, as a table of operations."""

import collections
import dataclasses
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from seq2seq_jax.compilation.hlo import Instruction, Program

HEAVY = ("convolution", "dot", "custom-call", "sort", "scatter", "gather", "reduce-window", "reduce")
"""Operations that a fusion is described by, the one that says the most first."""

ORIGIN = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """All runs of one operation of a compiled program.

    Attributes:
        name: in the compiled program.
        category: its HLO opcode; of a fusion with the operation inside that says the most.
        origin: what it was made from, by the names of modules and functions; "" = not known.
        seconds: its own, without those of operations inside of it, on all threads or devices together.
        count: runs.
        share: of the seconds of all operations.
    """

    name: str
    category: str
    origin: str
    seconds: float
    count: int
    share: float


def record(contender: Callable[[], object], directory: Path, *, times: int) -> Path:
    """Run something a few times under jax.profiler.

    Args:
        contender: does one unit of work, and returns when it is done on the device too.
        directory: that the trace is written below, beside those that are there.

    Returns:
        The trace, as JSON in gzip; chrome://tracing and ui.perfetto.dev show it.
    """
    before = set(directory.rglob("*.trace.json.gz"))
    # What Python does fills the trace, which ends after a million events.
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(directory, profiler_options=options):
        for _ in range(times):
            contender()
    (trace,) = set(directory.rglob("*.trace.json.gz")) - before
    return trace


def operations(trace: Path, compiled_text: str) -> list[Operation]:
    """The operations in a trace of one program, those of the most seconds first.

    Args:
        trace: what `record` gives.
        compiled_text: of the program; see `jax.stages.Compiled.as_text`.

    Raises:
        ValueError: the trace has no operations.
    """
    with gzip.open(trace, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    seconds: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    described: dict[str, str] = {}
    for name, category, own in own_seconds(events):
        seconds[name] += own
        counts[name] += 1
        described[name] = category
    if not seconds:
        raise ValueError(f"the trace {trace} has no operations of a compiled program: this device records none.")
    program = Program(compiled_text)
    known = {name: each for place in program.computations.values() for name, each in place.instructions.items()}
    total = sum(seconds.values())
    return [
        Operation(
            name=name,
            category=described[name] or category_of(known.get(name), program),
            origin=origin_of(known.get(name)),
            seconds=taken,
            count=counts[name],
            share=taken / total,
        )
        for name, taken in seconds.most_common()
    ]


def own_seconds(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """Name, category ("" = not known) and own seconds of every run of an operation.

    A loop's event spans those of its body on the same thread: they are taken off.

    Args:
        events: of the trace event format, times in microseconds.
    """
    threads: dict[tuple[Any, Any], list[Mapping[str, Any]]] = collections.defaultdict(list)
    for event in events:
        arguments = event.get("args", {})
        if event.get("ph") == "X" and ("hlo_op" in arguments or "hlo_category" in arguments):
            threads[event["pid"], event["tid"]].append(event)
    for found in threads.values():
        # Of two that begin together, the longer one is around the other.
        found.sort(key=lambda event: (event["ts"], -event.get("dur", 0.0)))
        own = [event.get("dur", 0.0) for event in found]
        around: list[int] = []
        for index, event in enumerate(found):
            while around and _end(found[around[-1]]) <= event["ts"]:
                around.pop()
            if around:
                own[around[-1]] -= event.get("dur", 0.0)
            around.append(index)
        for event, microseconds in zip(found, own, strict=True):
            arguments = event["args"]
            name = arguments.get("hlo_op", event["name"])
            yield name, arguments.get("hlo_category", ""), max(0.0, microseconds) / 1e6


def _end(event: Mapping[str, Any]) -> int | float:
    return event["ts"] + event.get("dur", 0.0)


def category_of(instruction: Instruction | None, program: Program) -> str:
    """The kind of an operation, in HLO's words."""
    if instruction is None:
        return "runtime"
    if instruction.opcode == "custom-call":
        return instruction.attribute("custom_call_target") or "custom-call"
    if instruction.opcode not in ("fusion", "call"):
        return instruction.opcode
    inside = _opcodes(instruction, program)
    heavy = next((opcode for opcode in HEAVY if opcode in inside), None)
    return f"{instruction.opcode} of {heavy}" if heavy else instruction.opcode


def _opcodes(instruction: Instruction, program: Program) -> set[str]:
    """Those of all operations inside of one."""
    found = set()
    for name in instruction.called:
        for each in program.computations[name].instructions.values():
            found |= {each.opcode} | _opcodes(each, program)
    return found


def origin_of(instruction: Instruction | None) -> str:
    """The names of modules and functions that an operation comes from, the innermost last."""
    found = None if instruction is None else ORIGIN.search(instruction.attributes)
    if found is None:
        return ""
    return "/".join(part for part in found[1].split("/") if not part.startswith("jit("))


def by_category(found: Iterable[Operation]) -> list[tuple[str, float, int, float]]:
    """Category, seconds, runs and share, those of the most seconds first."""
    sums: dict[str, list[float]] = {}
    for each in found:
        total = sums.setdefault(each.category, [0.0, 0, 0.0])
        for index, amount in enumerate((each.seconds, each.count, each.share)):
            total[index] += amount
    ordered = sorted(sums.items(), key=lambda item: -item[1][0])
    return [(category, seconds, int(count), share) for category, (seconds, count, share) in ordered]
