"""Ancestral sampling."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.generation.method import GenerationMethod

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult
    from seq2seq_jax.generation.sampling import Samples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling(GenerationMethod):
    """Texts drawn token by token from the model's distribution.

    Restrictions hold in the order of the fields, each on what the one before it has left; log-probabilities are those
    of the distribution that is drawn from.

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
    min_p: float | None = None
    """Draw from tokens of at least this share of the probability of the most probable one; None = all."""
    typical_p: float | None = None
    """Draw from the fewest tokens of typical information that have at least this probability together; None = all."""
    epsilon: float | None = None
    """Draw from tokens of at least this probability; None = all."""
    eta: float | None = None
    """Draw from tokens of at least this probability, or less where the entropy is high; None = all."""
    seed: int = 0
    """Of the draws."""

    texts_field: ClassVar[str | None] = "samples"

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("samples", *(["top_k"] if self.top_k is not None else []))
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}: use greedy for the limit of 0")
        for name in ("top_p", "min_p", "typical_p", "epsilon", "eta"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name} must lie above 0 and at most at 1, got {value}: give a probability, or None")

    @property
    def num_hypotheses(self) -> int:
        return self.samples

    @property
    def num_texts(self) -> int:
        return self.samples

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        return self.draw(context).as_result()

    def draw(self, context: "GenerationContext") -> "Samples":
        """The samples, with the log-probability of every token."""
        from seq2seq_jax.generation import restrictions
        from seq2seq_jax.generation.sampling import Policy, draws_by_line, sample

        kinds = {
            "top_k": restrictions.TopK,
            "top_p": restrictions.TopP,
            "min_p": restrictions.MinP,
            "typical_p": restrictions.Typical,
            "epsilon": restrictions.Epsilon,
            "eta": restrictions.Eta,
        }
        chosen = tuple(kind(getattr(self, name)) for name, kind in kinds.items() if getattr(self, name) is not None)
        return sample(
            context,
            policy=Policy(vocabulary=context.vocabulary, temperature=self.temperature, restrictions=chosen),
            draws=draws_by_line(context.lines, num_samples=self.samples, seed=self.seed),
            num_samples=self.samples,
        )
