"""What all objectives have in common that draw texts of the model for every source."""

import dataclasses
from typing import Any, ClassVar

from seq2seq_jax.objectives.maximum_likelihood import EvaluatedByLikelihood


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledTextsConfig(EvaluatedByLikelihood):
    """Config of an objective that draws samples, how long they may be, and when they have collapsed."""

    requires_unpacked_rows: ClassVar[bool] = True
    """Samples are drawn per row."""

    minimum_length: int = 1
    """Tokens before which no sample may end."""
    maximum_length_ratio: float = 1.5
    """A sample is truncated after maximum_length_ratio tokens per source token, ..."""
    maximum_length_extra: int = 10
    """... plus maximum_length_extra tokens."""
    label_smoothing: float = 0.0
    """Label smoothing of the maximum-likelihood loss, if there is one, and of the validation loss."""
    entropy_floor: float = 0.1
    """Entropy (nats per token) of the samples below which a warning reports a collapse."""

    def check_sampling(self) -> None:
        """Raises: ValueError: a value of these fields does not fit."""
        for name, least in (("minimum_length", 0), ("maximum_length_extra", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"objective.{name} must be at least {least}, not {getattr(self, name)}.")
        for name in ("maximum_length_ratio", "entropy_floor"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"objective.{name} must be finite and not negative, and is {getattr(self, name)}.")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"objective.label_smoothing must lie in [0, 1), not {self.label_smoothing}.")

    @property
    def sampling_fields(self) -> dict[str, Any]:
        """The fields of this class, for another objective that draws in the same way."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(SampledTextsConfig)}
