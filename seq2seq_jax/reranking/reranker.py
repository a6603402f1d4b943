"""N-best lists ordered anew."""

import copy
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from seq2seq_jax.evaluation.metric import Metric, Score
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.sums import CorpusSums
from seq2seq_jax.reranking.feature import Feature
from seq2seq_jax.reranking.lists import CandidateList, lists_of
from seq2seq_jax.reranking.runs import Runs
from seq2seq_jax.reranking.tuning import SummedQuality, WholeQuality, best_texts, tune
from seq2seq_jax.run.data import PROGRESS, no_progress
from seq2seq_jax.run.inference import Inference


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """The features of all texts of all lists.

    Attributes:
        values: of each list; NaN where a text has none.
    """

    values: list[Float[np.ndarray, "_ features"]]

    def scores(self, weights: Sequence[float]) -> list[Float[np.ndarray, " _"]]:
        """The weighted sum of each text; -inf where a feature has no value."""
        sums = (of_list @ np.asarray(weights, np.float64) for of_list in self.values)
        return [np.where(np.isnan(each), -np.inf, each) for each in sums]

    def order(self, weights: Sequence[float]) -> list[list[int]]:
        """The texts of each list, the highest sum first; equal ones as they were."""
        return [np.argsort(-each, kind="stable").tolist() for each in self.scores(weights)]

    def usable(self) -> list[Bool[np.ndarray, " _"]]:
        """Which texts have all features."""
        return [~np.isnan(of_list).any(axis=1) for of_list in self.values]


class Tuned(NamedTuple):
    """What tuning gives."""

    reranker: "Reranker"
    """With the weights that were found."""
    before: Score
    """Of the first text of each list."""
    after: Score
    """Of the texts that the weights choose."""


class Reranker:
    """Orders n-best lists by a weighted sum of features."""

    def __init__(
        self,
        run: Inference,
        features: Sequence[Feature],
        *,
        trust_code: bool | Collection[str] = False,
        progress: PROGRESS = no_progress,
    ):
        """Args:
        run: that the lists come from.
        features: with their weights.
        trust_code: modules outside the package that may be imported, where the runs of features name code in them.
        progress: hears of scoring.

        Raises:
            ValueError: there is no feature, or one twice.
        """
        self.features = tuple(features)
        if not self.features:
            raise ValueError("reranking needs at least one feature: name some, such as score and length.")
        names = [str(feature) for feature in self.features]
        if len(set(names)) < len(names):
            raise ValueError(f"the features {' '.join(names)} have one twice: leave one of them out.")
        self._runs = Runs(run, trust_code=trust_code, progress=progress)

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the features."""
        return tuple(feature.weight for feature in self.features)

    def with_weights(self, weights: Sequence[float]) -> "Reranker":
        """The same features with other weights."""
        made = copy.copy(self)
        pairs = zip(self.features, weights, strict=True)
        made.features = tuple(dataclasses.replace(feature, weight=float(weight)) for feature, weight in pairs)
        return made

    def table(self, lists: Sequence[CandidateList]) -> Table:
        """The features of all texts.

        Raises:
            ValueError: the lists do not have what a feature needs, or a run does not fit it.
        """
        columns = [feature.values(lists, self._runs) for feature in self.features]
        return Table([np.stack(of_list, axis=1) for of_list in zip(*columns, strict=True)])

    def rerank(self, sources: Sequence[str], hypotheses: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """The hypotheses of each source (see `Inference.hypotheses`), ordered anew.

        Raises:
            ValueError: see `table`; or the numbers differ.
        """
        order = self.table(lists_of(sources, hypotheses)).order(self.weights)
        return [[best[place] for place in places] for best, places in zip(hypotheses, order, strict=True)]

    def tune(
        self,
        sources: Sequence[str],
        hypotheses: Sequence[Sequence[Any]],
        references: Sequence[str | Sequence[str]],
        *,
        metric: Metric | None = None,
        restarts: int = 8,
        seed: int = 0,
    ) -> Tuned:
        """Weights for these lists. See `tune_on`."""
        lists = lists_of(sources, hypotheses)
        return self.tune_on(lists, self.table(lists), references, metric=metric, restarts=restarts, seed=seed)

    def tune_on(
        self,
        lists: Sequence[CandidateList],
        table: Table,
        references: Sequence[str | Sequence[str]],
        *,
        metric: Metric | None = None,
        restarts: int = 8,
        seed: int = 0,
    ) -> Tuned:
        """The weights with which the first texts of the lists have the best metric that is found.

        Args:
            table: of the lists.
            references: a text or several for each list.
            metric: its first score decides; None = BLEU.
            restarts, seed: see `seq2seq_jax.reranking.tuning.tune`.

        Raises:
            ValueError: the numbers differ, or the metric cannot score these.
        """
        if len(references) != len(lists):
            raise ValueError(
                f"expected references for each of {len(lists):,} lists, and got {len(references):,}: give the "
                "references of the sources that the lists were made from."
            )
        metric = Bleu() if metric is None else metric
        examples = [
            {"source": each.source, "target": reference if isinstance(reference, str) else list(reference)}
            for each, reference in zip(lists, references, strict=True)
        ]

        def score(choice) -> Score:
            texts = [each.candidates[index].text for each, index in zip(lists, choice, strict=True)]
            return metric.corpus(texts, examples)[metric.names[0]]

        # A list without a text that has all features keeps its first, whatever the weights are.
        kept = [np.flatnonzero(each) if each.any() else np.array([0]) for each in table.usable()]
        features = [np.nan_to_num(of_list[rows]) for of_list, rows in zip(table.values, kept, strict=True)]

        def original(choice):
            return [int(rows[index]) for rows, index in zip(kept, choice, strict=True)]

        sums = CorpusSums.of(
            metric,
            [each.candidates[row].text for each, rows in zip(lists, kept, strict=True) for row in rows],
            [example for example, rows in zip(examples, kept, strict=True) for _ in rows],
        )
        if sums is None:
            quality = WholeQuality(value=lambda choice: score(original(choice)).rank)
        else:
            ends = np.cumsum([len(rows) for rows in kept])
            quality = SummedQuality(statistics=np.split(sums.rows, ends[:-1]), value=sums.score)
        weights = tune(features, quality, np.array(self.weights), restarts=restarts, seed=seed)
        return Tuned(
            reranker=self.with_weights(weights.tolist()),
            before=score([0] * len(lists)),
            after=score(original(best_texts(features, weights))),
        )
