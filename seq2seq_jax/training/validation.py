"""How good parameters are on a set of examples: the loss, and the scores of its metrics."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from seq2seq_jax.batch import Batch
from seq2seq_jax.data.lines import is_blank
from seq2seq_jax.data.pipeline import EvaluationBatches
from seq2seq_jax.evaluation.metric import (
    ALTERNATIVES,
    CANDIDATES,
    LIKELIHOOD,
    OUTPUTS,
    ROLLED,
    Alternatives,
    Candidate,
    Evaluated,
    Example,
    Likelihood,
    Metric,
    Score,
    compute_scores,
    references,
)
from seq2seq_jax.generation.controls import LineControls
from seq2seq_jax.generation.generator import Generator, Hypothesis
from seq2seq_jax.generation.scorer import Scorer
from seq2seq_jax.objectives.objective import Count, Logged
from seq2seq_jax.tasks.task import Rollout
from seq2seq_jax.training.config import LOSS, SEPARATOR

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """What `Validation` finds.

    Attributes:
        examples: of the set.
        losses: `loss`, `nll` and what else the objective logs, nats per target token of the set.
        scores: of the metrics, by name.
        evaluated: what the scores were computed from.
        hypotheses: n best for each source, in the set's order; none for a source that is too long; None = nothing was
            generated.
        skipped_losses: examples with a side longer than a row, which the losses leave out.
        skipped_sources: sources longer than the model takes; scored as the empty text.
        cut_losses, cut_sources: those that are cut to what the model takes instead.
        blank_sources: sources without text, whose hypothesis is the empty text.
    """

    examples: int
    losses: dict[str, float]
    scores: dict[str, Score]
    evaluated: Evaluated
    hypotheses: list[list[Hypothesis]] | None
    skipped_losses: int
    skipped_sources: int
    cut_losses: int
    cut_sources: int
    blank_sources: int

    @property
    def outputs(self) -> list[str]:
        """The best text for each source; empty where there is none."""
        return list(self.evaluated.outputs or [])

    def record(self) -> dict[str, Any]:
        """What is kept of it in metrics.jsonl: values by name, and in `metrics` what the scores are."""
        values = {name: score.value for name, score in self.scores.items()}
        described = {name: score.described() for name, score in self.scores.items()}
        return {**self.losses, **values, **({"metrics": described} if described else {})}

    def to_json(self, *, split: str, step: int) -> dict[str, Any]:
        """All but the texts, as JSON values.

        Args:
            split: that was evaluated.
            step: of the checkpoint.
        """
        return {
            "split": split,
            "step": step,
            "examples": self.examples,
            **self.record(),
            "skipped_losses": self.skipped_losses,
            "skipped_sources": self.skipped_sources,
            "cut_losses": self.cut_losses,
            "cut_sources": self.cut_sources,
            "blank_sources": self.blank_sources,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """What is generated from, and scored.

    Attributes:
        ids: source ids of each example, EOS token included, or its frames.
        examples: the columns of each.
        counted_target: index of an example that is cut -> the text of the target tokens that a row takes of it.
        rollout: makes what rolls outputs through the examples.
        controls: what the texts of each must have; None = nothing.
    """

    ids: Sequence[Any]
    examples: Sequence[Example]
    counted_target: Callable[[int], str]
    rollout: Callable[[], Rollout | None]
    controls: Sequence[LineControls] | None = None


class Validation:
    """Evaluates parameters on one set of examples, again and again."""

    def __init__(
        self,
        batches: EvaluationBatches,
        sources: Sources | None,
        *,
        metrics: Sequence[Metric],
        player: str,
        compute_loss: Callable[[dict[str, Any], Batch], dict[str, Logged]],
        place: Callable[[Batch], Batch],
        generator: Generator,
        scorer: Callable[[], Scorer],
    ):
        """Args:
        batches: all of its examples.
        sources: None = no metric needs any.
        metrics: what is computed beside the loss.
        player: that generates.
        compute_loss: (parameters by player, batch) -> metrics.
        place: puts a host batch on the devices.
        generator: of the texts that are scored.
        scorer: what finds how probable given answers are, asked for where a metric needs that.
        """
        self.batches = batches
        self.sources = sources
        self.metrics = metrics
        self.player = player
        self.compute_loss = compute_loss
        self.place = place
        self.generator = generator
        self.scorer = scorer
        self._needed = frozenset().union(*(metric.needs for metric in metrics))
        ids = [] if sources is None else sources.ids
        longer = {
            index for index, each in enumerate(ids) if generator.sources.length(each) > generator.max_source_length
        }
        self._too_long, self._cut = (set(), longer) if generator.sources.truncates else (longer, set())
        columns = [] if sources is None else [example.get("source") for example in sources.examples]
        self._blank = {index for index, text in enumerate(columns) if isinstance(text, str) and is_blank(text)}
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

    def __call__(
        self, params: dict[str, Any], *, generates: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> ValidationResult:
        """Evaluate parameters.

        Args:
            params: by player.
            generates: generate from the sources even if no metric needs that.
            progress: called with (sources generated from, sources in all).

        Raises:
            ValueError: a metric cannot score these.
        """
        hypotheses = None
        if self.sources is not None and (generates or {OUTPUTS, ALTERNATIVES} & self._needed):
            hypotheses = self._hypotheses(params[self.player], progress)
        rolled = self._rolled(params[self.player], progress) if ROLLED in self._needed else None
        sums = self._sums(params)
        evaluated = Evaluated(
            outputs=None if hypotheses is None else [best[0].text if best else "" for best in hypotheses],
            examples=None if self.sources is None else self.sources.examples,
            likelihood=self._likelihood(sums) if LIKELIHOOD in self._needed else None,
            alternatives=self._alternatives(hypotheses) if ALTERNATIVES in self._needed else None,
            rolled=rolled,
            candidates=self._candidates(params[self.player]) if CANDIDATES in self._needed else None,
        )
        return ValidationResult(
            examples=self.batches.num_examples,
            losses={name: total / weight for name, (total, weight) in sums.items() if weight},
            scores=compute_scores(self.metrics, evaluated),
            evaluated=evaluated,
            hypotheses=hypotheses,
            skipped_losses=len(self.batches.too_long),
            skipped_sources=len(self._too_long),
            cut_losses=len(self.batches.cut),
            cut_sources=len(self._cut),
            blank_sources=len(self._blank),
        )

    def _hypotheses(self, params: Any, progress: Callable[[int, int], None] | None) -> list[list[Hypothesis]]:
        accepted = [index for index in range(len(self.sources.ids)) if index not in self._too_long]
        controls = self.sources.controls
        found = self.generator.generate_from_ids(
            params,
            [self.generator.sources.cut(self.sources.ids[index]) for index in accepted],
            blank={number for number, index in enumerate(accepted) if index in self._blank},
            controls=None if controls is None else [controls[index] for index in accepted],
            progress=progress,
        )
        hypotheses: list[list[Hypothesis]] = [[] for _ in self.sources.ids]
        for index, best in zip(accepted, found, strict=True):
            hypotheses[index] = best
        return hypotheses

    def _rolled(self, params: Any, progress: Callable[[int, int], None] | None) -> Sequence[Any]:
        """What comes of each example where outputs are rolled through those that follow each other."""
        rollout, num_done, total, most = self.sources.rollout(), 0, len(self.sources.examples), 0
        while sources := rollout.next_sources():
            most = max(most, len(sources))
            # Draws depend on an example's place in the set, as when examples stand alone.
            lines = [index + 1 for index, _ in sources]
            fitted = self.generator.sources.fit([text for _, text in sources], too_long="truncate", lines=lines)
            found = self.generator.generate_fitted(params, fitted, shapes_of=most)
            rollout.take([best[0].text if best else "" for best in found])
            num_done += len(sources)
            if progress is not None:
                progress(num_done, total)
        return rollout.results

    def _alternatives(self, hypotheses: list[list[Hypothesis]]) -> Alternatives:
        method = self.generator.method
        texts = [[each.text for each in of_source] for of_source in hypotheses]
        return Alternatives(texts, number=method.num_texts, method=method.described)

    def _candidates(self, params: Any) -> list[list[Candidate]]:
        """How probable the right and the wrong answers of each example are; none where there are no wrong ones."""
        answers: list[tuple[int, str, bool]] = []
        for index, example in enumerate(self.sources.examples):
            if wrong := example["adversarial"]:
                answers += [(index, text, True) for text in references(example)]
                answers += [(index, text, False) for text in wrong]
        sources = [self.sources.examples[index]["source"] for index, _, _ in answers]
        targets, scorer = [text for _, text, _ in answers], self.scorer()
        left_out = {answers[number][0] for number in scorer.too_long(sources, targets)}
        if left_out:
            logger.warning(
                "%d of %d examples with wrong answers have a side that is longer than the model takes, and are left "
                "out where answers are compared.",
                len(left_out), len({index for index, _, _ in answers}),
            )  # fmt: skip
        kept = [number for number, (index, _, _) in enumerate(answers) if index not in left_out]
        scores = scorer.score(params, [sources[number] for number in kept], [targets[number] for number in kept])
        found: list[list[Candidate]] = [[] for _ in self.sources.examples]
        for number, score in zip(kept, scores, strict=True):
            index, _, is_right = answers[number]
            found[index].append(Candidate(score.log_probability, score.num_tokens, is_right))
        return found

    def _sums(self, params: dict[str, Any]) -> dict[str, tuple[float, float]]:
        """Sums over the set, and their weights: for losses target tokens, for counts 1."""
        sums: dict[str, tuple[float, float]] = {}
        for batch, _ in self.batches:
            for name, logged in jax.device_get(self.compute_loss(params, self.place(batch))).items():
                total, weight = sums.get(name, (0.0, 0.0))
                if isinstance(logged, Count):
                    sums[name] = total + logged.value.item(), 1.0
                else:
                    sums[name] = total + logged.sum.item(), weight + logged.weight.item()
        return sums

    def _likelihood(self, sums: Mapping[str, tuple[float, float]]) -> Likelihood:
        nll, tokens = sums.get("nll", (0.0, 0.0))
        texts = []
        if "target" in self._needed:
            left_out, cut = set(self.batches.too_long.tolist()), set(self.batches.cut.tolist())
            for index, example in enumerate(self.sources.examples):
                if index in left_out:
                    continue
                target = example["target"]
                whole = target if isinstance(target, str) else target[0]
                texts.append(self.sources.counted_target(index) if index in cut else whole)
        return Likelihood(nll=nll, tokens=round(tokens), texts=texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validated:
    """What a training keeps of a validation.

    Attributes:
        records: one per set, without step and kind.
        score: of `training.select_by`, higher is better.
        loss: of the first set.
    """

    records: list[dict[str, Any]]
    score: float
    loss: float


def validated(results: Mapping[str, ValidationResult], select_by: str) -> Validated:
    """What is kept of the results of the validation sets.

    Args:
        results: by the set's name; of a single one, records leave it out.
        select_by: a score of the first set, or SET/SCORE.
    """
    first = next(iter(results))
    name, _, score = select_by.rpartition(SEPARATOR)
    chosen = results[name or first]
    return Validated(
        records=[
            {**({"set": name} if len(results) > 1 else {}), **result.record()} for name, result in results.items()
        ],
        score=-chosen.losses[LOSS] if score == LOSS else chosen.scores[score].rank,
        loss=results[first].losses[LOSS],
    )
