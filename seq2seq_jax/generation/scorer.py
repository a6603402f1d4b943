"""Scores of given targets: what a model thinks of text that is there."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seq2seq_jax.batch import Batch
from seq2seq_jax.data.layout import pair_batches
from seq2seq_jax.generation.generator import Generator, pad_rows
from seq2seq_jax.modules.embedding import gather_scores
from seq2seq_jax.parallel.mesh import JittedOnMesh, batch_sharding, batch_shards

MAX_PLACES_PER_BATCH = 2**16
"""Padded (target, source) position pairs of a batch, as far as a pair leaves the choice."""
CHUNK = 16
"""Target positions whose logits exist at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class PairScore:
    """The score of one target given its source, with teacher forcing.

    Attributes:
        source: source text.
        target: target text.
        pieces: pieces of the target, of which the last is the EOS token.
        token_log_probabilities: natural logarithm of the probability of each.
    """

    source: str
    target: str
    pieces: list[str]
    token_log_probabilities: Float[np.ndarray, " tokens"]

    @property
    def log_probability(self) -> float:
        """In nats, EOS token included."""
        return float(self.token_log_probabilities.sum(dtype=np.float64))

    @property
    def num_tokens(self) -> int:
        """Tokens of the target, EOS token included."""
        return len(self.token_log_probabilities)

    @property
    def num_words(self) -> int:
        """Words of the target, by spaces, and its end."""
        return len(self.target.split()) + 1


def perplexity(log_probability: float, number: int) -> float:
    """exp(-log_probability / number): of tokens or of words, ends of texts included."""
    return math.exp(min(-log_probability / number, 700.0)) if number else math.nan


class Scorer:
    """Scores pairs with one model, or an ensemble; compiled programs are kept from call to call."""

    def __init__(self, generator: Generator, *, max_target_length: int):
        """Args:
        generator: generator of the model.
        max_target_length: maximum length of a target (tokens, EOS token included).
        """
        self.generator = generator
        self.max_target_length = max_target_length
        rows = batch_sharding(generator.mesh)
        self._scores = JittedOnMesh(
            self._token_log_probabilities, generator.mesh, in_shardings=(None, rows), out_shardings=rows
        )

    def score(
        self,
        params: Any,
        sources: Sequence[Any],
        targets: list[str],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[PairScore]:
        """The score of each target given its source, in order.

        Args:
            progress: called with (pairs done, total pairs) after each batch.

        Raises:
            ValueError: the numbers of sources and targets differ, or a text is longer than the model takes; the message
                names its line, counted from 1.
        """
        tokenizer = self.generator.tokenizer
        source_ids = self.generator.sources.encode(sources)
        target_ids = self.generator.encode_targets(
            targets, num_sources=len(sources), max_length=self.max_target_length, work="scored"
        )
        scored: dict[int, PairScore] = {}
        batches = pair_batches(
            source_ids,
            target_ids,
            column=self.generator.sources.column,
            vocabulary=tokenizer.vocabulary,
            max_weights_per_batch=MAX_PLACES_PER_BATCH,
        )
        for batch, examples in batches:
            found = jax.device_get(self._scores(params, pad_rows(batch, batch_shards(self.generator.mesh))))
            for row, index in enumerate(map(int, examples)):
                scored[index] = PairScore(
                    source=self.generator.sources.described(sources[index]),
                    target=targets[index],
                    pieces=tokenizer.target_pieces(target_ids[index]),
                    token_log_probabilities=found[row, : len(target_ids[index])].copy(),
                )
            if progress is not None:
                progress(len(scored), len(sources))
        return [scored[index] for index in range(len(sources))]

    def too_long(self, sources: list[str], targets: list[str]) -> set[int]:
        """Indices of the pairs of which a side is longer than the model takes, so that `score` would refuse them."""
        encoder = self.generator.sources
        long = [] if encoder.truncates else encoder.fit(sources, too_long="truncate").long
        longer = {each.line - 1 for each in long}
        encoded = self.generator.tokenizer.encode_target(targets)
        return longer | {index for index, ids in enumerate(encoded) if len(ids) > self.max_target_length}

    def _token_log_probabilities(self, params: Any, batch: Batch) -> Float[Array, "batch target"]:
        """Natural logarithm of the probability of every token of the target; of padding it means nothing."""
        apply = functools.partial(self.generator.model.apply, {"params": params})
        memory = apply(batch.source, deterministic=True, method="encode")
        hidden = apply(batch.target, memory, deterministic=True, method="decode")
        rows, length = batch.target.tokens.shape
        chunk = math.gcd(length, CHUNK)

        def score(part):
            hidden, segment_ids, tokens = part
            logits = apply(hidden, segment_ids, memory, method="logits").astype(jnp.float32)
            return gather_scores(jax.nn.log_softmax(logits, axis=-1), tokens)

        def divided(array):
            return jnp.swapaxes(array.reshape(rows, -1, chunk, *array.shape[2:]), 0, 1)

        # The hidden states of an ensemble are a tuple.
        parts = jax.tree.map(divided, (hidden, batch.target.segment_ids, batch.target.tokens))
        return jnp.swapaxes(jax.lax.map(score, parts), 0, 1).reshape(rows, length)
