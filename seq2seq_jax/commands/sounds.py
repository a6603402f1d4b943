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
    values = values_of_option("input", arguments)
    if len(values) < 2:
        return list(arguments), values
    place = next(index for index, argument in enumerate(arguments) if argument.lstrip("-") == "input")
    return [*arguments[: place + 2], *arguments[place + 1 + len(values) :]], values


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
    from seq2seq_jax.data.audio.recordings import read_manifest, seconds_in

    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix == ".npy":
        return [Source(name, load=functools.partial(sound_of, name, data, name=name))]

    def read(given: str, where: str, begin: float | None = None, end: float | None = None):
        try:
            sound = sound_of(given, data, name=given)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        first, last = (None if time is None else round(time * data.values_per_second) for time in (begin, end))
        return sound._replace(frames=sound.frames[first:last])

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
                    *(seconds_in(row, column, path, line) for column in ("begin", "end")),
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
