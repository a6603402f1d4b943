"""Options of commands that use a run, or further ones beside it, all of them as one."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from seq2seq_jax.commands.console import Display
from seq2seq_jax.overrides import override, values_of_option
from seq2seq_jax.parallel.mesh_config import MeshConfig

if TYPE_CHECKING:
    import seq2seq_jax.run.inference


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleArguments:
    """Options of an ensemble."""

    ensemble: tuple[str, ...] = ()
    """Directories of further runs with the tokenizer of RUN, of any architecture: the probabilities of the next token
    are the mean of all runs'. Limits, method and data are those of RUN."""
    ensemble_mean: Literal["probabilities", "log_probabilities"] = "probabilities"
    """Mean of the ensemble: of probabilities, or of log_probabilities (the geometric mean)."""
    ensemble_weights: tuple[float, ...] = ()
    """Weights in the mean, RUN's first; none = equal ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Options of commands that use a run."""

    checkpoint: str = "best"
    """best, latest, or a step."""
    compilation_cache: bool = True
    """Keep compiled programs below the user's cache directory for the next time, unless JAX has a directory of its
    own."""
    mesh: MeshConfig = MeshConfig()
    """How devices share the work."""
    trust_code: tuple[str, ...] = ()
    """Modules outside the package that may be imported, which executes them, where RUN names classes in them, such as
    metrics; True = all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceArguments(RunArguments, EnsembleArguments):
    """Options of commands that use a run, or an ensemble of it and others."""


_NAMES = [field.name for field in dataclasses.fields(EnsembleArguments)]


def open_run(
    directory: str, rest: list[str], *, display: Display, program: str
) -> "seq2seq_jax.run.inference.Inference":
    """The run of a command line, or the ensemble that it names: what must be known before other options can be read.

    Args:
        rest: the command line after RUN.
        program: how the command was called, for messages.

    Raises:
        ValueError: there is no such run, the runs do not fit together, or an option does not fit.
    """
    from seq2seq_jax.run.ensemble import EnsembleInference

    given = {name: values_of_option(name, rest) for name in _NAMES}
    options = [word for name, values in given.items() if values for word in (f"--{name}", *values)]
    chosen = override(EnsembleArguments(), options, program=program)
    if not chosen.ensemble and options:
        raise ValueError(f"{options[0]} has no effect without --ensemble RUN2. Name further runs, or leave it out.")
    return EnsembleInference.open_all(
        (directory, *chosen.ensemble),
        mean=chosen.ensemble_mean,
        weights=chosen.ensemble_weights,
        progress=display.progress,
        trust_code=values_of_option("trust_code", rest),
    )


def ensemble_figures(run: "seq2seq_jax.run.inference.Inference") -> dict[str, Any]:
    """What an ensemble whose parameters have been read is made of, as JSON values; of one run nothing."""
    from seq2seq_jax.run.ensemble import EnsembleInference

    if not isinstance(run, EnsembleInference):
        return {}
    members = [
        {"run": str(member.directory.path), "step": step} for member, step in zip(run.members, run.steps, strict=True)
    ]
    return {"ensemble": {"mean": run.mean, "weights": list(run.weights), "members": members}}


def ensemble_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of a table of what `ensemble_figures` gives."""
    if "ensemble" not in figures:
        return []
    ensemble = figures["ensemble"]
    members = "; ".join(f"{member['run']}, step {member['step']:,}" for member in ensemble["members"])
    weights = f", weights {' '.join(map(str, ensemble['weights']))}" if ensemble["weights"] else ""
    return [("ensemble", f"mean of {ensemble['mean']}{weights}: {members}")]
