"""Pairs of text as tensorflow-datasets in array_record form: written once under their content's hash, read in batches.

TensorFlow is not needed: array_record is the format that tensorflow-datasets writes and reads without it.
"""

import contextlib
import hashlib
import io
import itertools
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from seq2seq_jax.data.source import DEFAULT_CACHE_DIRECTORY, SPLITS, Corpus, DocumentCorpus, PairCorpus
from seq2seq_jax.data.store_files import (
    DamagedStoreError,
    Verification,
    digest,
    open_or_build,
    read_header,
    remove_left_behind,
    write_header,
)
from seq2seq_jax.paths import unicode_path

logger = logging.getLogger(__name__)

ReadPairs = Callable[[], Iterator[tuple[str, str]]]
"""Gives the (source, target) pairs of one split, from the first, each time it is called."""

Examples = Sequence[Any]
"""Examples of a split, a dict of fields each. What they are is not said in the type: a check of it would read one."""

FORMAT_VERSION = 1
PAIRS_PER_READ = 4096
PAIRS_PER_SHARD = 500_000
"""tensorflow-datasets holds one shard in memory while it writes it."""


def read_examples(builder: tfds.core.DatasetBuilder, piece: str) -> Examples:
    """The examples of a split, or of a part of one such as "train[:90%]", of a dataset that was prepared."""
    return builder.as_data_source(split=piece, file_format="array_record")  # pyright: ignore[reportCallIssue]


class _PreparedTexts(Corpus):
    """Text fields of a dataset that tensorflow-datasets has prepared as array_record.

    Args:
        examples: of each split, as `read_examples` gives them.
        fingerprints: hex digest of the content of each split.
        fingerprint: of all of them.
        fields: names of the fields.
        places: where each split is, for messages.
    """

    def __init__(
        self,
        examples: Mapping[str, Examples],
        *,
        fingerprints: Mapping[str, str],
        fingerprint: str,
        fields: tuple[str, ...],
        places: Mapping[str, Path],
    ):
        self._examples = dict(examples)
        self._places = dict(places)
        self._fingerprints = dict(fingerprints)
        self._fingerprint = fingerprint
        self._fields = fields

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
        for start in range(0, len(examples), PAIRS_PER_READ):
            indices = range(start, min(start + PAIRS_PER_READ, len(examples)))
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
                yield tuple(_text(example[field]) for field in self._fields)


class PreparedCorpus(_PreparedTexts, PairCorpus):
    """A source and a target field of a prepared dataset."""

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        return self.examples(split)


class PreparedDocuments(_PreparedTexts, DocumentCorpus):
    """One text field of a prepared dataset."""

    def documents(self, split: str) -> Iterator[str]:
        return (document for (document,) in self.examples(split))


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def prepare_pairs(
    read_splits: Mapping[str, ReadPairs],
    *,
    cache_directory: str,
    verify: Verification = "always",
    read_only: bool = False,
) -> PreparedCorpus:
    """Write pairs of text as datasets, one for each split, or find those that hold the same text, and open them.

    Training pairs with an empty side (white space alone) are left out and their number is logged; the other splits
    keep theirs, so that outputs match inputs line for line. A dataset gets its final name only when it is complete, by
    one rename: what an interrupted preparation leaves is never read, and of processes that prepare the same text at
    once the first wins and the others read its dataset. One whose files are not what was written is prepared again.

    Args:
        read_splits: by name; each is read once for the hash, and again if it has to be written.
        cache_directory: the datasets go to `datasets` below it; "~" is the home directory.
        verify: when the files are compared with their digests.
        read_only: write nothing to cache_directory; what is not there goes to DEFAULT_CACHE_DIRECTORY.

    Raises:
        ValueError: every training pair has an empty side.
    """
    further = [split for split in read_splits if split not in SPLITS]
    read_splits = {split: read_splits[split] for split in (*SPLITS, *further) if split in read_splits}
    content = hashlib.sha256()
    num_pairs, fingerprints = {}, {}
    for split, read_pairs in read_splits.items():
        of_split = hashlib.sha256()
        for hashed in (content, of_split):
            hashed.update(split.encode())
        num_read = num_kept = 0
        for num_read, (source, target) in enumerate(read_pairs(), start=1):
            if _is_kept(split, source, target):
                source_bytes, target_bytes = source.encode(), target.encode()
                # The lengths keep ("ab", "c") and ("a", "bc") apart.
                pair = b"\n%d %d\n" % (len(source_bytes), len(target_bytes)) + source_bytes + target_bytes
                for hashed in (content, of_split):
                    hashed.update(pair)
                num_kept += 1
        if num_kept == 0:
            raise ValueError(
                f"expected {split} pairs with text on both sides; all {num_read} have an empty source or "
                "target: check which files and fields are named"
            )
        if num_kept < num_read:
            logger.warning(
                "left out %d of %d %s pairs: source or target is empty", num_read - num_kept, num_read, split
            )
        num_pairs[split], fingerprints[split] = num_kept, of_split.hexdigest()
    own, written = (
        unicode_path(directory) / "datasets"
        for directory in (cache_directory, DEFAULT_CACHE_DIRECTORY if read_only else cache_directory)
    )
    with quiet():
        opened = {
            split: _open_split(
                split,
                read_pairs,
                num_pairs=num_pairs[split],
                fingerprint=fingerprints[split],
                root=written,
                verify=verify,
                found_in=own if read_only else None,
            )
            for split, read_pairs in read_splits.items()
        }
    return PreparedCorpus(
        {split: examples for split, (examples, _) in opened.items()},
        fingerprints=fingerprints,
        fingerprint=content.hexdigest(),
        fields=("source", "target"),
        places={split: place for split, (_, place) in opened.items()},
    )


