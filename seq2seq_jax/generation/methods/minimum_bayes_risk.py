"""Minimum Bayes risk decoding."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.methods.sampling import Sampling

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimumBayesRisk(GenerationMethod):
    """Of samples, those that agree best with all of them, by a metric that is computed on the device.

    Scores are mean utilities, in [0, 1]; of equal ones the sample drawn earlier comes first, and a text that was drawn
    several times is returned once.
    """

    samples: int = 64
    """Texts drawn for each source."""
    utility: Literal["chrf", "bleu", "aggregated_chrf"] = "chrf"
    """Sentence chrF or BLEU of a text with each sample; or chrF of the mean precision and recall, which is cheaper."""
    chrf_beta: float = 2.0
    """Weight of recall in chrF. 2 is that of chrF as a metric, and chooses long texts; 1 weighs precision as much."""
    pruning: float | None = None
    """Confidence, such as 0.99, with which a text must be worse than the best one, by the samples that it has been
    compared with so far, to be compared with no more of them; None = all are compared with all."""
    n_best: int = 1
    """Texts returned for each source, best first."""
    epsilon: float | None = 0.02
    """Draw from tokens of at least this probability; None = all."""
    temperature: float = 1.0
    """Divides the logits: lower values favour probable tokens."""
    seed: int = 0
    """Of the draws."""

    texts_field: ClassVar[str | None] = "n_best"

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("n_best")
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, got {self.samples}: of one there is nothing to choose")
        if self.n_best > self.samples:
            raise ValueError(f"n_best must be at most samples, got {self.n_best} of {self.samples}: change either")
        if self.chrf_beta <= 0:
            raise ValueError(f"chrf_beta must be above 0, got {self.chrf_beta}: raise it")
        if self.chrf_beta != 2.0 and self.utility == "bleu":
            raise ValueError("chrf_beta has no effect with utility bleu: leave one of them out")
        if self.pruning is not None:
            if not 0 < self.pruning < 1:
                raise ValueError(f"pruning must lie between 0 and 1, not at {self.pruning}: give a confidence, or None")
            if self.utility == "aggregated_chrf":
                raise ValueError(
                    "pruning has no effect with utility aggregated_chrf, which compares no pairs: leave one of them out"
                )
            if self.n_best > 1:
                raise ValueError(
                    f"pruning finds the best text alone, and n_best is {self.n_best}: set either to its default"
                )
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}: raise it")
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon must lie above 0, at most at 1, not at {self.epsilon}: give a probability")

    @property
    def num_hypotheses(self) -> int:
        return self.samples

    @property
    def num_texts(self) -> int:
        return self.n_best

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        import jax.numpy as jnp

        from seq2seq_jax.generation.minimum_bayes_risk import expected_utilities
        from seq2seq_jax.generation.search import pick, top_k

        # Controls are those of the context.
        drawn = Sampling(samples=self.samples, temperature=self.temperature, epsilon=self.epsilon, seed=self.seed).draw(
            context
        )
        utilities, is_first = expected_utilities(
            drawn, context.piece_table(), utility=self.utility, pruning=self.pruning, chrf_beta=self.chrf_beta
        )
        scores, places = top_k(jnp.where(is_first, utilities, -jnp.inf), self.n_best)
        result = pick(drawn.as_result(), places)
        # Where there are fewer texts than are asked for, the rest is none.
        found = scores > -jnp.inf
        return result.replace(
            tokens=jnp.where(found[:, :, None], result.tokens, context.vocabulary.pad_id),
            scores=scores,
            log_probabilities=jnp.where(found, result.log_probabilities, -jnp.inf),
            lengths=jnp.where(found, result.lengths, 0),
        )
