"""How long a run trains, and what happens along the way. Imports nothing, as every command line asks for it."""

import dataclasses
from collections.abc import Collection, Sequence

from seq2seq_jax.effects import changes
from seq2seq_jax.values import check_values

LOSS = "loss"
"""What `training.select_by` calls the loss, which is no metric's score."""
SEPARATOR = "/"
"""Stands in `training.select_by` between the name of a validation set and that of a score."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how much at a time, and what happens along the way."""

    steps: int = 10_000
    """Updates."""
    seed: int = 0
    """Of everything random: initial parameters, order of the data, dropout."""
    target_tokens_per_batch: int = 4_096
    """Target token positions of a global batch (rows x data.max_target_length, padding included)."""
    accumulation: int = 1
    """Parts that a batch is worked through in, one after the other, to save memory. Changes no result."""
    log_every: int = dataclasses.field(default=50, metadata=changes("nothing"))
    """Steps between records of the training loss."""
    checkpoint_every: int = dataclasses.field(default=1_000, metadata=changes("nothing"))
    """Steps between checkpoints (there is one after each validation too)."""
    evaluate_every: int = 1_000
    """Steps between validations: loss, and scores by generation."""
    keep_latest: int = dataclasses.field(default=2, metadata=changes("nothing"))
    """Newest checkpoints that are kept, beside the best."""
    select_by: str | None = None
    """Score of validation that makes a checkpoint the best, or loss; SET/SCORE is one of a further validation set. Of
    equal values the lower loss does, then the newer step. None = the first score that suits the references: BLEU, or
    chrF where they have fewer than four words on average."""
    patience: int | None = dataclasses.field(default=None, metadata=changes("nothing"))
    """Validations without an improvement of the metric (or, where it is equal, of the loss) after which training stops;
    None = never."""
    num_sample_outputs: int = dataclasses.field(default=3, metadata=changes("nothing"))
    """Source / output / reference triples shown at each validation."""

    def __post_init__(self):
        check_values(self, "training")
        for name in (
            "steps", "target_tokens_per_batch", "accumulation", "log_every", "checkpoint_every", "evaluate_every",
            "keep_latest",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, not {getattr(self, name)}.")
        if self.num_sample_outputs < 0:
            raise ValueError(f"training.num_sample_outputs must not be negative, not {self.num_sample_outputs}.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"training.patience must be at least 1 or None, not {self.patience}.")


def check_select_by(select_by: str | None, scores: Sequence[str], *, sets: Collection[str] = ()) -> None:
    """Return if checkpoints can be compared by what `training.select_by` says.

    Args:
        scores: names of the scores that validation computes.
        sets: names of the further validation sets.

    Raises:
        ValueError: they cannot.
    """
    if select_by is None:
        return
    name, separator, score = select_by.rpartition(SEPARATOR)
    choices = [LOSS, *scores]
    if score not in choices:
        known = f"one of {', '.join(choices)}" if scores else LOSS
        raise ValueError(
            f"training.select_by must be {known}, and is {select_by!r}. Choose one that validation computes, or add "
            "its metric to metrics."
        )
    if separator and name not in sets:
        raise ValueError(
            f"training.select_by is {select_by!r}, and there is no further validation set {name!r}. "
            f"There {'is' if len(sets) == 1 else 'are'} {', '.join(sets) or 'none'}: name one of these, or leave the "
            "name out."
        )
