"""python -m studies.invariance: whether a text depends on anything but its source and the number of its line."""

import dataclasses
import functools
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from seq2seq_jax.benchmark import report
from seq2seq_jax.data.text_files import read_lines
from seq2seq_jax.generation.generator import Hypothesis
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.methods import BeamSearch, DiverseBeamSearch, Sampling
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.parallel.compilation_cache import keep_compiled_programs
from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.system import System

PROGRAM = "python -m studies.invariance"
DESCRIPTION = """\
Generate from the same sources in one file, in reverse, among others, one at a time, on meshes of several devices and
with more samples, and count the sources whose texts are not those of the one file, in float32.
"""
SAMPLES, MORE_SAMPLES = 4, 16

Generate = Callable[[list[str], list[int]], list[list[Hypothesis]]]
"""Texts and the numbers of their lines -> the texts generated for each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvarianceArguments:
    """Command line of the comparison."""

    sources: str = "sources"
    """File of sources, one per line, plain or gzipped."""
    others: str = "others"
    """File of sources that they are mixed with."""
    num_sources: int = 1_000
    """Sources, from the first."""
    num_others: int = 5_000
    """Others, from the first."""
    meshes: tuple[int, ...] = (1, 2, 4)
    """Devices of each mesh, simulated."""
    methods: tuple[Literal["beam", "sampling", "restricted", "diverse"], ...] = (
        "beam", "sampling", "restricted", "diverse",
    )  # fmt: skip
    """Methods that are compared."""
    arrangements: tuple[Literal["reversed", "shuffled", "alone", "meshes", "samples"], ...] = (
        "reversed", "shuffled", "alone", "meshes", "samples",
    )  # fmt: skip
    """How the sources come."""
    json: str | None = None
    """File for all counts, as JSON."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The texts of one arrangement beside those of the one file.

    Attributes:
        num_sources: number of sources.
        different: indices of the sources of which a text differs.
        largest_difference: of the log-probabilities of equal texts, nats.
        seconds: that the arrangement took.
    """

    num_sources: int
    different: list[int]
    largest_difference: float
    seconds: float


def compare(
    expected: Sequence[Sequence[Hypothesis]], found: Sequence[Sequence[Hypothesis]], *, seconds: float = 0.0
) -> Comparison:
    """Texts of sources, as many of each as are expected."""
    different, largest = [], 0.0
    for index, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        if [each.text for each in ours] != [each.text for each in theirs[: len(ours)]]:
            different.append(index)
            continue
        differences = [
            abs(one.log_probability - other.log_probability) for one, other in zip(ours, theirs, strict=False)
        ]
        largest = max(largest, *differences)
    return Comparison(len(expected), different, largest, seconds)


def in_reverse(generate: Generate, sources: list[str]) -> list[list[Hypothesis]]:
    """The texts of sources that are given from the last to the first."""
    lines = list(range(1, len(sources) + 1))
    return generate(sources[::-1], lines[::-1])[::-1]


def among_others(generate: Generate, sources: list[str], others: list[str], *, seed: int) -> list[list[Hypothesis]]:
    """The texts of sources that are shuffled among others."""
    order = list(range(len(sources) + len(others)))
    random.Random(seed).shuffle(order)
    everything = [*sources, *others]
    found = generate([everything[index] for index in order], [index + 1 for index in order])
    by_index = dict(zip(order, found, strict=True))
    return [by_index[index] for index in range(len(sources))]


def one_at_a_time(generate: Generate, sources: list[str]) -> list[list[Hypothesis]]:
    """The texts of sources that are given alone."""
    return [generate([source], [line])[0] for line, source in enumerate(sources, 1)]


METHODS: dict[str, GenerationMethod] = {
    "beam": BeamSearch(beam_size=4, n_best=4),
    "sampling": Sampling(samples=SAMPLES),
    "restricted": Sampling(samples=SAMPLES, epsilon=0.02),
    "diverse": DiverseBeamSearch(beam_size=4, groups=2, n_best=4),
}


def arranged(
    generator: Callable[[GenerationMethod, int], Generate],
    method: GenerationMethod,
    sources: list[str],
    others: list[str],
    chosen: InvarianceArguments,
) -> dict[str, Callable[[], list[list[Hypothesis]]]]:
    """By name, what gives the texts of the sources as they come otherwise than in one file.

    Args:
        generator: (method, devices of the mesh) -> what generates.
    """
    generate, lines = generator(method, 1), list(range(1, len(sources) + 1))
    found: dict[str, Callable[[], list[list[Hypothesis]]]] = {}
    if "reversed" in chosen.arrangements:
        found["reversed"] = functools.partial(in_reverse, generate, sources)
    if "shuffled" in chosen.arrangements:
        found[f"among {len(others):,} others"] = functools.partial(among_others, generate, sources, others, seed=0)
    if "alone" in chosen.arrangements:
        found["one at a time"] = functools.partial(one_at_a_time, generate, sources)
    if "meshes" in chosen.arrangements:
        for size in chosen.meshes:
            found[f"mesh of {size}"] = lambda size=size: generator(method, size)(sources, lines)
    if "samples" in chosen.arrangements and isinstance(method, Sampling):
        more = dataclasses.replace(method, samples=MORE_SAMPLES)
        found[f"{MORE_SAMPLES} samples"] = lambda: generator(more, 1)(sources, lines)
    return found


def main(arguments: list[str]) -> None:
    """Parse the command line, generate, print a table.

    Raises:
        ValueError: a directory is not that of a run, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(InvarianceArguments(), rest, program=f"{PROGRAM} RUN", description=DESCRIPTION)
    if len(directories) != 1:
        raise ValueError(f"{PROGRAM} needs the directory of a RUN. See {PROGRAM} --help.")
    # Read when the first device is requested.
    flag = f"--xla_force_host_platform_device_count={max(chosen.meshes)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    keep_compiled_programs()
    generator = functools.cache(functools.partial(build_generator, directories[0]))
    sources = list(read_lines(Path(chosen.sources)))[: chosen.num_sources]
    others = list(read_lines(Path(chosen.others)))[: chosen.num_others]
    figures: dict[str, dict[str, Any]] = {}
    for name in chosen.methods:
        method = METHODS[name]
        expected = generator(method, 1)(sources, list(range(1, len(sources) + 1)))
        for arrangement, texts in arranged(generator, method, sources, others, chosen).items():
            start = time.perf_counter()
            found = texts()
            compared = compare(expected, found, seconds=time.perf_counter() - start)
            figures.setdefault(arrangement, {})[name] = dataclasses.asdict(compared)
            report.output().print(
                f"{name}, {arrangement}: {len(compared.different)} of {len(sources)} differ; log-probabilities of the "
                f"others by at most {compared.largest_difference:.1e}; {compared.seconds:.0f} s"
            )
    rows = [[arrangement, *(_cell(of.get(name)) for name in chosen.methods)] for arrangement, of in figures.items()]
    title = f"sources of {len(sources):,} with other texts than in one file (largest difference, nats, of equal texts)"
    report.output().print(report.table(("", *chosen.methods), rows, title=title))
    report.write_json(figures, chosen.json)


def _cell(figures: dict[str, Any] | None) -> str:
    return "" if figures is None else f"{len(figures['different'])} ({figures['largest_difference']:.1e})"


def build_generator(directory: str, method: GenerationMethod, num_devices: int) -> Generate:
    """What generates by a method with the best checkpoint of a run in float32, on a mesh of n devices."""
    run = Inference.open(directory)
    run = run.with_parts(model=dataclasses.replace(run.experiment.model, precision="float32"), generation=method)
    mesh = MeshConfig(data=num_devices).build(jax.devices()[:num_devices])
    system = System(run.experiment, run.tokenizer, mesh)
    run = Inference(run.directory, run.experiment, data=run.data, system=system)
    params, _ = run.parameters()
    return lambda texts, lines: system.generator.generate(params, texts, lines=lines)


if __name__ == "__main__":
    report.run_script(main)
