"""One text from each expert of a mixture."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from seq2seq_jax.generation.methods.beams import Searching

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureOfExperts(Searching):
    """One text from each expert of a model that is trained as a mixture of experts."""

    experts: int = 3
    """Experts that generate, one text each: the first of the model's, of which there are model.num_experts."""
    beam_size: int = 1
    """Hypotheses kept for each source and expert; 1 = greedy decoding."""
    order: Literal["expert", "score"] = "expert"
    """Order of the texts of a source: by the number of the expert, for all sources alike; or by score, best first."""

    texts_field: ClassVar[str | None] = "experts"

    def __post_init__(self):
        super().__post_init__()
        self._check_counts("experts")

    def check(self, *, num_experts: int) -> None:
        """See GenerationMethod.check."""
        if num_experts == 1:
            raise ValueError(
                "generation mixture_of_experts needs a model that was trained with objective mixture_of_experts, and "
                "this one has no experts (model.num_experts is 1): choose another method"
            )
        if self.experts > num_experts:
            raise ValueError(
                f"generation.experts must be at most model.num_experts = {num_experts}, got {self.experts}: lower it"
            )

    @property
    def num_hypotheses(self) -> int:
        return self.experts * self.beam_size

    @property
    def num_texts(self) -> int:
        return self.experts

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        import jax
        import jax.numpy as jnp

        from seq2seq_jax.generation.search import beam_search, pick, top_k

        vocabulary = context.vocabulary

        def of_expert(expert):
            first = vocabulary.start_ids(expert)

            def step(tokens, state):
                # No hypothesis has a BOS token but before its first token.
                return context.step(jnp.where(tokens == vocabulary.bos_id, first, tokens), state)

            return beam_search(
                dataclasses.replace(context, step=step),
                beam_size=self.beam_size,
                n_best=1,
                length_penalty=self.length_penalty,
                max_compactions=self.max_compactions,
            )

        # A loop over experts, in which a search is compiled once.
        by_expert = jax.lax.map(of_expert, jnp.arange(self.experts))
        result = jax.tree.map(lambda leaf: jnp.moveaxis(leaf[:, :, 0], 0, 1), by_expert)
        return result if self.order == "expert" else pick(result, top_k(result.scores, self.experts)[1])
