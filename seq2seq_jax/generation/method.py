"""What every method of generation has, as a config says it. Imports nothing heavy, as the help of a command does."""

import abc
import dataclasses
import math
from typing import TYPE_CHECKING, ClassVar

from seq2seq_jax.generation.controls import Controls
from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


_WITHOUT_EFFECT = frozenset({"source_tokens_per_batch", "max_compactions"})
"""Fields that change no text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationMethod(abc.ABC):
    """Limits of what is generated, and of a batch."""

    maximum_length_ratio: float = 2.0
    """Limit on generated tokens, EOS token included: maximum_length_ratio per source token, ..."""
    maximum_length_extra: int = 10
    """... plus maximum_length_extra. A table of learned positions also limits the length."""
    source_tokens_per_batch: int = 8192
    """Source tokens per batch, padding included."""
    controls: Controls = Controls()
    """Rules for every text: no repetition, a length, tokens that are forbidden or come first."""

    needs_ctc: ClassVar[bool] = False
    """Whether it reads what the encoder's states say by themselves, which needs model.ctc."""
    texts_field: ClassVar[str | None] = None
    """Name of the field that says how many texts are returned for each source; None = always one."""

    def __post_init__(self):
        check_values(self, "generation")
        if self.controls.coverage_penalty and not self.ranks_finished:
            raise ValueError(
                f"controls.coverage_penalty has no effect with {type(self).__name__}, which does not rank finished "
                "hypotheses: choose beam_search or diverse_beam_search, or leave it out"
            )
        self._check_counts("maximum_length_extra", "source_tokens_per_batch")
        self._check_amounts("maximum_length_ratio")

    def _check_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}: set it to 1 or more")

    def _check_amounts(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite, 0 or more, got {getattr(self, name)}: set it to 0 or more")

    def _check_not_negative(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}: set it to 0 or more")

    def _check_best(self, n_best: int, *, of: int) -> None:
        if n_best > of:
            raise ValueError(
                f"n_best must be at most beam_size, got n_best {n_best} and beam_size {of}: "
                "lower n_best or raise beam_size"
            )

    def check(self, *, num_experts: int) -> None:  # noqa: B027
        """Refuse a model that the method cannot generate with.

        Args:
            num_experts: of the model.

        Raises:
            ValueError: with what to change.
        """

    @property
    def described(self) -> str:
        """As signatures say it: its class, and the fields that are not at their defaults."""
        settings = (
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default and field.name not in _WITHOUT_EFFECT
        )
        return ",".join((type(self).__name__, *settings))

    @property
    @abc.abstractmethod
    def num_hypotheses(self) -> int:
        """Texts that the decoder works on at a time for each source."""

    @property
    @abc.abstractmethod
    def num_texts(self) -> int:
        """Texts that are returned for each source, at most."""

    def with_num_texts(self, number: int) -> "GenerationMethod":
        """The same method with that many texts returned for each source.

        Raises:
            ValueError: it cannot return this number.
        """
        if self.texts_field is None:
            if number != self.num_texts:
                raise ValueError(
                    f"{type(self).__name__} gives one text for each source, not {number}: choose a method that gives "
                    "several, as with --generation sampling or beam_search"
                )
            return self
        return dataclasses.replace(self, **{self.texts_field: number})

    @property
    def ranks_finished(self) -> bool:
        """Whether finished hypotheses compete by their scores."""
        return False

    def check_phrases(self) -> None:
        """Return if the method can generate texts that contain given phrases.

        Raises:
            ValueError: it cannot.
        """
        raise ValueError(
            f"phrases need beam search, and generation is {type(self).__name__}: choose --generation beam_search, or "
            "leave the phrases out"
        )

    @abc.abstractmethod
    def generate(self, context: "GenerationContext") -> "GenerationResult":
        """Texts for every source of a batch, [batch, num_texts]. Pure, and compatible with `jax.jit`."""
