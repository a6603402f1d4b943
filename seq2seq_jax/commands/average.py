"""`seq2seq average`: the mean of checkpoints, of one run or of several, as a run of its own."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.commands.outputs import refuse_unwritable_directory
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.paths import user_path

if TYPE_CHECKING:
    import seq2seq_jax.run.inference

DESCRIPTION = """\
Average the parameters of checkpoints into a new run directory, which evaluate and generate take like any other: those
of one RUN (training.keep_latest says how many it keeps), or of several RUNs that began from the same parameters, which
are often better than each of them (Wortsman et al. 2022, arXiv:2203.05482).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AverageArguments:
    """Command line of `seq2seq average`."""

    output: str | None = None
    """Directory of the new run; required."""
    last: int | None = None
    """Newest checkpoints of each run to average; None = all that it has."""
    checkpoint: str | None = None
    """One checkpoint of each run instead: best, latest or a step."""
    trust_code: tuple[str, ...] = ()
    """Modules outside the package that may be imported, which executes them, where a RUN names classes in them, or the
    first RUN the function of its reward; True = all."""


def run(arguments: list[str]) -> None:
    """Parse the command line, average, write the new run."""
    first, rest = split_first(arguments, name="the directory of a RUN", command="average")
    others, options = split_names(rest)
    chosen = override(AverageArguments(), options, program="seq2seq average RUN [RUN ...]", description=DESCRIPTION)
    if chosen.output is None:
        raise ValueError("--output is required: the directory of the new run.")
    if chosen.last is not None and chosen.checkpoint is not None:
        raise ValueError("give --last or --checkpoint, not both.")
    output = user_path(chosen.output).absolute()
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} exists and is not empty. Give a new directory.")
    refuse_unwritable_directory(output.parent)
    import jax

    from seq2seq_jax.run.continuation import refuse_another_model
    from seq2seq_jax.run.inference import Inference

    with Display() as display:
        runs = [Inference.open(directory, trust_code=chosen.trust_code) for directory in (first, *others)]
        for other in runs[1:]:
            refuse_another_model(other.experiment, runs[0].experiment, str(other.directory.path))
            if other.tokenizer.fingerprint != runs[0].tokenizer.fingerprint:
                raise ValueError(
                    f"{other.directory.path} has another tokenizer than {runs[0].directory.path}. Leave one out."
                )
        wanted = [(run, which) for run in runs for which in _checkpoints(run, chosen)]
        taken: dict[Path, list[int]] = {}
        mean = None
        for number, (run, which) in enumerate(wanted):
            display.progress("reading", number + 1, len(wanted))
            params, step = run.parameters(which)
            taken.setdefault(run.directory.path, []).append(step)
            mean = params if mean is None else jax.tree.map(
                lambda total, leaf, count=number: total + (leaf - total) / (count + 1), mean, params
            )  # fmt: skip
        _write(runs[0], taken, mean, output)
    sources = "; ".join(f"steps {', '.join(map(str, steps))} of {directory}" for directory, steps in taken.items())
    print(f"average of {sources} in {output}")


def _checkpoints(run: "seq2seq_jax.run.inference.Inference", chosen: AverageArguments) -> list[str]:
    """Which checkpoints of a run are averaged, as `Inference.parameters` takes it.

    Raises:
        ValueError: it has fewer, or none.
    """
    if chosen.checkpoint is not None:
        return [chosen.checkpoint]
    with run.directory.checkpoints(read_only=True) as checkpoints:
        steps = checkpoints.steps()
    if not steps:
        raise ValueError(f"{run.directory.path} has no complete checkpoint yet. Train it first.")
    if chosen.last is not None and not 1 <= chosen.last <= len(steps):
        raise ValueError(
            f"--last must lie between 1 and the {len(steps)} checkpoints of {run.directory.path}, not {chosen.last}."
        )
    return [str(step) for step in steps[-(chosen.last or len(steps)) :]]


def _write(
    run: "seq2seq_jax.run.inference.Inference", taken: dict[Path, list[int]], mean: object, output: Path
) -> None:
    """A run directory with a copy of a run's newest averaged checkpoint, its parameters replaced by the mean: whole, or
    not there.
    """
    from seq2seq_jax.data.store_files import unfinished_directory
    from seq2seq_jax.run.description import read_description, write_description
    from seq2seq_jax.training.checkpoint import Checkpoints
    from seq2seq_jax.training.progress import Progress
    from seq2seq_jax.training.step import updates_of_old_checkpoints

    newest = max(taken[run.directory.path])
    with run.directory.checkpoints(read_only=True) as checkpoints:
        added = updates_of_old_checkpoints(run.system.objective)
        state = checkpoints.restore(newest, run.system.layout, added=added)
    name = run.system.player
    player = state.players[name]
    player = player.replace(params=mean, average=None if player.average is None else mean)
    state = state.replace(players={**state.players, name: player})
    averaged = [{"run": str(directory), "steps": steps} for directory, steps in taken.items()]
    with unfinished_directory(output.parent, output.name) as unfinished:
        run.tokenizer.save(unfinished)
        write_description(unfinished, read_description(run.directory.path) | {"averaged": averaged})
        with Checkpoints(unfinished / "checkpoints") as written:
            written.save(state, Progress(step=newest))
            written.wait()
        unfinished.rename(output)
