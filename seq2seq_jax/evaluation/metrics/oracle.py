"""How probable an oracle finds the outputs: the quality of texts where the truth is a known language model."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from seq2seq_jax.evaluation.metric import OUTPUTS, Example, Metric, Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class OracleLikelihood(Metric):
    """Negative log-likelihood of outputs under an oracle, nats per token (NLL_oracle), of their first `length` tokens;
    how many outputs have as many tokens of the oracle, percent, which are those that count; and the distinct ones among
    all pairs of adjacent tokens, percent. NLL_oracle is low for texts that are good, however few different ones there
    are: compare at equal diversity, or at equal likelihood of held-out texts.

    Source: Yu et al. 2017 (SeqGAN), equation 9.
    """

    name: ClassVar[str] = "oracle"
    needs: ClassVar[frozenset[str]] = frozenset({OUTPUTS})

    path: str | None = None
    """File of the oracle's arrays (.npz); None = the one of a seed."""
    seed: int = 0
    """Of an oracle without a file."""
    num_tokens: int = 5_000
    """Tokens of the oracle."""
    length: int = 20
    """Tokens of a text; what an output has beyond them, since it did not end in time, is left out."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("oracle_nll", "oracle_valid", "oracle_distinct_2")

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> dict[str, Score]:
        """See Metric.corpus.

        Raises:
            ValueError: the oracle cannot be read.
        """
        import numpy as np

        from seq2seq_jax.evaluation.oracle import as_tokens, oracle_of

        oracle = oracle_of(self.path, self.seed, self.num_tokens)
        read = [as_tokens(text, num_tokens=self.num_tokens, most=self.length) for text in outputs]
        texts = [text for text in read if text is not None and len(text) == self.length]
        # An early model may write nothing that the oracle can read.
        nll, distinct = float(np.log(self.num_tokens)), 0.0
        if texts:
            tokens = np.array(texts)
            nll = float(oracle.negative_log_likelihoods(tokens).mean())
            pairs = (tokens[:, :-1] * self.num_tokens + tokens[:, 1:]).ravel()
            distinct = len(np.unique(pairs)) / max(len(pairs), 1)
        values = {
            "oracle_nll": (nll, "nats per token", False, "NLL of the oracle"),
            "oracle_valid": (
                100.0 * len(texts) / max(len(outputs), 1),
                "percent",
                True,
                "texts of the oracle's tokens",
            ),
            "oracle_distinct_2": (100.0 * distinct, "percent", True, "distinct-2"),
        }
        signature = f"oracle:{oracle.fingerprint[:8]}|texts:{len(texts)}|length:{self.length}"
        note = "" if texts else "no output is a text of the oracle's tokens, so that it is that of a uniform choice"
        return {
            name: Score(
                value=value,
                unit=unit,
                higher_is_better=higher_is_better,
                signature=signature,
                label=label,
                note=note if name == "oracle_nll" else "",
            )
            for name, (value, unit, higher_is_better, label) in values.items()
        }
