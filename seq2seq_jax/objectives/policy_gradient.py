"""Policy gradients: sample texts, score them with the reported metric, increase the probability of the better ones.

Sampling, reward and update are one compiled program: the reward is computed from token ids on the device.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num
from numpy import ndarray

from seq2seq_jax.batch import Batch, Memory, SourceRows, TokenRows
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.generation.context import GenerationContext, length_limits, longest_output
from seq2seq_jax.generation.sampling import Policy, Samples, draws_by_batch, sample
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.dropout import has_dropout
from seq2seq_jax.modules.embedding import gather_scores
from seq2seq_jax.modules.flops import TRAINING, product_flops
from seq2seq_jax.objectives.estimators import (
    Experience,
    GroupNormalized,
    ImportanceWeighted,
    LeaveOneOut,
    MinimumRisk,
    Reinforce,
    SelfCritical,
)
from seq2seq_jax.objectives.maximum_likelihood import MODEL, cross_entropy, model_player
from seq2seq_jax.objectives.objective import (
    Objective,
    Params,
    Player,
    Prepared,
    Turn,
    WeightedSum,
    Work,
)
from seq2seq_jax.objectives.sampled_texts import SampledTextsConfig
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.reward import Reward, RewardConfig
from seq2seq_jax.rewards.sizes import pad_to
from seq2seq_jax.values import check_values

RewardFunction = Callable[
    [Int[Array, "batch samples length"], RewardExample],
    tuple[Float[Array, "batch samples"], dict[str, Float[Array, "batch samples"]]],
]
"""Token ids of samples, and the examples -> the reward of each sample, and the terms of the reward by name."""

BASELINE = "baseline"
"""Name of the player that predicts returns."""

ENCODER_STREAM = 1
"""Folded into the key of the samples for the encoder's dropout."""

SOLVED = 0.1
"""Distance of the reward from the best that there is, in units of all weights together, within which a policy whose
samples hardly differ has solved its task, and has not collapsed."""

