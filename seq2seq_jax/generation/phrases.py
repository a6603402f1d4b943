"""Lexical constraints: phrases that a text must contain, and a beam that keeps hypotheses with more and with fewer of
their tokens.

A hypothesis knows of each phrase how many of its first tokens the text ends in, until it has them all. From that
follows an upper bound on the tokens that are still needed, which some next token always lowers: where no more than
these fit before the limit, only such tokens are allowed. So every text that ends has all phrases.
"""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

PAD = -1
"""After the last token of a phrase; no token has this id."""


@flax.struct.dataclass
class Phrases:
    """The phrases of each source, padded to the longest and to the largest number of them.

    Attributes:
        tokens: token ids, then PAD.
        lengths: number of tokens; 0 where there is no phrase.
        borders: [p, q]: whether the first q tokens of a phrase are also the last q of its first p, for q <= p.
    """

    tokens: Int[Array | np.ndarray, "batch phrases length"]
    lengths: Int[Array | np.ndarray, "batch phrases"]
    borders: Bool[Array | np.ndarray, "batch phrases length length"]

    @classmethod
    def of(cls, phrases: Sequence[Sequence[Sequence[int]]], *, number: int, length: int) -> "Phrases":
        """Arrays on the host, for token ids of the phrases of each source.

        Args:
            number: phrases that there is room for.
            length: tokens that there is room for in each.
        """
        shape = (len(phrases), number, length)
        tokens, lengths = np.full(shape, PAD, np.int32), np.zeros(shape[:2], np.int32)
        borders = np.zeros((*shape, length), bool)
        borders[..., 0] = True
        for source, of_source in enumerate(phrases):
            for index, phrase in enumerate(of_source):
                tokens[source, index, : len(phrase)], lengths[source, index] = phrase, len(phrase)
                for p in range(1, len(phrase)):
                    for q in range(1, p + 1):
                        borders[source, index, p, q] = tuple(phrase[p - q : p]) == tuple(phrase[:q])
        return cls(tokens=tokens, lengths=lengths, borders=borders)

    def nothing_yet(self, number: int) -> Int[Array, "batch number phrases"]:
        """The progress of hypotheses without a token."""
        batch, phrases = self.lengths.shape
        return jnp.zeros((batch, number, phrases), jnp.int32)

    def advanced(
        self, progress: Int[Array, "batch number phrases"], tokens: Int[Array, "batch number"]
    ) -> Int[Array, "batch number phrases"]:
        """How many first tokens of each phrase a text ends in after another token; all of one that it has contained."""
        room = self.tokens.shape[-1]
        at = jnp.minimum(progress, room - 1)[..., None, None]
        borders = jnp.take_along_axis(self.borders[:, None], at, axis=3)[..., 0, :]
        continues = borders & (self.tokens[:, None] == tokens[:, :, None, None])
        following = jnp.max(jnp.where(continues, jnp.arange(1, room + 1), 0), axis=-1)
        return jnp.where(self._met(progress), progress, following)

    def needed(self, progress: Int[Array, "batch number phrases"]) -> Int[Array, "batch number"]:
        """Tokens with which all phrases that are missing can be completed, one after the other, the one that most is
        there of first; 0 if none is missing.
        """
        missing = ~self._met(progress)
        lengths = jnp.sum(jnp.where(missing, self.lengths[:, None], 0), axis=-1)
        return lengths - jnp.max(jnp.where(missing, progress, 0), axis=-1, initial=0)

    def continuations(self, progress: Int[Array, "batch number phrases"]) -> Int[Array, "batch number phrases"]:
        """The next token of each missing phrase, or PAD."""
        at = jnp.minimum(progress, self.tokens.shape[-1] - 1)[..., None]
        following = jnp.take_along_axis(self.tokens[:, None], at, axis=3)[..., 0]
        return jnp.where(self._met(progress), PAD, following)

    def fitting(
        self, progress: Int[Array, "batch number phrases"], left: Int[Array, "batch"], vocab_size: int
    ) -> Bool[Array, "batch number vocab"]:
        """Tokens after which what is still needed, EOS token included, fits.

        Args:
            left: tokens that may follow the next one.
        """
        batch, number, _ = progress.shape
        room = left[:, None] - 1
        # After a token of no phrase nothing is there of those that are missing.
        fits = self.needed(jnp.where(self._met(progress), progress, 0)) <= room
        candidates = self.tokens.reshape(batch, 1, -1)
        count = candidates.shape[-1]
        flat = jnp.broadcast_to(candidates, (batch, number, count)).reshape(batch, -1)
        after = self.advanced(jnp.repeat(progress, count, axis=1), flat)
        of_phrases = (self.needed(after) <= room).reshape(batch, number, count)
        return fits[..., None] | marked(flat.reshape(batch, number, count), of_phrases, vocab_size)

    @property
    def any(self) -> Bool[Array, "batch"]:
        """Whether a source has a phrase."""
        return jnp.any(self.lengths > 0, axis=-1)

    def _met(self, progress: Int[Array, "batch number phrases"]) -> Bool[Array, "batch number phrases"]:
        return progress >= self.lengths[:, None]


def marked(
    ids: Int[Array, "batch number count"], on: Bool[Array, "batch number count"], vocab_size: int
) -> Bool[Array, "batch number vocab"]:
    """True at those ids that are on."""

    def of_text(ids, on):
        # Negative ids would count from the end.
        inside = jnp.where(on & (ids >= 0), ids, vocab_size)
        return jnp.zeros(vocab_size, bool).at[inside].set(True, mode="drop")

    return jax.vmap(jax.vmap(of_text))(ids, on)


def allocated(
    scores: Float[Array, "batch candidates"], needed: Int[Array, "batch candidates"], number: int
) -> Int[Array, "batch number"]:
    """Indices of the candidates that stay in a beam: the best of every bank, then the second best of every bank, and so
    on, where a bank is those that need the same number of tokens.

    Where there are more banks than hypotheses in a beam, the outer ones come first: that which needs fewest, that
    which needs most, that which needs second fewest, ... Of one bank alone they are the best. Candidates with score
    -inf are last.

    Source: Post and Vilar 2018, arXiv:1804.06609, section 4.2 (banks); Hu et al. 2019, N19-1090, section 4 (sorting
    candidates by their rank within the bank instead of filling banks one by one).
    """
    exists = scores > -jnp.inf
    index = jnp.arange(scores.shape[1])
    above = (scores[:, None] > scores[:, :, None]) | (
        (scores[:, None] == scores[:, :, None]) & (index[None, None] < index[None, :, None])
    )
    of_bank = (needed[:, None] == needed[:, :, None]) & exists[:, None]
    ranks = jnp.sum(of_bank & above, axis=-1)
    # Of the candidates with one rank there is one for each bank.
    of_rank = (ranks[:, None] == ranks[:, :, None]) & exists[:, None]
    fewer = jnp.sum(of_rank & (needed[:, None] < needed[:, :, None]), axis=-1)
    more = jnp.sum(of_rank & (needed[:, None] > needed[:, :, None]), axis=-1)
    inward = jnp.minimum(2 * fewer, 2 * more + 1)
    order = ranks * (2 * scores.shape[1] + 2) + inward
    order = jnp.where(exists, order, jnp.iinfo(jnp.int32).max)
    return jnp.argsort(order, axis=-1, stable=True)[:, :number]
