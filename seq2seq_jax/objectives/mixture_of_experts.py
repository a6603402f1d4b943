"""A mixture of experts that share all parameters but their start token: by training, a source has several outputs."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch, shift_right
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.modules.flops import Amount
from seq2seq_jax.modules.segments import lengths_of_segments, sum_of_segments
from seq2seq_jax.objectives.maximum_likelihood import (
    Copied,
    MaximumLikelihood,
    MaximumLikelihoodConfig,
    negative_log_likelihoods,
)
from seq2seq_jax.objectives.objective import Params, WeightedSum

DOMINANT_FRACTION = 0.95
"""Fraction of the pairs above which one expert has taken them all."""

IDLE_FRACTION = 0.01
"""Fraction of the pairs below which an expert has been left without any."""

PATIENCE = 5
"""Records in a row after which a warning reports either."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureOfExpertsConfig(MaximumLikelihoodConfig):
    """Config of a mixture of model.num_experts experts.

    Each step gives every pair to the expert under which its target is most probable, without dropout, and maximises the
    likelihood of that expert. With one expert this is maximum likelihood.
    """

    trains_experts: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        for field, without in (("sampling_schedule", "none"), ("r_drop_weight", 0.0)):
            if (value := getattr(self, field)) != without:
                raise ValueError(
                    f"objective.{field} = {value} is not supported with a mixture of experts. Set it to {without}."
                )
        if self.perturbation.is_on:
            raise ValueError(
                f"objective.perturbation {type(self.perturbation).__name__} is not supported with a mixture of "
                "experts. Set it to unperturbed."
            )

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "MixtureOfExperts":
        """The objective for a model; it does not need the tokenizer."""
        return MixtureOfExperts(self, model)


class MixtureOfExperts(MaximumLikelihood):
    """The objective. Hard expectation-maximisation of p(y | x) = 1/K Σ_z p(y | z, x), online.

    The E step is argmax_z p(y | z, x) for each pair, the same for all of its tokens, with a uniform prior, without
    dropout and without a gradient; the M step is the loss of maximum likelihood of that expert, with dropout. In
    evaluation, too, `loss` is that of the best expert of each pair. `nll` is that of the mixture, which can be compared
    with that of a model without experts.

    Source: Shen et al. 2019, section 3 (hMoEup: hard, online responsibilities, uniform prior, shared parameters).
    """

    def __init__(self, config: MixtureOfExpertsConfig, model: EncoderDecoder):
        super().__init__(config, model)
        self.num_experts = model.config.num_experts
        self._one_sided_records = 0

    def losses_by_expert(self, params: Params, batch: Batch) -> Float[Array, "batch segments experts"]:
        """Negative log-likelihood (nats) of each target under each expert, without dropout; of segment s at index
        s - 1, and 0 where there is none.
        """
        apply = functools.partial(self.model.apply, {"params": params})
        memory = apply(batch.source, deterministic=True, method="encode")
        table = apply(method="output_table")
        target = batch.target

        def of_expert(expert):
            first = self.model.vocabulary.start_ids(expert)
            inputs = shift_right(target, first[None, None]).tokens
            hidden = apply(target, memory, deterministic=True, inputs=inputs, method="decode")
            copied = None
            if self.model.config.copying:
                pointed = apply(hidden, target.segment_ids, memory, method="point")
                copied = Copied.of(pointed, target.tokens, memory)
            return negative_log_likelihoods(
                self.config, self.model.config.scoring, table, copied, hidden, target.tokens
            )

        # One after the other, so that no more than one pass's activations exist at once.
        losses = jax.lax.map(of_expert, jnp.arange(self.num_experts))
        return sum_of_segments(jnp.moveaxis(losses, 0, -1), target.mask, target.segment_ids)

    def _inputs(self, variables, batch, memory, step, rng):
        """The labels after the start token of the expert that each pair is given to, and metrics to log."""
        if self.num_experts == 1:
            return None, {}
        target = batch.target
        losses = self.losses_by_expert(jax.lax.stop_gradient(variables["params"]), batch)
        chosen = jnp.argmin(losses, axis=-1)
        # At padding, which reads no expert, that of the first segment.
        experts = jnp.take_along_axis(chosen, jnp.maximum(target.segment_ids - 1, 0), axis=1)
        inputs = shift_right(target, self.model.vocabulary.start_ids(experts)).tokens
        is_pair = lengths_of_segments(target.segment_ids, segments=chosen.shape[1]) > 0
        return inputs, self._metrics(losses, chosen, is_pair, jnp.sum(target.mask).astype(jnp.float32))

    def _metrics(
        self,
        losses: Float[Array, "batch segments experts"],
        chosen: Int[Array, "batch segments"],
        is_pair: Bool[Array, "batch segments"],
        num_tokens: Float[Array, ""],
    ) -> dict[str, WeightedSum]:
        """`nll` of the mixture (nats per token, without dropout), the fraction of the pairs that each expert is given,
        and the entropy of p(z | x, y), at most log K (nats per pair): 0 = experts differ on every pair.
        """
        num_pairs = jnp.sum(is_pair).astype(jnp.float32)
        posterior = jax.nn.log_softmax(-losses, axis=-1)
        entropies = -jnp.sum(jnp.exp(posterior) * posterior, axis=-1)
        mixture = jnp.log(float(self.num_experts)) - jax.nn.logsumexp(-losses, axis=-1)
        logged = {
            "nll": WeightedSum(jnp.sum(mixture, where=is_pair), num_tokens),
            "responsibility_entropy": WeightedSum(jnp.sum(entropies, where=is_pair), num_pairs),
        }
        for expert in range(self.num_experts):
            count = jnp.sum((chosen == expert) & is_pair).astype(jnp.float32)
            logged[_fraction_of(expert)] = WeightedSum(count, num_pairs)
        return logged

    def pair_flops(self, source: Amount, target: Amount) -> Amount:
        """Model FLOPs of a step on a pair of these lengths (tokens): the E step encodes the source once, and is a
        forward pass of the decoder for each expert.
        """
        training = super().pair_flops(source, target)
        if self.num_experts == 1:
            return training
        config = self.model.config
        return training + config.forward_flops(
            source, target, vocabulary=self.model.vocabulary, hypotheses=self.num_experts
        )

    def warnings(self, figures: dict[str, Any]) -> dict[str, str]:
        """See Objective.warnings: warns if one expert has been given all pairs, or another none, for some records."""
        fractions = [figures.get(_fraction_of(expert)) for expert in range(self.num_experts)]
        if None in fractions:
            return {}
        one_sided = max(fractions) > DOMINANT_FRACTION or min(fractions) < IDLE_FRACTION
        self._one_sided_records = self._one_sided_records + 1 if one_sided else 0
        if self._one_sided_records < PATIENCE:
            return {}
        shares = ", ".join(f"{fraction:.1%}" for fraction in fractions)
        return {
            "experts": (
                f"the experts do not share the pairs: for {PATIENCE} records one of them was given nearly all, or "
                f"another nearly none, now {shares}. An expert without pairs learns nothing. Lower "
                "model.num_experts or optimizer.learning_rate, or start with another training.seed."
            )
        }


def _fraction_of(expert: int) -> str:
    """Name of the metric."""
    return f"expert_{expert}_fraction"