MIN_ENDED_FRACTION = 0.5
"""Minimum fraction of samples that end in the EOS token; below it, a warning reports a collapse."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyGradientConfig(SampledTextsConfig):
    """Config of policy gradients, normalised per source.

    The loss of a source is that of the estimator, minus entropy_weight Σ_t H(π(· | y_<t, x)) and plus kl_weight
    Σ_t (e^d - d - 1), both means over the samples, plus likelihood_weight times the cross-entropy of the reference, a
    sum over its tokens (Wu et al. 2016, equation 9); d is the log-ratio of the frozen initial model to the policy
    (Schulman 2020, an unbiased estimate of KL(π, initial model)).
    """

    reward: RewardConfig = RewardConfig(bleu=1.0)
    """The reward to maximise, a weighted sum of metrics."""
    reward_control: Literal["none", "constant", "shuffled"] = "none"
    """What takes the place of the reward, as a control of what it contributes: nothing; the same reward for every
    sample (Choshen et al. 2020); or the reward of the sample at the same place of the next row, another source's."""
    estimator: Reinforce | SelfCritical | LeaveOneOut | GroupNormalized | MinimumRisk | ImportanceWeighted = (
        LeaveOneOut()
    )
    """How the gradient of the expected reward is estimated."""
    samples_per_source: int = 5
    """Samples drawn for each source."""
    temperature: float = 1.0
    """Temperature of the policy that is sampled and trained: softmax(logits / temperature)."""
    sample_with_encoder_dropout: bool = False
    """Whether samples are drawn with the encoder's dropout, with the same masks as in the update. Sampling and update
    then use the same policy, which has memorised its training sources less, as for unseen ones."""
    include_reference: bool = False
    """Whether the reference is added to the samples of its source. It is not a sample of the policy, so this adds
    bias."""
    reward_to_go: bool = False
    """Whether a token's advantage counts only the reward after it (scores every prefix of every sample)."""
    likelihood_weight: float = 0.0
    """Weight of the maximum-likelihood loss that is added to the policy-gradient loss."""
    entropy_weight: float = 0.0
    """Weight of the policy's entropy, which keeps it from collapsing onto one text."""
    kl_weight: float = 0.0
    """Weight of the KL divergence from the initial model, of which a frozen copy is kept."""

    def __post_init__(self):
        check_values(self, "objective")
        self.check_sampling()
        if self.samples_per_source < self.estimator.minimum_samples:
            raise ValueError(
                f"objective.samples_per_source is {self.samples_per_source}, and {type(self.estimator).__name__} "
                "compares the samples of a source with each other. Set it to at least "
                f"{self.estimator.minimum_samples}."
            )
        if self.samples_per_source < 1:
            raise ValueError(f"objective.samples_per_source must be at least 1, not {self.samples_per_source}.")
        if self.temperature <= 0.0:
            raise ValueError(f"objective.temperature must be positive, and is {self.temperature}.")
        for name in ("likelihood_weight", "entropy_weight", "kl_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"objective.{name} must be finite and not negative, and is {getattr(self, name)}.")
        if self.reward_to_go and isinstance(self.estimator, MinimumRisk | ImportanceWeighted):
            raise ValueError(
                f"objective.reward_to_go is not supported with {type(self.estimator).__name__}, which weights whole "
                "texts: set it to False."
            )
        if self.reward_control != "none" and self.reward_to_go:
            raise ValueError("objective.reward_control is not supported with reward_to_go: set it to False.")
        if self.reward_control == "constant" and self.likelihood_weight == 0.0 and not self.learns_from_constants:
            raise ValueError(
                "objective.reward_control = constant leaves no gradient with "
                f"{type(self.estimator).__name__}, whose advantages are 0 then. Set estimator to reinforce with "
                "baseline none (and baseline_decay None), or likelihood_weight above 0, which then trains alone."
            )
        if self.include_reference and self.estimator.clip is not None:
            raise ValueError(
                "objective.include_reference is not supported with objective.estimator.clip: the reference is not a "
                "sample of the policy, so its ratio has no meaning. Set it to False, or clip to None."
            )

    @property
    def learns_from_constants(self) -> bool:
        """Whether a reward that is the same for all samples has a gradient (noise with a mean of 0)."""
        return isinstance(self.estimator, Reinforce) and self.estimator.baseline == "none"

    def check(self, model: ModelConfig, *, accumulation: int) -> None:
        """See ObjectiveConfig.check."""
        if not self.sample_with_encoder_dropout:
            return
        if not has_dropout(model.encoder):
            raise ValueError(
                "objective.sample_with_encoder_dropout has no effect with an encoder that has none. Set "
                "model.encoder.dropout, or leave it False."
            )
        if accumulation > 1:
            raise ValueError(
                "objective.sample_with_encoder_dropout needs the masks of a whole batch when it is learned from. Set "
                "training.accumulation to 1."
            )

    @property
    def foreign_code(self) -> str | None:
        """See ObjectiveConfig.foreign_code: a reward in Python."""
        return self.reward.function

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "PolicyGradient":
        """The objective for a model.

        Raises:
            ValueError: the reward cannot be computed with the tokenizer.
        """
        return PolicyGradient(self, model, self.reward.build(tokenizer))


class PolicyGradient(Objective):
    """The objective. Every term of its loss is a sum over tokens, normalised by the number of sources of the global
    batch.

    Samples are drawn without dropout; their log-probabilities are recomputed with teacher forcing, with the dropout of
    the model. Estimators are unbiased only if both policies are the same, as in a model without dropout: otherwise
    advantages with a mean other than 0 (self-critical ones are mostly negative) push the policy with dropout towards or
    away from all samples. With `sample_with_encoder_dropout` the encoder's dropout is the same in both. All samples of
    a source share its memory.
    """

    against_collapse: ClassVar[str] = "raise objective.entropy_weight or kl_weight"
    """What a warning advises where samples hardly differ."""
    against_endless_texts: ClassVar[str] = "set objective.likelihood_weight"
    """What a warning advises where samples do not end."""

    def __init__(self, config: PolicyGradientConfig, model: EncoderDecoder, reward: RewardFunction | None):
        self.config = config
        self.model = model
        self.reward = reward
        self.policy = Policy(
            vocabulary=model.vocabulary, temperature=config.temperature, minimum_length=config.minimum_length
        )
        self._baseline = config.estimator.baseline
        self._likelihood = config.likelihood(model)

    @property
    def players(self) -> tuple[Player, ...]:
        """The model and, if the estimator has one, a learned baseline, which is 0 at the start."""
        model = model_player(self.model)
        if self._baseline != "learned":
            return (model,)
        model_dim = self.model.config.decoder.model_dim

        def initialize(key: jax.Array) -> Params:
            return {"kernel": jnp.zeros(model_dim), "bias": jnp.zeros(())}

        return model, Player(name=BASELINE, initialize=initialize)

    @property
    def turns(self) -> tuple[str, ...]:
        """Every player once for each update on the same samples."""
        return super().turns * self.config.estimator.updates

    def initial_state(self, params: dict[str, Params]) -> dict[str, Any]:
        """The frozen reference model and the moving average of rewards, if they are used."""
        state = {}
        if self.config.kl_weight > 0.0:
            state["reference"] = jax.tree.map(jnp.copy, params[MODEL])
        if self._baseline == "moving_average":
            state["moving_average"] = {"sum": jnp.zeros(()), "weight": jnp.zeros(())}
        return state

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Prepared, Any]:
        """Samples of every source, their rewards and advantages. See Objective.prepare."""
        return self._prepare(params, state, batch, rng=rng)

    def _prepare(
        self,
        params: dict[str, Params],
        state: Any,
        batch: Batch,
        *,
        rng: jax.Array,
        trains: bool | Bool[Array, ""] = True,
    ) -> tuple[Prepared, Any]:
        """See `prepare` and `experience`."""
        key = jax.random.fold_in(rng, ENCODER_STREAM) if self.config.sample_with_encoder_dropout else None
        memory = self._dropped_out(params[MODEL], batch.source, key=key, method="encode")
        drawn = self.draw(params[MODEL], memory, batch.source, rng=rng)
        return self.experience(params, state, batch, memory, drawn, encoder_key=key, rng=rng, trains=trains)

    def draw(self, params: Params, memory: Memory, source: SourceRows, *, rng: jax.Array) -> Samples:
        """The samples of every source, preceded by a greedy text if the estimator compares with it."""
        greedy = int(self.config.estimator.compares_with_greedy)
        num_samples = self.config.samples_per_source + greedy
        context = self.sampling_context(params, memory, source)
        return sample(
            context,
            policy=self.policy,
            draws=draws_by_batch(rng, len(context.limits), num_samples),
            num_samples=num_samples,
            greedy=greedy,
        )

    def sampling_context(self, params: Params, memory: Memory, source: SourceRows) -> GenerationContext:
        """The sources as samples are drawn from them."""
        config = self.config
        limits, room = length_limits(
            source,
            ratio=config.maximum_length_ratio,
            extra=config.maximum_length_extra,
            position_limit=self.model.config.decoder.position_limit,
        )
        return GenerationContext(
            step=lambda tokens, state: self._apply(params, tokens, state, method="step"),
            start=lambda number: self._apply(params, memory, max_length=room, beam_size=number, method="start"),
            limits=limits,
            max_length=room,
            vocabulary=self.model.vocabulary,
        )

    def experience(
        self,
        params: dict[str, Params],
        state: Any,
        batch: Batch,
        memory: Memory,
        drawn: Samples,
        *,
        encoder_key: jax.Array | None = None,
        rng: jax.Array | None = None,
        trains: bool | Bool[Array, ""] = True,
    ) -> tuple[Prepared, Any]:
        """Samples with rewards and advantages, and the objective's next state.

        Args:
            memory: of the sources.
            drawn: result of `draw`.
            encoder_key: key of the dropout of the memory, which every micro-batch sees; None = no dropout.
            rng: key of rewards that are estimated by sampling; None = there are none.
            trains: whether the model is trained on them; if not, what is expensive of the rewards may be left out.

        Returns:
            Prepared with an Experience as rows, and the encoder's key, shared; and the state.
        """
        example = RewardExample.of(batch)
        decoded_lengths = drawn.lengths
        if self.config.include_reference:
            drawn = _with_reference(drawn, batch.target, self.model.vocabulary.pad_id)
        given = self._rewards(params, batch, memory, drawn, example, rng=rng, trains=trains)
        scored = self._scored(drawn, self._controlled(given))
        tokens, mask = scored.samples.tokens, scored.samples.mask
        returns = self._returns(scored, example)
        hidden = None
        if self._baseline == "learned":
            hidden = self._decode(params[MODEL], memory, tokens, mask, dropout=None)
        experience = Experience(
            batch=batch,
            tokens=tokens,
            mask=mask,
            log_probabilities=scored.samples.log_probabilities,
            drawn_lengths=decoded_lengths,
            ended=scored.samples.ended,
            rewards=scored.rewards,
            metrics=scored.metrics,
            advantages=self.config.estimator.advantages(
                returns, greedy=scored.greedy, baseline=self._expected_return(params, state, hidden)
            ),
            returns=returns,
            reference_log_probabilities=self._reference_log_probabilities(state, batch.source, tokens, mask),
            hidden=hidden,
        )
        return Prepared(rows=experience, shared=encoder_key), self._next_state(state, scored.rewards, batch)

    def _rewards(
        self,
        params: dict[str, Params],
        batch: Batch,
        memory: Memory,
        drawn: Samples,
        example: RewardExample,
        *,
        rng: jax.Array | None,
        trains: bool | Bool[Array, ""],
    ) -> "Rewards":
        """The rewards of all decoded texts."""
        return Rewards(*self.reward(drawn.tokens, example))

    def _controlled(self, given: "Rewards") -> "Rewards":
        """What the config has in the place of rewards; their terms stay as they are."""
        control = self.config.reward_control
        if control == "none":
            return given
        replaced = given._replace(metrics={})
        replaced = jax.tree.map(
            jnp.ones_like if control == "constant" else lambda leaf: jnp.roll(leaf, -1, axis=0), replaced
        )
        return replaced._replace(metrics=given.metrics)

    def _scored(self, drawn: Samples, given: "Rewards") -> "_Scored":
        """Samples with their rewards, the greedy text apart."""
        first = int(self.config.estimator.compares_with_greedy)
        greedy = given.rewards[:, :1] if first else None
        samples, given = jax.tree.map(lambda leaf: leaf[:, first:], (drawn, given))
        return _Scored(samples, *given, greedy)

    def _returns(self, scored: "_Scored", example: RewardExample) -> Float[Array, "batch samples length_or_one"]:
        """The reward of each sample or, with reward-to-go, what of it is still to come at each token."""
        if scored.of_tokens is not None:
            return jnp.where(scored.samples.mask, scored.of_tokens, 0.0)
        returns = scored.rewards[..., None]
        if not self.config.reward_to_go:
            return returns
        tokens, mask = scored.samples.tokens, scored.samples.mask
        return jnp.where(mask, returns - self._earned_before(tokens, example), 0.0)

    def _expected_return(
        self, params: dict[str, Params], state: Any, hidden: Float[Array, "batch samples length model"] | None
    ) -> Float[Array, "*values"] | None:
        """The baseline: one number, or one per token; None = the estimator has none."""
        if hidden is not None:
            return _linear(params[BASELINE], hidden)
        if self._baseline != "moving_average":
            return None
        average = state["moving_average"]
        return average["sum"] / jnp.maximum(average["weight"], 1.0 - self.config.estimator.baseline_decay)

    def _next_state(self, state: Any, rewards: Float[Array, "batch samples"], batch: Batch) -> Any:
        """The state with the mean reward of this batch in the moving average, if there is one."""
        if self._baseline != "moving_average":
            return state
        average, decay = state["moving_average"], self.config.estimator.baseline_decay
        mean = _mean_of_sources(jnp.mean(rewards, axis=1), has_source(batch))
        average = {
            "sum": decay * average["sum"] + (1.0 - decay) * mean,
            "weight": decay * average["weight"] + (1.0 - decay),
        }
        return {**state, "moving_average": average}

    def _reference_log_probabilities(
        self,
        state: Any,
        source: SourceRows,
        tokens: Int[Array, "batch samples length"],
        mask: Bool[Array, "batch samples length"],
    ) -> Float[Array, "batch samples length"] | None:
        """Of the samples' tokens under the frozen initial model; None = the loss does not need it."""
        if self.config.kl_weight == 0.0:
            return None
        frozen = state["reference"]
        memory = self._apply(frozen, source, deterministic=True, method="encode")
        hidden = self._decode(frozen, memory, tokens, mask, dropout=None)
        return self._scores(frozen, hidden, tokens, mask, memory)[0]

    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, WeightedSum]]:
        """See Objective.loss.

        Logs means over samples: `reward` and its terms `reward_NAME`, `reward_spread` (standard deviation among the
        samples of a source), `advantage` (absolute value), `entropy` and `kl` (nats per token), `sample_length`
        (tokens), `ended_fraction`, and `nll` of the references (nats per token) if likelihood_weight > 0.
        """
        experience: Experience = prepared.rows
        there = has_source(experience.batch)
        num_sources = jnp.sum(there).astype(jnp.float32)
        if turn.player == BASELINE:
            values = _linear(params[BASELINE], experience.hidden)
            errors = jnp.where(experience.mask, jnp.square(values - experience.returns), 0.0)
            return WeightedSum(jnp.sum(errors), jnp.sum(experience.mask).astype(jnp.float32)), {}
        losses, logged = self.losses(params[MODEL], experience, rng, encoder_key=prepared.shared)
        samples = {
            "reward": experience.rewards,
            "sample_length": jnp.sum(experience.mask, axis=-1),
            "ended_fraction": experience.ended,
        }
        if len(experience.metrics) > 1 or self.config.reward_control != "none":
            samples |= {f"reward_{name}": values for name, values in experience.metrics.items()}
        for name, values in samples.items():
            logged[name] = WeightedSum(jnp.sum(jnp.mean(values, axis=1), where=there), num_sources)
        logged["reward_spread"] = WeightedSum(jnp.sum(jnp.std(experience.rewards, axis=1), where=there), num_sources)
        sizes = jnp.abs(jnp.where(experience.mask, experience.advantages, 0.0))
        logged["advantage"] = WeightedSum(jnp.sum(sizes), jnp.sum(experience.mask).astype(jnp.float32))
        return WeightedSum(jnp.sum(losses, where=there), num_sources), logged

    def losses(
        self,
        params: Params,
        experience: Experience,
        rng: jax.Array | None,
        *,
        encoder_key: jax.Array | None = None,
    ) -> tuple[Float[Array, "batch"], dict[str, WeightedSum]]:
        """The loss of each source, and metrics to log.

        Args:
            rng: key of the dropout; None = no dropout except that of `encoder_key`.
            encoder_key: key of the encoder's dropout while the samples were drawn; None = one that follows from rng.
        """
        config, batch, mask = self.config, experience.batch, experience.mask
        keys = [None] * 3 if rng is None else jax.random.split(rng, 3)
        memory = self._dropped_out(
            params, batch.source, key=keys[0] if encoder_key is None else encoder_key, method="encode"
        )
        hidden = self._decode(params, memory, experience.tokens, mask, dropout=keys[1])
        log_probabilities, entropies = self._scores(params, hidden, experience.tokens, mask, memory)
        losses = self._policy_losses(log_probabilities, experience)

        num_tokens = jnp.sum(mask).astype(jnp.float32)

        def penalty(weight, values):
            return weight * jnp.mean(jnp.sum(jnp.where(mask, values, 0.0), axis=-1), axis=1)

        losses -= penalty(config.entropy_weight, entropies)
        logged = {"entropy": WeightedSum(jnp.sum(entropies, where=mask), num_tokens)}
        if config.kl_weight > 0.0:
            log_ratio = jnp.where(mask, experience.reference_log_probabilities - log_probabilities, 0.0)
            divergences = jnp.expm1(log_ratio) - log_ratio
            losses += penalty(config.kl_weight, divergences)
            logged["kl"] = WeightedSum(jnp.sum(divergences, where=mask), num_tokens)
        if config.likelihood_weight > 0.0:
            target = batch.target
            hidden = self._dropped_out(params, target, memory, key=keys[2], method="decode")
            loss, nll = cross_entropy(
                self._apply(params, hidden, target.segment_ids, memory, method="logits"),
                target.tokens,
                label_smoothing=config.label_smoothing,
                z_loss=0.0,
            )
            losses += config.likelihood_weight * jnp.sum(loss, axis=1, where=target.mask)
            logged["nll"] = WeightedSum(jnp.sum(nll, where=target.mask), jnp.sum(target.mask).astype(jnp.float32))
        return losses, logged

    def _policy_losses(
        self, log_probabilities: Float[Array, "batch samples length"], experience: Experience
    ) -> Float[Array, "batch"]:
        """The estimator's loss of each source."""
        return self.config.estimator.losses(log_probabilities, experience)

    def evaluate(self, params: dict[str, Params], batch: Batch) -> tuple[WeightedSum, dict[str, WeightedSum]]:
        """The cross-entropy of the references, per target token. See Objective.evaluate."""
        return self._likelihood.evaluate(params, batch)

    def counts(self, prepared: Prepared) -> dict[str, Int[Array, ""]]:
        """See Objective.counts: `rewards`, the number of scored samples, and `sampled_tokens`."""
        experience: Experience = prepared.rows
        scored = jnp.sum(has_source(experience.batch)) * experience.tokens.shape[1]
        return {"rewards": scored, "sampled_tokens": jnp.sum(experience.mask)}

    def preparation_flops(self, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.preparation_flops."""
        return jnp.sum(self._preparation_flops(lengths_of(prepared.rows)))

    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.turn_flops. The linear layer of a learned baseline does not count."""
        if turn.player == BASELINE:
            return jnp.zeros(())
        return jnp.sum(self._update_flops(lengths_of(prepared.rows)))

    def work(self, rows: int, source: int, target: int) -> Work:
        """See Objective.work: all samples are as long as they may get."""
        config, lengths = self.config, self.longest_lengths(source, target)
        longest = int(lengths.drawn[0, 0])
        flops = self._preparation_flops(lengths) + config.estimator.updates * self._update_flops(lengths)
        return Work(
            flops=rows * flops.item(),
            description=(
                f"{config.samples_per_source} samples of {longest} tokens for each of {rows:,} sources of {source}"
            ),
            longest_output=longest,
        )

    def longest_lengths(self, source: int, target: int) -> "Lengths":
        """Of one source and its reference, with samples as long as they may get."""
        config = self.config
        longest = longest_output(
            source,
            ratio=config.maximum_length_ratio,
            extra=config.maximum_length_extra,
            position_limit=self.model.config.decoder.position_limit,
        )
        samples = config.samples_per_source
        return Lengths(
            source=np.full(1, source, float),
            reference=np.full(1, target, float),
            drawn=np.full((1, samples + config.estimator.compares_with_greedy), longest, float),
            learned=np.full((1, samples + config.include_reference), longest, float),
        )

    def _preparation_flops(self, lengths: "Lengths") -> Num[Array | ndarray, "sources"]:
        """Model FLOPs of what comes before the update of each source.

        Sampling is a forward pass of all decoded texts. The KL divergence needs a forward pass of the initial model, a
        learned baseline one of the decoder; the reward does not count.
        """
        flops = self._forward_flops(lengths.source, lengths.drawn)
        if self.config.kl_weight > 0.0:
            flops += self._forward_flops(lengths.source, lengths.learned)
        if self._baseline == "learned":
            model, learned = self.model.config, lengths.learned
            logits = product_flops(learned.sum(axis=-1), model.decoder.model_dim, self.model.vocabulary.target_size)
            encoder = model.encoder_flops(lengths.source, vocabulary=self.model.vocabulary)
            flops += self._forward_flops(lengths.source, learned) - encoder - logits
        return flops

    def _update_flops(self, lengths: "Lengths") -> Num[Array | ndarray, "sources"]:
        """Model FLOPs of one update of each source: a forward and a backward pass of the texts that are learned from
        and, if likelihood_weight > 0, of the reference on the same encoded source.
        """
        flops = TRAINING * self._forward_flops(lengths.source, lengths.learned)
        if self.config.likelihood_weight > 0.0:
            reference = self._forward_flops(lengths.source, lengths.reference[:, None])
            flops += TRAINING * (
                reference - self.model.config.encoder_flops(lengths.source, vocabulary=self.model.vocabulary)
            )
        return flops

    def _forward_flops(
        self, source: Num[Array | ndarray, "sources"], texts: Num[Array | ndarray, "sources texts"]
    ) -> Num[Array | ndarray, "sources"]:
        """Model FLOPs of a forward pass of texts: the source once, and what each text adds."""

        def forward(lengths, hypotheses):
            return self.model.config.forward_flops(
                source[:, None], lengths, vocabulary=self.model.vocabulary, hypotheses=hypotheses
            )

        once = forward(0.0 * texts[:, :1], 0)
        return once[:, 0] + (forward(texts, 1) - once).sum(axis=-1)

    def failure(self) -> str | None:
        """See Objective.failure: what was wrong with a reward in Python."""
        return self.reward.failure() if isinstance(self.reward, Reward) else None

    @property
    def _best_reward(self) -> float | None:
        """See RewardConfig.best."""
        return self.config.reward.best

    def _solved(self, figures: dict[str, Any]) -> bool:
        """Whether the reward is as good as the best, so that samples hardly differ because there is one right text."""
        best = self._best_reward
        if best is None:
            return False
        weights = self.config.reward.weights.values()
        return figures["reward"] >= best - SOLVED * sum(map(abs, weights))

    def warnings(self, figures: dict[str, Any]) -> dict[str, str]:
        """See Objective.warnings: warns of a collapsed policy."""
        found = {}
        entropy, ended = figures.get("entropy"), figures.get("ended_fraction")
        if entropy is not None and entropy < self.config.entropy_floor and not self._solved(figures):
            best = self._best_reward
            reward = ""
            if "reward" in figures:
                most = " (if that is the best there is, all is well)" if best is None else f" of at most {best:g}"
                reward = f" at a reward of {figures['reward']:.4f}{most}"
            found["entropy"] = (
                f"the policy has collapsed{reward}: its entropy is {entropy:.3f} nats per token, below "
                f"objective.entropy_floor = {self.config.entropy_floor}, so its samples hardly differ and there is "
                f"little to learn from. Lower optimizer.learning_rate, or {self.against_collapse}."
            )
        if ended is not None and ended < MIN_ENDED_FRACTION:
            found["length"] = (
                f"only {ended:.0%} of the samples end before their limit: the policy does not generate the EOS token, "
                "or the limit is too short. Look at samples/, raise objective.maximum_length_ratio, or "
                f"{self.against_endless_texts}."
            )
        return found

    def _apply(self, params: Params, *arguments: Any, **options: Any) -> Any:
        return self.model.apply({"params": params}, *arguments, **options)

    def _dropped_out(self, params: Params, *arguments: Any, key: jax.Array | None, method: str) -> Any:
        """The result of a method with the dropout of a key; None = no dropout."""
        rngs = None if key is None else {"dropout": key}
        return self._apply(params, *arguments, deterministic=key is None, rngs=rngs, method=method)

    def _decode(
        self,
        params: Params,
        memory: Memory,
        tokens: Int[Array, "batch samples length"],
        mask: Bool[Array, "batch samples length"],
        *,
        dropout: jax.Array | None,
    ) -> Float[Array, "batch samples length model"]:
        """Hidden states of all samples, with teacher forcing; the memory is read and projected once for all of them."""
        num_samples = tokens.shape[1]
        keys = None if dropout is None else jax.random.split(dropout, num_samples)

        def decode(tokens, mask, key):
            positions = jnp.where(mask, jnp.arange(mask.shape[1]), 0)
            target = TokenRows(tokens=tokens, segment_ids=mask.astype(jnp.int32), positions=positions, max_segments=1)
            return self._dropped_out(params, target, memory, key=key, method="decode")

        return jax.vmap(decode, in_axes=(1, 1, None if keys is None else 0), out_axes=1)(tokens, mask, keys)

    def _scores(
        self,
        params: Params,
        hidden: Float[Array, "batch samples length model"],
        tokens: Int[Array, "batch samples length"],
        mask: Bool[Array, "batch samples length"],
        memory: Memory,
    ) -> tuple[Float[Array, "batch samples length"], Float[Array, "batch samples length"]]:
        """Log-probability of each token, and entropy of its distribution under the policy (nats).

        One sample per source at a time, so that the logits of all samples never exist at once; the backward pass
        recomputes them.
        """
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[2]), (tokens.shape[0], tokens.shape[2]))

        @jax.checkpoint
        def score(hidden, tokens, mask):
            logits = self._apply(params, hidden, mask.astype(jnp.int32), memory, method="logits")
            log_probabilities = self.policy.log_probabilities(logits, positions)
            entropies = -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)
            return gather_scores(log_probabilities, tokens), entropies

        by_sample = tuple(jnp.moveaxis(array, 1, 0) for array in (hidden, tokens, mask))
        scores = jax.lax.map(lambda each: score(*each), by_sample)
        return tuple(jnp.moveaxis(values, 0, 1) for values in scores)

    def _earned_before(
        self, tokens: Int[Array, "batch samples length"], example: RewardExample
    ) -> Float[Array, "batch samples length"]:
        """The reward of the prefix before each token."""
        indices = jnp.arange(tokens.shape[2])

        def reward_of_prefix(length):
            prefix = jnp.where(indices < length, tokens, self.model.vocabulary.eos_id)
            return self.reward(prefix, example)[0]

        return jnp.moveaxis(jax.lax.map(reward_of_prefix, indices), 0, -1)


