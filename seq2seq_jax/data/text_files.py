"""Text files: parallel ones, where line n of one translates (answers, sums up) line n of the other, and documents."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from seq2seq_jax.data.lines import decode_lines, open_text
from seq2seq_jax.data.source import SPLITS, Corpus, DocumentSource, PairSource, SplitFiles
from seq2seq_jax.data.texts import documents, pairs
from seq2seq_jax.effects import changes
from seq2seq_jax.paths import user_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelText(SplitFiles, PairSource):
    """Plain text files {directory}/{split's name}.{language}, or the same with .gz: UTF-8, one example per line.

    A line ends at "\\n" (or "\\r\\n"), and at no other character.
    """

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the files are; "~" is the home directory."""
    source: str = dataclasses.field(metadata=changes("nothing"))
    """Extension of the source files, a language as a rule ("en")."""
    target: str = dataclasses.field(metadata=changes("nothing"))
    """Extension of the target files ("de")."""
    train: str = dataclasses.field(default="train", metadata=changes("nothing"))
    """Name of the training files, without the extension."""
    validation: str | None = dataclasses.field(default="val", metadata=changes("nothing"))
    """Name of the validation files; None = there are none."""
    test: str | None = dataclasses.field(default="test", metadata=changes("nothing"))
    """Name of the test files; None = there are none."""
    validation_sets: tuple[str, ...] = dataclasses.field(default=(), metadata=changes("nothing"))
    """Names of further validation files: each is a set of its own, which records, plots and training.select_by name."""

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the files of splits through, and open them.

        Training pairs with an empty side are left out and their number is logged.

        Raises:
            ValueError: a file is missing, empty, not UTF-8 or not whole, or two parallel files differ in length.
        """
        return pairs(
            {
                split: functools.partial(
                    read_parallel,
                    find_file(self.directory, f"{name}.{self.source}", split=split),
                    find_file(self.directory, f"{name}.{self.target}", split=split),
                )
                for split, name in self.names_of_files.items()
                if split in splits
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentFiles(DocumentSource):
    """Plain text files, or the same with .gz: UTF-8, one document per line; lines of white space alone are left out."""

    directory: str = dataclasses.field(metadata=changes("nothing"))
    """Where the files are; "~" is the home directory."""
    train: tuple[str, ...] = dataclasses.field(default=("train.txt",), metadata=changes("nothing"))
    """Names of the training files, read one after the other; found with .gz behind them, too."""
    validation: tuple[str, ...] | None = dataclasses.field(default=("validation.txt",), metadata=changes("nothing"))
    """Names of the validation files; None = there are none."""
    test: tuple[str, ...] | None = dataclasses.field(default=("test.txt",), metadata=changes("nothing"))
    """Names of the test files; None = there are none."""

    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> Corpus:
        """Look the files of splits through, and open them.

        Raises:
            ValueError: a file is missing, empty, not UTF-8 or not whole, or a split has no text.
        """
        files = {
            split: [find_file(self.directory, name, split=split) for name in names]
            for split, names in (("train", self.train), ("validation", self.validation), ("test", self.test))
            if names is not None and split in splits
        }
        return documents(
            {split: functools.partial(_all_lines, paths) for split, paths in files.items()},
            places={split: ", ".join(map(str, paths)) or "no file" for split, paths in files.items()},
        )


def _all_lines(paths: Sequence[Path]) -> Iterator[str]:
    return itertools.chain.from_iterable(map(read_lines, paths))


def find_file(directory: str, name: str, *, split: str) -> Path:
    """The path of a file of a split, or of the same file gzipped.

    Raises:
        ValueError: there is neither, or no such directory.
    """
    folder = user_path(directory)
    # os.path, to which a name that is too long for any file system is one that is not there.
    if not os.path.isdir(folder):
        raise ValueError(f"expected a directory with text files; there is no directory {folder}: give its path")
    names = [name] if name.endswith(".gz") else [name, f"{name}.gz"]
    for candidate in names:
        if os.path.isfile(folder / candidate):
            return folder / candidate
    # Training has no effect for a config without training text, so there None would be the name of a file.
    hint = f", or None (--data.{split} None) if there is no {split} split" if split in ("validation", "test") else ""
    raise ValueError(
        f"expected {' or '.join(names)} in {folder}; there is no such file: name a file that is there{hint}"
    )


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file; see `decode_lines`.

    Raises:
        ValueError: no line, or as `decode_lines` does.
    """
    number = 0
    with open_text(path) as file:
        for number, line in enumerate(decode_lines(file, str(path)), start=1):
            yield line
    if number == 0:
        raise ValueError(f"expected lines of text in {path}; the file is empty: give one with text")


def read_parallel(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    """The pairs of lines of two files.

    Raises:
        ValueError: as read_lines does, or when one file has more lines than the other.
    """
    source_lines, target_lines = read_lines(source), read_lines(target)
    for number, (source_line, target_line) in enumerate(itertools.zip_longest(source_lines, target_lines)):
        if source_line is None or target_line is None:
            longest = number + 1 + sum(1 for _ in itertools.chain(source_lines, target_lines))
            lengths = (number, longest) if source_line is None else (longest, number)
            raise ValueError(
                f"expected as many lines in {source} as in {target}; they have {lengths[0]} and "
                f"{lengths[1]}: give files whose lines are pairs"
            )
        yield source_line, target_line
