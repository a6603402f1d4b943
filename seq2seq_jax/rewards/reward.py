"""The reward of sampled texts: a weighted sum of metrics, computed inside the compiled training step."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.parallel.mesh import on_each_shard
from seq2seq_jax.rewards import metrics
from seq2seq_jax.rewards.edit_distance import edit_distances, longest_common_subsequences
from seq2seq_jax.rewards.host import host_rewards, load_function
from seq2seq_jax.rewards.ngrams import overlap
from seq2seq_jax.rewards.sizes import bucketed, pad_to, sizes
from seq2seq_jax.rewards.text import Characters, PieceTable, strip, without_whitespace
from seq2seq_jax.rewards.words import (
    NO_SYMBOL,
    Symbols,
    character_symbols,
    count,
    words_13a,
    words_alphanumeric,
    words_between_blanks,
)
from seq2seq_jax.values import check_values

VIEWS: dict[str, Callable[[Characters], Symbols]] = {
    "text": character_symbols,
    "stripped": lambda characters: character_symbols(strip(characters)),
    "inked": lambda characters: character_symbols(without_whitespace(characters)),
    "13a": words_13a,
    "alphanumeric": words_alphanumeric,
    "between_blanks": words_between_blanks,
}
"""Name -> the representation of a text that metrics compare."""

VIEW_OF = {
    "bleu": "13a",
    "gleu": "13a",
    "chrf": "inked",
    "rouge_1": "alphanumeric",
    "rouge_2": "alphanumeric",
    "rouge_l": "alphanumeric",
    "word_error_rate": "between_blanks",
    "character_error_rate": "stripped",
    "exact_match": "text",
    "distinct_1": "13a",
    "distinct_2": "13a",
    "repetition": "13a",
    "length": "13a",
}
"""Metric -> the view that it is computed from."""

ORDER_OF = {
    "bleu": metrics.BLEU_ORDER,
    "gleu": metrics.BLEU_ORDER,
    "chrf": metrics.CHRF_ORDER,
    "rouge_1": 1,
    "rouge_2": 2,
    "distinct_1": 1,
    "distinct_2": 2,
    "repetition": metrics.REPETITION_ORDER,
    "length": 1,
}
"""Metric -> the highest order of its n-grams, for metrics that count n-grams."""


RANGE_OF = dict.fromkeys(VIEW_OF, (0.0, 1.0)) | {
    "word_error_rate": (-math.inf, 0.0),
    "character_error_rate": (-math.inf, 0.0),
    "repetition": (-1.0, 0.0),
}
"""The worst and the best value of each metric, error rates and repetition with their minus."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """A weighted sum of metrics of one text against its reference; for every metric higher is better."""

    bleu: float = 0.0
    """Weight of sentence BLEU, that of sacrebleu with 13a words and effective order, in [0, 1]."""
    gleu: float = 0.0
    """Weight of GLEU, the minimum of precision and recall of all 1- to 4-grams of 13a words (Wu et al. 2016), in
    [0, 1]."""
    chrf: float = 0.0
    """Weight of chrF2, that of sacrebleu, in [0, 1]."""
    rouge_1: float = 0.0
    """Weight of the F measure of words, that of rouge-score without stemmer, in [0, 1]. Words consist of a-z and 0-9
    only."""
    rouge_2: float = 0.0
    """Weight of the F measure of word bigrams, likewise."""
    rouge_l: float = 0.0
    """Weight of the F measure of the longest common subsequence of words, likewise."""
    word_error_rate: float = 0.0
    """Weight of minus the word error rate, that of jiwer; the best value is 0, there is no lower bound."""
    character_error_rate: float = 0.0
    """Weight of minus the character error rate, that of jiwer; the best value is 0, there is no lower bound."""
    exact_match: float = 0.0
    """Weight of exact match with the reference, character by character, 0 or 1."""
    distinct_1: float = 0.0
    """Weight of the number of distinct 13a words of the hypothesis divided by that of all, in [0, 1]; 0 without
    words."""
    distinct_2: float = 0.0
    """Weight of the number of distinct bigrams of 13a words of the hypothesis divided by that of all, in [0, 1]; 0
    without bigrams."""
    repetition: float = 0.0
    """Weight of minus the fraction of the hypothesis's 4-grams of 13a words that occur earlier in it, in [-1, 0]."""
    length: float = 0.0
    """Weight of the number of 13a words of the shorter text divided by that of the longer one, in [0, 1]."""
    bleu_smoothing: metrics.Smoothing = "exp"
    """sacrebleu's smoothing of n-gram orders without a match: "exp" halves, "floor" assumes 0.1, "add-k" adds 1."""
    function: str | None = None
    """A reward in Python, "module:function" of (hypotheses: list[str], references: list[str]) -> list[float]. The
    device waits for the host at every step, so it is slower than the metrics above."""
    function_weight: float | None = None
    """Weight of the function; required with it."""

    def __post_init__(self):
        check_values(self, "objective.reward")
        if (self.function is None) != (self.function_weight is None):
            raise ValueError(
                "objective.reward.function and objective.reward.function_weight need each other: set both or neither"
            )
        weights = self.weights
        if not weights:
            raise ValueError("objective.reward has no metric: set the weight of at least one, such as bleu to 1")
        if not all(map(math.isfinite, weights.values())):
            raise ValueError(f"objective.reward must have finite weights, and has {weights}: change those that are not")
        if self.function_weight == 0:
            raise ValueError("objective.reward.function_weight is 0: set another weight, or leave the function out")
        if math.isclose(sum(weights.values()), 0.0, abs_tol=1e-12):
            raise ValueError(
                f"the weights of objective.reward sum to 0 ({weights}), so that the best text may have reward 0: "
                "change one of them"
            )
        if self.bleu_smoothing != "exp" and self.bleu == 0:
            raise ValueError(
                f"objective.reward.bleu_smoothing is {self.bleu_smoothing}, which has no effect without BLEU: "
                "set objective.reward.bleu, or leave the smoothing out"
            )

    @property
    def weights(self) -> dict[str, float | int]:
        """Weights other than 0, by metric."""
        weights = {name: getattr(self, name) for name in VIEW_OF}
        if self.function_weight is not None:
            weights["function"] = self.function_weight
        return {name: weight for name, weight in weights.items() if weight != 0 or name == "function"}

    @property
    def best(self) -> float | None:
        """The most that a text can earn; None = it is not known, or there is no most."""
        best = 0.0
        for name, weight in self.weights.items():
            if name not in RANGE_OF:
                return None
            lowest, highest = RANGE_OF[name]
            best += max(weight * highest, weight * lowest)
        return best if math.isfinite(best) else None

    def build(self, tokenizer: Tokenizer) -> "Reward":
        """The reward of a tokenizer's target ids.

        Raises:
            ValueError: texts cannot be computed exactly from the tokenizer's ids, or the function cannot be imported.
        """
        return Reward(self, tokenizer)


