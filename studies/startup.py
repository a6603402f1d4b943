"""python -m studies.startup: CPU time of commands that do little, each in a process of its own."""

import dataclasses
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seq2seq_jax.benchmark import report
from seq2seq_jax.overrides import override

PROGRAM = "python -m studies.startup"
DESCRIPTION = """\
Start commands again and again and show the CPU time (user + system) and the time that each takes: mistakes, help, and,
with --run, a line of generation, at first with an empty cache of compiled programs and then with what it has kept.
"""
COMMANDS = (
    "trian",
    "train",
    *(f"{name} --help" for name in ("train", "evaluate", "generate", "align", "average", "benchmark", "compile")),
    "train dates/transformer --help",
    "train dates/transformer --training.stps 3",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartupArguments:
    """Command line of the study."""

    repetitions: int = 5
    """Processes per command; medians are shown."""
    run: str | None = None
    """Directory of a run to generate a line with."""
    line: str = "de: Dienstag, 3. Mai 2022"
    """The line."""
    json: str | None = None
    """File for all measurements, as JSON."""


def main(arguments: list[str]) -> None:
    """Parse the command line, measure, print a table."""
    chosen = override(StartupArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    if chosen.repetitions < 1:
        raise ValueError(f"--repetitions must be at least 1, not {chosen.repetitions}.")
    measured = {f"seq2seq {command}": measure(command.split(), chosen.repetitions) for command in COMMANDS}
    if chosen.run is not None:
        generate = ["generate", str(Path(chosen.run).absolute())]
        with tempfile.TemporaryDirectory() as caches:
            for name, times in (("empty cache", 1), ("kept programs", chosen.repetitions)):
                measured[f"seq2seq generate RUN, a line, {name}"] = measure(
                    generate, times, text=f"{chosen.line}\n", XDG_CACHE_HOME=caches
                )
            shutil.rmtree(Path(caches) / "seq2seq_jax", ignore_errors=True)
    rows = [
        (name, str(found["status"]), f"{found['cpu_seconds']:.2f} s", f"{found['seconds']:.2f} s")
        for name, found in measured.items()
    ]
    report.output().print(report.table(("command", "status", "CPU", "elapsed"), rows, title="start-up, medians"))
    report.write_json({"arguments": dataclasses.asdict(chosen), "commands": measured}, chosen.json)


def measure(command: list[str], repetitions: int, *, text: str = "", **environment: str) -> dict[str, float]:
    """Medians of a command's CPU seconds and seconds, and its exit status.

    Args:
        text: its standard input.
        environment: variables that are set for it.
    """
    cpu, elapsed, status = [], [], 0
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    for _ in range(repetitions):
        before, started = _cpu_of_children(), time.perf_counter()
        status = subprocess.run(
            [sys.executable, "-m", "seq2seq_jax", *command],
            input=text.encode(), env={**inherited, **environment}, capture_output=True, check=False,
        ).returncode  # fmt: skip
        elapsed.append(time.perf_counter() - started)
        cpu.append(_cpu_of_children() - before)
    return {"status": status, "cpu_seconds": statistics.median(cpu), "seconds": statistics.median(elapsed)}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    report.run_script(main)
