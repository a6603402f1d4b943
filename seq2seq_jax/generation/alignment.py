"""Which source tokens each target token attended to: sources and targets in, attention weights out."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from seq2seq_jax.batch import one_token_batch
from seq2seq_jax.data.pipeline import pair_batches
from seq2seq_jax.generation.generator import Generator, with_rows_for
from seq2seq_jax.model import attention_weights
from seq2seq_jax.parallel.mesh import OnMesh, batch_sharding, batch_shards

BATCH_CELLS = 2**17
"""(target, source) places of a batch: 64 MiB of weights with 8 layers of 16 heads."""


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """The attention of one pair, the target teacher-forced.

    Attributes:
        source: text.
        target: text, as it was given or as the model translates the source.
        source_tokens: what the model reads; the last is the end mark.
        target_tokens: likewise; a row of weights is the attention while that token was predicted.
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
        generator: of the model; what translates where no targets are given.
        max_target_length: tokens of the longest target that is accepted, end mark included.
        """
        self.generator = generator
        self.max_target_length = max_target_length
        rows = batch_sharding(generator.mesh)
        self._weights = OnMesh(
            functools.partial(attention_weights, generator.model),
            generator.mesh,
            in_shardings=(None, rows),
            out_shardings=rows,
        )

    def layers_and_heads(self, params: Any) -> tuple[int, int]:
        """How many layers of the decoder attend to the source, and with how many heads each.

        Raises:
            ValueError: the decoder has no attention.
        """
        weights = functools.partial(attention_weights, self.generator.model)
        shape = jax.eval_shape(weights, params, one_token_batch()).shape
        return shape[1], shape[2]

    def align(
        self,
        params: Any,
        sources: list[str],
        targets: list[str] | None = None,
        *,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> list[Alignment]:
        """The alignment of each source with its target, in order.

        Args:
            targets: as many texts; None = the best that the model's search finds.
            progress: called with (what is done, pairs done, pairs in all) after each batch.

        Raises:
            ValueError: the decoder has no attention, there are more or fewer targets than sources, or a text is
                longer than the model takes; the message names its line, counted from 1.
        """
        self.layers_and_heads(params)
        tokenizer = self.generator.tokenizer
        source_ids = self.generator.encode(sources)
        if targets is None:
            searched = None if progress is None else functools.partial(progress, "translating")
            target_ids = self.generator.best_tokens(params, sources, progress=searched)
            targets = [tokenizer.decode_target(ids) for ids in target_ids]
        else:
            target_ids = self._encode_targets(targets, num_sources=len(sources))
        aligned: dict[int, Alignment] = {}
        batches = pair_batches(source_ids, target_ids, vocabulary=tokenizer.vocabulary, batch_cells=BATCH_CELLS)
        for batch, examples in batches:
            batch = with_rows_for(batch, batch_shards(self.generator.mesh))
            weights = jax.device_get(self._weights(params, batch))
            for row, index in enumerate(map(int, examples)):
                source, target = source_ids[index], target_ids[index]
                aligned[index] = Alignment(
                    source=sources[index],
                    target=targets[index],
                    source_tokens=tokenizer.source_pieces(source),
                    target_tokens=tokenizer.target_pieces(target),
                    # A copy, so that the weights of a whole padded batch are not kept for one row.
                    weights=weights[row, :, :, : len(target), : len(source)].copy(),
                )
            if progress is not None:
                progress("aligning", len(aligned), len(sources))
        return [aligned[index] for index in range(len(sources))]

    def _encode_targets(self, targets: list[str], *, num_sources: int) -> list[list[int]]:
        if len(targets) != num_sources:
            raise ValueError(
                f"there must be as many targets as sources, {num_sources}, and there are {len(targets)}. "
                "Give a line of each for a pair."
            )
        encoded = self.generator.tokenizer.encode_target(targets)
        for line, ids in enumerate(encoded, 1):
            if len(ids) > self.max_target_length:
                raise ValueError(
                    f"line {line} of the targets has {len(ids)} tokens, and the model takes {self.max_target_length} "
                    "(data.max_target_length, end mark included). Shorten the line; nothing was aligned."
                )
        return encoded
