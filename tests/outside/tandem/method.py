"""Of samples, the shortest."""

import dataclasses

from seq2seq_jax.generation.methods import Sampling
from seq2seq_jax.generation.search import pick, top_k


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortest(Sampling):
    """Draws several texts, and returns them by their length."""

    samples: int = 3

    def generate(self, context):
        """See GenerationMethod.generate."""
        drawn = super().generate(context)
        lengths = drawn.lengths.astype(drawn.scores.dtype)
        return pick(drawn.replace(scores=-lengths), top_k(-lengths, self.samples)[1])
