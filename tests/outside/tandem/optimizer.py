"""Lion (Chen et al. 2023), from Optax."""

import dataclasses

import optax

from seq2seq_jax.optimizers import OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class LionConfig(OptimizerConfig):
    """The sign of an interpolated momentum."""

    beta1: float = 0.9
    """Interpolation of momentum and gradient in the update."""

    def rule(self, schedule):
        """See OptimizerConfig.rule."""
        return optax.lion(schedule, b1=self.beta1)
