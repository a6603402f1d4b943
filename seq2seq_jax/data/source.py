"""What every source of examples has in common, whatever it reads."""

import abc
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from seq2seq_jax.data.augmentation import AugmentationConfig
from seq2seq_jax.effects import changes
from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    import seq2seq_jax.data.columns
    import seq2seq_jax.data.mixing
    import seq2seq_jax.data.tokenizer

SPLITS = ("train", "validation", "test")
VALIDATION_SET = "validation/"
"""Stands before the name of a further validation set in the name of its split."""
DEFAULT_CACHE_DIRECTORY = "~/.cache/seq2seq_jax"

LONGEST_ROW = 2**20
"""Tokens that a row may have at most."""
MOST_WORKERS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource(abc.ABC):
    """Where text comes from and how it becomes rows."""

    cache_directory: str = dataclasses.field(default=DEFAULT_CACHE_DIRECTORY, metadata=changes("nothing"))
    """Where encoded text is kept and found again."""
    verify: Literal["always", "once"] = dataclasses.field(default="always", metadata=changes("nothing"))
    """When the files in cache_directory are compared with their digests, which reads all of them: whenever they are
    opened, or only after one has changed (size, time of change, inode)."""
    workers: int = dataclasses.field(default=0, metadata=changes("nothing"))
    """Processes that assemble batches; 0 = a thread of the training process. Changes no batch."""
    prefetch: int = dataclasses.field(default=4, metadata=changes("nothing"))
    """Batches assembled ahead of the step."""

    def __post_init__(self):
        check_values(self, "data")
        if self.prefetch < 1:
            raise ValueError(f"data.prefetch must be at least 1 batch, not {self.prefetch}.")
        if not 0 <= self.workers <= MOST_WORKERS:
            raise ValueError(f"data.workers must be 0 to {MOST_WORKERS:,} processes, not {self.workers}.")
        self._check_length("max_source_length")

    def _check_length(self, name: str) -> None:
        if not 1 <= getattr(self, name) <= LONGEST_ROW:
            raise ValueError(f"data.{name} must be 1 to {LONGEST_ROW:,} tokens, not {getattr(self, name)}.")

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of what an example has, such as source and target: those of the opened source."""

    @property
    @abc.abstractmethod
    def max_source_length(self) -> int:
        """Source tokens in a row (EOS token included)."""

    def field_of(self, column: str) -> str | None:
        """The name that a column has where the data is kept, such as a field of a table; None = it has none."""
        return None

    @property
    def list_separator(self) -> str:
        """What stands between the texts of a field that holds a list, where several fields make a text."""
        return " "

    @property
    def all_splits(self) -> tuple[str, ...]:
        """Names of all splits that there may be."""
        return SPLITS

    @property
    def available_splits(self) -> tuple[str, ...]:
        """Names of the splits that it has: of all, those that its fields do not say are None."""
        return tuple(split for split in self.all_splits if getattr(self, split, "") is not None)

    def special_tokens(self) -> tuple[str, ...]:
        """Pieces that a new tokenizer has for what marks the parts of texts, beside `tokenizer.special_tokens`."""
        return ()

    def required_tokens(self) -> tuple[str, ...]:
        """Pieces without which a tokenizer, such as that of another run, does not suit the data."""
        return ()

    @abc.abstractmethod
    def open(self, splits: Collection[str] = SPLITS, *, read_only: Collection[str] = ()) -> "Corpus":
        """Open the examples, which are prepared first where their source needs that.

        Args:
            splits: what is needed of it; nothing else is looked for or read. Part of the fingerprint.
            read_only: names of fields (cache_directory, directory) whose directories nothing is written to; what is
                not there is prepared in the default directory instead.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairSource(DataSource):
    """Where pairs of text come from and how they become rows; one subclass a kind of source.

    The lengths are those of a row in tokens, and so of the longest example, the EOS token counted.
    """

    max_source_length: int = 128
    """Source tokens in a row, and in the longest example (EOS token included)."""
    max_target_length: int = 128
    """Target tokens in a row, and in the longest example (EOS token included)."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What happens to a longer example; the count is logged. drop: it is not trained on, it is left out of the loss of
    an evaluation, and its source is scored as if nothing had been generated. truncate: its beginning is used, in
    training, evaluation (scores compare with the whole reference) and generation."""
    truncate: Literal["left", "right"] = "right"
    """Which end of a longer example is cut off, with too_long truncate: with left, its end is used."""
    packing: bool = True
    """Several examples per row. Otherwise one a row, in batches of like length."""
    max_examples_per_row: int | None = None
    """With packing: the most examples of a row; None = as many as fit. Fused attention needs the number, and memory
    for it."""
    bucket_lengths: tuple[int, ...] = ()
    """Without packing: row lengths (tokens) of the batches, ascending; empty = an eighth to the whole of the
    longer max length, in eighths."""
    window: int = 16_384
    """Examples of the seeded shuffle that are packed (or bucketed) together."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """What is done to training examples anew in every epoch."""

    def __post_init__(self):
        super().__post_init__()
        self._check_length("max_target_length")
        if self.window < 1:
            raise ValueError(f"data.window must be at least 1 example, not {self.window}.")
        if any(length < 1 for length in self.bucket_lengths):
            raise ValueError(f"data.bucket_lengths must be at least 1 token, not {self.bucket_lengths}.")
        if self.max_examples_per_row is not None and not self.packing:
            raise ValueError("data.max_examples_per_row has no effect without packing: leave it None.")
        if self.max_examples_per_row is not None and self.max_examples_per_row < 1:
            raise ValueError(f"data.max_examples_per_row must be at least 1, not {self.max_examples_per_row}.")

        if self.truncate == "left" and self.too_long == "drop":
            raise ValueError("data.truncate has no effect where longer examples are dropped: leave it right.")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("source", "target")

    def source_column(self) -> "seq2seq_jax.data.columns.Tokens":
        """What sources are stored as."""
        # The help of a command asks for this class, and needs no jax, which columns do.
        from seq2seq_jax.data.columns import Tokens

        return Tokens(side="source", max_length=self.max_source_length, truncate=self._truncated_end)

    def target_column(self) -> "seq2seq_jax.data.columns.Tokens":
        """What targets are stored as."""
        from seq2seq_jax.data.columns import Tokens

        return Tokens(side="target", max_length=self.max_target_length, truncate=self._truncated_end)

    def label_columns(self) -> "dict[str, seq2seq_jax.data.columns.Column]":
        """Further columns that are stored, by name."""
        return {}

    @property
    def mixing(self) -> "seq2seq_jax.data.mixing.Mixing | None":
        """How often an epoch holds examples; None = once."""
        return None

    @property
    def augmentations(self) -> tuple[AugmentationConfig, ...]:
        """What is done to training examples, by part of the data; see `BatchFormat.augmentations`."""
        return (self.augmentation,)

    def check_tokenizer(self, tokenizer: "seq2seq_jax.data.tokenizer.TokenizerConfig") -> None:
        """Refuse augmentation that a tokenizer does not go with.

        Raises:
            ValueError: with the field to change.
        """
        self.augmentation.check(tokenizer)

    @property
    def _truncated_end(self) -> Literal["left", "right"] | None:
        return self.truncate if self.too_long == "truncate" else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentSource(DataSource):
    """Where documents come from, monolingual text; one subclass a kind of source."""

    max_source_length: int = 512
    """Source tokens in a row: what stays of a text, and the EOS token."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("text",)