class Rewards(NamedTuple):
    """Rewards of decoded texts."""

    rewards: Float[Array, "batch texts"]
    metrics: dict[str, Float[Array, "batch texts"]]
    """Their terms, by name."""
    of_tokens: Float[Array, "batch texts length"] | None = None
    """What of the reward is still to come, or is expected, when a token is chosen; None = the whole reward."""


class _Scored(NamedTuple):
    """Samples with their `Rewards`, and the reward of the greedy text, if there is one."""

    samples: Samples
    rewards: Float[Array, "batch samples"]
    metrics: dict[str, Float[Array, "batch samples"]]
    of_tokens: Float[Array, "batch samples length"] | None
    greedy: Float[Array, "batch one"] | None


class Lengths(NamedTuple):
    """Numbers of tokens that the FLOPs of a step follow from."""

    source: Num[Array | ndarray, "sources"]
    reference: Num[Array | ndarray, "sources"]
    drawn: Num[Array | ndarray, "sources drawn"]
    """Of each text decoded for a source."""
    learned: Num[Array | ndarray, "sources learned"]
    """Of each text that is learned from."""


def lengths_of(experience: Experience) -> Lengths:
    """Those of a step's samples."""
    batch = experience.batch
    lengths = (
        jnp.sum(batch.source.mask, axis=-1),
        jnp.sum(batch.target.mask, axis=-1),
        experience.drawn_lengths,
        jnp.sum(experience.mask, axis=-1),
    )
    return Lengths(*(length.astype(jnp.float32) for length in lengths))


