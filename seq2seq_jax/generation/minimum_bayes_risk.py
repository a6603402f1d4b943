"""Minimum Bayes risk: of samples, the text that agrees best with all of them."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.generation.sampling import Samples
from seq2seq_jax.parallel.mesh import on_each_shard
from seq2seq_jax.rewards import metrics
from seq2seq_jax.rewards.ngrams import Overlap
from seq2seq_jax.rewards.pairwise import Members, num_ngrams, pairwise_overlap, shared, weighted_matches, with_members
from seq2seq_jax.rewards.sizes import bucketed, pad_to, sizes
from seq2seq_jax.rewards.terms import VIEWS
from seq2seq_jax.rewards.text import PieceTable
from seq2seq_jax.rewards.words import NO_SYMBOL, Symbols

Utility = Literal["chrf", "bleu", "aggregated_chrf"]
"""Sentence chrF or BLEU of a text with a sample; or chrF of the mean precision and recall with all samples, whose
cost is linear in their number."""

_VIEW_OF: dict[Utility, str] = {"chrf": "inked", "aggregated_chrf": "inked", "bleu": "13a"}

BLOCK = 16
"""Samples that texts are compared with at a time where some are left out on the way."""
RESAMPLES = 500
"""Bootstrap resamples of the samples that texts have been compared with."""


def _of_pairs(utility: Utility, chrf_beta: float) -> tuple[int, Callable[[Overlap], Float[Array, "*rows"]]]:
    """Order of the n-grams, and the utility of each pair."""
    if utility == "bleu":
        return metrics.BLEU_ORDER, lambda words: metrics.bleu(words, "exp")
    return metrics.CHRF_ORDER, functools.partial(metrics.chrf, beta=chrf_beta)


def expected_utilities(
    samples: Samples,
    table: PieceTable,
    *,
    utility: Utility,
    pruning: float | None = None,
    chrf_beta: float = metrics.CHRF_BETA,
) -> tuple[Float[Array, "batch samples"], Bool[Array, "batch samples"]]:
    """The mean utility of every sample with all samples of its source, and whether it is the first of its text.

    A text that was drawn several times weighs as much more. With a mesh in use each device compares its own rows.

    Args:
        pruning: a text is left out, with utility -inf, as soon as it is not the best with this confidence, see
            `_pruned`; None = none is.
        chrf_beta: weight of recall in chrF.

    Source: Eikema and Aziz 2022, arXiv:2108.04718, equation 4.
    """
    return on_each_shard(lambda tokens: _of_rows(tokens, table, utility, pruning, chrf_beta), samples.tokens)


def _of_rows(
    tokens: Int[Array, "batch samples length"],
    table: PieceTable,
    utility: Utility,
    pruning: float | None,
    chrf_beta: float,
):
    layout = table.layout(tokens)
    worst = table.worst_size(tokens.shape[-1])
    view = VIEWS[_VIEW_OF[utility]]

    def read(size: int) -> Symbols:
        return pad_to(view(table.read(layout, size)), worst, NO_SYMBOL)

    symbols = bucketed(read, jnp.max(jnp.sum(layout.lengths, axis=-1)), sizes(worst, ratio=2, count=4))

    def score(texts: Symbols) -> Float[Array, " samples"]:
        if utility == "aggregated_chrf":
            return _aggregated_chrf(texts, chrf_beta)
        order, of_pairs = _of_pairs(utility, chrf_beta)
        if pruning is None:
            return _means(of_pairs(pairwise_overlap(texts, order=order)))
        return _pruned(texts, order, of_pairs, pruning)

    # One source after the other: the matrices of one are large enough to keep a device busy.
    scores = jax.lax.map(score, symbols)
    same = jnp.all(tokens[:, :, None] == tokens[:, None], axis=-1)
    earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)
    return scores, ~jnp.any(same & earlier, axis=-1)


def _means(utilities: Float[Array, "samples references"]) -> Float[Array, " samples"]:
    """The mean of each row. Sums of the same values in another order may be rounded otherwise: sorted, texts that tie
    do so exactly, and the one drawn earlier is chosen.
    """
    return jnp.mean(jnp.sort(utilities, axis=1), axis=1)


def _aggregated_chrf(texts: Symbols, beta: float) -> Float[Array, " samples"]:
    """F measure of the mean precision and the mean recall with all samples.

    Both means are those of all pairs. With the mean n-gram counts of all samples as the one reference, as in Vamvas and
    Sennrich 2024, arXiv:2402.04251, section 3, fewer choices are those of the mean F measure.
    """
    lengths = num_ngrams(texts, order=metrics.CHRF_ORDER)
    has = lengths > 0
    share = has / jnp.maximum(jnp.sum(has, axis=0), 1)
    found, recalled = weighted_matches(
        texts, jnp.stack([share, share / jnp.maximum(lengths, 1)]), order=metrics.CHRF_ORDER
    )
    num_orders = jnp.maximum(jnp.sum(has, axis=1), 1)
    precision = jnp.sum(found / jnp.maximum(lengths, 1), axis=1) / num_orders
    return metrics.f_beta(precision, jnp.sum(recalled, axis=1) / num_orders, beta=beta)


def _pruned(
    texts: Symbols, order: int, of_pairs: Callable[[Overlap], Float[Array, "*rows"]], confidence: float
) -> Float[Array, " samples"]:
    """The mean utility of each text with all texts, -inf for those that were left out on the way.

    Texts are compared with one block of samples after another. After 1, 2, 4, ... blocks, those are left out whose mean
    utility is as high as that of the best one in at most 1 - confidence of the bootstrap resamples of the samples so
    far; the resamples are the same for all sources.

    Source: Cheng and Vlachos 2023, arXiv:2311.14919, algorithm 1.
    """
    number = texts.shape[0]
    block = min(BLOCK, number)
    num_blocks = -(-number // block)
    lengths = num_ngrams(texts, order=order)
    turns = list(itertools.takewhile(lambda blocks: blocks * block < number, (2**power for power in itertools.count())))
    shares = jnp.asarray(_shares_of_resamples([turn * block for turn in turns], number))
    turn_after = jnp.asarray([turns.index(blocks + 1) if blocks + 1 in turns else -1 for blocks in range(num_blocks)])

    def compare(members: Members, rows: Int[Array, " rows"], start: Int[Array, ""]) -> Float[Array, "rows references"]:
        references = jax.lax.dynamic_slice_in_dim(members, start, block, axis=1)
        matches = shared(members[:, rows], references)
        of_references = jax.lax.dynamic_slice_in_dim(lengths, start, block, axis=0)
        return of_pairs(
            Overlap(
                matches=matches.astype(jnp.int32),
                distinct=jnp.zeros(matches.shape, jnp.int32),
                hypothesis=jnp.broadcast_to(lengths[rows, None], matches.shape),
                reference=jnp.broadcast_to(of_references[None], matches.shape),
            )
        )

    def of_members(members: Members) -> Float[Array, " samples"]:
        def extend(index, carry):
            kept, found = carry
            # The last block overlaps the one before it where the number is no multiple.
            start = jnp.minimum(index * block, number - block)
            kept_first = jnp.argsort(~kept)

            def of_first(size: int) -> Float[Array, "samples references"]:
                rows = kept_first[:size]
                return jnp.zeros((number, block)).at[rows].set(compare(members, rows, start))

            compared = bucketed(of_first, jnp.sum(kept, dtype=jnp.int32), sizes(number, ratio=4, count=3))
            found = jax.lax.dynamic_update_slice_in_dim(found, compared, start, axis=1)
            if not turns:
                return kept, found
            turn = turn_after[index]
            still = jax.lax.cond(turn >= 0, lambda: kept & _wins(kept, found, shares[turn], confidence), lambda: kept)
            return still, found

        kept, found = jnp.ones(number, bool), jnp.zeros((number, number))
        kept, found = jax.lax.fori_loop(0, num_blocks, extend, (kept, found))
        return jnp.where(kept, _means(found), -jnp.inf)

    return with_members(texts, of_members, order=order)


def _shares_of_resamples(ends: Sequence[int], number: int) -> Float[np.ndarray, "turns resamples samples"]:
    """The share of each sample in each bootstrap resample of the first samples, for several numbers of these."""
    rng = np.random.default_rng(0)
    shares = np.zeros((len(ends), RESAMPLES, number), np.float32)
    for of_turn, end in zip(shares, ends, strict=True):
        of_turn[:, :end] = rng.multinomial(end, np.full(end, 1 / end), size=RESAMPLES) / end
    return shares


def _wins(
    kept: Bool[Array, " samples"],
    found: Float[Array, "samples samples"],
    shares: Float[Array, "resamples samples"],
    confidence: float,
) -> Bool[Array, " samples"]:
    """Whether each text is as good as the best of those that are kept in more than 1 - confidence of the resamples."""
    counted = jnp.any(shares > 0, axis=0)
    best = jnp.argmax(jnp.where(kept, jnp.sum(jnp.where(counted, found, 0.0), axis=1), -jnp.inf))
    resampled = found @ shares.T
    return jnp.mean(resampled >= resampled[best], axis=1) > 1.0 - confidence
