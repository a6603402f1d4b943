"""What every task has in common: it says what the columns of an example mean."""

import abc
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from seq2seq_jax.data.batch_format import BatchFormat
from seq2seq_jax.data.columns import Column, Frames, Tokens
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.evaluation.metric import Example, Metric, references
from seq2seq_jax.values import check_values

logger = logging.getLogger(__name__)


class Rollout(abc.ABC):
    """Generation from sources that depend on what was generated for other examples, in rounds."""

    @abc.abstractmethod
    def next_sources(self) -> list[tuple[int, str]]:
        """Index of an example and its source, of all that are generated from in this round; empty = all are done."""

    @abc.abstractmethod
    def take(self, outputs: Sequence[str]) -> None:
        """Take the texts that were generated from these, in their order."""

    @property
    @abc.abstractmethod
    def results(self) -> Sequence[Any]:
        """What came of each example, in the order of the examples."""


class Exchange(NamedTuple):
    """What a person said in a conversation, and what the model made of it."""

    user: str
    output: str
    """The text that was generated."""


class Reply(NamedTuple):
    """An output as a person sees it."""

    text: str
    """What is said; empty = nothing."""
    shown: Mapping[str, str] = {}
    """What else is shown, such as {"state": "..."}."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """What the columns of examples mean: how they become batches, and how outputs are scored."""

    reads: ClassVar[tuple[str, ...]]
    """Columns that the data must have."""
    scored_columns: ClassVar[frozenset[str]]
    """Columns of an example that metrics can read; empty = there are none, and no outputs are generated."""
    metrics: ClassVar[tuple[Metric, ...]]
    """What is computed beside the loss where the experiment names no metrics."""
    source_column: ClassVar[str]
    """The column that text to generate from is a value of."""
    unit: ClassVar[str]
    """What examples are called in messages."""
    unread_columns: ClassVar[frozenset[str]] = frozenset()
    """Columns of the data that nothing but batches is made of, and that take much memory, such as audio."""
    converses: ClassVar[bool] = False
    """Whether `seq2seq chat` can hold a conversation: `chat_source` and `chat_reply` say how."""
    says_output: ClassVar[bool] = True
    """Whether `chat_reply` says what was generated as it is, so that it can be said while it is generated, and drawn by
    chance rather than searched for."""

    def __post_init__(self):
        check_values(self, "task")

    @abc.abstractmethod
    def columns(self, data: DataSource) -> dict[str, Column]:
        """The columns that are stored and that batches are made of, by name, with their limits."""

    @abc.abstractmethod
    def source(self, data: DataSource) -> Tokens | Frames:
        """The column that sources to generate from become: its limit, and what happens to longer ones."""

    @abc.abstractmethod
    def row_lengths(self, data: DataSource) -> tuple[int, int]:
        """Tokens of the longest source row, and of the longest target row."""

    @abc.abstractmethod
    def batch_format(self, data: DataSource) -> BatchFormat:
        """How stored examples become batches."""

    @abc.abstractmethod
    def has_unpacked_rows(self, data: DataSource) -> bool:
        """Whether every row of a batch holds one example."""

    @property
    def generates(self) -> bool:
        """Whether outputs are generated from the examples of a validation, and scored."""
        return bool(self.scored_columns)

    def check(self, data: DataSource, tokenizer: TokenizerConfig) -> None:
        """Refuse what does not go with the task.

        Raises:
            ValueError: with the field to change.
        """
        missing = [name for name in self.reads if name not in data.columns]
        if missing:
            raise ValueError(
                f"task {type(self).__name__} needs data with the column {missing[0]}, and {type(data).__name__} has "
                f"{', '.join(data.columns)}. Use other data, or set task to another."
            )

    def select_by(self, metrics: Sequence[Metric], examples: Iterable[Example]) -> str:
        """The score that decides which checkpoint is the best where `training.select_by` is None.

        Args:
            metrics: what is computed beside the loss.
            examples: some of those that outputs are scored on.

        Returns:
            The first score of the first metric that suits the references, or "loss".
        """
        if not any(metric.names for metric in metrics):
            return "loss"
        targets = [target for example in examples for target in references(example)] if self.generates else []
        reasons = [metric.unsuited(targets) if targets else "" for metric in metrics]
        index = reasons.index("") if "" in reasons else 0
        if index:
            logger.info(
                "As %s, %s decides which checkpoint is the best. training.select_by chooses another score.",
                reasons[0], metrics[index].names[0],
            )  # fmt: skip
        return metrics[index].names[0]

    def rollout(self, examples: Sequence[Example]) -> Rollout | None:
        """What rolls outputs through examples that follow each other; None = each example stands alone."""
        return None

    def scored(self, columns: Sequence[str], values: Sequence[Any]) -> Example:
        """An example as metrics see it.

        Args:
            columns: names of the data's columns.
            values: of one example.
        """
        return dict(zip(columns, values, strict=True))

    def all_scored(self, columns: Sequence[str], examples: Iterable[Sequence[Any]]) -> Iterator[Example]:
        """`scored` of the examples of a split, in order.

        Raises:
            ValueError: they cannot be scored together.
        """
        return (self.scored(columns, values) for values in examples)

    def sample(self, example: Example, output: str, references: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """What a person sees of an example and of the output for it: names and texts, a line each."""
        return (
            ("source", example["source"]),
            ("output", output),
            *(("reference", reference) for reference in references),
        )

    def source_text(self, example: Example) -> str:
        """The text that an output is generated from.

        Args:
            example: what a line of input, or a row of a table, holds.
        """
        return example[self.source_column]

    def chat_source(self, data: DataSource, exchanges: Sequence[Exchange], user: str) -> str:
        """The text that the answer in a conversation is generated from.

        Args:
            data: of the experiment.
            exchanges: what was said before.
            user: what a person says now.
        """
        raise NotImplementedError(f"{type(self).__name__} holds no conversations")

    def chat_reply(self, data: DataSource, exchanges: Sequence[Exchange]) -> Reply:
        """What is said and shown of the output of the last exchange.

        Args:
            data: of the experiment.
            exchanges: all that was said; not empty.
        """
        return Reply(exchanges[-1].output)