def has_source(batch: Batch) -> Bool[Array, "batch"]:
    """Whether each row has a source."""
    return jnp.any(batch.source.mask, axis=1)


def _mean_of_sources(values: Float[Array, "batch"], has_source: Bool[Array, "batch"]) -> Float[Array, ""]:
    return jnp.sum(values, where=has_source) / jnp.sum(has_source)


def _linear(params: Params, hidden: Float[Array, "*dims model"]) -> Float[Array, "*dims"]:
    return hidden.astype(jnp.float32) @ params["kernel"] + params["bias"]


def _with_reference(samples: Samples, reference: TokenRows, pad_id: int) -> Samples:
    """The samples followed by the reference of each source, with log-probability 0."""
    room = max(samples.tokens.shape[2], reference.tokens.shape[1])

    def joined(values, last):
        return jnp.concatenate([values, last[:, None]], axis=1)

    tokens = jnp.where(reference.mask, reference.tokens, pad_id)
    lengths = jnp.sum(reference.mask, axis=1)
    return Samples(
        tokens=joined(pad_to(samples.tokens, room, pad_id), pad_to(tokens, room, pad_id)),
        log_probabilities=joined(pad_to(samples.log_probabilities, room, 0.0), jnp.zeros((tokens.shape[0], room))),
        lengths=joined(samples.lengths, lengths),
        ended=joined(samples.ended, lengths > 0),
    )
