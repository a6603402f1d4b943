"""Adversarial training: a discriminator tells references from samples, and is the reward of the samples.

Sampling, the discriminator's logits, the rewards and the updates of both players are one compiled program.

What a logit is as a reward: `seq2seq_jax.objectives.adversarial_rewards`; whose turn it is: `adversarial_turns`; the
discriminator's loss: `discriminator_losses`; earlier samples: `replay`.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch, Memory
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.discriminators.causal import CausalDiscriminatorConfig
from seq2seq_jax.discriminators.discriminator import logits_of_texts
from seq2seq_jax.discriminators.losses import Contrastive, Hinge, Logistic, Relativistic, Wasserstein
from seq2seq_jax.discriminators.match_matrix import MatchMatrixConfig
from seq2seq_jax.discriminators.two_towers import TwoTowersConfig
from seq2seq_jax.generation.sampling import Samples, draws_by_batch, sample
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.flops import TRAINING
from seq2seq_jax.objectives.adversarial_measures import (
    WATCHED,
    adversarial_warnings,
    calibration_error,
    distinct_pairs,
    heaviside,
    mean_of,
)
from seq2seq_jax.objectives.adversarial_rewards import (
    RewardForm,
    RewardKind,
    dense_returns,
    potential_returns,
    reward_of_logits,
    rollout_returns,
)
from seq2seq_jax.objectives.adversarial_turns import Turns
from seq2seq_jax.objectives.discriminator_losses import discriminator_losses
from seq2seq_jax.objectives.estimators import Experience, ImportanceWeighted, MinimumRisk
from seq2seq_jax.objectives.maximum_likelihood import MODEL
from seq2seq_jax.objectives.objective import (
    Logged,
    Params,
    Player,
    Prepared,
    Turn,
    WeightedSum,
    Work,
    check_sources_are_tokens,
    per_step,
)
from seq2seq_jax.objectives.policy_gradient import (
    Lengths,
    PolicyGradient,
    PolicyGradientConfig,
    RewardFunction,
    Rewards,
    has_source,
    lengths_of,
)
from seq2seq_jax.objectives.replay import Replay
from seq2seq_jax.optimizers import AdafactorConfig, AdamWConfig
from seq2seq_jax.rewards.example import RewardExample
from seq2seq_jax.rewards.reward import Reward, RewardConfig
from seq2seq_jax.values import check_values

DISCRIMINATOR = "discriminator"
"""Name of the player that tells references from samples."""

ROLLOUT_STREAM, REPLAY_STREAM = 2, 3
"""What the key of the samples is folded with for rollouts, and for what is drawn of the replay buffer."""

METRIC, LOGIT = "metric", "logit"
"""Names of terms of the reward: that of `reward`, and the discriminator's logit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdversarialConfig(PolicyGradientConfig):
    """Config of adversarial training, normalised per source.

    The reward of a sample is metric_weight times the metrics of `reward`, plus discriminator_weight times what
    discriminator_reward makes of the discriminator's logit. The loss of the generator is policy_weight times that of
    the estimator, and further terms as in policy gradients.
    """

    reward: RewardConfig | None = RewardConfig(bleu=1.0)
    """Metrics, which are logged in any case, and part of the reward if metric_weight is not 0; None = none."""
    metric_weight: float = 0.0
    """Weight of the metrics in the reward."""
    discriminator_weight: float = 1.0
    """Weight of the discriminator in the reward."""
    policy_weight: float = 1.0
    """Weight of the estimator's loss. With 0 the generator's update is that of maximum likelihood, bit for bit if
    likelihood_weight is 1, and the discriminator only looks on."""
    discriminator: CausalDiscriminatorConfig | TwoTowersConfig | MatchMatrixConfig = CausalDiscriminatorConfig()
    """What tells references from samples."""
    discriminator_loss: Logistic | Hinge | Wasserstein | Relativistic | Contrastive = Logistic()
    """What it minimises."""
    discriminator_optimizer: AdamWConfig | AdafactorConfig | None = AdamWConfig(
        learning_rate=1e-3, schedule="constant", warmup_steps=0
    )
    """Its optimizer; None = as the generator's."""
    discriminator_reward: RewardKind = "logit"
    """The reward that a logit is made to; see `seq2seq_jax.objectives.adversarial_rewards` for the divergence that each
    follows."""
    reward_form: RewardForm = "sequence"
    """What a token is rewarded for: the whole text; the discounted sum of the rewards of all prefixes from it on; by
    how much the reward of the whole text is above that of the prefix before it, which adds no bias; or the mean reward
    of rollouts that continue after it (Yu et al. 2017, equation 4). The second and third need a causal discriminator
    that is trained on prefixes."""
    discount: float | None = None
    """Factor per token of dense rewards; for dense alone, where None = 1."""
    rollouts: int | None = None
    """Rollouts for each prefix of each sample; for rollouts alone."""
    train_prefixes: bool = False
    """Whether a causal discriminator is trained on all prefixes of texts, each text with weight 1, and not on whole
    texts alone."""
    discriminator_samples: int = 1
    """Of the samples of each source, how many the discriminator is trained on, from the first."""
    r1_weight: float = 0.0
    """Weight of half the squared norm of the logit's gradient by the embedded reference (Mescheder et al. 2018)."""
    replay_size: int = 0
    """Earlier samples (with their sources) that are kept for the discriminator; 0 = none."""
    replay_length: int | None = None
    """Most tokens of a source and of a sample that is kept; for a replay buffer alone."""
    replay_fraction: float | None = None
    """Weight of an earlier sample of another source in the place of the fresh ones; for a replay buffer alone."""
    target_accuracy: float | None = None
    """Running accuracy on fresh samples up to which the discriminator is trained alone; None = it has no start."""
    target_steps: int = 1_000
    """Steps in which it must get there, or training ends and says how far it came."""
    accuracy_ceiling: float | None = None
    """Running accuracy from which on the discriminator is not trained until it falls below again; None = always."""
    accuracy_decay: float = 0.9
    """Decay of the running accuracy per step."""
    discriminator_updates: int = 1
    """Updates of the discriminator in a step, on the same samples."""
    generator_every: int = 1
    """Steps for one update of the generator, so that the discriminator has as many, on fresh samples each."""

    def __post_init__(self):
        super().__post_init__()
        check_values(self, "objective")
        for name in ("metric_weight", "discriminator_weight", "policy_weight", "r1_weight"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"objective.{name} must not be negative, and is {getattr(self, name)}.")
        for name in ("discriminator_samples", "discriminator_updates", "generator_every", "target_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("target_accuracy", "accuracy_ceiling"):
            value = getattr(self, name)
            if value is not None and not 0.5 < value < 1.0:
                raise ValueError(f"objective.{name} must lie between 0.5 and 1 or be None, and is {value}.")
        if not 0.0 <= self.accuracy_decay < 1.0:
            raise ValueError(f"objective.accuracy_decay must lie in [0, 1), and is {self.accuracy_decay}.")
        self._check_generator()
        self._check_reward_form()
        self._check_discriminator()

    def _check_generator(self) -> None:
        """Raises: ValueError: the generator would never be trained, or by nothing."""
        if self.policy_weight == 0.0 and self.likelihood_weight == 0.0:
            raise ValueError(
                "objective.policy_weight and objective.likelihood_weight are both 0, so that the generator is never "
                "trained: set one of them."
            )
        if self.metric_weight == 0.0 and self.discriminator_weight == 0.0:
            raise ValueError(
                "objective.metric_weight and objective.discriminator_weight are both 0, so that no sample has a "
                "reward: set one of them."
            )
        if self.metric_weight > 0.0 and self.reward is None:
            raise ValueError("objective.metric_weight needs metrics, and objective.reward is None: name some.")
        if self.include_reference or self.reward_to_go:
            raise ValueError(
                "objective.include_reference and reward_to_go are not supported with a discriminator: leave them "
                "False. likelihood_weight learns from references, and reward_form rewards single tokens."
            )
        if self.discriminator_samples > self.samples_per_source:
            raise ValueError(
                f"objective.discriminator_samples is {self.discriminator_samples}, and only "
                f"{self.samples_per_source} are drawn for each source: lower it, or raise samples_per_source."
            )
        if self.target_accuracy is not None and self.accuracy_ceiling is not None:
            if self.target_accuracy > self.accuracy_ceiling:
                raise ValueError(
                    f"objective.target_accuracy = {self.target_accuracy} lies above accuracy_ceiling = "
                    f"{self.accuracy_ceiling}, where the discriminator is not trained: lower it."
                )

    def _check_reward_form(self) -> None:
        """Raises: ValueError: rewards of tokens that cannot be had."""
        form = self.reward_form
        if (form == "rollouts") != (self.rollouts is not None):
            raise ValueError(
                f"objective.rollouts is {self.rollouts}, and reward_form is {form}: the number of rollouts must be set "
                "with reward_form rollouts, and only then."
            )
        if self.rollouts is not None and self.rollouts < 1:
            raise ValueError(f"objective.rollouts must be at least 1 text for each prefix, not {self.rollouts}.")
        if self.discount is not None and (form != "dense" or not 0.0 <= self.discount <= 1.0):
            raise ValueError(
                f"objective.discount is that of reward_form dense, in [0, 1], and is {self.discount} with {form}: "
                "leave it None."
            )
        if form != "sequence" and isinstance(self.estimator, MinimumRisk | ImportanceWeighted):
            raise ValueError(
                f"objective.reward_form = {form} rewards tokens, and {type(self.estimator).__name__} weights whole "
                "texts: set it to sequence, or choose another estimator."
            )
        if form in ("dense", "potential") and not self.train_prefixes:
            raise ValueError(
                f"objective.reward_form = {form} asks the discriminator about prefixes, which it knows nothing of: set "
                "train_prefixes to True."
            )
        if self.discriminator_reward != "logit" and isinstance(self.estimator, ImportanceWeighted):
            raise ValueError(
                f"objective.estimator importance_weighted needs logits, and discriminator_reward is "
                f"{self.discriminator_reward}: set it to logit."
            )
        if self.discriminator_reward != "logit" and isinstance(self.discriminator_loss, Hinge | Wasserstein):
            raise ValueError(
                f"objective.discriminator_reward = {self.discriminator_reward} is a function of a probability, and "
                f"{type(self.discriminator_loss).__name__} has none: set it to logit."
            )

    def _check_discriminator(self) -> None:
        """Raises: ValueError: what the discriminator cannot be trained with."""
        loss = self.discriminator_loss
        if self.train_prefixes and not self.discriminator.is_causal:
            raise ValueError(
                f"objective.train_prefixes needs a causal discriminator, and {type(self.discriminator).__name__} "
                "judges whole texts: choose CausalDiscriminatorConfig, or reward_form sequence or rollouts."
            )
        if loss.compares_texts and (self.train_prefixes or self.replay_size):
            raise ValueError(
                f"objective.discriminator_loss = {type(loss).__name__} compares whole texts of one source: set "
                "train_prefixes to False and replay_size to 0, or choose another loss."
            )
        for name in ("replay_length", "replay_fraction"):
            if (getattr(self, name) is None) != (self.replay_size == 0):
                raise ValueError(
                    f"objective.{name} must be set with a replay_size above 0, and only then; they are "
                    f"{getattr(self, name)} and {self.replay_size}."
                )
        if self.replay_size < 0:
            raise ValueError(f"objective.replay_size must not be negative, and is {self.replay_size}.")
        if self.replay_fraction is not None and not 0.0 < self.replay_fraction <= 1.0:
            raise ValueError(f"objective.replay_fraction must lie in (0, 1], and is {self.replay_fraction}.")
        if self.replay_length is not None and self.replay_length < 1:
            raise ValueError(f"objective.replay_length must be at least 1 token, not {self.replay_length}.")

    def check(self, model: ModelConfig, *, accumulation: int) -> None:
        """See ObjectiveConfig.check."""
        super().check(model, accumulation=accumulation)
        check_sources_are_tokens(model, self)

    @property
    def foreign_code(self) -> str | None:
        """See ObjectiveConfig.foreign_code: a reward in Python."""
        return None if self.reward is None else self.reward.function

    def build_evaluation(self, model: EncoderDecoder) -> "Adversarial":
        """What evaluates parameters: the likelihood of references, and the discriminator's accuracy on samples.

        Imports no foreign code.
        """
        return Adversarial(dataclasses.replace(self, reward=None, metric_weight=0.0, discriminator_weight=1.0), model)

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "Adversarial":
        """The objective for a model.

        Raises:
            ValueError: the metrics cannot be computed with the tokenizer.
        """
        return Adversarial(self, model, None if self.reward is None else self.reward.build(tokenizer))


@flax.struct.dataclass
class AdversarialRows:
    """What the turns of a step learn from; the first dim of all leaves is the batch.

    Attributes:
        experience: samples with their advantages, for the generator.
        replayed: pairs of a source and an earlier sample; None = no replay buffer.
    """

    experience: Experience
    replayed: Batch | None


@flax.struct.dataclass
class AdversarialShared:
    """What is decided once for a step.

    Attributes:
        encoder_key: see `PolicyGradient.experience`.
        trains_generator, trains_discriminator: whether their turns are taken.
        metrics: what is logged of the step, whoever is trained.
    """

    encoder_key: jax.Array | None
    trains_generator: Bool[Array, ""]
    trains_discriminator: Bool[Array, ""]
    metrics: dict[str, WeightedSum]


class Adversarial(PolicyGradient):
    """The objective. The generator's turn comes first, the discriminator's after it; what they learn from was drawn and
    judged before either, so that the order changes nothing.
    """

    config: AdversarialConfig

    def __init__(self, config: AdversarialConfig, model: EncoderDecoder, reward: RewardFunction | None = None):
        super().__init__(config, model, reward)
        self.discriminator = config.discriminator.build(model.config, model.vocabulary)
        names = (field.name for field in dataclasses.fields(Turns))
        self._turns = Turns(**{name: getattr(config, name) for name in names})
        self._replay = None
        if config.replay_size:
            self._replay = Replay(config.replay_size, config.replay_length, model.vocabulary.pad_id)
        self._history: list[dict[str, Any]] = []

    @property
    def players(self) -> tuple[Player, ...]:
        """The model, a learned baseline if the estimator has one, and the discriminator."""
        return *super().players, Player(
            name=DISCRIMINATOR,
            initialize=self.discriminator.initialize,
            optimizer=self.config.discriminator_optimizer,
        )

    @property
    def turns(self) -> tuple[str, ...]:
        """Those of policy gradients, then the discriminator's."""
        others = tuple(player.name for player in super().players) * self.config.estimator.updates
        return others + (DISCRIMINATOR,) * self.config.discriminator_updates

    def active(self, turn: Turn, prepared: Prepared, *, step: Int[Array, ""]) -> bool | Bool[Array, ""]:
        """See Objective.active."""
        config, shared = self.config, prepared.shared
        if turn.player == DISCRIMINATOR:
            return True if config.accuracy_ceiling is None else shared.trains_discriminator
        is_always = config.target_accuracy is None and config.generator_every == 1
        return True if is_always else shared.trains_generator

    def updates(self, player: str, steps: int) -> int:
        """See Objective.updates; the steps that the discriminator takes to reach its target are not known before."""
        if player == DISCRIMINATOR:
            return super().updates(player, steps)
        return super().updates(player, max(steps // self.config.generator_every, 1))

    def initial_params(self, params: dict[str, Params], *, given: Collection[str]) -> dict[str, Params]:
        """See Objective.initial_params: a discriminator of the generator's architecture starts from it."""
        if not self.config.discriminator.starts_from_generator or DISCRIMINATOR in given:
            return params
        started = self.discriminator.from_generator(params[DISCRIMINATOR], params[MODEL])
        return {**params, DISCRIMINATOR: jax.tree.map(jnp.copy, started)}

    def initial_state(self, params: dict[str, Params]) -> dict[str, Any]:
        """That of policy gradients, of turns, and the replay buffer."""
        state = super().initial_state(params) | self._turns.initial_state()
        return state if self._replay is None else state | {"replay": self._replay.empty()}

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Prepared, Any]:
        """Samples, what the discriminator makes of them and of the references, and whose turns are taken."""
        config = self.config
        trains_generator = self._turns.trains_generator(state, step)
        prepared, state = self._prepare(params, state, batch, rng=rng, trains=trains_generator)
        experience: Experience = prepared.rows
        there = has_source(batch)
        encoded = self.discriminator.encode(params[DISCRIMINATOR], batch.source)
        real = logits_of_texts(
            self.discriminator.logits(params[DISCRIMINATOR], batch.target, encoded), batch.target.mask
        )
        fake = experience.metrics[LOGIT]
        accuracy = self._accuracy(real, fake, there)
        state, running, trains_discriminator = self._turns.next_state(state, accuracy)
        metrics = {
            "discriminator_accuracy": per_step(accuracy),
            "discriminator_running_accuracy": per_step(running),
            "discriminator_waited": per_step(state["waited"].astype(jnp.float32)),
            "discriminator_reference_logit": per_step(mean_of(real, there)),
            "discriminator_trained": per_step(trains_discriminator.astype(jnp.float32)),
            "generator_trained": per_step(trains_generator.astype(jnp.float32)),
            "distinct_2": distinct_pairs(experience.tokens, experience.mask),
        }
        if isinstance(config.discriminator_loss, Logistic):
            metrics["discriminator_calibration_error"] = per_step(calibration_error(real, fake, there))
        replayed = None
        if self._replay is not None:
            buffer = state["replay"]
            replayed = self._replay.draw(buffer, len(there), rng=jax.random.fold_in(rng, REPLAY_STREAM))
            first = experience.tokens[:, 0], experience.mask[:, 0]
            state = {**state, "replay": self._replay.write(buffer, batch, *first)}
        shared = AdversarialShared(
            encoder_key=prepared.shared,
            trains_generator=trains_generator,
            trains_discriminator=trains_discriminator,
            metrics=metrics,
        )
        return Prepared(rows=AdversarialRows(experience=experience, replayed=replayed), shared=shared), state

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
    ) -> Rewards:
        """See PolicyGradient: with the discriminator's part in the terms, and its logit."""
        config = self.config
        encoded = self.discriminator.encode(params[DISCRIMINATOR], batch.source)
        rewards, terms, logits = self._judged(params, drawn.tokens, drawn.mask, encoded, example)
        weight, kind = config.discriminator_weight, config.discriminator_reward
        of_prefixes, of_tokens = weight * reward_of_logits(logits, kind), None
        if config.reward_form == "dense":
            discount = 1.0 if config.discount is None else config.discount
            of_tokens = dense_returns(of_prefixes, rewards, drawn.mask, discount=discount)
        elif config.reward_form == "potential":
            of_nothing = weight * reward_of_logits(jnp.zeros(()), kind)
            of_tokens = potential_returns(of_prefixes, rewards, of_nothing=of_nothing)
        elif config.reward_form == "rollouts":
            if rng is None:
                raise ValueError("rollouts need a key")
            key = jax.random.fold_in(rng, ROLLOUT_STREAM)
            of_tokens = jax.lax.cond(
                trains,
                lambda: rollout_returns(
                    self.sampling_context(params[MODEL], memory, batch.source),
                    drawn,
                    rewards,
                    lambda tokens, mask: self._judged(params, tokens, mask, encoded, example)[0],
                    policy=self.policy,
                    number=config.rollouts,
                    rng=key,
                ),
                lambda: jnp.zeros(drawn.tokens.shape),
            )
        return Rewards(rewards, terms, of_tokens)

    def _judged(
        self,
        params: dict[str, Params],
        tokens: Int[Array, "batch texts length"],
        mask: Bool[Array, "batch texts length"],
        encoded: Any,
        example: RewardExample,
    ) -> tuple[Float[Array, "batch texts"], dict[str, Float[Array, "batch texts"]], Float[Array, "batch texts length"]]:
        """Rewards of whole texts, their terms, and the discriminator's logits."""
        config = self.config
        logits = self.discriminator.logits_of_samples(params[DISCRIMINATOR], tokens, mask, encoded)
        logit = logits_of_texts(logits, mask)
        judged = reward_of_logits(logit, config.discriminator_reward)
        rewards, terms = config.discriminator_weight * judged, {}
        if self.reward is not None:
            metric, terms = self.reward(tokens, example)
            rewards += config.metric_weight * metric
            terms = {**terms, METRIC: metric}
        return rewards, {**terms, DISCRIMINATOR: judged, LOGIT: logit}, logits

    def _accuracy(
        self, real: Float[Array, "batch"], fake: Float[Array, "batch samples"], there: Bool[Array, "batch"]
    ) -> Float[Array, ""]:
        """The fraction of texts on the right side of 0, references and samples counted alike; for a loss without a
        border the fraction of pairs of a source in the right order. What is equal counts half.
        """
        if isinstance(self.config.discriminator_loss, Logistic | Hinge):
            return 0.5 * mean_of(heaviside(real), there) + 0.5 * mean_of(jnp.mean(heaviside(-fake), axis=1), there)
        return mean_of(jnp.mean(heaviside(real[:, None] - fake), axis=1), there)

    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """See Objective.loss. The generator logs what policy gradients do, and with a policy_weight of 0 what maximum
        likelihood does; the discriminator `loss`, `r1` and `gradient_penalty`, both without their weights.
        """
        rows: AdversarialRows = prepared.rows
        if turn.player == DISCRIMINATOR:
            return self._discriminator_loss(params[DISCRIMINATOR], rows, rng)
        if turn.player == MODEL and self.config.policy_weight == 0.0:
            batch = Prepared(rows=rows.experience.batch)
            found, logged = self._likelihood.loss(turn, params, batch, step=step, rng=rng)
            weight = self.config.likelihood_weight
            return (found if weight == 1.0 else WeightedSum(weight * found.sum, found.weight)), logged
        inner = Prepared(rows=rows.experience, shared=prepared.shared.encoder_key)
        return super().loss(turn, params, inner, step=step, rng=rng)

    def _policy_losses(
        self, log_probabilities: Float[Array, "batch samples length"], experience: Experience
    ) -> Float[Array, "batch"]:
        return self.config.policy_weight * super()._policy_losses(log_probabilities, experience)

    def _discriminator_loss(
        self, params: Params, rows: AdversarialRows, rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """Per source."""
        config, experience = self.config, rows.experience
        batch, number = experience.batch, config.discriminator_samples
        losses, penalties = discriminator_losses(
            self.discriminator,
            params,
            config.discriminator_loss,
            batch,
            experience.tokens[:, :number],
            experience.mask[:, :number],
            of_prefixes=config.train_prefixes,
            r1_weight=config.r1_weight,
            replayed=rows.replayed,
            replay_fraction=config.replay_fraction,
            pad_id=self.model.vocabulary.pad_id,
            rng=rng,
        )
        there = has_source(batch)
        num_sources = jnp.sum(there).astype(jnp.float32)
        loss, logged = jax.tree.map(
            lambda values: WeightedSum(jnp.sum(values, where=there), num_sources), (losses, penalties)
        )
        return loss, logged

    def prepared_metrics(self, prepared: Prepared) -> dict[str, Logged]:
        """See Objective.prepared_metrics."""
        return dict(prepared.shared.metrics)

    def evaluate(self, params: dict[str, Params], batch: Batch) -> tuple[WeightedSum, dict[str, WeightedSum]]:
        """The cross-entropy of the references, per target token, and the discriminator's accuracy on one sample of each
        source, drawn with the same key each time. See Objective.evaluate.
        """
        loss, logged = self._likelihood.evaluate(params, batch)
        memory = self._apply(params[MODEL], batch.source, deterministic=True, method="encode")
        context = self.sampling_context(params[MODEL], memory, batch.source)
        draws = draws_by_batch(jax.random.key(0), len(batch.source.tokens), 1)
        drawn = sample(context, policy=self.policy, draws=draws, num_samples=1)
        own = params[DISCRIMINATOR]
        encoded = self.discriminator.encode(own, batch.source)
        real = self.discriminator.logits(own, batch.target, encoded)
        fake = self.discriminator.logits_of_samples(own, drawn.tokens, drawn.mask, encoded)
        there = has_source(batch)
        weight = jnp.sum(there).astype(jnp.float32)
        accuracy = self._accuracy(logits_of_texts(real, batch.target.mask), logits_of_texts(fake, drawn.mask), there)
        # Of a batch of padding alone nothing.
        accuracy = jnp.where(weight > 0, accuracy, 0.0)
        return loss, logged | {"discriminator_accuracy": WeightedSum(accuracy * weight, weight)}

    def counts(self, prepared: Prepared) -> dict[str, Int[Array, ""]]:
        """See Objective.counts."""
        return super().counts(Prepared(rows=prepared.rows.experience))

    def preparation_flops(self, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.preparation_flops: the discriminator's judgement of all texts counts, rollouts do."""
        lengths = lengths_of(prepared.rows.experience)
        return jnp.sum(self._preparation_flops(lengths))

    def _preparation_flops(self, lengths: Lengths):
        flops = super()._preparation_flops(lengths)
        flops += self._judging_flops(lengths.source, lengths.drawn)
        flops += self._judging_flops(lengths.source, lengths.reference[:, None])
        if self.config.rollouts is not None:
            # A rollout is as long as its text, on average, and there is one set for each token of it.
            each = self._forward_flops(lengths.source, lengths.learned)
            each += self._judging_flops(lengths.source, lengths.learned)
            flops += self.config.rollouts * lengths.learned.mean(axis=-1) * each
        return flops

    def _judging_flops(self, source, texts):
        """Model FLOPs of the discriminator's logits of texts, whose lengths are columns."""

        def forward(lengths, number):
            return self.config.discriminator.forward_flops(
                source[:, None], lengths, model=self.model.config, texts=number
            )

        once = forward(0.0 * texts[:, :1], 0) + 0.0 * texts[:, :1]
        return once[:, 0] + (forward(texts, 1) - once).sum(axis=-1)

    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.turn_flops; penalties of gradients do not count."""
        if turn.player == DISCRIMINATOR:
            return jnp.sum(self._discriminator_flops(lengths_of(prepared.rows.experience)))
        return super().turn_flops(turn, Prepared(rows=prepared.rows.experience))

    def _discriminator_flops(self, lengths: Lengths):
        texts = lengths.learned[:, : self.config.discriminator_samples]
        flops = self._judging_flops(lengths.source, texts) + self._judging_flops(
            lengths.source, lengths.reference[:, None]
        )
        if self.config.replay_size:
            flops += self._judging_flops(lengths.source, lengths.reference[:, None])
        return TRAINING * flops

    def _update_flops(self, lengths: Lengths):
        if self.config.policy_weight == 0.0:
            return self._likelihood.pair_flops(lengths.source, lengths.reference)
        return super()._update_flops(lengths)

    def work(self, rows: int, source: int, target: int) -> Work:
        """See Objective.work: all turns are taken."""
        work = super().work(rows, source, target)
        lengths = self.longest_lengths(source, target)
        flops = self.config.discriminator_updates * self._discriminator_flops(lengths)
        return dataclasses.replace(
            work,
            flops=work.flops + rows * flops.item(),
            description=f"{work.description}, judged by a discriminator",
        )

    def failure(self) -> str | None:
        """See Objective.failure."""
        return self.reward.failure() if isinstance(self.reward, Reward) else None

    def stops(self, figures: dict[str, float]) -> str | None:
        """See Objective.stops: the target accuracy was not reached in time."""
        config = self.config
        if config.target_accuracy is None or figures.get("discriminator_waited", 0.0) < config.target_steps:
            return None
        return (
            f"the discriminator has reached a running accuracy of {figures['discriminator_running_accuracy']:.3f} in "
            f"objective.target_steps = {config.target_steps}, and objective.target_accuracy is "
            f"{config.target_accuracy}. Lower it, raise objective.target_steps or "
            "objective.discriminator_optimizer.learning_rate, or choose a larger discriminator."
        )

    @property
    def _best_reward(self) -> None:
        """See PolicyGradient: there is no best one."""

    def warnings(self, figures: dict[str, Any]) -> dict[str, str]:
        """See Objective.warnings: those of policy gradients, and the ways in which an adversary misleads."""
        found = super().warnings(figures)
        self._history.append({name: figures[name] for name in WATCHED if name in figures})
        return found | adversarial_warnings(self._history, accuracy_ceiling=self.config.accuracy_ceiling)
