"""What is done to sounds in training: another speed, and noise."""

import dataclasses
from typing import TYPE_CHECKING

from seq2seq_jax.data.augmentation import AugmentationConfig
from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    from seq2seq_jax.data.tokenizer import Tokenizer
    from seq2seq_jax.data.transforms.transform import Augment

PARTS = 100
"""Speeds are whole hundredths, so that their ratios are small."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedPerturbation:
    """Samples at one of several speeds, drawn evenly: pitch and tempo change together.

    Source: Ko et al. 2015 (speeds of 0.9, 1.0 and 1.1).
    """

    speeds: tuple[float, ...] = (0.9, 1.0, 1.1)
    """From which one is drawn for each example in each epoch; hundredths."""

    def __post_init__(self):
        check_values(self, "speed")
        for speed in self.speeds:
            if not 0.5 <= speed <= 2.0 or abs(speed * PARTS - round(speed * PARTS)) > 1e-6:
                raise ValueError(f"speed.speeds must be hundredths from 0.5 to 2, and one is {speed}.")
        if not self.speeds:
            raise ValueError("speed.speeds is empty: give some, such as 0.9 1.0 1.1, or leave speed None.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedNoise:
    """White noise at a signal-to-noise ratio that is drawn evenly, in decibels."""

    probability: float = 0.5
    """Of an example that noise is added to."""
    lowest_ratio: float = 10.0
    """Decibels: the power of the example over that of the noise, at least."""
    highest_ratio: float = 40.0
    """Decibels, at most."""

    def __post_init__(self):
        check_values(self, "noise")
        if not 0.0 < self.probability <= 1.0:
            raise ValueError(f"noise.probability must lie in (0, 1], not {self.probability}.")
        if not -100.0 <= self.lowest_ratio <= self.highest_ratio <= 100.0:
            raise ValueError(
                f"noise.lowest_ratio and highest_ratio must ascend from -100 to 100 decibels, and are "
                f"{self.lowest_ratio:g} and {self.highest_ratio:g}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureAugmentationConfig(AugmentationConfig):
    """What is done to training examples of features, a function of (seed, epoch, example)."""

    tempo: SpeedPerturbation | None = None
    """Another tempo, by linear interpolation between frames: what can be done of speed perturbation where there are no
    samples. None = the recorded one. An example that would be too long stays as it is."""

    @property
    def is_on(self) -> bool:
        return super().is_on or self.tempo is not None

    def build(self, tokenizer: "Tokenizer") -> "tuple[Augment, ...]":
        """What does it, in order."""
        from seq2seq_jax.data.transforms.sound import ChangeTempo

        own = [] if self.tempo is None else [ChangeTempo(self.tempo)]
        return (*own, *super().build(tokenizer))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundAugmentationConfig(AugmentationConfig):
    """What is done to training examples of samples, a function of (seed, epoch, example)."""

    speed: SpeedPerturbation | None = None
    """Another speed; None = the recorded one. An example that would be too long stays as it is."""
    noise: AddedNoise | None = None
    """White noise; None = none."""

    @property
    def is_on(self) -> bool:
        return super().is_on or self.speed is not None or self.noise is not None

    def build(self, tokenizer: "Tokenizer") -> "tuple[Augment, ...]":
        """What does it, in order: the speed comes first."""
        from seq2seq_jax.data.transforms.sound import AddNoise, ChangeSpeed

        own = [] if self.speed is None else [ChangeSpeed(self.speed)]
        own += [] if self.noise is None else [AddNoise(self.noise)]
        return (*own, *super().build(tokenizer))
