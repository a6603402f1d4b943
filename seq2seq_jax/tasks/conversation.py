"""Conversation: what was said so far in, the next turn out. An example may have several answers, and wrong ones."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.data.dialogues import DialogueFiles, Turn
from seq2seq_jax.data.source import DataSource
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.perplexity import Perplexity
from seq2seq_jax.evaluation.metrics.variety import Variety
from seq2seq_jax.tasks.task import Exchange
from seq2seq_jax.tasks.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation(Translation):
    """An answer to what was said, by either of two speakers."""

    scored_columns: ClassVar[frozenset[str]] = Translation.scored_columns | {"adversarial"}
    metrics: ClassVar[tuple[Metric, ...]] = (Perplexity(), Perplexity(per="word"), Variety(), Bleu())
    unit: ClassVar[str] = "turns"
    converses: ClassVar[bool] = True

    def check(self, data: DataSource, tokenizer: TokenizerConfig) -> None:
        super().check(data, tokenizer)
        if not isinstance(data, DialogueFiles) or len(data.speakers) != 2:
            raise ValueError(
                "task Conversation needs data of dialogues between two speakers (conversations or dialogues, with two "
                f"data.speakers), and data is {type(data).__name__}. Use other data, or set task to another."
            )

    def chat_source(self, data: DialogueFiles, exchanges: Sequence[Exchange], user: str) -> str:
        """See `Task.chat_source`: the person is the first of the speakers, the model the second."""
        person, model = data.speakers
        turns = [turn for said in exchanges for turn in (Turn(person, said.user, {}), Turn(model, said.output, {}))]
        return data.cased(data.context([*turns, Turn(person, user, {})]))
