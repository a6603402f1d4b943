"""Rewards of state tracking, from Python."""

from seq2seq_jax.evaluation.dialogue_states import parts_of_change


def slot_accuracy(outputs: list[str], references: list[str]) -> list[float]:
    """Of the parts that a change of a state or its reference has (services, intents, values of slots, requested slots)
    the fraction that both have alike.

    For `objective.reward.function`.

    Args:
        outputs: changes as texts, see `seq2seq_jax.evaluation.dialogue_states`.
        references: as many.
    """
    return [_accuracy(output, reference) for output, reference in zip(outputs, references, strict=True)]


def _accuracy(output: str, reference: str) -> float:
    found, expected = parts_of_change(output), parts_of_change(reference)
    either = found.keys() | expected.keys()
    right = sum(part in found and part in expected and found[part] == expected[part] for part in either)
    return right / len(either) if either else 1.0
