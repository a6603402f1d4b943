"""Beam search."""

import dataclasses
from typing import TYPE_CHECKING

from seq2seq_jax.generation.methods.beams import Beams

if TYPE_CHECKING:
    from seq2seq_jax.generation.context import GenerationContext, GenerationResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSearch(Beams):
    """Beam search: approximately the most probable texts."""

    sibling_penalty: float = 0.0
    """Taken from a continuation, when continuations are chosen, for every more probable one of the same hypothesis, so
    that n-best lists differ in more than their last words; 0 = none."""

    ctc_weight: float = 0.0
    """Weight w of CTC, with model.ctc: scores are (1 - w) times the decoder's log-probability plus w times that of CTC,
    which neither repeats nor leaves out parts of a source; 0 = the decoder alone."""

    def __post_init__(self):
        super().__post_init__()
        self._check_amounts("sibling_penalty")
        if not 0.0 <= self.ctc_weight < 1.0:
            raise ValueError(
                f"ctc_weight must lie in [0, 1), got {self.ctc_weight}: of CTC alone, choose --generation "
                "ctc_beam_search"
            )
        if self.ctc_weight and self.controls.coverage_penalty:
            raise ValueError("controls.coverage_penalty is not supported with ctc_weight: leave out either")

    @property
    def needs_ctc(self) -> bool:
        return self.ctc_weight > 0.0

    def check_phrases(self) -> None:
        if self.beam_size == 1 or self.sibling_penalty:
            name = "beam_size = 1" if self.beam_size == 1 else f"sibling_penalty = {self.sibling_penalty}"
            raise ValueError(
                f"phrases need a beam of 2 hypotheses or more without a sibling penalty, and generation.{name}: set "
                "beam_size to 2 or more and sibling_penalty to 0, or leave the phrases out"
            )

    def generate(self, context: "GenerationContext") -> "GenerationResult":
        from seq2seq_jax.generation.search import beam_search

        return beam_search(
            context,
            beam_size=self.beam_size,
            n_best=self.n_best,
            length_penalty=self.length_penalty,
            sibling_penalty=self.sibling_penalty,
            max_compactions=self.max_compactions,
        )
