"""Whether systems differ by more than chance on a set of examples: paired bootstrap, by sacreBLEU."""

import dataclasses
from collections.abc import Mapping, Sequence

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
    """sacreBLEU's, with the number of resamples and the seed."""


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
