"""From what to what a run translates, as far as the names of its data tell."""

from seq2seq_jax.experiment import Experiment


def direction(experiment: Experiment) -> tuple[str, str] | None:
    """The names of source and target where the data is kept, languages as a rule; None = it has no names."""
    names = getattr(experiment.data, "source", None), getattr(experiment.data, "target", None)
    return names if all(isinstance(name, str) for name in names) else None


def is_reverse(one: Experiment, other: Experiment) -> bool | None:
    """Whether a run translates in the other direction than another one; None = their names have nothing in common."""
    ours, theirs = direction(one), direction(other)
    if ours is None or theirs is None or not set(ours) & set(theirs):
        return None
    return ours == theirs[::-1] and ours != theirs


def arrow(experiment: Experiment) -> str:
    """The direction in a message: "en to de"."""
    return " to ".join(direction(experiment) or ("an unnamed source", "an unnamed target"))
