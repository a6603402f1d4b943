"""Stochastic beam search."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.generation.method import GenerationMethod

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class StochasticBeamSearch(GenerationMethod):
    """Texts drawn without replacement: no text twice."""

    samples: int = 4
    """Texts drawn for each source, or as many as there are; scored by perturbed log-probabilities, highest first."""
    temperature: float = 1.0
    """Divides the logits: lower values favour probable tokens."""
    seed: int = 0
    """Of the noise."""

    texts_field: ClassVar[str | None] = "samples"

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("samples")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}: use beam_search for the limit of 0")

    @property
    def num_hypotheses(self) -> int:
        return self.samples + 1

    @property
    def num_texts(self) -> int:
        return self.samples

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        from seq2seq_jax.generation.sampling import Policy
        from seq2seq_jax.generation.stochastic_search import stochastic_beam_search

        policy = Policy(vocabulary=context.vocabulary, temperature=self.temperature)
        return stochastic_beam_search(context, policy=policy, num_samples=self.samples, seed=self.seed).as_result()
