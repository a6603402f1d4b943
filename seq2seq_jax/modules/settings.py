"""Checks that the configs of all stacks share."""

from typing import Any


def check_sizes(config: Any, *fields: str) -> None:
    """Check that sizes are at least 1.

    Raises:
        ValueError: one is not; the message names the field.
    """
    for field in fields:
        if getattr(config, field) < 1:
            raise ValueError(f"{type(config).__name__}.{field} must be at least 1, not {getattr(config, field)}.")


def check_rates(config: Any, *fields: str) -> None:
    """Check that dropout rates are in [0, 1).

    Raises:
        ValueError: one is not; the message names the field.
    """
    for field in fields:
        if not 0.0 <= getattr(config, field) < 1.0:
            raise ValueError(f"{type(config).__name__}.{field} must lie in [0, 1), not {getattr(config, field)}.")
