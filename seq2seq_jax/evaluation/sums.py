"""Corpus metrics as functions of sums over examples, so that the score of many choices of texts is found fast."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from seq2seq_jax.evaluation.metric import Example, Metric, reference_streams, references


@dataclasses.dataclass(frozen=True, eq=False)
class CorpusSums:
    """What a metric sums over a corpus.

    Attributes:
        rows: the numbers of each text.
        library: sacreBLEU's metric, which gives the score of their sums.
    """

    rows: Float[np.ndarray, "texts numbers"]
    library: Any

    @classmethod
    def of(cls, metric: Metric, texts: Sequence[str], examples: Sequence[Example]) -> "CorpusSums | None":
        """Those of texts, each for the example of the same index; None = the metric is not sacreBLEU's."""
        library = metric.sacrebleu(examples)
        if library is None:
            return None
        # As sacreBLEU's own tests of significance do.
        rows = library._extract_corpus_statistics(list(texts), reference_streams(list(map(references, examples))))
        return cls(np.array(rows, np.float64), library)

    def score(self, sums: Float[np.ndarray, " numbers"]) -> float:
        """The metric's first score, from sums of rows."""
        return self.library._compute_score_from_stats(list(map(round, sums.tolist()))).score
