"""How good parameters are on a split: the loss, and the real metric by generation."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from seq2seq_jax.batch import Batch
from seq2seq_jax.data.lines import is_blank
from seq2seq_jax.data.pipeline import EvaluationBatches
from seq2seq_jax.evaluation.scores import Scores, corpus_scores
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.objectives.objective import WeightedSum

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """What `Validation` finds.

    Attributes:
        examples: of the split.
        losses: `loss`, `nll` and what else the objective logs, nats per target token of the split.
        scores: corpus scores of the best hypotheses; None where there are no references.
        hypotheses: n best for each source, in the split's order; none for a source that is too long, or without
            references.
        skipped_losses: examples with a side longer than a row, which the losses leave out.
        skipped_sources: sources longer than the model takes; scored as the empty text.
        cut_losses, cut_sources: those that are cut to what the model takes instead.
        blank_sources: sources without text, whose hypothesis is the empty text.
    """

    examples: int
    losses: dict[str, float]
    scores: Scores | None
    hypotheses: list[list[Hypothesis]]
    skipped_losses: int
    skipped_sources: int
    cut_losses: int
    cut_sources: int
    blank_sources: int


class Validation:
    """Evaluates parameters on one split, again and again."""

    def __init__(
        self,
        pairs: list[tuple[str, str]] | None,
        batches: EvaluationBatches,
        *,
        compute_loss: Callable[[Any, Batch], dict[str, WeightedSum]],
        place: Callable[[Batch], Batch],
        generator: Generator,
    ):
        """Args:
        pairs: sources and references of the split; None = there are none, only losses are computed.
        batches: all of its examples.
        compute_loss: (params, batch) -> totals.
        place: puts a host batch on the devices.
        """
        self.pairs = [] if pairs is None else pairs
        self.batches = batches
        self.compute_loss = compute_loss
        self.place = place
        self.generator = generator
        self._scored = pairs is not None
        longer = set(generator.too_long([source for source, _ in self.pairs]))
        self._too_long, self._cut = (set(), longer) if generator.truncate else (longer, set())
        if self._too_long or len(batches.too_long):
            logger.warning(
                "Evaluation leaves %d of %d examples out of the loss (longer than a row), and scores %d sources that "
                "are longer than the model takes as empty. Raise --data.max_source_length or max_target_length, or set "
                "--data.too_long truncate.",
                len(batches.too_long), batches.num_examples, len(self._too_long),
            )  # fmt: skip
        if self._cut or len(batches.cut):
            logger.warning(
                "Evaluation cuts %d of %d examples to a row for the loss, and %d sources to the %d tokens that the "
                "model takes.",
                len(batches.cut), batches.num_examples, len(self._cut), generator.max_source_length,
            )  # fmt: skip

    def __call__(self, params: Any, *, progress: Callable[[int, int], None] | None = None) -> ValidationResult:
        """Evaluate parameters.

        Args:
            progress: called with (sources generated from, sources in all).
        """
        accepted = [index for index in range(len(self.pairs)) if index not in self._too_long]
        found = self.generator.generate(params, [self.pairs[index][0] for index in accepted], progress=progress)
        hypotheses: list[list[Hypothesis]] = [[] for _ in self.pairs]
        for index, best in zip(accepted, found, strict=True):
            hypotheses[index] = best
        texts = [best[0].text if best else "" for best in hypotheses]
        return ValidationResult(
            examples=self.batches.num_examples,
            losses=self.losses(params),
            scores=corpus_scores(texts, [reference for _, reference in self.pairs]) if self._scored else None,
            hypotheses=hypotheses,
            skipped_losses=len(self.batches.too_long),
            skipped_sources=len(self._too_long),
            cut_losses=len(self.batches.cut),
            cut_sources=len(self._cut),
            blank_sources=sum(is_blank(source) for source, _ in self.pairs),
        )

    def losses(self, params: Any) -> dict[str, float]:
        """Means over all target tokens of the split."""
        sums: dict[str, tuple[float, float]] = {}
        for batch, _ in self.batches:
            totals: dict[str, Array] = jax.device_get(self.compute_loss(params, self.place(batch)))
            for name, total in totals.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + float(total.sum), before[1] + float(total.weight))
        return {name: total / weight for name, (total, weight) in sums.items() if weight}
