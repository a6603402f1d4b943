"""Right answers against wrong ones, by how probable a model finds them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from seq2seq_jax.evaluation.metric import CANDIDATES, Candidate, Evaluated, Metric, Score

NORMAL_95 = 1.959964
"""Standard errors on each side of a mean that hold 95% of a normal distribution."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hits(Metric):
    """Right answers that the model finds more probable than every wrong answer of the same example, percent (hits@1).

    The confidence interval (95%) takes the examples as what varies: answers of one example are not independent. Beside
    it stand what chance would have, and what the number of tokens alone would have, the shorter the better.
    """

    name: ClassVar[str] = "hits"
    needs: ClassVar[frozenset[str]] = frozenset({CANDIDATES, "target", "adversarial", "source"})

    per: Literal["token", "text"] = "token"
    """What probabilities are compared by: the log-probability per token, EOS token included, or that of the text, which
    prefers short ones."""

    @property
    def names(self) -> tuple[str, ...]:
        name = f"hits_at_1_per_{self.per}"
        return (name, f"{name}_low", f"{name}_high", f"{name}_by_chance", f"{name}_by_length")

    def scores(self, evaluated: Evaluated) -> dict[str, Score]:
        candidates = [each for each in evaluated.candidates if each]
        if not candidates:
            raise ValueError(
                f"metric {self} expected examples with wrong answers (a column adversarial that is not empty), and "
                "there are none: leave it out, or evaluate data that has them."
            )
        value, error = _mean([_hits(each, self._score) for each in candidates])
        values = {
            "hits@1": value,
            "hits@1, lower end": max(value - NORMAL_95 * error, 0.0),
            "hits@1, upper end": min(value + NORMAL_95 * error, 1.0),
            "hits@1 by chance": _mean([_chance(each) for each in candidates])[0],
            "hits@1 by length": _mean([_hits(each, lambda answer: -answer.num_tokens) for each in candidates])[0],
        }
        return {
            name: Score(
                value=100.0 * found,
                unit="percent",
                higher_is_better=True,
                signature=f"examples:{len(candidates)}|log-probability per:{self.per}|interval:95%, by example",
                label=label,
            )
            for name, (label, found) in zip(self.names, values.items(), strict=True)
        }

    def _score(self, answer: Candidate) -> float:
        return answer.log_probability / (answer.num_tokens if self.per == "token" else 1)


def _hits(answers: Sequence[Candidate], score: Callable[[Candidate], float]) -> list[float]:
    """Of each right answer whether it is better than all wrong ones."""
    best = max(score(each) for each in answers if not each.is_right)
    return [float(score(each) > best) for each in answers if each.is_right]


def _chance(answers: Sequence[Candidate]) -> list[float]:
    """Of each right answer how often it is the first of it and the wrong ones, in an order by chance."""
    wrong = sum(not each.is_right for each in answers)
    return [1.0 / (1 + wrong)] * (len(answers) - wrong)


def _mean(of_examples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The mean over all answers, and its standard error, where examples are drawn, and their answers with them.

    Source: Cochran, Sampling Techniques (1977), section 9.9: the ratio to size of clusters.
    """
    number, total = len(of_examples), sum(map(len, of_examples))
    mean = sum(map(sum, of_examples)) / total
    squares = math.fsum((sum(each) - mean * len(each)) ** 2 for each in of_examples)
    return mean, math.sqrt(squares * number / max(number - 1, 1)) / total
