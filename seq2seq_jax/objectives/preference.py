"""Preference optimisation: of two texts of a source the better one becomes more probable, without a reward model.

The pairs are made anew in every step, within the compiled program: the best and the worst of the samples of a source by
the metrics of the device (DPO, CPO), or the reference and a sample of an earlier model (self-play, SPIN).
"""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.sampling import Samples
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.modules.flops import TRAINING
from seq2seq_jax.objectives.estimators import LeaveOneOut, Reinforce
from seq2seq_jax.objectives.maximum_likelihood import MODEL
from seq2seq_jax.objectives.objective import Logged, Params, Prepared, Turn, WeightedSum, Work
from seq2seq_jax.objectives.policy_gradient import (
    Lengths,
    PolicyGradient,
    PolicyGradientConfig,
    RewardFunction,
    has_source,
)
from seq2seq_jax.objectives.sampled_texts import SampledTextsConfig
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.reward import RewardConfig
from seq2seq_jax.rewards.sizes import pad_to
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig(SampledTextsConfig):
    """Config of preference optimisation, normalised per source.

    With y⁺ the preferred text, y⁻ the other one and β `beta`, the loss of a pair is

    - "dpo": -log σ(β (log π(y⁺) - log ρ(y⁺)) - β (log π(y⁻) - log ρ(y⁻))), with a frozen reference model ρ;
    - "cpo": -log σ(β log π(y⁺) - β log π(y⁻)), which needs none.

    Added are likelihood_weight times -log π(y⁺), as in CPO, and reference_weight times that of the reference text. A
    source whose texts are equally good has no pair.

    Source: Rafailov et al. 2023, equation 7 (DPO); Xu et al. 2024, equation 5 (CPO); Chen et al. 2024, equation 4.7
    (SPIN).
    """

    pairs: Literal["scored", "self_play"] = "scored"
    """What is compared: the best with the worst sample by `reward`; or the reference with a sample of the reference
    model, the generator of reference_steps before."""
    loss: Literal["dpo", "cpo"] = "dpo"
    """Loss of a pair; self-play has that of DPO."""
    reward: RewardConfig | None = RewardConfig(bleu=1.0)
    """Metrics that judge samples; logged with self-play, too, unless None."""
    margin: float = 0.0
    """Difference of rewards that a pair needs, more than this."""
    beta: float = 0.1
    """β, the inverse temperature of preferences: how far the policy may leave the reference model."""
    reference_steps: int | None = None
    """Steps after which the reference model becomes a copy of the generator; None = it stays the initial one."""
    samples_per_source: int = 4
    """Samples drawn for each source."""
    temperature: float = 1.0
    """Temperature of the samples."""
    likelihood_weight: float = 0.0
    """Weight of the negative log-likelihood of the preferred text."""
    reference_weight: float = 0.0
    """Weight of the negative log-likelihood of the reference text."""

    def __post_init__(self):
        check_values(self, "objective")
        least = 1 if self.pairs == "self_play" else 2
        if self.samples_per_source < least:
            raise ValueError(
                f"objective.samples_per_source must be at least {least} with pairs = {self.pairs}, not "
                f"{self.samples_per_source}."
            )
        if self.beta <= 0.0 or self.temperature <= 0.0:
            raise ValueError(
                f"objective.beta and objective.temperature must be positive, and are {self.beta} and "
                f"{self.temperature}."
            )
        for name in ("margin", "likelihood_weight", "reference_weight"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"objective.{name} must not be negative, and is {getattr(self, name)}.")
        if self.pairs == "scored" and self.reward is None:
            raise ValueError("objective.pairs = scored needs a judge, and objective.reward is None: name metrics.")
        if self.pairs == "self_play" and self.loss != "dpo":
            raise ValueError(
                "objective.pairs = self_play has the loss of DPO, with a reference model: set loss to dpo."
            )
        if self.loss == "cpo" and self.reference_steps is not None:
            raise ValueError(
                "objective.reference_steps has no effect with loss = cpo, which has no reference model: leave it None."
            )
        if self.reference_steps is not None and self.reference_steps < 1:
            raise ValueError(f"objective.reference_steps must be at least 1 or None, not {self.reference_steps}.")
        self.check_sampling()

    def sampling(self) -> PolicyGradientConfig:
        """Policy gradients that draw samples in the same way."""
        number = self.samples_per_source
        return PolicyGradientConfig(
            estimator=LeaveOneOut() if number > 1 else Reinforce(baseline="none", baseline_decay=None),
            samples_per_source=number,
            temperature=self.temperature,
            **self.sampling_fields,
            **({} if self.reward is None else {"reward": self.reward}),
        )

    @property
    def foreign_code(self) -> str | None:
        """See ObjectiveConfig.foreign_code: a reward in Python."""
        return None if self.reward is None else self.reward.function

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "Preference":
        """The objective for a model.

        Raises:
            ValueError: the metrics cannot be computed with the tokenizer.
        """
        return Preference(self, model, None if self.reward is None else self.reward.build(tokenizer))


