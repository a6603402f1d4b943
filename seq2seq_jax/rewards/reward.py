"""The reward of sampled texts: a weighted sum of metrics, computed inside the compiled training step."""

import dataclasses
import functools
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.parallel.mesh import on_each_shard
from seq2seq_jax.rewards import metrics
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.host import OutsideReward, host_rewards, load_reward
from seq2seq_jax.rewards.sizes import bucketed, pad_to, sizes
from seq2seq_jax.rewards.terms import TERMS, VIEWS, Compared, RewardTerm
from seq2seq_jax.rewards.text import PieceTable
from seq2seq_jax.rewards.words import NO_SYMBOL, Symbols, count
from seq2seq_jax.values import check_values


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
    """A reward from outside the package, "module:Name": a RewardTerm, which is compiled like the metrics above; a
    function of (hypotheses: list[str], references: list[str]) -> list[float], which sees the first reference; or a
    TextReward, which sees the whole example. For the last two the device waits for the host at every step: they are
    slower."""
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
        weights = {name: getattr(self, name) for name in TERMS}
        if self.function_weight is not None:
            weights["function"] = self.function_weight
        return {name: weight for name, weight in weights.items() if weight != 0 or name == "function"}

    @property
    def best(self) -> float | None:
        """The most that a text can earn; None = it is not known, or there is no most."""
        best = 0.0
        for name, weight in self.weights.items():
            if name not in TERMS:
                return None
            lowest, highest = TERMS[name].range
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
        self._terms = {name: TERMS[name] for name in config.weights if name in TERMS}
        self._host: OutsideReward | None = None
        self._failures: list[str] = []
        if config.function is not None:
            outside = load_reward(config.function)
            if isinstance(outside, RewardTerm):
                self._terms["function"] = outside
            else:
                self._host = outside

    def __call__(
        self, hypotheses: Int[Array, "batch samples length"], example: RewardExample
    ) -> tuple[Float[Array, "batch samples"], dict[str, Float[Array, "batch samples"]]]:
        """The weighted sum, and the metrics with a weight, by name.

        A text ends at its first EOS token, or with its row. With a mesh in use (`jax.set_mesh`) each device scores its
        own rows, without communication.

        Args:
            hypotheses: target ids of the samples of each source.
            example: of each source.
        """
        scores = on_each_shard(self._scores, hypotheses, example)
        total = sum(weight * scores[name] for name, weight in self._config.weights.items())
        return total, scores

    def failure(self) -> str | None:
        """What was wrong when the function in Python first gave no rewards, which are NaN then; None = nothing was."""
        return f"objective.reward.function {self._config.function}: {self._failures[0]}." if self._failures else None

    def _scores(
        self, hypotheses: Int[Array, "batch samples length"], example: RewardExample
    ) -> dict[str, Float[Array, "batch samples"]]:
        given, example = example, example.with_all_references(self._table.pad_id)
        by_view: dict[str | None, list[str]] = {}
        for name, term in self._terms.items():
            by_view.setdefault(term.view, []).append(name)
        scores = {}
        for name in by_view.pop(None, []):
            compared = Compared(
                hypotheses=None, references=(), order=0, smoothing=self._config.bleu_smoothing, tokens=hypotheses,
                example=example,
            )  # fmt: skip
            scores[name] = self._terms[name].score(compared)
        views = self._views(tuple(by_view), hypotheses, example.references) if by_view else {}
        for view, symbols in views.items():
            scores |= self._compare(by_view[view], symbols, hypotheses, example)
        if self._host is not None:
            scores["function"] = host_rewards(
                self._host, self._tokenizer, hypotheses, given, fail=self._failures.append
            )
        return scores

    def _views(
        self,
        wanted: tuple[str, ...],
        hypotheses: Int[Array, "batch samples length"],
        references: Int[Array, "batch references reference_length"],
    ) -> dict[str, Symbols]:
        """The views of all texts, [batch, samples + references, ...], the references last, so that each is decoded once
        per source.
        """
        length = max(hypotheses.shape[-1], references.shape[-1])
        padding = self._table.pad_id
        texts = (pad_to(hypotheses, length, padding), pad_to(references, length, padding))
        layout = self._table.layout(jnp.concatenate(texts, axis=1))
        worst = self._table.worst_size(length)

        def read(size: int) -> dict[str, Symbols]:
            characters = self._table.read(layout, size)
            return {view: pad_to(VIEWS[view](characters), worst, NO_SYMBOL) for view in wanted}

        needed = jnp.max(jnp.sum(layout.lengths, axis=-1))
        return bucketed(read, needed, sizes(worst, ratio=2, count=3))

    def _compare(
        self,
        names: list[str],
        symbols: Symbols,
        tokens: Int[Array, "batch samples length"],
        example: RewardExample,
    ) -> dict[str, Float[Array, "batch samples"]]:
        """The rewards of one view."""
        num_samples, num_references = tokens.shape[1], example.references.shape[1]
        order = max(self._terms[name].order for name in names)

        def at(size: int) -> dict[str, Float[Array, "batch samples"]]:
            hypotheses = symbols[:, :num_samples, :, :size]
            references = tuple(
                jnp.broadcast_to(symbols[:, index : index + 1, :, :size], hypotheses.shape)
                for index in range(num_samples, num_samples + num_references)
            )

            def compared(*references: Symbols) -> Compared:
                return Compared(
                    hypotheses=hypotheses, references=references, order=order, smoothing=self._config.bleu_smoothing,
                    tokens=tokens, example=example,
                )  # fmt: skip

            each = [compared(reference) for reference in references]
            # With a single reference, its n-grams are counted once for all rewards.
            together = each[0] if num_references == 1 else compared(*references)

            def score(term: RewardTerm) -> Float[Array, "batch samples"]:
                if term.compares_with_all:
                    return term.score(together)
                return functools.reduce(jnp.maximum, [term.score(one) for one in each])

            return {name: score(self._terms[name]) for name in names}

        # There are far fewer words than characters at most.
        worst, of_words = symbols.shape[-1], symbols.shape[-2] > 1
        candidates = sizes(worst, ratio=4 if of_words else 2, count=3)
        return bucketed(at, jnp.max(count(symbols)), candidates)
