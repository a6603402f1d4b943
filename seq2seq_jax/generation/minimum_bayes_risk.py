"""Minimum Bayes risk: of samples, the text that agrees best with all of them."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.generation.sampling import Samples
from seq2seq_jax.parallel.mesh import on_each_shard
from seq2seq_jax.rewards import metrics
from seq2seq_jax.rewards.pairwise import aggregated_overlap, pairwise_overlap
from seq2seq_jax.rewards.sizes import bucketed, pad_to, sizes
from seq2seq_jax.rewards.terms import VIEWS
from seq2seq_jax.rewards.text import PieceTable
from seq2seq_jax.rewards.words import NO_SYMBOL, Symbols, count

Utility = Literal["chrf", "bleu", "aggregated_chrf"]
"""Sentence chrF or BLEU of a text with a sample; or chrF with the mean of all samples, whose cost is linear in their
number."""

_VIEW_OF: dict[Utility, str] = {"chrf": "inked", "aggregated_chrf": "inked", "bleu": "13a"}


def expected_utilities(
    samples: Samples, table: PieceTable, *, utility: Utility
) -> tuple[Float[Array, "batch samples"], Bool[Array, "batch samples"]]:
    """The mean utility of every sample with all samples of its source, and whether it is the first of its text.

    A text that was drawn several times weighs as much more. With a mesh in use each device compares its own rows.

    Source: Eikema and Aziz 2022, arXiv:2108.04718, equation 4.
    """
    return on_each_shard(lambda tokens: _of_rows(tokens, table, utility), samples.tokens)


def _of_rows(tokens: Int[Array, "batch samples length"], table: PieceTable, utility: Utility):
    layout = table.layout(tokens)
    worst = table.worst_size(tokens.shape[-1])
    view = VIEWS[_VIEW_OF[utility]]

    def read(size: int) -> Symbols:
        return pad_to(view(table.read(layout, size)), worst, NO_SYMBOL)

    symbols = bucketed(read, jnp.max(jnp.sum(layout.lengths, axis=-1)), sizes(worst, ratio=2, count=4))
    score = _aggregated_chrf if utility == "aggregated_chrf" else _pairwise(utility)

    def at(size: int) -> Float[Array, "batch samples"]:
        # One source after the other: the matrices of one are large enough to keep a device busy.
        return jax.lax.map(score, symbols[..., :size])

    candidates = sizes(symbols.shape[-1], ratio=2, count=5)
    scores = bucketed(at, jnp.max(count(symbols)), candidates)
    same = jnp.all(tokens[:, :, None] == tokens[:, None], axis=-1)
    earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
    return scores, ~jnp.any(same & earlier, axis=-1)


def _pairwise(utility: Utility):
    def score(texts: Symbols) -> Float[Array, " samples"]:
        if utility == "bleu":
            found = metrics.bleu(pairwise_overlap(texts, order=metrics.BLEU_ORDER), "exp")
        else:
            found = metrics.chrf(pairwise_overlap(texts, order=metrics.CHRF_ORDER))
        return jnp.mean(found, axis=1)

    return score


def _aggregated_chrf(texts: Symbols) -> Float[Array, " samples"]:
    number = texts.shape[0]
    matches, hypothesis, reference = aggregated_overlap(texts, jnp.full(number, 1.0 / number), order=metrics.CHRF_ORDER)
    return metrics.chrf_of_counts(matches, hypothesis, reference[None])
