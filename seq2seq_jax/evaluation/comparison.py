"""Several systems on the same examples: which differ by more than chance, and where."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seq2seq_jax.evaluation.lengths import Group
from seq2seq_jax.evaluation.metric import CANDIDATES, LIKELIHOOD, Evaluated, Metric, compute_scores
from seq2seq_jax.evaluation.significance import paired_bootstrap


def compare(systems: Mapping[str, Evaluated], metrics: Sequence[Metric], groups: Sequence[Group]) -> dict[str, Any]:
    """How systems compare, as JSON values.

    Args:
        systems: what is known of each on the same examples, by name; the first is what the others are compared with.
        metrics: of which those of sacreBLEU are tested, and all but those of probabilities are computed of groups.
        groups: of the examples.

    Returns:
        `bootstrap`: name of a score -> `signature`, and `systems`: name -> its mean, confidence and p_value, see
        `Bootstrap`. `by_source_length`: for each group its `words`, number of `examples`, and `scores`: name of a score
        -> name of a system -> value.
    """
    first = next(iter(systems.values()))
    bootstrap = {}
    of_texts = [metric for metric in metrics if not {LIKELIHOOD, CANDIDATES} & metric.needs]
    for metric in of_texts:
        outputs = {name: evaluated.outputs for name, evaluated in systems.items()}
        found = paired_bootstrap(outputs, first.examples, metric)
        if found is not None:
            values = {name: dataclasses.asdict(each) for name, each in found.items()}
            [signature] = {each.pop("signature") for each in values.values()}
            bootstrap[metric.names[0]] = {"signature": signature, "systems": values}
    return {"bootstrap": bootstrap, "by_source_length": [_of_group(group, systems, of_texts) for group in groups]}


def _of_group(group: Group, systems: Mapping[str, Evaluated], metrics: Sequence[Metric]) -> dict[str, Any]:
    found = {name: compute_scores(metrics, evaluated.part(group.members)) for name, evaluated in systems.items()}
    names = [name for metric in metrics for name in metric.names]
    scores = {name: {system: of_system[name].value for system, of_system in found.items()} for name in names}
    return {"words": group.name, "examples": len(group.members), "scores": scores}
