"""How text is searched for, as a config says it. Imports nothing, as the help of a command asks for it."""

import dataclasses
import math

from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Config of beam search."""

    beam_size: int = 4
    """Hypotheses kept for each source; 1 = greedy decoding."""
    n_best: int = 1
    """Hypotheses returned for each source, best first."""
    length_penalty: float = 1.0
    """Exponent alpha of the length normalisation, score = log p / ((5 + length) / 6) ^ alpha; 0 = none."""
    maximum_length_ratio: float = 2.0
    """Limit on generated tokens, EOS token included: maximum_length_ratio per source token, ..."""
    maximum_length_extra: int = 10
    """... plus maximum_length_extra. A table of learned positions also limits the length."""
    source_tokens_per_batch: int = 8192
    """Source tokens per batch of the search, padding included."""
    max_compactions: int = 0
    """Maximum number of batch compactions (max_compactions as sources finish); each compiles the search step once
    more."""

    def __post_init__(self):
        check_values(self, "generation")
        for name in ("beam_size", "n_best", "maximum_length_extra", "source_tokens_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}: set it to 1 or more")
        for name in ("length_penalty", "maximum_length_ratio"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite, 0 or more, got {getattr(self, name)}: set it to 0 or more")
        if self.max_compactions < 0:
            raise ValueError(f"max_compactions must not be negative, got {self.max_compactions}: set it to 0 or more")
        if self.n_best > self.beam_size:
            raise ValueError(
                f"n_best must be at most beam_size, got n_best {self.n_best} and beam_size {self.beam_size}: "
                "lower n_best or raise beam_size"
            )
