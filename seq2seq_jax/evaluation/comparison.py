"""Several systems on the same examples: which differ by more than chance, and where."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seq2seq_jax.evaluation.lengths import Group
from seq2seq_jax.evaluation.metric import CANDIDATES, LIKELIHOOD, Evaluated, Example, Metric, compute_scores
from seq2seq_jax.evaluation.significance import Bootstrap, paired_bootstrap, paired_bootstrap_of_means


def compare(systems: Mapping[str, Evaluated], metrics: Sequence[Metric], groups: Sequence[Group]) -> dict[str, Any]:
    """How systems compare, as JSON values.

    Args:
        systems: what is known of each on the same examples, by name; the first is what the others are compared with.
        metrics: of which those of sacreBLEU, and means over the examples, are tested, and all but those of
            probabilities are computed of groups.
        groups: of the examples.

    Returns:
        `bootstrap`: name of a score -> `signature`, and `systems`: name -> its mean, confidence and p_value, see
        `Bootstrap`. `by_source_length`: for each group its `words`, number of `examples`, and `scores`: name of a score
        -> name of a system -> value.
    """
    first = next(iter(systems.values()))
    bootstrap = {}
    of_texts = [metric for metric in metrics if not {LIKELIHOOD, CANDIDATES} & metric.needs]
    outputs = {name: evaluated.outputs for name, evaluated in systems.items()}
    for metric in of_texts:
        for score, found in _tested(outputs, first.examples, metric).items():
            values = {name: dataclasses.asdict(each) for name, each in found.items()}
            [signature] = {each.pop("signature") for each in values.values()}
            bootstrap[score] = {"signature": signature, "systems": values}
    return {"bootstrap": bootstrap, "by_source_length": [_of_group(group, systems, of_texts) for group in groups]}


def _tested(
    outputs: Mapping[str, Sequence[str]], examples: Sequence[Example], metric: Metric
) -> dict[str, dict[str, Bootstrap]]:
    """Name of a score -> name of a system -> what the bootstrap says of it."""
    found = paired_bootstrap(outputs, examples, metric)
    if found is not None:
        return {metric.names[0]: found}
    of_examples = {name: metric.of_examples(texts, examples) for name, texts in outputs.items()}
    if None in of_examples.values():
        return {}
    signature = metric.corpus(next(iter(outputs.values())), examples)[metric.names[0]].signature
    return {
        score: paired_bootstrap_of_means(
            {name: values[score] for name, values in of_examples.items()}, signature=signature
        )
        for score in metric.names
    }


def _of_group(group: Group, systems: Mapping[str, Evaluated], metrics: Sequence[Metric]) -> dict[str, Any]:
    found = {name: compute_scores(metrics, evaluated.part(group.members)) for name, evaluated in systems.items()}
    names = [name for metric in metrics for name in metric.names]
    scores = {name: {system: of_system[name].value for system, of_system in found.items()} for name in names}
    return {"words": group.name, "examples": len(group.members), "scores": scores}
