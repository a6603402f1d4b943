"""Text in, text out: batches of like length, one compiled search a shape, order restored."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seq2seq_jax.batch import Sequence
from seq2seq_jax.data.pipeline import source_batches
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.search import GenerationConfig, SearchResult, beam_search
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.parallel.mesh import RULES, batch_sharding, batch_shards


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One generated text.

    Attributes:
        text: detokenized.
        score: what the search maximised: log-probability over the length penalty.
        log_probability: nats, end mark included.
        num_tokens: end mark included.
    """

    text: str
    score: float
    log_probability: float
    num_tokens: int


class Generator:
    """Generates with one model; compiled programs are kept from call to call."""

    def __init__(
        self,
        model: EncoderDecoder,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        *,
        max_source_length: int,
        mesh: Mesh,
    ):
        """Args:
        max_source_length: tokens of the longest source that is accepted, end mark included.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.max_source_length = max_source_length
        self.mesh = mesh
        self._search = jax.jit(
            self._search_batch,
            static_argnums=2,
            in_shardings=(None, batch_sharding(mesh)),
            out_shardings=batch_sharding(mesh),
        )

    def too_long(self, texts: Iterable[str]) -> list[int]:
        """Indices of the texts that have more tokens than the model takes."""
        encoded = self.tokenizer.encode_source(list(texts))
        return [index for index, ids in enumerate(encoded) if len(ids) > self.max_source_length]

    def generate(
        self, params: Any, texts: list[str], *, progress: Callable[[int, int], None] | None = None
    ) -> list[list[Hypothesis]]:
        """The n best texts for each source, in order, best first.

        Args:
            progress: called with (sources done, sources in all) after each batch.

        Raises:
            ValueError: a text is longer than the model takes; the message names its line, counted from 1.
        """
        encoded = self.tokenizer.encode_source(texts)
        for line, ids in enumerate(encoded, 1):
            if len(ids) > self.max_source_length:
                raise ValueError(
                    f"line {line} has {len(ids)} tokens, and the model takes {self.max_source_length} "
                    "(data.max_source_length, end mark included). Split the line; nothing was generated."
                )
        results: list[list[Hypothesis]] = [[] for _ in texts]
        done = 0
        for indices, result in self._search_all(params, encoded):
            for row, index in enumerate(indices):
                results[index] = self._hypotheses(result, row)
            done += len(indices)
            if progress is not None:
                progress(done, len(texts))
        return results

    def _search_all(self, params: Any, encoded: list[list[int]]) -> Iterator[tuple[np.ndarray, SearchResult]]:
        """Search batch after batch, the next one already running while one is fetched."""
        batches = source_batches(
            encoded,
            vocabulary=self.tokenizer.vocabulary,
            batch_tokens=self.config.batch_tokens,
            max_length=self.max_source_length,
        )
        running = None
        for batch in batches:
            source = _with_rows_for(batch.source, batch_shards(self.mesh))
            max_length = self.config.maximum_length(source.tokens.shape[1])
            with jax.set_mesh(self.mesh), nn.logical_axis_rules(RULES):
                started = batch.indices, self._search(params, source, max_length)
            if running is not None:
                yield running[0], jax.device_get(running[1])
            running = started
        if running is not None:
            yield running[0], jax.device_get(running[1])

    def _search_batch(self, params: Any, source: Sequence, max_length: int) -> SearchResult:
        config, vocabulary = self.config, self.model.vocabulary
        apply = functools.partial(self.model.apply, {"params": params})
        memory = apply(source, deterministic=True, method="encode")
        source_lengths = jnp.sum(source.mask, axis=1)
        limits = jnp.floor(config.maximum_length_ratio * source_lengths).astype(jnp.int32)
        return beam_search(
            lambda tokens, state: apply(tokens, state, method="step"),
            apply(memory, max_length=max_length, beam_size=config.beam_size, method="start"),
            batch_size=source.tokens.shape[0],
            beam_size=config.beam_size,
            # A row of padding alone has no source: one token ends it.
            max_lengths=jnp.where(source_lengths == 0, 1, limits + config.maximum_length_extra),
            max_length=max_length,
            start_id=vocabulary.start_id,
            end_id=vocabulary.end_id,
            padding_id=vocabulary.padding_id,
            length_penalty=config.length_penalty,
        )

    def _hypotheses(self, result: SearchResult, row: int) -> list[Hypothesis]:
        return [
            Hypothesis(
                text=self.tokenizer.decode_target(result.tokens[row, rank].tolist()),
                score=float(result.scores[row, rank]),
                log_probability=float(result.log_probabilities[row, rank]),
                num_tokens=int(result.lengths[row, rank]),
            )
            for rank in range(self.config.n_best)
            if result.lengths[row, rank] > 0
        ]


def _with_rows_for(source: Sequence, shards: int) -> Sequence:
    """Rows of padding added until they can be divided."""
    missing = -source.tokens.shape[0] % shards
    return jax.tree.map(lambda rows: np.pad(rows, ((0, missing), (0, 0))), source) if missing else source
