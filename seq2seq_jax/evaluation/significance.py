"""Whether systems differ by more than chance on a set of examples: paired bootstrap, as sacreBLEU does it."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from seq2seq_jax.evaluation.metric import Example, Metric, reference_streams, references_of

RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """A score of one system over resamples of the examples, percent."""

    score: float
    """Of the examples themselves."""
    mean: float
    """Of the resamples."""
    confidence: float
    """Half the width of the interval that 95% of the resamples lie in."""
    p_value: float | None
    """Probability, at most, of a difference from the first system as large as the one found, were there none; 1 for
    the same outputs; None = this is the first system."""
    signature: str
    """The metric's, with the number of resamples and the seed."""


def paired_bootstrap(
    systems: Mapping[str, Sequence[str]], examples: Sequence[Example], metric: Metric
) -> dict[str, Bootstrap] | None:
    """The first score of each system with its confidence, and how it compares with the first system; None for a metric
    that is not sacreBLEU's.

    The same resamples serve all systems, and their seed is that of SACREBLEU_SEED, 12345 unless set.

    Args:
        systems: outputs by name, in the order of the examples; two at least.

    Source: Koehn 2004, "Statistical significance tests for machine translation evaluation"; sacreBLEU's PairedTest.
    """
    from sacrebleu.significance import PairedTest

    library = metric.sacrebleu(examples)
    if library is None:
        return None
    [references, *_] = [references_of(outputs, examples) for outputs in systems.values()]
    test = PairedTest(
        [(name, list(outputs)) for name, outputs in systems.items()],
        {metric.names[0]: library},
        reference_streams(references),
        test_type="bs",
        n_samples=RESAMPLES,
    )
    signatures, found = test()
    # It has its own name for the metric.
    [(name, signature)] = signatures.items()
    first = next(iter(systems.values()))
    return {
        system: Bootstrap(
            score=float(result.score),
            mean=float(result.mean),
            confidence=float(result.ci),
            # It calls no difference at all the least probable one.
            p_value=None if result.p_value is None else 1.0 if list(outputs) == list(first) else float(result.p_value),
            signature=str(signature),
        )
        for (system, outputs), result in zip(systems.items(), found[name], strict=True)
    }


def paired_bootstrap_of_means(systems: Mapping[str, Sequence[float]], *, signature: str) -> dict[str, Bootstrap]:
    """What `paired_bootstrap` gives, for a score that is the mean of values of the examples.

    Args:
        systems: the value of each example by the name of the system, the same examples in the same order.
        signature: of the metric.
    """
    seed = int(os.environ.get("SACREBLEU_SEED", "12345"))
    values = {system: np.asarray(of_examples, np.float64) for system, of_examples in systems.items()}
    first = next(iter(values.values()))
    chosen = np.random.default_rng(seed).choice(len(first), size=(RESAMPLES, len(first)), replace=True)
    means = {system: of_examples[chosen].mean(axis=1) for system, of_examples in values.items()}
    of_first = next(iter(means.values()))

    def p_value(system: str) -> float:
        if np.array_equal(values[system], first):
            return 1.0
        differences = np.abs(means[system] - of_first)
        found = abs(values[system].mean() - first.mean())
        return (np.sum(differences - differences.mean() > found).item() + 1) / (RESAMPLES + 1)

    def confidence(resampled: np.ndarray) -> float:
        ordered, outside = np.sort(resampled), RESAMPLES // 40
        return float(0.5 * (ordered[-outside - 1] - ordered[outside]))

    return {
        system: Bootstrap(
            score=float(values[system].mean()),
            mean=float(resampled.mean()),
            confidence=confidence(resampled),
            p_value=None if index == 0 else p_value(system),
            signature=f"{signature}|bs:{RESAMPLES}|rs:{seed}",
        )
        for index, (system, resampled) in enumerate(means.items())
    }
