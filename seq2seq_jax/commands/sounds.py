"""What commands that generate read where a model reads speech: audio files, manifests, and lists of paths."""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seq2seq_jax.commands.sources import Source
from seq2seq_jax.data.lines import open_input
from seq2seq_jax.overrides import values_of_option
from seq2seq_jax.paths import user_path

if TYPE_CHECKING:
    import seq2seq_jax.run.inference

STANDARD_INPUT = "-"


def reads_sounds(run: "seq2seq_jax.run.inference.Inference") -> bool:
    """Whether a run's sources are sounds."""
    from seq2seq_jax.data.audio.source import SpeechSource

    return isinstance(run.experiment.data, SpeechSource)


def with_one_input(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """A command line whose --input has one value, and all of those that it had: a shell makes many of *.wav."""
    rest, values = [], []
    index = 0
    while index < len(arguments):
        found = values_of_option("input", arguments[index:])
        if arguments[index].partition("=")[0] == "--input" and found:
            values += found
            index += 1 if "=" in arguments[index] else 1 + len(found)
        else:
            rest.append(arguments[index])
            index += 1
    return [*rest, *(["--input", values[0]] if values else [])], tuple(values)


def sounds_of(
    inputs: Sequence[str], run: "seq2seq_jax.run.inference.Inference", *, say: Callable[[str], None]
) -> list[Source]:
    """The sounds that inputs name, none of which is kept in memory; each is read once, to find mistakes.

    Args:
        inputs: audio files; manifests, whose other columns become fields; or other files with a path per line; - =
            such a list on standard input.
        say: hears what was resampled.

    Raises:
        ValueError: a file is missing or no audio; the message says where it is named.
    """
    from seq2seq_jax.data.audio.inputs import describe_resampled

    data = run.experiment.data
    sources = list(itertools.chain.from_iterable(_sources(name, data) for name in inputs))
    if not sources:
        raise ValueError(f"{', '.join(inputs)} names no audio file: give some, as in --input *.wav.")
    heard = [sound._replace(frames=sound.frames[:0]) for sound in (source.given for source in sources)]
    if resampled := describe_resampled(heard, data):
        say(resampled)
    return sources


def _sources(name: str, data) -> list[Source]:
    from seq2seq_jax.data.audio.files import SUFFIXES
    from seq2seq_jax.data.audio.inputs import sound_of
    from seq2seq_jax.data.audio.recordings import part_of, read_manifest, seconds_in

    path = Path(name)
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    if suffix in SUFFIXES or suffix == ".npy":
        return [Source(name, load=functools.partial(sound_of, name, data, name=name))]

    def read(given: str, where: str, begin: float | None = None, end: float | None = None):
        try:
            sound = sound_of(given, data, name=given)
            return sound._replace(frames=part_of(sound.frames, data.values_per_second, begin, end, name=given))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    if suffix in (".tsv", ".jsonl"):
        path = user_path(name)
        if not path.is_file():
            raise ValueError(f"there is no file {path}: give the path of a manifest, or of audio files.")
        return [
            Source(
                row["file"],
                fields={column: value for column, value in row.items() if column != "file"},
                load=functools.partial(
                    read,
                    str(path.parent / row["file"]),
                    f"line {line} of {path}",
                    *seconds_in(row, path, line),
                ),
            )
            for line, row in read_manifest(path, needed=("file",))
        ]
    if name == STANDARD_INPUT and sys.stdin is not None and sys.stdin.isatty():
        raise ValueError("the model reads sounds: name audio files, as in --input *.wav, or give a list of paths.")
    with open_input(None if name == STANDARD_INPUT else name) as given:
        lines = [line.strip() for line in given.lines()]
    return [
        Source(line, load=functools.partial(read, line, f"line {number} of {name}"))
        for number, line in enumerate(lines, start=1)
        if line
    ]
