"""Optimizers and learning-rate schedules, from Optax."""

import abc
import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(abc.ABC):
    """What every optimizer has: a schedule, clipping, an average of the parameters; one subclass a rule."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["inverse_square_root", "cosine", "linear", "constant"] = "inverse_square_root"
    """How the learning rate continues after warm-up: falls as 1/sqrt(step), along a cosine or a line to final_fraction
    at the last step of training, or stays."""
    warmup_steps: int = 1_000
    """Steps of linear rise from 0 to the peak."""
    final_fraction: float | None = None
    """Share of the peak at the last step (None = 0); for cosine and linear alone."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None = no clipping."""
    ema_decay: float | None = None
    """Decay per step of the exponential moving average of the parameters, which is then what is evaluated and used;
    None = no average."""

    def __post_init__(self):
        check_values(self, "optimizer")
        if self.learning_rate <= 0:
            raise ValueError(f"optimizer.learning_rate must be positive, and is {self.learning_rate}.")
        if self.warmup_steps < 0:
            raise ValueError(f"optimizer.warmup_steps must not be negative, and is {self.warmup_steps}.")
        if self.final_fraction is not None and not 0.0 <= self.final_fraction <= 1.0:
            raise ValueError(f"optimizer.final_fraction must lie in [0, 1] or be None, and is {self.final_fraction}.")
        if self.final_fraction is not None and self.schedule not in ("cosine", "linear"):
            raise ValueError(
                f"optimizer.final_fraction has no effect with schedule = {self.schedule}: leave it None, or set the "
                "schedule to cosine or linear."
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"optimizer.clip_norm must be positive or None, and is {self.clip_norm}.")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ValueError(f"optimizer.ema_decay must lie in (0, 1) or be None, and is {self.ema_decay}.")

    @property
    def depends_on_last_step(self) -> bool:
        """Whether the schedule changes with the number of steps of the run."""
        return self.schedule in ("cosine", "linear")

    def learning_rate_schedule(self, steps: int) -> optax.Schedule:
        """Update count (from 0) -> learning rate, for a run of `steps` updates."""
        warmup = max(self.warmup_steps, 1)
        peak, final = self.learning_rate, self.learning_rate * (self.final_fraction or 0.0)
        decay_steps = max(steps - warmup, 1)
        after = {
            # Optax evaluates it during warm-up as well, with counts down to -warmup.
            "inverse_square_root": lambda count: peak * (warmup / (jnp.maximum(count, 0) + warmup)) ** 0.5,
            "cosine": optax.cosine_decay_schedule(peak, decay_steps, alpha=final / peak),
            "linear": optax.linear_schedule(peak, final, decay_steps),
            "constant": optax.constant_schedule(peak),
        }[self.schedule]
        rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
        return optax.join_schedules([rise, after], [warmup])

    @abc.abstractmethod
    def rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """The update rule alone."""

    def build(self, steps: int) -> optax.GradientTransformation:
        """Clipping and the update rule, for a run of `steps` updates."""
        clip = optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
        return optax.chain(clip, self.rule(self.learning_rate_schedule(steps)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.98
    """Decay of the second moment."""
    epsilon: float = 1e-9
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Share of a parameter, times the learning rate, that an update takes away."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"optimizer.{name} must lie in [0, 1), and is {getattr(self, name)}.")
        for name in ("epsilon", "weight_decay"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"optimizer.{name} must not be negative, and is {getattr(self, name)}.")

    def rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """See OptimizerConfig.rule."""
        return optax.adamw(schedule, b1=self.beta1, b2=self.beta2, eps=self.epsilon, weight_decay=self.weight_decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdafactorConfig(OptimizerConfig):
    """Adafactor with factored second moments and an external schedule (Shazeer and Stern 2018)."""

    decay_rate: float = 0.8
    """Exponent of the second moment's decay, 1 - step^-decay_rate."""
    scale_by_parameter: bool = True
    """Whether updates are scaled by the root mean square of the parameter."""
    weight_decay: float = 0.0
    """Share of a parameter that an update takes away."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("decay_rate", "weight_decay"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"optimizer.{name} must not be negative, and is {getattr(self, name)}.")

    def rule(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """See OptimizerConfig.rule."""
        return optax.adafactor(
            schedule,
            decay_rate=self.decay_rate,
            multiply_by_parameter_scale=self.scale_by_parameter,
            weight_decay_rate=self.weight_decay or None,
        )
