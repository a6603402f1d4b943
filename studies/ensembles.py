"""python -m studies.ensembles: runs alone and together, and whether together is better by more than chance."""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

from seq2seq_jax.benchmark import report
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.evaluation.metrics.chrf import ChrF
from seq2seq_jax.evaluation.significance import paired_bootstrap
from seq2seq_jax.generation.methods import BeamSearch, Method
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.run.ensemble import EnsembleInference
from seq2seq_jax.run.inference import Inference

PROGRAM = "python -m studies.ensembles"
DESCRIPTION = """\
Translate a split with each RUN and with the ensemble of all, by the mean of probabilities and of log-probabilities, and
compare the ensembles with each run by paired bootstrap (sacreBLEU's).
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsemblesArguments:
    """Command line of the comparison."""

    split: str = "test"
    """Split that is translated."""
    generation: Method = BeamSearch(beam_size=5)
    """How."""
    json: str | None = None
    """File for all figures, as JSON."""


def main(arguments: list[str]) -> None:
    """Parse the command line, translate, print a table.

    Raises:
        ValueError: there are fewer than two runs, or they make no ensemble.
    """
    directories, rest = split_names(arguments)
    chosen = override(EnsemblesArguments(), rest, program=f"{PROGRAM} RUN RUN2 [RUN ...]", description=DESCRIPTION)
    if len(directories) < 2:
        raise ValueError(f"{PROGRAM} needs the directories of at least two RUNs. See {PROGRAM} --help.")
    systems: dict[str, Inference] = {name: Inference.open(name) for name in directories}
    for mean in ("probabilities", "log_probabilities"):
        systems[f"mean of {mean}"] = EnsembleInference.open_all(directories, mean=mean)
    outputs, figures, examples = {}, {}, []
    for name, run in systems.items():
        used = run.with_parts(generation=chosen.generation, metrics=(Bleu(), ChrF()), splits=[chosen.split])
        params, step = used.parameters_of_players()
        started = time.perf_counter()
        result = used.validation(chosen.split)(params)
        figures[name] = result.to_json(split=chosen.split, step=step) | {"seconds": time.perf_counter() - started}
        outputs[name] = result.outputs
        examples = list(used.data.scored(chosen.split))
    compared = {
        directory: {name: p_values(outputs, examples, directory, name) for name in systems if name not in directories}
        for directory in directories
    }
    rows = [
        [
            name,
            *(f"{figures[name][score]:.2f}" for score in ("bleu", "chrf")),
            f"{figures[name]['nll']:.4f}",
            f"{figures[name]['seconds']:.0f}",
            *itertools.chain.from_iterable(
                [f"{value:.4f}" for value in compared[directory].get(name, {}).values()] or ["", ""]
                for directory in directories
            ),
        ]
        for name in systems
    ]
    against = [
        f"p ({metric}) against {number}" for number in range(1, len(directories) + 1) for metric in ("BLEU", "chrF")
    ]
    header = ("system", "BLEU", "chrF", "nll", "seconds", *against)
    title = f"{chosen.split}, {len(examples):,} sources    {figures[directories[0]]['metrics']['bleu']['signature']}"
    report.output().print(report.table(header, rows, title=title))
    report.write_json({"systems": figures, "p_values": compared}, chosen.json)


def p_values(outputs: dict[str, Sequence[str]], examples: Sequence[Any], first: str, other: str) -> dict[str, float]:
    """How probable the difference of two systems is by chance, at most, by each metric.

    Args:
        outputs: by the system's name.
    """
    pair = {name: outputs[name] for name in (first, other)}
    return {metric.names[0]: paired_bootstrap(pair, examples, metric)[other].p_value for metric in (Bleu(), ChrF())}


if __name__ == "__main__":
    report.run_script(main)
