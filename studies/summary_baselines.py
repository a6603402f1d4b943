"""python -m studies.summary_baselines: what needs no training scores as a summary, and what people do."""

import re
from collections.abc import Mapping, Sequence

from seq2seq_jax.benchmark import report
from seq2seq_jax.commands.options import parse
from seq2seq_jax.evaluation.metric import Evaluated, Example, Score, compute_scores, references
from seq2seq_jax.evaluation.metrics.rouge import Rouge
from seq2seq_jax.evaluation.metrics.summary import SummaryStatistics
from seq2seq_jax.run.data import RunData

PROGRAM = "python -m studies.summary_baselines"
SPLIT = "validation"
WORDS = 8


def first_sentence(text: str) -> str:
    """Up to the first full stop, exclamation or question mark before white space."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


def first_words(text: str) -> str:
    """The first words between white space."""
    return " ".join(text.split()[:WORDS])


def summaries(examples: Sequence[Example]) -> dict[str, list[str]]:
    """Summaries of all examples by what they are: parts of the source, and where examples have as many further
    references each, these.
    """
    found = {
        "first sentence": [first_sentence(example["source"]) for example in examples],
        f"first {WORDS} words": [first_words(example["source"]) for example in examples],
    }
    further = [references(example)[1:] for example in examples]
    for index in range(min(map(len, further))):
        found[f"reference {index + 2}"] = [each[index] for each in further]
    return found


def scores_of(outputs: Sequence[str], examples: Sequence[Example]) -> Mapping[str, Score]:
    """ROUGE and the statistics of summaries against the first reference alone."""
    alone = [{**example, "target": references(example)[0]} for example in examples]
    return compute_scores((Rouge(), SummaryStatistics()), Evaluated(outputs, alone))


def main(arguments: list[str]) -> None:
    """Score them on the validation split of a CONFIG of summaries, and print a table.

    Raises:
        ValueError: there is no such config, or its data has no such split.
    """
    experiment = parse("train", arguments).arguments.experiment
    examples = list(RunData(experiment.data, experiment.task, splits=(SPLIT,)).scored(SPLIT))
    found = {name: scores_of(outputs, examples) for name, outputs in summaries(examples).items()}
    scores = next(iter(found.values()))
    rows = [(score.label, *(f"{each[name].value:.2f}" for each in found.values())) for name, score in scores.items()]
    title = f"{len(examples):,} examples of {SPLIT}, against one reference    {scores['rouge1'].signature}"
    report.output().print(report.table(("", *found), rows, title=title))


if __name__ == "__main__":
    report.run_script(main)
