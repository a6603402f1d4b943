"""What preparing one's own text takes: seconds, peak memory and disk, for lines made of the pairs of a directory.

    python -m studies.preparation DIRECTORY --lines 1000000

DIRECTORY has train.en and train.de (or --source, --target), perhaps gzipped. Each line that is prepared has the first
half of one of its lines and the second half of another.
"""

import dataclasses
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from seq2seq_jax.data.store import Store
from seq2seq_jax.data.text_files import ParallelText, find_file, read_parallel
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.tasks.translation import Translation

PROGRAM = "python -m studies.preparation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparationArguments:
    """Command line of the study."""

    lines: int = 1_000_000
    """Pairs of lines that are prepared."""
    source: str = "en"
    """Extension of the source file."""
    target: str = "de"
    """Extension of the target file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
    """What a preparation took."""

    seconds_reading: float
    """Of opening the text: counted, and its fingerprint taken."""
    seconds_encoding: float
    """Of encoding and writing."""
    processor_seconds: float
    """Of both, on all cores."""
    peak_memory: int
    """Of the process, bytes."""
    disk: int
    """Of all that was written, bytes."""


def write_lines(directory: Path, pairs: list[tuple[str, str]], chosen: PreparationArguments) -> None:
    """Write the files that are prepared."""
    draw = random.Random(1)
    words = [(source.split(), target.split()) for source, target in pairs]
    with (
        open(directory / f"train.{chosen.source}", "w", encoding="utf-8") as sources,
        open(directory / f"train.{chosen.target}", "w", encoding="utf-8") as targets,
    ):
        for _ in range(chosen.lines):
            first, second = draw.choice(words), draw.choice(words)
            for file, one, other in zip((sources, targets), first, second, strict=True):
                file.write(" ".join(one[: len(one) // 2] + other[len(other) // 2 :]) + "\n")


def prepare(data: ParallelText, tokenizer_directory: Path) -> Cost:
    """Prepare the training split in an empty cache, in a process of its own."""
    tokenizer = Tokenizer.load(tokenizer_directory)
    started, worked = time.perf_counter(), sum(os.times()[:2])
    corpus = data.open(("train",))
    opened = time.perf_counter()
    Store.open_or_build(data.cache_directory, corpus, "train", Translation().columns(data), tokenizer)
    return Cost(
        seconds_reading=opened - started,
        seconds_encoding=time.perf_counter() - opened,
        processor_seconds=sum(os.times()[:2]) - worked,
        peak_memory=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        disk=sum(path.stat().st_size for path in Path(data.cache_directory).rglob("*") if path.is_file()),
    )


def main(arguments: list[str]) -> None:
    """Parse the command line, prepare, print what it took."""
    names, rest = split_names(arguments)
    chosen = override(PreparationArguments(), rest, program=f"{PROGRAM} DIRECTORY", description=__doc__ or "")
    if len(names) != 1 or chosen.lines < 1:
        raise ValueError(f"{PROGRAM} needs one DIRECTORY and --lines of at least 1. See {PROGRAM} --help.")
    sides = (find_file(names[0], f"train.{side}", split="train") for side in (chosen.source, chosen.target))
    pairs = list(read_parallel(*sides))
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        write_lines(directory, pairs, chosen)
        Tokenizer.train(pairs, TokenizerConfig()).save(directory / "tokenizer")
        data = ParallelText(
            directory=place, source=chosen.source, target=chosen.target, validation=None, test=None,
            cache_directory=str(directory / "cache"),
        )  # fmt: skip
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cost = pool.apply(prepare, (data, directory / "tokenizer"))
    print(
        f"{chosen.lines:,} pairs: read in {cost.seconds_reading:.1f} s, encoded in {cost.seconds_encoding:.1f} s, "
        f"{cost.processor_seconds:.1f} s of processors, {cost.peak_memory / 2**20:.0f} MiB at most, "
        f"{cost.disk / 1e6:.0f} MB on disk"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
