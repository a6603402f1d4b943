"""Optimizers and learning-rate schedules, from Optax."""

import abc
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seq2seq_jax.modules.patterns import Pattern, last_match, map_with_path, paths_of, without
from seq2seq_jax.values import check_values

LORA = "lora_"
"""What the last part of the path of a LoRA parameter begins with."""


class PartialOptimizer(NamedTuple):
    """An optax.GradientTransformation that trains some of the parameters alone.

    Attributes:
        init: all parameters -> state, which has nothing for those that are frozen.
        update: (gradient, state, parameters) -> (updates, state), all three of what is trained, see `split`.
        frozen: paths of all parameters -> those that are frozen.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    frozen: Callable[[Collection[str]], frozenset[str]]


Optimizer = optax.GradientTransformation | PartialOptimizer


def split(optimizer: Optimizer, params: Any) -> tuple[Any, Any]:
    """The parameters that an optimizer trains, and the others; all are trained by one that is not partial.

    `seq2seq_jax.modules.patterns.merged` puts them together again.
    """
    if not isinstance(optimizer, PartialOptimizer):
        return params, {}
    paths = frozenset(paths_of(params))
    frozen = optimizer.frozen(paths)
    return without(params, frozen), without(params, paths - frozen)


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
    frozen: tuple[str, ...] | None = None
    """Patterns of parameters that stay as they are, such as encoder/* or *_embedding/table (* is any text): no
    gradient, no optimizer state, no decay. PATTERN=STEPS: only in the first STEPS updates. !PATTERN: trained after all;
    the last pattern that matches decides. None = with LoRA all parameters but those of LoRA, otherwise nothing."""
    learning_rates: tuple[str, ...] = ()
    """PATTERN=FACTOR: what the learning rate of matching parameters is multiplied by, such as */cross_attention/*=10;
    the last pattern that matches decides."""
    layer_decay: float | None = None
    """What the learning rate of each layer is multiplied by, compared with the layer above it; the last layer of a
    stack has the full one, embeddings and positions that of one more layer below the first. None = 1."""

    def __post_init__(self):
        check_values(self, "optimizer")
        for pattern in self._frozen_patterns:
            steps = pattern.number
            if steps is not None and (pattern.is_negated or steps < 1 or not steps.is_integer()):
                raise ValueError(
                    f"optimizer.frozen has {pattern.text}={steps:g}: expected a whole number of updates of at least 1, "
                    "and none behind a pattern with !."
                )
        for pattern in self._rate_patterns:
            if pattern.is_negated or pattern.number is None or not 0 < pattern.number < float("inf"):
                raise ValueError(
                    f"optimizer.learning_rates has a pattern {pattern.text!r} without a positive factor: expected "
                    "PATTERN=FACTOR, such as encoder/*=0.1. What is not trained belongs to optimizer.frozen."
                )
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay must lie in (0, 1] or be None, and is {self.layer_decay}.")
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

    @property
    def _frozen_patterns(self) -> list[Pattern]:
        return [Pattern.of(text, setting="optimizer.frozen") for text in self.frozen or ()]

    @property
    def _rate_patterns(self) -> list[Pattern]:
        return [Pattern.of(text, setting="optimizer.learning_rates") for text in self.learning_rates]

    def frozen_steps(self, paths: Collection[str]) -> dict[str, int | None]:
        """Path of each parameter that is frozen -> for how many updates; None = for all.

        Args:
            paths: of all parameters.
        """
        if self.frozen is None:
            own = [path for path in paths if path.rpartition("/")[2].startswith(LORA)]
            return dict.fromkeys(set(paths) - set(own)) if own else {}
        patterns, found = self._frozen_patterns, {}
        for path in paths:
            pattern = last_match(patterns, path)
            if pattern is not None and not pattern.is_negated:
                found[path] = None if pattern.number is None else int(pattern.number)
        return found

    def check_patterns(self, paths: Collection[str]) -> None:
        """Return if the patterns say something of these parameters.

        Raises:
            ValueError: one matches none of them, or all are frozen for ever.
        """
        for pattern in self._frozen_patterns:
            pattern.check(paths, setting="optimizer.frozen")
        for pattern in self._rate_patterns:
            pattern.check(paths, setting="optimizer.learning_rates")
        if self.layer_decay is not None and not any(map(_LAYERED.match, paths)):
            raise ValueError(
                "optimizer.layer_decay needs an encoder or a decoder whose layers are one stack (Transformer, "
                "convolutional), and there is none: leave it None."
            )

    def build(self, steps: int, *, is_of_all: bool = True) -> Optimizer:
        """Clipping and the update rule, for a run of `steps` updates.

        Args:
            is_of_all: whether the patterns are meant for these parameters alone, so that each must match one of them.
        """
        clip = optax.identity() if self.clip_norm is None else optax.clip_by_global_norm(self.clip_norm)
        schedule = self.learning_rate_schedule(steps)
        whole = optax.chain(clip, self.rule(schedule))

        def frozen(paths: Collection[str]) -> frozenset[str]:
            return frozenset(path for path, updates in self.frozen_steps(paths).items() if updates is None)

        def of(paths: Collection[str]) -> optax.GradientTransformation:
            """For trained parameters with these paths."""
            held = {path: updates for path, updates in self.frozen_steps(paths).items() if updates is not None}
            scale = self._scaling(paths)
            if not held:
                return whole if scale is None else optax.chain(whole, scale)
            rules = {
                str(after): _starting_after(after, self.rule(lambda count, after=after: schedule(count + after)))
                for after in set(held.values())
            }

            def labels(params: Any) -> Any:
                return map_with_path(lambda path, _: str(held.get(path, 0)), params)

            rule = optax.multi_transform({"0": self.rule(schedule), **rules}, labels)
            return optax.chain(_without_gradient(held), clip, rule, scale or optax.identity())

        def init(params: Any) -> Any:
            paths = paths_of(params)
            if is_of_all:
                self.check_patterns(paths)
            without_gradient = frozen(paths)
            if len(without_gradient) == len(paths):
                raise ValueError(
                    f"optimizer.frozen = {' '.join(self.frozen or ())} leaves no parameter to train. Add a pattern of "
                    "those that are trained after all, such as '!decoder/*'."
                )
            trained = without(params, without_gradient)
            return of(paths_of(trained)).init(trained)

        def update(gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
            return of(paths_of(params)).update(gradient, state, params)

        return PartialOptimizer(init, update, frozen) if self.divides else whole

    @property
    def has_patterns(self) -> bool:
        """Whether settings say which parameters are trained, or how fast."""
        return bool(self.frozen or self.learning_rates) or self.layer_decay is not None

    @property
    def divides(self) -> bool:
        """Whether parameters may not all be trained alike; without patterns those of LoRA alone may be trained."""
        return self.has_patterns or self.frozen is None

    def _scaling(self, paths: Collection[str]) -> optax.GradientTransformation | None:
        """What multiplies updates by the factors of learning rates; None = all are 1."""
        patterns, decay = self._rate_patterns, self.layer_decay
        if not patterns and decay is None:
            return None

        def scaled(updates: Any, params: Any) -> Any:
            depths: dict[str, int] = {}

            def note(path: str, leaf: Any) -> None:
                layered = _LAYERED.match(path)
                if layered:
                    depths[layered[1]] = leaf.shape[0]

            map_with_path(note, params)

            def scale(path: str, leaf: Any) -> Any:
                pattern = last_match(patterns, path)
                factor = 1.0 if pattern is None else pattern.number
                if decay is not None:
                    factor = factor * _depth_factor(path, leaf.ndim, decay, depths)
                return leaf * jnp.asarray(factor, leaf.dtype)

            return map_with_path(scale, updates)

        return optax.stateless(scaled)


_LAYERED = re.compile(r"(encoder|decoder)/layer/")
"""Paths of parameters that lead with the layers of a stack."""
_BELOW = re.compile(r"(?:(source|target)_embedding/|(encoder|decoder)/frame/(?!norm/))")
"""Paths of parameters below the first layer."""


def _depth_factor(path: str, ndim: int, decay: float, depths: Mapping[str, int]) -> Any:
    """The factor of a parameter's learning rate by its place in a stack: one of each layer where it has layers."""
    layered, below = _LAYERED.match(path), _BELOW.match(path)
    if layered:
        layers = depths[layered[1]]
        return (decay ** jnp.arange(layers - 1, -1, -1.0)).reshape(layers, *(1,) * (ndim - 1))
    if below:
        stack = below[2] or {"source": "encoder", "target": "decoder"}[below[1]]
        return decay ** depths.get(stack, 0)
    return 1.0


class _Counted(NamedTuple):
    """State of what changes after some updates: their count, and the state of what is inside."""

    count: Any
    inner: Any


def _without_gradient(held: Mapping[str, int]) -> optax.GradientTransformation:
    """Zero instead of the gradient in the first updates of some parameters, so that clipping does not count it."""

    def update(gradient: Any, state: _Counted, params: Any = None) -> tuple[Any, _Counted]:
        def hold(path: str, leaf: Any) -> Any:
            return jnp.where(state.count < held[path], 0, leaf).astype(leaf.dtype) if path in held else leaf

        return map_with_path(hold, gradient), _Counted(state.count + 1, ())

    return optax.GradientTransformation(lambda params: _Counted(jnp.zeros((), jnp.int32), ()), update)


def _starting_after(updates: int, rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """A rule whose first update is the one after `updates` others, before which nothing changes, its state included."""

    def update(gradient: Any, state: _Counted, params: Any = None) -> tuple[Any, _Counted]:
        started = state.count >= updates
        found, inner = rule.update(gradient, state.inner, params)
        found = jax.tree.map(lambda leaf: jnp.where(started, leaf, 0).astype(leaf.dtype), found)
        inner = jax.tree.map(lambda new, old: jnp.where(started, new, old), inner, state.inner)
        return found, _Counted(state.count + 1, inner)

    return optax.GradientTransformation(lambda params: _Counted(jnp.zeros((), jnp.int32), rule.init(params)), update)


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
