"""The data of a run: its text, and its token ids on disk."""

import functools
from collections.abc import Callable, Collection, Iterator

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.source import DEFAULT_CACHE_DIRECTORY, SPLITS, Corpus, DataSource
from seq2seq_jax.data.store import Store
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.parallel.processes import first_process_first
from seq2seq_jax.paths import unicode_path
from seq2seq_jax.tasks.task import Example, Task

DIRECTORIES = ("cache_directory", "directory")
"""Fields of a run's data that name directories."""

PROGRESS = Callable[[str, int, int], None]
"""Takes (what is done, how many are done, of how many)."""


def no_progress(what: str, done: int, total: int) -> None:
    """Tells nobody."""


class RunData:
    """The text that a run learns from or is evaluated on, opened when it is first needed."""

    def __init__(
        self,
        source: DataSource,
        task: Task,
        *,
        splits: Collection[str] = SPLITS,
        read_only: Collection[str] = (),
        progress: PROGRESS = no_progress,
    ):
        """Args:
        source, task: `data` and `task` of the experiment.
        splits: what is used of it; no other split is looked for.
        read_only: fields of the source whose directories nothing is written to, see DataSource.open.
        progress: hears of work that takes a while.
        """
        self.source = source
        self.task = task
        self.splits = splits
        self.read_only = tuple(read_only)
        self.progress = progress

    @functools.cached_property
    def corpus(self) -> Corpus:
        """The opened source."""
        return self.source.open(self.splits, read_only=self.read_only)

    def scored(self, split: str) -> Iterator[Example]:
        """The examples of a split as metrics see them, in order."""
        columns = tuple(name for name in self.corpus.columns if name not in self.task.unread_columns)
        if len(columns) == len(self.corpus.columns):
            return self.task.all_scored(columns, self.corpus.examples(split))
        return self.task.all_scored(columns, self.corpus.read(split, columns))

    def tokenized(self, split: str) -> Iterator[tuple[str, ...]]:
        """The texts of each example of a split that become tokens."""
        columns = self.task.columns(self.source).items()
        return self.corpus.read(
            split, [column.read_from or name for name, column in columns if isinstance(column, Tokens)]
        )

    def store(self, split: str, tokenizer: Tokenizer) -> Store:
        """Token ids of a split, encoded now if they are not in the cache.

        Raises:
            ValueError: the data has no such split.
        """
        if split not in self.corpus.splits:
            known = self.source.all_splits
            remedy = (
                f"Name it with --data.{split}, or use another split" if split in known else f"Use {', '.join(known)}"
            )
            raise ValueError(f"the data has no split {split!r}. {remedy}.")
        foreign = "cache_directory" in self.read_only
        own, written = (
            unicode_path(directory) / "token_stores"
            for directory in (
                self.source.cache_directory,
                DEFAULT_CACHE_DIRECTORY if foreign else self.source.cache_directory,
            )
        )
        with first_process_first():
            return Store.open_or_build(
                written,
                self.corpus,
                split,
                self.task.columns(self.source),
                tokenizer,
                verify=self.source.verify,
                found_in=own if foreign else None,
                progress=lambda done, total: self.progress(f"encoding {split}", done, total),
            )
