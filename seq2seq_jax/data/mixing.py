"""How many times an epoch holds the examples of each part of a mixture: a function of (seed, epoch, example)."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from seq2seq_jax.hashing import mixed_64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixing:
    """How the parts of a mixture are weighted."""

    weights: tuple[tuple[float, ...], ...]
    """Of each part: copies of an example per epoch, in the first epoch, the second, and so on; the last stays."""
    temperature: float | None = None
    """Parts of different sizes come closer to each other: see `Mixture.temperature`."""

    @property
    def is_plain(self) -> bool:
        """Whether every epoch holds every example once."""
        return self.temperature is None and all(set(own) == {1.0} for own in self.weights)

    def factors(self, sizes: Int[np.ndarray, " parts"]) -> Float[np.ndarray, " parts"]:
        """What the temperature multiplies the weights of parts with, so that an epoch has as many examples as without.

        Args:
            sizes: examples of each part.
        """
        if self.temperature is None:
            return np.ones(len(sizes))
        shares = np.where(sizes > 0, sizes, 0.0) ** (1.0 / self.temperature)
        shares /= shares.sum()
        return np.divide(shares * sizes.sum(), sizes, out=np.zeros(len(sizes)), where=sizes > 0)

    def check(self, parts: Int[np.ndarray, " examples"]) -> None:
        """Refuse weights with which training would look for an example for ever.

        Args:
            parts: number of each example's part, of those that fit a row.

        Raises:
            ValueError: an epoch holds less than one example after the schedules of the weights.
        """
        sizes = np.bincount(parts, minlength=len(self.weights))
        lasting = np.array([own[-1] for own in self.weights]) * self.factors(sizes)
        if float(lasting @ sizes) < 1.0:
            raise ValueError(
                f"data.parts have {', '.join(map(str, sizes))} examples that fit a row, with the weights "
                f"{', '.join(str(own[-1]) for own in self.weights)} in the end, so that an epoch holds less than one "
                "example: raise the weight of a part that has examples, or data.max_source_length and "
                "max_target_length."
            )

    def repetitions(
        self, parts: Int[np.ndarray, " examples"], epoch: int, *, seed: int
    ) -> Int[np.ndarray, " examples"]:
        """How many copies of each example an epoch holds.

        Of a weight w every example has floor(w) copies, and some have one more: exactly so many that the epochs up to
        any one hold the sum of the weights, rounded down, and that no example has two more than another by then. Which
        ones is decided by a shuffle of the part.

        Args:
            parts: number of each example's part.
            seed: of the run.
        """
        counts = np.zeros(len(parts), np.int64)
        sizes = np.bincount(parts, minlength=len(self.weights))
        for part, factor in enumerate(self.factors(sizes)):
            (own,) = np.nonzero(parts == part)
            weights = np.array(self.weights[part]) * factor
            now = weights[min(epoch, len(weights) - 1)]
            # Sums of the fractions of all epochs before this one, and with it, of the examples of the part.
            earlier = np.concatenate([weights[:epoch], np.repeat(weights[-1], max(0, epoch - len(weights)))])
            begin = int(np.floor((earlier - np.floor(earlier)).sum() * len(own)))
            end = int(np.floor(((earlier - np.floor(earlier)).sum() + now - np.floor(now)) * len(own)))
            key = mixed_64(np.array([seed], np.uint64) + np.uint64(part + 1))
            ranks = np.argsort(np.argsort(mixed_64(own.astype(np.uint64) ^ key), kind="stable"), kind="stable")
            counts[own] = int(np.floor(now)) + ((ranks - begin) % max(1, len(own)) < end - begin)
        return counts
