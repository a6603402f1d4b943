"""Whose turn it is in adversarial training, by the discriminator's running accuracy on fresh samples."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns:
    """When players are trained; fields as those of AdversarialConfig."""

    target_accuracy: float | None
    accuracy_ceiling: float | None
    accuracy_decay: float
    generator_every: int

    def initial_state(self) -> dict[str, Any]:
        """The running accuracy, whether the discriminator has been trained enough, and steps that it has taken so far
        without.
        """
        return {
            "accuracy": {"sum": jnp.zeros(()), "weight": jnp.zeros(())},
            "is_ready": jnp.asarray(self.target_accuracy is None),
            "waited": jnp.zeros((), jnp.int32),
        }

    def trains_generator(self, state: dict[str, Any], step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether the generator is trained: by what was known before the step, so that rewards that are not needed are
        not computed.
        """
        return state["is_ready"] & (step % self.generator_every == 0)

    def next_state(
        self, state: dict[str, Any], accuracy: Float[Array, ""]
    ) -> tuple[dict[str, Any], Float[Array, ""], Bool[Array, ""]]:
        """The state after a step, the running accuracy, and whether the discriminator is trained in that step.

        Args:
            accuracy: on the step's samples.
        """
        decay = self.accuracy_decay
        average = {
            "sum": decay * state["accuracy"]["sum"] + (1.0 - decay) * accuracy,
            "weight": decay * state["accuracy"]["weight"] + (1.0 - decay),
        }
        running = average["sum"] / average["weight"]
        state = {**state, "accuracy": average}
        if self.target_accuracy is not None:
            # Of a few batches chance decides.
            is_reached = (running >= self.target_accuracy) & (average["weight"] >= 0.5)
            waited = state["waited"] + ~(state["is_ready"] | is_reached)
            state |= {"is_ready": state["is_ready"] | is_reached, "waited": waited}
        return state, running, ~state["is_ready"] | (running < (self.accuracy_ceiling or 2.0))