class Reward:
    """Rewards of token ids: pure, with fixed shapes, and compatible with `jax.jit`.

    Each metric is that of the decoded texts, and equals the result of its reference library up to float32 rounding.
    N-grams and edits are counted exactly; words are compared by hashes of 63 bits.
    """

    def __init__(self, config: RewardConfig, tokenizer: Tokenizer):
        """See RewardConfig.build."""
        self._config = config
        self._tokenizer = tokenizer
        self._table = PieceTable.of(tokenizer)
        self._function = None if config.function is None else load_function(config.function)
        self._failures: list[str] = []

    def __call__(
        self,
        hypotheses: Int[Array, "batch samples length"],
        references: Int[Array, "batch reference_length"],
    ) -> tuple[Float[Array, "batch samples"], dict[str, Float[Array, "batch samples"]]]:
        """The weighted sum, and the metrics with a weight, by name.

        A text ends at its first EOS token, or with its row. With a mesh in use (`jax.set_mesh`) each device scores its
        own rows, without communication.

        Args:
            hypotheses: target ids of the samples of each source.
            references: target ids of the reference of each source.
        """
        scores = on_each_shard(self._scores, hypotheses, references)
        total = sum(weight * scores[name] for name, weight in self._config.weights.items())
        return total, scores

    def failure(self) -> str | None:
        """What was wrong when the function in Python first gave no rewards, which are NaN then; None = nothing was."""
        return f"objective.reward.function {self._config.function}: {self._failures[0]}." if self._failures else None

    def _scores(
        self, hypotheses: Int[Array, "batch samples length"], references: Int[Array, "batch reference_length"]
    ) -> dict[str, Float[Array, "batch samples"]]:
        names = tuple(self._config.weights)
        wanted = dict.fromkeys(VIEW_OF[name] for name in names if name in VIEW_OF)
        views = self._views(tuple(wanted), hypotheses, references) if wanted else {}
        scores = {}
        for view, symbols in views.items():
            scores |= self._compare(tuple(name for name in names if VIEW_OF.get(name) == view), symbols)
        if self._function is not None:
            scores["function"] = host_rewards(
                self._function, self._tokenizer, hypotheses, references, fail=self._failures.append
            )
        return scores

    def _views(
        self,
        wanted: tuple[str, ...],
        hypotheses: Int[Array, "batch samples length"],
        references: Int[Array, "batch reference_length"],
    ) -> dict[str, Symbols]:
        """The views of all texts, [batch, samples + 1, ...], the reference last, so that it is decoded once per
        source.
        """
        length = max(hypotheses.shape[-1], references.shape[-1])
        padding = self._table.pad_id
        texts = (pad_to(hypotheses, length, padding), pad_to(references, length, padding)[:, None])
        layout = self._table.layout(jnp.concatenate(texts, axis=1))
        worst = self._table.worst_size(length)

        def read(size: int) -> dict[str, Symbols]:
            characters = self._table.read(layout, size)
            return {view: pad_to(VIEWS[view](characters), worst, NO_SYMBOL) for view in wanted}

        needed = jnp.max(jnp.sum(layout.lengths, axis=-1))
        return bucketed(read, needed, sizes(worst, ratio=2, count=3))

    def _compare(self, names: tuple[str, ...], symbols: Symbols) -> dict[str, Float[Array, "batch samples"]]:
        """The metrics of one view."""

        def at(size: int) -> dict[str, Float[Array, "batch samples"]]:
            hypotheses, references = symbols[:, :-1, :, :size], symbols[:, -1:, :, :size]
            return self._metrics(names, hypotheses, jnp.broadcast_to(references, hypotheses.shape))

        # There are far fewer words than characters at most.
        worst, of_words = symbols.shape[-1], symbols.shape[-2] > 1
        candidates = sizes(worst, ratio=4 if of_words else 2, count=3)
        return bucketed(at, jnp.max(count(symbols)), candidates)

    def _metrics(
        self, names: tuple[str, ...], hypotheses: Symbols, references: Symbols
    ) -> dict[str, Float[Array, "batch samples"]]:
        order = max((ORDER_OF[name] for name in names if name in ORDER_OF), default=0)
        shared = overlap(hypotheses, references, order=order) if order else None
        counts = (count(hypotheses), count(references))

        def score(name: str) -> Float[Array, "batch samples"]:
            match name:
                case "bleu":
                    return metrics.bleu(shared, self._config.bleu_smoothing)
                case "gleu":
                    return metrics.gleu(shared)
                case "chrf":
                    return metrics.chrf(shared)
                case "rouge_1" | "rouge_2":
                    index = ORDER_OF[name] - 1
                    return metrics.f_measure(
                        shared.matches[..., index], shared.hypothesis[..., index], shared.reference[..., index]
                    )
                case "rouge_l":
                    return metrics.f_measure(longest_common_subsequences(hypotheses, references), *counts)
                case "word_error_rate" | "character_error_rate":
                    return metrics.minus_error_rate(edit_distances(hypotheses, references), counts[1])
                case "exact_match":
                    return metrics.exact_match(jnp.all(hypotheses == references, axis=(-2, -1)))
                case "distinct_1" | "distinct_2":
                    return metrics.distinct(shared, ORDER_OF[name])
                case "repetition":
                    return metrics.minus_repetition(shared)
                case "length":
                    return metrics.length_agreement(shared)
            raise AssertionError(name)

        return {name: score(name) for name in names}
