"""python -m studies.method_speed: generation methods beside beam 4, in turns."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.methods import BeamSearch, DiverseBeamSearch, Sampling, StochasticBeamSearch
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from studies.invariance import build_generator

PROGRAM = "python -m studies.method_speed"
DESCRIPTION = """\
Generate from the same sources with each method in turns, from text to text in float32, and compare sentences per second
with beam 4.
"""
BASELINE = "beam 4"
METHODS: dict[str, GenerationMethod] = {
    BASELINE: BeamSearch(beam_size=4),
    "sampling, one text": Sampling(samples=1),
    "sampling, one text, top-k 50": Sampling(samples=1, top_k=50),
    "sampling, one text, top-p 0.9": Sampling(samples=1, top_p=0.9),
    "sampling, one text, ε 0.02": Sampling(samples=1, epsilon=0.02),
    "sampling, 4 texts": Sampling(samples=4),
    "diverse beam 4, 4 groups": DiverseBeamSearch(beam_size=4, groups=4),
    "stochastic beam 4": StochasticBeamSearch(samples=4),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSpeedArguments:
    """Command line of the comparison."""

    sources: str = "sources"
    """File of sources, one per line, plain or gzipped."""
    num_sources: int = 256
    """Sources, from the first."""
    rounds: int = 7
    """Turns (5 at least)."""
    json: str | None = None
    """File for all figures, as JSON."""


def main(arguments: list[str]) -> None:
    """Parse the command line, generate, print a table.

    Raises:
        ValueError: a directory is not that of a run, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(MethodSpeedArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of a RUN. See {PROGRAM} --help.")
    keep_compiled_programs()
    environment = harness.environment()
    sources = list(read_lines(Path(chosen.sources)))[: chosen.num_sources]
    lines = list(range(1, len(sources) + 1))
    contenders = {
        name: functools.partial(build_generator(directories[0], method, 1), sources, lines)
        for name, method in METHODS.items()
    }
    timings = harness.take_turns(contenders, rounds=chosen.rounds, warm_up=1)
    figures: dict[str, dict[str, Any]] = {}
    rows = []
    for name, timing in timings.items():
        faster = harness.paired_ratio(timings[BASELINE].seconds, timing.seconds)
        figures[name] = {"seconds": timing.seconds, "beam 4 / this": dataclasses.asdict(faster)}
        speed = len(sources) / timing.spread.median
        rows.append([name, f"{timing.spread.median:.2f} s", f"{speed:,.0f}", report.factor(faster)])
    report.output().print(
        report.table(("method", "time", "sentences/s", "beam 4 / this"), rows, title=f"{len(sources):,} sources")
    )
    report.output().print(report.environment_line(environment))
    report.write_json({"environment": environment, "methods": figures}, chosen.json)


if __name__ == "__main__":
    report.run_script(main)
