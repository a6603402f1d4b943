"""Text fields of datasets that tensorflow-datasets has prepared as array_record.

TensorFlow is not needed: array_record is the format that tensorflow-datasets writes and reads without it.
"""

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from seq2seq_jax.data.source import Corpus

Examples = Sequence[Any]
"""Examples of a split, a dict of fields each. What they are is not said in the type: a check of it would read one."""

EXAMPLES_PER_READ = 4096


def read_examples(builder: tfds.core.DatasetBuilder, piece: str) -> Examples:
    """The examples of a split, or of a part of one such as "train[:90%]", of a dataset that was prepared."""
    return builder.as_data_source(split=piece, file_format="array_record")  # pyright: ignore[reportCallIssue]


class PreparedCorpus(Corpus):
    """Text fields of a dataset that tensorflow-datasets has prepared as array_record.

    Args:
        examples: of each split, as `read_examples` gives them.
        columns: names of the columns, and of the fields that they are.
        fingerprints: hex digest of the content of each split.
        fingerprint: of all of them.
        places: where each split is, for messages.
    """

    def __init__(
        self,
        examples: Mapping[str, Examples],
        *,
        columns: Mapping[str, str],
        fingerprints: Mapping[str, str],
        fingerprint: str,
        places: Mapping[str, Path],
    ):
        self._examples = dict(examples)
        self._fields = dict(columns)
        self._places = dict(places)
        self._fingerprints = dict(fingerprints)
        self._fingerprint = fingerprint

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self._fields)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    def split_fingerprint(self, split: str) -> str:
        return self._fingerprints[split]

    @property
    def splits(self) -> dict[str, int]:
        return {split: len(examples) for split, examples in self._examples.items()}

    def examples(self, split: str) -> Iterator[tuple[str, ...]]:
        if split not in self._examples:
            raise ValueError(
                f"expected one of the splits {', '.join(self._examples)}; got {split!r}: name one of these, or give "
                f"the data source a {split} split"
            )
        return self._read(split)

    def _read(self, split: str) -> Iterator[tuple[str, ...]]:
        examples = self._examples[split]
        for start in range(0, len(examples), EXAMPLES_PER_READ):
            indices = range(start, min(start + EXAMPLES_PER_READ, len(examples)))
            try:
                batch = examples.__getitems__(indices)
            except TypeError:
                # What tfds.testing.mock_data gives in its place reads single examples alone, and strings.
                batch = [examples[index] for index in indices]
            except Exception as error:
                # array_record raises what it finds in its own C++, without the name of the file.
                raise ValueError(
                    f"{self._places[split]} cannot be read, examples {start} to {indices[-1]} are damaged "
                    f"({first_line(error)}): delete that directory, and it is prepared again"
                ) from error
            for example in batch:
                yield tuple(_text(example[field]) for field in self._fields.values())


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type, for a message of one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def prepare_once(builder: tfds.core.DatasetBuilder) -> None:
    """Write a dataset as array_record, or let the one be that another process has finished meanwhile.

    Raises:
        OSError: it could not be written.
    """
    try:
        with _unless_there(Path(builder.data_dir)):
            builder.download_and_prepare(file_format="array_record")
    except RuntimeError as error:
        # array_record has no other way to say that the disk is full.
        if "write() failed" not in str(error):
            raise
        raise OSError(" ".join(str(error).split())) from error


@contextlib.contextmanager
def _unless_there(path: Path) -> Iterator[None]:
    """Within, a finished dataset is renamed to its place, which fails when another process has put one there."""
    try:
        yield
    except OSError:
        if not path.exists():
            raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep tensorflow-datasets, which prints and draws progress bars while it prepares a dataset, off the terminal."""
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    tfds.disable_progress_bar()
    absl_logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logger.setLevel(level)
