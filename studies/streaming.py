"""python -m studies.streaming: memory and time to the first line of `seq2seq generate`, over the number of lines."""

import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seq2seq_jax.benchmark import report
from seq2seq_jax.data.dates import draw_pairs
from seq2seq_jax.overrides import override, split_names

PROGRAM = "python -m studies.streaming"
DESCRIPTION = """\
Generate from files of short lines (dates in words), each in a process of its own, and report its peak memory, the
time to its first line, and lines per second.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamingArguments:
    """Command line of the measurement."""

    lines: tuple[int, ...] = (1, 2_000, 20_000, 200_000)
    """Lines of each file. The first one is not reported: it compiles."""
    options: tuple[str, ...] = ()
    """Further options of `seq2seq generate`, as name=value."""
    json: str | None = None
    """File for all figures, as JSON."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one process took.

    Attributes:
        num_lines: of its input.
        first_line: seconds from its start to its first line.
        last_line: seconds to its last line.
        peak_mib: its largest resident memory.
    """

    num_lines: int
    first_line: float
    last_line: float
    peak_mib: float


def measure(command: list[str], *, num_lines: int) -> Measured:
    """Run a command that writes lines to standard output.

    Raises:
        ValueError: it fails, or writes another number of lines.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first = last = 0.0
    count = 0
    for _ in process.stdout:
        last = time.perf_counter() - start
        first = first or last
        count += 1
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or count != num_lines:
        raise ValueError(
            f"{' '.join(command)} ended with status {process.returncode} after {count} of {num_lines} lines."
        )
    return Measured(num_lines, first, last, usage.ru_maxrss / 1024)


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a table.

    Raises:
        ValueError: a process fails.
    """
    directories, rest = split_names(arguments)
    chosen = override(StreamingArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of a RUN. See {PROGRAM} --help.")
    options = [f"--{option}" for option in chosen.options]
    measured = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "sources"
        for number in chosen.lines:
            path.write_text("".join(f"{source}\n" for source, _ in itertools.islice(draw_pairs(), number)))
            command = [sys.executable, "-m", "seq2seq_jax", "generate", directories[0], "--input", str(path), *options]
            measured.append(measure(command, num_lines=number))
    rows = [
        [
            f"{each.num_lines:,}",
            f"{each.first_line:.2f} s",
            f"{each.last_line:.1f} s",
            f"{each.num_lines / each.last_line:,.0f}",
            f"{each.peak_mib:,.0f} MiB",
        ]
        for each in measured[1:]
    ]
    header = ("lines", "first line", "last line", "lines/s", "peak memory")
    report.output().print(report.table(header, rows, title="seq2seq generate, from the start of the process"))
    report.write_json([dataclasses.asdict(each) for each in measured], chosen.json)


if __name__ == "__main__":
    report.run_script(main)
