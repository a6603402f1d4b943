"""Which experiments continue a run, and which can start from its parameters."""

from pathlib import Path
from typing import Any

from seq2seq_jax.effects import effects
from seq2seq_jax.experiment import Experiment, differences


def refuse_differences(old: Experiment, new: Experiment, directory: Path) -> None:
    """Refuse an experiment that would not continue the run in a directory.

    Raises:
        ValueError: with the fields that differ.
    """
    changed = differences(old, new, continuing=True)
    if changed:
        raise ValueError(
            f"{directory} holds a run with another config: {describe_changes(changed)}. Use the same values, or "
            "another --run-dir"
            + (
                "."
                if _of_another_model(old, new)
                else f", which can start from its parameters: --init-from {directory}."
            )
        )
    if new.training.steps < old.training.steps:
        raise ValueError(
            f"{directory} is a run of {old.training.steps} training.steps, more than {new.training.steps}. "
            f"Use at least as many, or another --run-dir, which can start from its parameters: --init-from {directory}."
        )


def _of_another_model(old: Experiment, new: Experiment) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Of architecture and tokenizer, those that differ: the fields, with both values."""
    changed, effect = differences(old, new), effects(old) | effects(new)
    found = {
        what: {
            name: values
            for name, values in changed.items()
            # A size that follows the data is that of the tokenizer that is taken over.
            if not (name == "tokenizer.vocabulary_size" and values[1] is None)
            and name.startswith(part)
            and effect[name] == "parameters"
        }
        for part, what in (("model.", "architecture"), ("tokenizer.", "tokenizer"))
    }
    return {what: fields for what, fields in found.items() if fields}


def refuse_another_model(old: Experiment, new: Experiment, origin: str, *, may_be_extended: bool = False) -> None:
    """Refuse to use the parameters of a run with another architecture or tokenizer.

    Args:
        origin: what the old run is called in the message.
        may_be_extended: whether the new one may be a mixture where the old one has a single expert, and may have LoRA
            where the old one has none.

    Raises:
        ValueError: with the fields that differ.
    """
    for what, fields in _of_another_model(old, new).items():
        if may_be_extended:
            fields = {name: values for name, values in fields.items() if not _is_extension(name, old)}
        if not fields:
            continue
        raise ValueError(
            f"{origin} has another {what}: {describe_changes(fields)}. Use the same values, or another run."
        )


def _is_extension(field: str, old: Experiment) -> bool:
    """Whether a field that differs adds parameters to those of an old run."""
    if field == "model.num_experts":
        return old.model.num_experts == 1
    return ".lora_" in field and not old.model.has_lora


def describe_changes(changed: dict[str, tuple[Any, Any]]) -> str:
    """Fields that differ, in words."""
    return "; ".join(f"{name} is {before!r} there and {after!r} here" for name, (before, after) in changed.items())
