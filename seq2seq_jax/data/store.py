"""The columns of a split on disk: encoded once, memory-mapped by every later run and process."""

import contextlib
import functools
import itertools
import logging
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seq2seq_jax.data.columns import Column, Ragged
from seq2seq_jax.data.source import Corpus
from seq2seq_jax.data.store_files import Verification, digest, map_array, open_or_build, read_header, write_header
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.paths import unicode_path

FORMAT_VERSION = 3
EXAMPLES_AT_ONCE = 2048

logger = logging.getLogger(__name__)


class Store:
    """The examples of one split, in the corpus' order.

    A store pickles as its path, so that a worker process maps the same files.

    Attributes:
        directory: where its files are.
        key: digest of all that decides the content: the data, the split, the columns, the tokenizer and the format.
        columns: the values of all examples, by the column's name.
    """

    columns: dict[str, Ragged]

    def __init__(self, directory: str | os.PathLike, *, verify: Verification = "always"):
        """Map the store that `open_or_build` made in a directory.

        Raises:
            DamagedStoreError: a file is missing, cut short or altered.
        """
        self.directory = pathlib.Path(directory)
        header = read_header(self.directory, verify=verify)
        self.key = header["key"]
        self._num_examples = header["examples"]
        self.columns = {}
        for name, shape in header["columns"].items():
            values = map_array(self.directory, f"{name}.values", header)
            offsets = map_array(self.directory, f"{name}.offsets", header)
            self.columns[name] = Ragged(values.reshape(-1, *shape), offsets)

    @classmethod
    def open_or_build(
        cls,
        directory: str | os.PathLike,
        corpus: Corpus,
        split: str,
        columns: Mapping[str, Column],
        tokenizer: Tokenizer,
        *,
        verify: Verification = "always",
        found_in: pathlib.Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Store":
        """The store of a split below `directory`; made now if it is not there complete, in memory of a fixed size.

        Safe with several processes: each builds under a name of its own, and the first to finish is kept.

        Args:
            columns: what is stored, by name.
            verify: when the files are compared with their digests.
            found_in: see `store_files.open_or_build`.
            progress: called with (examples stored, examples in all) after every chunk; not called for a store that is
                there already.

        Raises:
            ValueError: there is no such split, it is empty, the data lacks a column, or a value is not of its kind.
        """
        stored = {name: [column.read_from or name, *column.stored(tokenizer)] for name, column in columns.items()}
        key = digest("columns", corpus.split_fingerprint(split), split, stored, FORMAT_VERSION)
        return open_or_build(
            functools.partial(cls, verify=verify),
            unicode_path(directory),
            key,
            lambda path: _build(path, corpus, split, columns, tokenizer, key, progress),
            found_in=found_in,
        )

    def __len__(self) -> int:
        """Number of examples."""
        return self._num_examples

    def __reduce__(self):
        return _open_again, (self.directory,)


def _open_again(directory: pathlib.Path) -> Store:
    """The store in a worker, whose parent has verified it."""
    return Store(directory, verify="never")


def _build(
    path: pathlib.Path,
    corpus: Corpus,
    split: str,
    columns: Mapping[str, Column],
    tokenizer: Tokenizer,
    key: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    lengths: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    examples = corpus.read(split, tuple(column.read_from or name for name, column in columns.items()))
    num_done = 0
    with contextlib.ExitStack() as opened:
        files = {name: opened.enter_context(open(path / f"{name}.values", "wb")) for name in columns}
        while chunk := list(itertools.islice(examples, EXAMPLES_AT_ONCE)):
            for (name, column), values in zip(columns.items(), zip(*chunk, strict=True), strict=True):
                encoded = column.encode(list(values), tokenizer)
                files[name].write(np.ascontiguousarray(encoded.values, column.dtype(tokenizer.vocabulary)))
                lengths[name].append(encoded.lengths)
            num_done += len(chunk)
            if progress is not None:
                progress(num_done, corpus.splits[split])
    if not num_done:
        raise ValueError(f"the split {split!r} has no examples: expected at least one, check the source's files")
    dtypes, totals = {}, {}
    for name, column in columns.items():
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths[name]), dtype=np.int64)])
        offset_dtype = np.dtype("<u4" if offsets[-1] < 2**32 else "<i8")
        offsets.astype(offset_dtype).tofile(path / f"{name}.offsets")
        dtypes |= {f"{name}.values": column.dtype(tokenizer.vocabulary).name, f"{name}.offsets": offset_dtype.name}
        totals[name] = int(offsets[-1])
    header: dict[str, Any] = {"format": FORMAT_VERSION, "key": key, "split": split, "examples": num_done}
    shapes = {name: column.value_shape for name, column in columns.items()}
    write_header(path, header | {"columns": shapes, "dtypes": dtypes})
    sizes = " and ".join(f"{total:,} values of {name}" for name, total in totals.items())
    logger.info("stored %d examples of the split %s: %s", num_done, split, sizes)
