"""The runs that features score with, opened once, and what they think of many pairs."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.scorer import Scorer
from seq2seq_jax.objectives.adversarial import DISCRIMINATOR
from seq2seq_jax.paths import unicode_path
from seq2seq_jax.reranking.lists import CandidateList
from seq2seq_jax.run.data import PROGRESS, no_progress
from seq2seq_jax.run.direction import arrow, direction, is_reverse
from seq2seq_jax.run.inference import Inference

Pairs = list[tuple[str, str]]


class Runs:
    """Runs by their directories, beside the one that lists come from."""

    def __init__(
        self, generator: Inference, *, trust_code: bool | Collection[str] = False, progress: PROGRESS = no_progress
    ):
        """Args:
        generator: the run that the lists come from, whose direction and mesh others are held against.
        trust_code: see `Inference.open`.
        progress: hears of scoring.
        """
        self.generator = generator
        self._trust_code = trust_code
        self._progress = progress
        self._opened: dict[str, Inference] = {}

    def open(self, path: str) -> Inference:
        """A run.

        Raises:
            ValueError: see `Inference.open`.
        """
        if path not in self._opened:
            if unicode_path(path).resolve() == self.generator.directory.path.resolve():
                self._opened[path] = self.generator
            else:
                run = Inference.open(path, trust_code=self._trust_code)
                self._opened[path] = run.with_parts(mesh=self.generator.experiment.mesh)
        return self._opened[path]

    def check_forward(self, path: str, feature: str) -> None:
        """Return unless a run is known to go in the reverse direction.

        Raises:
            ValueError: it does.
        """
        if is_reverse(self.open(path).experiment, self._experiment):
            raise ValueError(
                f"{path} goes from {arrow(self.open(path).experiment)}, the reverse of the run that the lists come "
                f"from: the feature {feature} needs a run of the same direction. Name it as the feature reverse."
            )

    def check_reverse(self, path: str, feature: str) -> None:
        """Return unless a run is known to be none of the reverse direction, by the names of its data or its tokenizers.

        Raises:
            ValueError: it is none.
        """
        run = self.open(path)
        # Each side has its own tokenizer, and they are on the same sides.
        is_same = (
            not run.tokenizer.vocabulary.joint and run.tokenizer.fingerprint == self.generator.tokenizer.fingerprint
        )
        if is_same or run is self.generator or is_reverse(run.experiment, self._experiment) is False:
            raise ValueError(
                f"{path} goes from {arrow(run.experiment)}, and the run that the lists come from goes from "
                f"{arrow(self._experiment)}: the feature {feature} needs a run of the reverse direction."
            )

    def check_target(self, path: str, feature: str) -> None:
        """Return unless a run is known to write what the lists' sources are written in.

        Raises:
            ValueError: it does.
        """
        theirs, ours = direction(self.open(path).experiment), direction(self._experiment)
        if theirs is not None and ours is not None and theirs[1] == ours[0] != ours[1]:
            raise ValueError(
                f"{path} writes {theirs[1]}, and the texts of the lists are {ours[1]}: the feature {feature} needs a "
                "run that writes the same."
            )

    @property
    def _experiment(self) -> Experiment:
        return self.generator.experiment

    def score(
        self,
        path: str,
        checkpoint: str,
        lists: Sequence[CandidateList],
        pair: Callable[[CandidateList, str], tuple[str, str]],
    ) -> list[Float[np.ndarray, " _"]]:
        """Log-probability of the second text given the first, of the pair that each text of each list makes.

        Equal pairs are scored once. Pairs that are longer than the run takes have NaN.

        Args:
            pair: (list, one of its texts) -> (what is given, what is scored).
        """
        return _of_distinct(lists, pair, functools.partial(self._score, path, checkpoint))

    def judge(self, path: str, checkpoint: str, lists: Sequence[CandidateList]) -> list[Float[np.ndarray, " _"]]:
        """Logit of a run's discriminator for each text of each list, as `score` gives log-probabilities.

        Raises:
            ValueError: the run has no discriminator.
        """
        pair = lambda each, text: (each.source, text)  # noqa: E731
        return _of_distinct(lists, pair, functools.partial(self._judge, path, checkpoint))

    def _score(self, path: str, checkpoint: str, pairs: Pairs) -> Float[np.ndarray, " pairs"]:
        scorer = self.open(path).system.scorer

        def log_probabilities(*columns, progress):
            found = scorer.score(self._params(path, checkpoint), *columns, progress=progress)
            return [each.log_probability for each in found]

        return self._fitting(path, scorer, pairs, log_probabilities)

    def _judge(self, path: str, checkpoint: str, pairs: Pairs) -> Float[np.ndarray, " pairs"]:
        run = self.open(path)
        params, _ = run.parameters(checkpoint, player=DISCRIMINATOR)
        judge = run.system.judge
        return self._fitting(path, judge, pairs, functools.partial(judge.logits, params))

    def _fitting(
        self, path: str, scorer: Scorer, pairs: Pairs, values: Callable[..., Sequence[float]]
    ) -> Float[np.ndarray, " pairs"]:
        """The values of the pairs that a run takes; NaN for others."""
        too_long = scorer.too_long(*_columns(pairs))
        kept = [index for index in range(len(pairs)) if index not in too_long]
        found = np.full(len(pairs), np.nan)
        progress = functools.partial(self._progress, f"scoring with {path}")
        found[kept] = values(*_columns([pairs[index] for index in kept]), progress=progress)
        return found

    def _params(self, path: str, checkpoint: str) -> Any:
        return self.open(path).parameters(checkpoint)[0]


def _of_distinct(
    lists: Sequence[CandidateList],
    pair: Callable[[CandidateList, str], tuple[str, str]],
    values: Callable[[Pairs], Sequence[float]],
) -> list[Float[np.ndarray, " _"]]:
    """The value of the pair that each text of each list makes, equal pairs computed once."""
    of_lists = [[pair(each, candidate.text) for candidate in each.candidates] for each in lists]
    distinct = list(dict.fromkeys(one for pairs in of_lists for one in pairs))
    found = dict(zip(distinct, values(distinct), strict=True))
    return [np.array([found[one] for one in pairs]) for pairs in of_lists]


def _columns(pairs: Pairs) -> tuple[list[str], list[str]]:
    return [first for first, _ in pairs], [second for _, second in pairs]
