"""Ahead-of-time compilation of steps for devices that are not attached, and estimates of memory, work and time."""

from typing import Literal

StepName = Literal["train", "policy_gradient", "generation"]
"""An update with the config's objective, an update with policy gradients (those of the config, if it has them), and a
beam search of one batch."""
