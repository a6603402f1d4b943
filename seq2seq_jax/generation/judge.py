"""Judgements of given targets: what a discriminator thinks of text that is there."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from seq2seq_jax.batch import Batch
from seq2seq_jax.discriminators.discriminator import Discriminator
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.scorer import Scorer


class Judge(Scorer):
    """Judges pairs with a discriminator, in the batches that a model would score them in."""

    def __init__(self, generator: Generator, discriminator: Discriminator, *, max_target_length: int):
        """Args:
        generator: of the model that the discriminator was trained beside; encodes texts.
        max_target_length: maximum length of a target (tokens, EOS token included).
        """
        super().__init__(generator, max_target_length=max_target_length)
        self._discriminator = discriminator

    def logits(
        self,
        params: Any,
        sources: list[str],
        targets: list[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, " pairs"]:
        """The logit of each target given its source: above 0, a reference is the more probable origin.

        Args:
            params: of the discriminator.
            progress: see `Scorer.score`.

        Raises:
            ValueError: see `Scorer.score`.
        """
        found = self.score(params, sources, targets, progress=progress)
        return np.array([each.token_log_probabilities[-1] for each in found], np.float64)

    def _token_log_probabilities(self, params: Any, batch: Batch) -> Float[Array, "batch target"]:
        """The logits at all positions, in the place of log-probabilities."""
        return self._discriminator.logits(params, batch.target, self._discriminator.encode(params, batch.source))