def _open_split(
    split: str,
    read_pairs: ReadPairs,
    *,
    num_pairs: int,
    fingerprint: str,
    root: Path,
    verify: Verification,
    found_in: Path | None,
) -> tuple[Examples, Path]:
    """The examples of a split and the directory of its dataset, written now if it is not there complete.

    Args:
        root, found_in: see `open_or_build`.
    """

    def build(directory: Path) -> None:
        logger.info("writing %d pairs of %s to %s", num_pairs, split, root)
        # Earlier versions had no place of their own for what was unfinished.
        remove_left_behind(root.glob("pairs_of_text/*/incomplete.*"))
        prepare_once(_PairsOfText(split, read_pairs, num_pairs=num_pairs, directory=directory))
        # tensorflow-datasets makes it for any dataset.
        shutil.rmtree(directory / "downloads", ignore_errors=True)
        write_header(
            directory, {"format": FORMAT_VERSION, "fingerprint": fingerprint, "split": split, "pairs": num_pairs}
        )

    def open_(directory: Path) -> tuple[Examples, Path]:
        if read_header(directory, verify=verify)["pairs"] != num_pairs:
            raise DamagedStoreError(f"{directory} holds other pairs")
        builder = _PairsOfText(split, read_pairs, num_pairs=num_pairs, directory=directory)
        return read_examples(builder, builder.kept_as), directory

    return open_or_build(open_, root, digest("pairs", fingerprint, FORMAT_VERSION), build, found_in=found_in)


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


class _PairsOfText(tfds.core.ShardBasedBuilder, skip_registration=True):
    """The dataset of one split of a text, alone in its directory.

    A ShardBasedBuilder writes in the order that it reads. A GeneratorBasedBuilder would collect each split first, and
    needs TensorFlow for one that is larger than a gigabyte.
    """

    name = "pairs_of_text"
    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so there are no checksums to be looked for beside the code.
    code_path = None

    def __init__(self, split: str, read_pairs: ReadPairs, *, num_pairs: int, directory: Path):
        self._split = split
        # A further validation set has a name that is none of a split there.
        self.kept_as = split.partition("/")[0]
        self._read_pairs = read_pairs
        self._num_pairs = num_pairs
        super().__init__(data_dir=directory, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"source": tfds.features.Text(), "target": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _shard_iterators_per_split(self, dl_manager):
        # Shards are written one after another, so all take their share of one reading.
        examples = (
            (index, {"source": source, "target": target})
            for index, (source, target) in enumerate(self._read_pairs())
            if _is_kept(self._split, source, target)
        )
        num_shards = math.ceil(self._num_pairs / PAIRS_PER_SHARD)
        return {self.kept_as: [lambda: itertools.islice(examples, PAIRS_PER_SHARD) for _ in range(num_shards)]}


def _is_kept(split: str, source: str, target: str) -> bool:
    return split != "train" or bool(source.strip() and target.strip())
