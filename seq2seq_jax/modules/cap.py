"""Scores that are kept within a bound."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def capped(scores: Float[Array, "*dims"], cap: float | None) -> Float[Array, "*dims"]:
    """cap tanh(scores / cap), which lies within (-cap, cap); None = the scores as they are.

    Source: Gemma Team 2024 (Gemma 2), section 2.
    """
    return scores if cap is None else cap * jnp.tanh(scores / cap)