@flax.struct.dataclass
class Pairs:
    """Two texts of each source, the preferred one first. The first dim of all leaves is the batch.

    Attributes:
        batch: sources and references, one per row.
        tokens: token ids.
        mask: True at tokens of a text, False at padding.
        reference_log_probabilities: of the texts under the reference model; None = there is none.
        is_pair: whether one of them is better.
        difference: of their rewards; 0 with self-play.
        rewards: of all samples; 0 without metrics.
        sample_length: mean over the samples of a source (tokens).
        ended: fraction of the samples that end in the EOS token.
        surprise: mean negative log-probability per token of the samples, an estimate of the policy's entropy.
    """

    batch: Batch
    tokens: Int[Array, "batch 2 length"]
    mask: Bool[Array, "batch 2 length"]
    reference_log_probabilities: Float[Array, "batch 2"] | None
    is_pair: Bool[Array, "batch"]
    difference: Float[Array, "batch"]
    rewards: Float[Array, "batch samples"]
    sample_length: Float[Array, "batch"]
    ended: Float[Array, "batch"]
    surprise: Float[Array, "batch"]


class Preference(PolicyGradient):
    """The objective. Samples are drawn as for policy gradients, and what is learned from them is which of two is
    better.
    """

    against_collapse: ClassVar[str] = "raise objective.beta or reference_weight"
    against_endless_texts: ClassVar[str] = "set objective.reference_weight"

    def __init__(self, config: PreferenceConfig, model: EncoderDecoder, reward: RewardFunction | None):
        super().__init__(config.sampling(), model, reward)
        self.preference = config

    @property
    def turns(self) -> tuple[str, ...]:
        """The model's, once."""
        return (MODEL,)

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference model."""
        return self.preference.loss == "dpo"

    def initial_state(self, params: dict[str, Params]) -> dict[str, Any]:
        """The reference model."""
        return {"reference": jax.tree.map(jnp.copy, params[MODEL])} if self.has_reference else {}

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Prepared, Any]:
        """The pairs of every source. See Objective.prepare."""
        config = self.preference
        if config.reference_steps is not None:
            is_due = (step % config.reference_steps == 0) & (step > 0)
            state = {
                "reference": jax.tree.map(
                    lambda old, new: jnp.where(is_due, new, old), state["reference"], params[MODEL]
                )
            }
        player = state["reference"] if config.pairs == "self_play" else params[MODEL]
        memory = self._apply(player, batch.source, deterministic=True, method="encode")
        drawn = self.draw(player, memory, batch.source, rng=rng)
        rewards = jnp.zeros(drawn.lengths.shape)
        if self.reward is not None:
            rewards = self.reward(drawn.tokens, RewardExample.of(batch))[0]
        return Prepared(rows=self.pairs(state, batch, drawn, rewards)), state

    def pairs(self, state: Any, batch: Batch, drawn: Samples, rewards: Float[Array, "batch samples"]) -> Pairs:
        """What is compared, of samples with their rewards."""
        pad_id = self.model.vocabulary.pad_id
        if self.preference.pairs == "self_play":
            room = max(drawn.tokens.shape[2], batch.target.tokens.shape[1])
            texts = (
                (jnp.where(batch.target.mask, batch.target.tokens, pad_id), batch.target.mask),
                (
                    drawn.tokens[:, 0],
                    drawn.mask[:, 0],
                ),
            )
            tokens = jnp.stack([pad_to(each, room, pad_id) for each, _ in texts], axis=1)
            mask = jnp.stack([pad_to(each, room, False) for _, each in texts], axis=1)
            # A sample that is the reference says nothing.
            is_pair, difference = jnp.any(tokens[:, 0] != tokens[:, 1], axis=1), jnp.zeros(len(tokens))
        else:
            places = jnp.stack([jnp.argmax(rewards, axis=1), jnp.argmin(rewards, axis=1)], axis=1)
            tokens, mask = (
                jnp.take_along_axis(each, places[:, :, None], axis=1) for each in (drawn.tokens, drawn.mask)
            )
            difference = jnp.max(rewards, axis=1) - jnp.min(rewards, axis=1)
            is_pair = difference > self.preference.margin
        of_reference = None
        if self.has_reference:
            frozen = state["reference"]
            memory = self._apply(frozen, batch.source, deterministic=True, method="encode")
            hidden = self._decode(frozen, memory, tokens, mask, dropout=None)
            scores = self._scores(frozen, hidden, tokens, mask, memory)[0]
            of_reference = jnp.sum(jnp.where(mask, scores, 0.0), axis=-1)
        lengths = jnp.sum(drawn.lengths, axis=1)
        return Pairs(
            batch=batch,
            tokens=tokens,
            mask=mask,
            reference_log_probabilities=of_reference,
            is_pair=is_pair & has_source(batch),
            difference=difference,
            rewards=rewards,
            sample_length=jnp.mean(drawn.lengths.astype(jnp.float32), axis=1),
            ended=jnp.mean(drawn.ended.astype(jnp.float32), axis=1),
            surprise=-jnp.sum(drawn.log_probabilities, axis=(1, 2)) / jnp.maximum(lengths, 1),
        )

    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """See Objective.loss.

        Logs per source `pair_fraction`, the fraction of sources with a pair, `reward` of samples, `sample_length`
        (tokens), `ended_fraction`, `entropy` (nats per token, estimated from the samples); and per pair
        `preference_accuracy`, how often the loss has the better text first, `reward_difference`, and
        `preferred_log_ratio` and `other_log_ratio`, the log-probabilities of the texts less those of the reference
        model (nats): with both falling, preference optimisation moves probability away from either text.
        """
        config, pairs = self.preference, prepared.rows
        keys = [None] * 3 if rng is None else list(jax.random.split(rng, 3))
        own = params[MODEL]
        memory = self._dropped_out(own, pairs.batch.source, key=keys[0], method="encode")
        hidden = self._decode(own, memory, pairs.tokens, pairs.mask, dropout=keys[1])
        scores, _ = self._scores(own, hidden, pairs.tokens, pairs.mask, memory)
        texts = jnp.sum(jnp.where(pairs.mask, scores, 0.0), axis=-1)
        ratios = texts if pairs.reference_log_probabilities is None else texts - pairs.reference_log_probabilities
        margins = config.beta * (ratios[:, 0] - ratios[:, 1])
        losses = jax.nn.softplus(-margins) - config.likelihood_weight * texts[:, 0]
        losses = jnp.where(pairs.is_pair, losses, 0.0)
        there = has_source(pairs.batch)
        if config.reference_weight > 0.0:
            turn_of_model = Turn(turn.index, MODEL)
            likelihood, _ = self._likelihood.loss(
                turn_of_model, params, Prepared(rows=pairs.batch), step=step, rng=keys[2]
            )
            extra = config.reference_weight * likelihood.sum
        else:
            extra = 0.0
        num_sources, num_pairs = (jnp.sum(each).astype(jnp.float32) for each in (there, pairs.is_pair))

        def mean(values, chosen, number):
            return WeightedSum(jnp.sum(values, where=chosen), number)

        logged = {
            "pair_fraction": mean(pairs.is_pair.astype(jnp.float32), there, num_sources),
            "reward": mean(jnp.mean(pairs.rewards, axis=1), there, num_sources),
            "sample_length": mean(pairs.sample_length, there, num_sources),
            "ended_fraction": mean(pairs.ended, there, num_sources),
            "entropy": mean(pairs.surprise, there, num_sources),
            "preference_accuracy": mean((margins > 0).astype(jnp.float32), pairs.is_pair, num_pairs),
            "reward_difference": mean(pairs.difference, pairs.is_pair, num_pairs),
            "preferred_log_ratio": mean(ratios[:, 0], pairs.is_pair, num_pairs),
            "other_log_ratio": mean(ratios[:, 1], pairs.is_pair, num_pairs),
        }
        return WeightedSum(jnp.sum(losses, where=there) + extra, num_sources), logged

    def counts(self, prepared: Prepared) -> dict[str, Int[Array, ""]]:
        """See Objective.counts: `rewards`, the number of scored samples."""
        scored = jnp.sum(has_source(prepared.rows.batch)) * self.config.samples_per_source
        return {"rewards": scored}

    def preparation_flops(self, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.preparation_flops."""
        return jnp.sum(self._preparation_flops(self._lengths(prepared.rows)))

    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.turn_flops."""
        return jnp.sum(self._update_flops(self._lengths(prepared.rows)))

    def _lengths(self, pairs: Pairs) -> Lengths:
        sources, references = (
            jnp.sum(side.mask, axis=-1).astype(jnp.float32) for side in (pairs.batch.source, pairs.batch.target)
        )
        drawn = jnp.repeat(pairs.sample_length[:, None], self.config.samples_per_source, axis=1)
        learned = jnp.sum(pairs.mask, axis=-1).astype(jnp.float32)
        return Lengths(source=sources, reference=references, drawn=drawn, learned=learned)

    def longest_lengths(self, source: int, target: int) -> Lengths:
        """See PolicyGradient.longest_lengths."""
        found = super().longest_lengths(source, target)
        return found._replace(learned=found.drawn[:, :1].repeat(2, axis=1))

    def _preparation_flops(self, lengths: Lengths):
        flops = self._forward_flops(lengths.source, lengths.drawn)
        return flops + self._forward_flops(lengths.source, lengths.learned) if self.has_reference else flops

    def _update_flops(self, lengths: Lengths):
        flops = TRAINING * self._forward_flops(lengths.source, lengths.learned)
        if self.preference.reference_weight > 0.0:
            flops += self._likelihood.pair_flops(lengths.source, lengths.reference)
        return flops

    def work(self, rows: int, source: int, target: int) -> Work:
        """See Objective.work."""
        work = super().work(rows, source, target)
        return dataclasses.replace(work, description=f"{work.description}, compared in pairs")

    @property
    def _best_reward(self) -> float | None:
        return None if self.preference.reward is None else self.preference.reward.best
