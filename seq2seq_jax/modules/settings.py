"""What the settings of every stack must keep."""

from typing import Any


def check_sizes(config: Any, *fields: str) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: with the field.
    """
    for field in fields:
        if getattr(config, field) < 1:
            raise ValueError(f"{type(config).__name__}.{field} must be at least 1, not {getattr(config, field)}.")


def check_rates(config: Any, *fields: str) -> None:
    """Refuse rates of dropout outside of [0, 1).

    Raises:
        ValueError: with the field.
    """
    for field in fields:
        if not 0.0 <= getattr(config, field) < 1.0:
            raise ValueError(f"{type(config).__name__}.{field} must lie in [0, 1), not {getattr(config, field)}.")
