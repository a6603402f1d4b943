"""Ancestral sampling."""

import dataclasses
from typing import TYPE_CHECKING

from seq2seq_jax.generation.method import GenerationMethod

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(GenerationMethod):
    """Texts drawn token by token from the model's distribution.

    A draw depends on the seed, the line of the input, the number of the sample and the position, and on nothing else:
    neither on the batch nor on the number of samples.
    """

    samples: int = 1
    """Texts drawn for each source."""
    temperature: float = 1.0
    """Divides the logits: lower values favour probable tokens."""
    top_k: int | None = None
    """Draw from this number of most probable tokens; None = all."""
    top_p: float | None = None
    """Draw from the fewest most probable tokens that have at least this probability together; None = all."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("samples", *(["top_k"] if self.top_k is not None else []))
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}: use greedy for the limit of 0")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie above 0 and at most at 1, got {self.top_p}: give a probability, or None")

    @property
    def num_hypotheses(self) -> int:
        return self.samples

    @property
    def num_texts(self) -> int:
        return self.samples

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        from seq2seq_jax.generation.sampling import Policy, draws_by_line, sample

        return sample(
            context,
            policy=Policy(vocabulary=context.vocabulary, temperature=self.temperature),
            draws=draws_by_line(context.lines, num_samples=self.samples, seed=self.seed),
            num_samples=self.samples,
            top_k=self.top_k,
            top_p=self.top_p,
        ).as_result()
