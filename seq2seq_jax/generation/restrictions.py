"""Which tokens may be drawn: one class a restriction, each on the distribution that the ones before it have left.

A threshold is found by bisection over the bit patterns of floating-point numbers: 31 sums over the vocabulary, exact,
and no sort of it.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from seq2seq_jax.parallel.mesh import on_each_shard, platform

BLOCK = 4
"""Rows of which a CPU finds the thresholds at a time."""


class Restriction(abc.ABC):
    """A rule for which tokens are kept."""

    @abc.abstractmethod
    def kept(self, log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
        """True at the tokens that may be drawn; at least one."""


@dataclasses.dataclass(frozen=True)
class TopK(Restriction):
    """The most probable tokens; of ties with the last one, all.

    Source: Fan et al. 2018.
    """

    number: int

    def kept(self, log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
        probabilities = jnp.exp(log_probabilities)
        return _best(probabilities, float(self.number))


@dataclasses.dataclass(frozen=True)
class TopP(Restriction):
    """The fewest most probable tokens that have at least this probability together; of ties with the last one, all.

    Source: Holtzman et al. 2020.
    """

    probability: float

    def kept(self, log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
        probabilities = jnp.exp(log_probabilities)
        # All of them sum to 1 but for rounding.
        if self.probability >= 1.0:
            return jnp.ones_like(probabilities, bool)
        return _best(probabilities, self.probability, weights=probabilities)


@dataclasses.dataclass(frozen=True)
class MinP(Restriction):
    """Tokens of at least this share of the probability of the most probable one.

    Source: Nguyen et al. 2024.
    """

    share: float

    def kept(self, log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
        highest = jnp.max(log_probabilities, axis=-1, keepdims=True)
        return log_probabilities >= highest + jnp.log(self.share)


@dataclasses.dataclass(frozen=True)
class Typical(Restriction):
    """The fewest tokens whose information is nearest to the entropy that have at least this probability together.

    Source: Meister et al. 2023 (locally typical sampling).
    """

    probability: float

    def kept(self, log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
        probabilities = jnp.exp(log_probabilities)
        if self.probability >= 1.0:
            return jnp.ones_like(probabilities, bool)
        distance = jnp.abs(-log_probabilities - _entropy(log_probabilities))
        # The nearest come first.
        order = _number(_bits(jnp.float32(jnp.inf)) - _bits(distance))
        return _best(order, self.probability, weights=probabilities)


@dataclasses.dataclass(frozen=True)
class Epsilon(Restriction):
    """Tokens of at least this probability.

    Source: Hewitt et al. 2022.
    """

    probability: float

    def kept(self, log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
        return (jnp.exp(log_probabilities) >= self.probability) | _most_probable(log_probabilities)


@dataclasses.dataclass(frozen=True)
class Eta(Restriction):
    """Tokens of at least this probability, or less where the entropy is high: min(η, √η exp(-entropy)).

    Source: Hewitt et al. 2022.
    """

    probability: float

    def kept(self, log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
        threshold = jnp.minimum(self.probability, self.probability**0.5 * jnp.exp(-_entropy(log_probabilities)))
        return (jnp.exp(log_probabilities) >= threshold) | _most_probable(log_probabilities)


def restricted(
    log_probabilities: Float[Array, "rows vocab"], restrictions: tuple[Restriction, ...]
) -> Float[Array, "rows vocab"]:
    """The distribution over what all restrictions keep, each applied to what the one before it has left; -inf
    elsewhere.
    """
    for restriction in restrictions:
        kept = restriction.kept(log_probabilities)
        log_probabilities = jax.nn.log_softmax(jnp.where(kept, log_probabilities, -jnp.inf), axis=-1)
    return log_probabilities


def _most_probable(log_probabilities: Float[Array, "rows vocab"]) -> Bool[Array, "rows vocab"]:
    return log_probabilities >= jnp.max(log_probabilities, axis=-1, keepdims=True)


def _entropy(log_probabilities: Float[Array, "rows vocab"]) -> Float[Array, "rows 1"]:
    """In nats."""
    terms = jnp.where(log_probabilities > -jnp.inf, jnp.exp(log_probabilities) * log_probabilities, 0.0)
    return -jnp.sum(terms, axis=-1, keepdims=True)


def _bits(numbers: Float[Array, "*dims"]) -> UInt32[Array, "*dims"]:
    """Whole numbers in the order of the numbers, none of which is negative."""
    return jax.lax.bitcast_convert_type(jnp.maximum(numbers.astype(jnp.float32), 0.0), jnp.uint32)


def _number(bits: UInt32[Array, "*dims"]) -> Float[Array, "*dims"]:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _best(
    order: Float[Array, "rows vocab"], limit: float, *, weights: Float[Array, "rows vocab"] | None = None
) -> Bool[Array, "rows vocab"]:
    """True where the weights of all that is strictly higher in order sum to less than the limit.

    Args:
        order: none is negative.
        weights: None = 1 each.
    """

    def of_row(order: Float[Array, " vocab"], weights: Float[Array, " vocab"] | None) -> Bool[Array, " vocab"]:
        def halve(_, bounds):
            low, high = bounds
            middle = low + (high - low) // 2
            above = jnp.sum(jnp.where(order > _number(middle), 1.0 if weights is None else weights, 0.0))
            enough = above < limit
            return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

        # The lowest threshold of which what is above weighs less than the limit.
        threshold, _ = jax.lax.fori_loop(0, 31, halve, (jnp.uint32(0), _bits(jnp.max(order))))
        return order >= _number(threshold)

    def of_rows(order, weights):
        # On a CPU the rows of a block stay in its cache for all sums.
        if platform() == "cpu":
            return jax.lax.map(lambda row: of_row(*row), (order, weights), batch_size=BLOCK)
        return jax.vmap(of_row)(order, weights)

    return on_each_shard(of_rows, *jax.lax.stop_gradient((order, weights)))
