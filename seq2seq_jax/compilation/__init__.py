"""A step compiled for chips that are not there, and what the compiled program says of memory, work and time."""

from typing import Literal

StepName = Literal["train", "policy_gradient", "generation"]
"""An update by the config's own objective, one by policy gradients (those of the config, if it has them), and a beam
search of one batch."""
