"""Conversation: what was said so far in, the next turn out. An example may have several answers, and wrong ones."""

import dataclasses
from typing import ClassVar

from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.perplexity import Perplexity
from seq2seq_jax.evaluation.metrics.variety import Variety
from seq2seq_jax.tasks.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation(Translation):
    """An answer to what was said."""

    scored_columns: ClassVar[frozenset[str]] = Translation.scored_columns | {"adversarial"}
    metrics: ClassVar[tuple[Metric, ...]] = (Perplexity(), Perplexity(per="word"), Variety(), Bleu())
    unit: ClassVar[str] = "turns"
