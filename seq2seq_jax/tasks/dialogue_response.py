"""Responses in dialogues: from what the system is to say, or from what was said before."""

import dataclasses
from typing import ClassVar

from seq2seq_jax.evaluation.metric import Metric
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.slot_errors import SlotErrors
from seq2seq_jax.tasks.translation import Translation


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResponseFromActs(Translation):
    """How the system says what its acts name, with all of their values."""

    reads: ClassVar[tuple[str, ...]] = ("source", "target", "values")
    scored_columns: ClassVar[frozenset[str]] = frozenset({"source", "target", "dialogue", "turn", "unseen", "values"})
    metrics: ClassVar[tuple[Metric, ...]] = (Bleu(), SlotErrors())
    unit: ClassVar[str] = "turns"
