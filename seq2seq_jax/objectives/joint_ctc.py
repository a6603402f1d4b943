"""Joint CTC and attention: the encoder's states by themselves spell the target, too, or alone."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seq2seq_jax.batch import Batch, Memory
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.ctc import ctc_losses, greedy_edits
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihood, MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Params, WeightedSum


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointCtcConfig(MaximumLikelihoodConfig):
    """Config of joint CTC and attention; needs model.ctc.

    Attention that is trained alone finds no alignment in long sources of frames; CTC, which has none but monotone ones,
    shows it the way.
    """

    ctc_weight: float = 0.3
    """Weight w of CTC: the loss is (1 - w) times maximum likelihood plus w times that of CTC, both in nats per target
    token, EOS tokens included. With 1 the decoder is not trained."""

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 < self.ctc_weight <= 1.0:
            raise ValueError(
                f"objective.ctc_weight must lie in (0, 1], not {self.ctc_weight}: without CTC, objective is "
                "maximum_likelihood."
            )
        if self.r_drop_weight > 0.0:
            raise ValueError("objective.r_drop_weight is not supported with CTC: set it to 0.")

    def check(self, model: ModelConfig, *, accumulation: int) -> None:
        """See ObjectiveConfig.check."""
        super().check(model, accumulation=accumulation)
        if not model.ctc:
            raise ValueError("objective joint_ctc needs scores of the encoder's states: set model.ctc to True.")

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "JointCtc":
        """The objective for a model; it does not need the tokenizer."""
        return JointCtc(self, model)


class JointCtc(MaximumLikelihood):
    """The objective. Its loss is a mean over target tokens, EOS tokens included, of the global batch.

    Source: Watanabe et al. 2017, equation 13.
    """

    config: JointCtcConfig

    def with_memory(
        self,
        loss: Float[Array, ""],
        logged: dict[str, WeightedSum],
        variables: dict[str, Params],
        batch: Batch,
        memory: Memory,
    ) -> tuple[Float[Array, ""], dict[str, WeightedSum]]:
        """See MaximumLikelihood.with_memory.

        Logs `ctc`, the negative log-likelihood by CTC (nats per target token), `ctc_token_error_rate`, the edits per
        token from the targets to the texts of greedy paths, and `ctc_without_path`, the fraction of the targets that
        are left out of it because their sources have too few positions.
        """
        target, blank = batch.target, self.model.vocabulary.pad_id
        scores = self.model.apply(variables, memory, method="ctc_scores")
        losses, has_no_path = ctc_losses(jax.nn.log_softmax(scores), memory.segment_ids, target, blank=blank)
        total = jnp.sum(losses)
        edits, tokens = greedy_edits(jax.lax.stop_gradient(scores), memory.segment_ids, target, blank=blank)
        weight = self.config.ctc_weight
        return (1.0 - weight) * loss + weight * total, logged | {
            "ctc": WeightedSum(total, jnp.sum(target.mask).astype(jnp.float32)),
            "ctc_token_error_rate": WeightedSum(edits, tokens),
            "ctc_without_path": WeightedSum(
                jnp.sum(has_no_path).astype(jnp.float32),
                jnp.sum(target.mask & (target.positions == 0)).astype(jnp.float32),
            ),
        }
