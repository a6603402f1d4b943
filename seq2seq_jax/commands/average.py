"""`seq2seq average`: the mean of a run's checkpoints, as a run of its own."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax

from seq2seq_jax.commands.console import Display, split_first
from seq2seq_jax.experiment import override
from seq2seq_jax.run import Run
from seq2seq_jax.training.checkpoint import Checkpoints, DamagedCheckpoint, Progress

DESCRIPTION = """\
Average the parameters of the checkpoints of RUN, the directory of a run (training.keep_latest says how many it keeps),
into a new run directory, which evaluate and generate take like any other.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AverageArguments:
    """Command line of `seq2seq average`."""

    output: str | None = None
    """Directory of the new run; required."""
    last: int | None = None
    """Newest checkpoints to average; None = all that the run has."""


def run(arguments: list[str]) -> None:
    """Parse the command line, average, write the new run."""
    directory, rest = split_first(arguments, name="the directory of a RUN", command="average")
    chosen = override(AverageArguments(), rest, program="seq2seq average RUN", description=DESCRIPTION)
    if chosen.output is None:
        raise ValueError("--output is required: the directory of the new run.")
    output = Path(chosen.output)
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} exists and is not empty. Give a new directory.")
    with Display() as display:
        run = Run.open(directory)
        with run.checkpoints(read_only=True) as checkpoints:
            steps = checkpoints.steps()
            if chosen.last is not None and not 1 <= chosen.last <= len(steps):
                raise ValueError(f"--last must lie between 1 and the run's {len(steps)} checkpoints, not {chosen.last}.")
            steps = steps[-(chosen.last or len(steps)) :]
            if not steps:
                raise ValueError(f"{run.directory} has no complete checkpoint yet. Train it first.")
            state = mean = None
            for number, step in enumerate(steps):
                display.progress("reading", number + 1, len(steps))
                try:
                    state = checkpoints.restore(step, run.layout)
                except DamagedCheckpoint as error:
                    raise ValueError(
                        f"checkpoint {step} of {run.directory} is damaged: {error}. Average others with --last, or "
                        "move it out of the way."
                    ) from error
                params = state.players["model"].evaluated
                mean = params if mean is None else jax.tree.map(
                    lambda total, leaf, count=number: total + (leaf - total) / (count + 1), mean, params
                )  # fmt: skip
        player = state.players["model"]
        player = player.replace(params=mean, average=None if player.average is None else mean)
        state = state.replace(players={**state.players, "model": player})
        output.mkdir(parents=True, exist_ok=True)
        for path in run.directory.glob("tokenizer*.model"):
            shutil.copy(path, output)
        description = json.loads((run.directory / "experiment.json").read_text(encoding="utf-8"))
        description["averaged"] = {"run": str(run.directory), "steps": steps}
        text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
        (output / "experiment.json").write_text(text, encoding="utf-8")
        with Checkpoints(output / "checkpoints") as written:
            written.save(state, Progress(step=steps[-1], score=None, loop={}))
            written.wait()
    print(f"average of steps {', '.join(map(str, steps))} in {output}")
