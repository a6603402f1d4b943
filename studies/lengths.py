"""python -m studies.lengths: how the scores of runs depend on the length of the source."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from seq2seq_jax.benchmark import report
from seq2seq_jax.evaluation.lengths import Group, by_length
from seq2seq_jax.evaluation.metrics.bleu import Bleu
from seq2seq_jax.overrides import override, split_names
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.training.step import num_parameters

PROGRAM = "python -m studies.lengths"
DESCRIPTION = """\
Translate a split with the best checkpoint of each RUN, and score sentences of like source length together. All runs
must have the same text.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthsArguments:
    """Command line of the scores by source length."""

    split: str = "test"
    """Split that is translated."""
    bounds: tuple[int, ...] = (8, 12, 16)
    """Most words (between blanks) of a source of each group; a last group has all that are longer."""
    plot: str | None = None
    """File for the picture, PNG."""
    json: str | None = None
    """File for all measurements, as JSON."""


def length_plot(groups: Sequence[Group], scores: dict[str, list[float]]) -> Figure:
    """BLEU of each run over the groups.

    Args:
        scores: by the run's name, one a group.
    """
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    places = range(len(groups))
    for (name, values), marker in zip(scores.items(), itertools.cycle("osD^vP*X")):
        axes.plot(places, values, marker=marker, label=name)
    axes.set_xticks(places, [f"{group.name}\n({len(group.members)} sentences)" for group in groups])
    axes.set_xlabel("words of the source")
    axes.set_ylabel("BLEU (percent)")
    axes.yaxis.set_major_locator(MultipleLocator(5))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def main(arguments: list[str]) -> None:
    """Parse the command line, translate, print a table.

    Raises:
        ValueError: a directory is not that of a run, the runs differ in their text, or a value does not fit.
    """
    directories, rest = split_names(arguments)
    chosen = override(LengthsArguments(), rest, program=f"{PROGRAM} RUN [RUN ...]", description=DESCRIPTION)
    if not directories:
        raise ValueError(f"{PROGRAM} needs the directory of at least one RUN. See {PROGRAM} --help.")
    figures, scores, texts = [], {}, None
    for directory in directories:
        run = Inference.open(directory)
        splits = run.data.corpus.splits
        if chosen.split not in splits:
            raise ValueError(f"{directory} has no split {chosen.split!r}; it has {', '.join(sorted(splits))}.")
        if not run.experiment.task.generates:
            raise ValueError(f"{directory} was trained on documents, which have no references. Give runs on pairs.")
        pairs = list(run.data.corpus.read(chosen.split, ("source", "target")))
        if texts is not None and pairs != texts:
            raise ValueError(f"the split {chosen.split} of {directory} is not that of {directories[0]}.")
        texts, (sources, references) = pairs, zip(*pairs, strict=True)
        groups = by_length(sources, chosen.bounds)
        params, step = run.parameters()
        outputs = [best[0].text for best in run.system.generator.generate(params, list(sources))]

        def bleu(members, outputs=outputs, references=references):
            examples = [{"target": references[index]} for index in members]
            return Bleu().corpus([outputs[index] for index in members], examples)["bleu"]

        everything = bleu(range(len(pairs)))
        name = Path(directory).name
        scores[name] = [bleu(group.members).value for group in groups]
        figures.append(
            {
                "run": name,
                "parameters": num_parameters(params),
                "step": step,
                "bleu": everything.value,
                "signature": everything.signature,
                "bleu_by_length": dict(zip((group.name for group in groups), scores[name], strict=True)),
            }
        )
    rows = [
        [
            each["run"],
            f"{each['parameters'] / 1e6:.2f}M",
            *(f"{value:.2f}" for value in each["bleu_by_length"].values()),
            f"{each['bleu']:.2f}",
        ]
        for each in figures
    ]
    header = ("run", "parameters", *(f"{group.name} words ({len(group.members)})" for group in groups), "all")
    title = f"BLEU of {chosen.split} by words of the source    {figures[0]['signature']}"
    report.output().print(report.table(header, rows, title=title))
    report.write_json(figures, chosen.json)
    if chosen.plot is not None:
        length_plot(groups, scores).savefig(chosen.plot)


if __name__ == "__main__":
    report.run_script(main)
