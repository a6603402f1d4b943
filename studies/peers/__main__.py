"""python -m studies.peers: training steps beside PyTorch's; also `packing CONFIG`, `generation RUN`."""

import dataclasses
import importlib.util
import os
from typing import Literal

from seq2seq_jax.benchmark import harness, report
from seq2seq_jax.overrides import override
from studies.peers import generation
from studies.peers.task import Task

PROGRAM = "python -m studies.peers"
DESCRIPTION = """\
Time a training step of this project beside the same step of PyTorch: the same model with as many parameters, the same
batch of full rows, loss, dropout, clipping, optimizer and precision. The two take turns in one process. The
Transformers are Hugging Face's Marian and T5, and a lean one. PyTorch runs on the GPU where it has one, else on all
cores, with its fused attention, LSTM, convolutions and optimizer, as it is and through torch.compile; the ratio is that
to the faster of the two. It needs PyTorch and transformers: pip install 'seq2seq_jax[peers]'.
With "packing CONFIG" in front: training on the lengths of a config's text (packing --help). With "generation RUN": beam
search of a run beside Hugging Face's and CTranslate2's (generation --help).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeersArguments:
    """Command line of the comparison with PyTorch."""

    models: tuple[
        Literal["marian", "t5", "transformer", "recurrent_general", "recurrent_additive", "convolutional"], ...
    ] = (
        "marian",
        "t5",
        "transformer",
        "recurrent_general",
        "recurrent_additive",
        "convolutional",
    )
    """Models to compare."""
    check: bool = True
    """Show first, without dropout, that both sides compute the same loss, gradient and updates."""
    compiled: bool = True
    """Run PyTorch through torch.compile, too; that needs a C++ compiler."""
    threads: int | None = None
    """Threads of PyTorch; None = one a core."""
    rounds: int = 9
    """Turns that each side has (5 at least)."""
    calls: int = 5
    """Training steps in a turn."""
    json: str | None = None
    """File for all measurements, as JSON."""
    task: Task = Task()
    """Sizes."""


def main(arguments: list[str]) -> None:
    """Parse the command line, compare, print a table.

    Raises:
        ValueError: PyTorch is not there, or a value does not fit.
    """
    # Both sides of a comparison share a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if arguments[:1] == ["generation"]:
        return generation.main(arguments[1:])
    if arguments[:1] == ["packing"]:
        _need_pytorch()
        from studies.peers import packing

        return packing.main(arguments[1:])
    chosen = override(PeersArguments(), arguments, program=PROGRAM, description=DESCRIPTION)
    _need_pytorch()
    from studies.peers import pytorch, side_by_side

    console = report.output()
    task = chosen.task
    figures = {"environment": harness.environment(), "arguments": dataclasses.asdict(chosen), "models": {}}
    header = ("", "step: median (quartiles)", "target tokens/s", "first call", "PyTorch / seq2seq_jax")
    for name in chosen.models:
        of_model = figures["models"][name] = {}
        if chosen.check:
            agreement = side_by_side.check(name, task, threads=chosen.threads)
            of_model["agreement"] = dataclasses.asdict(agreement)
            console.print(
                f"{name}, the same computation: loss {agreement.loss:.4f}; largest relative differences: loss "
                f"{agreement.loss_difference:.1e}, gradient {agreement.gradient_difference:.1e}, loss after updates "
                f"{agreement.updated_loss_difference:.1e}"
            )
        result = side_by_side.compare(
            name, task, compiled=chosen.compiled, rounds=chosen.rounds, calls=chosen.calls, threads=chosen.threads
        )
        of_model |= dataclasses.asdict(result)
        rows = [
            (
                contender,
                report.milliseconds(timing.spread),
                f"{task.rows * task.target_length / timing.spread.median:,.0f}",
                f"{timing.first_call:.1f} s",
                report.factor(result.ratio) if contender == result.fastest_peer else "",
            )
            for contender, timing in result.timings.items()
        ]
        title = (
            f"{name}: {result.parameters:,} parameters, {task.precision}, {task.rows} x ({task.source_length} + "
            f"{task.target_length}) tokens, vocabulary {task.vocabulary_size:,}; {chosen.rounds} turns of "
            f"{chosen.calls} steps"
        )
        console.print(report.table(header, rows, title=title))
    of_torch = figures["environment"]["pytorch"] = pytorch.environment()
    line = report.environment_line(figures["environment"])
    console.print(f"{line}, torch {of_torch['version']} on {of_torch['threads']} threads")
    report.write_json(figures, chosen.json)


def _need_pytorch() -> None:
    for module, name in (("torch", "PyTorch"), ("transformers", "Hugging Face's transformers")):
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"{name} is not installed, and this compares with it: pip install 'seq2seq_jax[peers]'.")


if __name__ == "__main__":
    report.run_script(main)