class SplitFiles:
    """What sources have in common whose fields train, validation, test and validation_sets name the files of splits."""

    train: str
    validation: str | None
    test: str | None
    validation_sets: tuple[str, ...]

    def __post_init__(self):
        super().__post_init__()
        for index, name in enumerate(self.validation_sets):
            if "/" in name or name in ("validation", *self.validation_sets[:index]):
                raise ValueError(
                    "data.validation_sets must name different files in data.directory, none of them validation, and "
                    f"has {name!r}."
                )
        if self.validation_sets and self.validation is None:
            raise ValueError(
                "data.validation_sets come beside data.validation, which is None. Name the first set there."
            )

    @property
    def names_of_files(self) -> dict[str, str]:
        """Split -> name of its file, for those that have one."""
        names = {"train": self.train, "validation": self.validation, "test": self.test}
        names |= {f"{VALIDATION_SET}{name}": name for name in self.validation_sets}
        return {split: name for split, name in names.items() if name is not None}

    @property
    def all_splits(self) -> tuple[str, ...]:
        """See DataSource.all_splits."""
        return (*SPLITS, *(f"{VALIDATION_SET}{name}" for name in self.validation_sets))


class Corpus(abc.ABC):
    """An opened source: examples by split, in a fixed order, each with the same named columns."""

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Names of what an example has, such as source and target."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of the content: equal text, equal fingerprint, on any machine."""

    def split_fingerprint(self, split: str) -> str:
        """Hex digest of the content of one split, whichever others were opened; by default that of all of them."""
        return self.fingerprint

    @property
    @abc.abstractmethod
    def splits(self) -> dict[str, int]:
        """Number of examples in each split that was opened."""

    @abc.abstractmethod
    def examples(self, split: str) -> Iterator[tuple[Any, ...]]:
        """The examples of a split, in order: a value for each of `columns`.

        Raises:
            ValueError: there is no such split.
        """

    def read(self, split: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Some columns of the examples of a split, in order.

        Raises:
            ValueError: there is no such split, or no such column.
        """
        for column in columns:
            if column not in self.columns:
                raise ValueError(
                    f"expected data with a column {column!r}; it has {', '.join(self.columns)}: use other data, or "
                    "another task"
                )
        places = [self.columns.index(column) for column in columns]
        examples = self.examples(split)
        if places == list(range(len(self.columns))):
            return examples
        return (tuple([example[place] for place in places]) for example in examples)
