"""Alignments: the cross-attention weights between the tokens of sources and targets."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from seq2seq_jax.data.layout import pair_batches
from seq2seq_jax.generation.generator import Generator, pad_rows
from seq2seq_jax.model import attention_weights
from seq2seq_jax.parallel.mesh import JittedOnMesh, batch_sharding, batch_shards

MAX_WEIGHTS_PER_BATCH = 2**17
"""Padded (target, source) position pairs of a batch: 64 MiB of weights with 8 layers of 16 heads."""


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """The attention weights of one pair, with teacher forcing.

    Attributes:
        source: source text.
        target: target text, given or generated.
        source_tokens: pieces of the source, of which the last is the EOS token; of speech the seconds of positions.
        target_tokens: pieces of the target, likewise; a row of weights is the attention when its token is predicted.
        weights: each row over the source tokens sums to 1.
    """

    source: str
    target: str
    source_tokens: list[str]
    target_tokens: list[str]
    weights: Float[np.ndarray, "layers heads target source"]

    def matrix(self, *, layer: int | None = None, head: int | None = None) -> Float[np.ndarray, "target source"]:
        """The weights of one layer and head of the decoder, from 0; None = their mean."""
        of_layer = self.weights.mean(axis=0) if layer is None else self.weights[layer]
        return of_layer.mean(axis=0) if head is None else of_layer[head]


class Aligner:
    """Aligns with one model; compiled programs are kept from call to call."""

    def __init__(self, generator: Generator, *, max_target_length: int):
        """Args:
        generator: generator of the model, which provides missing targets.
        max_target_length: maximum length of a target (tokens, EOS token included).
        """
        self.generator = generator
        self.max_target_length = max_target_length
        rows = batch_sharding(generator.mesh)
        self._weights = JittedOnMesh(
            functools.partial(attention_weights, generator.model),
            generator.mesh,
            in_shardings=(None, rows),
            out_shardings=rows,
        )

    def layers_and_heads(self, params: Any) -> tuple[int, int]:
        """Number of decoder layers with cross-attention, and number of their heads.

        Raises:
            ValueError: the decoder has no attention.
        """
        weights = functools.partial(attention_weights, self.generator.model)
        shape = jax.eval_shape(weights, params, self.generator.model.smallest_batch).shape
        return shape[1], shape[2]

    def align(
        self,
        params: Any,
        sources: Sequence[Any],
        targets: list[str] | None = None,
        *,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[Alignment]:
        """The alignment of each source with its target, in order.

        Args:
            sources: texts, or sounds.
            targets: one text per source; None = the model's best outputs.
            progress: called with (task, pairs done, total pairs) after each batch.

        Raises:
            ValueError: the decoder has no attention, the numbers of targets and sources differ, or a text is longer
                than the model's limit; the message names its line, counted from 1.
        """
        self.layers_and_heads(params)
        tokenizer = self.generator.tokenizer
        source_ids = self.generator.sources.encode(sources)
        if targets is None:
            searched = None if progress is None else functools.partial(progress, "translating")
            target_ids = self.generator.best_tokens(params, sources, progress=searched)
            targets = [tokenizer.decode_target(ids) for ids in target_ids]
        else:
            target_ids = self.generator.encode_targets(
                targets, num_sources=len(sources), max_length=self.max_target_length, work="aligned"
            )
        aligned: dict[int, Alignment] = {}
        batches = pair_batches(
            source_ids,
            target_ids,
            column=self.generator.sources.column,
            vocabulary=tokenizer.vocabulary,
            max_weights_per_batch=MAX_WEIGHTS_PER_BATCH,
        )
        for batch, examples in batches:
            batch = pad_rows(batch, batch_shards(self.generator.mesh))
            weights = jax.device_get(self._weights(params, batch))
            for row, index in enumerate(map(int, examples)):
                source, target = source_ids[index], target_ids[index]
                aligned[index] = Alignment(
                    source=self.generator.sources.described(sources[index]),
                    target=targets[index],
                    source_tokens=self.generator.sources.labels(source),
                    target_tokens=tokenizer.target_pieces(target),
                    # A copy, so that the weights of a whole padded batch are not kept for one row.
                    weights=weights[row, :, :, : len(target), : self.generator.sources.length(source)].copy(),
                )
            if progress is not None:
                progress("aligning", len(aligned), len(sources))
        return [aligned[index] for index in range(len(sources))]
