"""Two players: a critic guesses the length of the target from the encoded source, and the model hides it."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from seq2seq_jax.objectives.maximum_likelihood import MODEL, MaximumLikelihoodConfig
from seq2seq_jax.objectives.objective import Objective, ObjectiveConfig, Player, Prepared, WeightedSum, Work
from seq2seq_jax.optimizers import AdamWConfig

CRITIC = "critic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class HideLengthConfig(ObjectiveConfig):
    """Likelihood, minus what the encoded source says about the length of the target."""

    requires_unpacked_rows: ClassVar[bool] = True

    weight: float = 0.1
    """Weight of the critic's error in the loss of the model."""
    critic_turns: int = 3
    """Updates of the critic for one of the model."""
    critic_alone: int = 0
    """Steps at the beginning in which the critic alone is trained."""
    critic_optimizer: AdamWConfig = AdamWConfig(
        learning_rate=0.02, schedule="constant", warmup_steps=0, clip_norm=None, ema_decay=0.5
    )
    """Of the critic."""

    def build(self, model, tokenizer=None):
        """See ObjectiveConfig.build."""
        return HideLength(self, model)


class HideLength(Objective):
    """The objective. Loss of the critic: mean squared error per source; of the model: that of maximum likelihood, minus
    `weight` times the error of the critic, per target token.
    """

    def __init__(self, config, model):
        self.config = config
        self.model = model
        self._likelihood = MaximumLikelihoodConfig(label_smoothing=0.0).build(model)

    @property
    def players(self):
        """The model, and the critic with an optimizer and an average of its own."""
        width = self.model.config.encoder.summary_dim

        def initialize(key):
            return {"kernel": jnp.zeros(width), "bias": jnp.zeros(())}

        return *self._likelihood.players, Player(
            name=CRITIC, initialize=initialize, optimizer=self.config.critic_optimizer
        )

    @property
    def turns(self):
        """The critic first, several times."""
        return (CRITIC,) * self.config.critic_turns + (MODEL,)

    def active(self, turn, prepared, *, step):
        """The model waits for the critic at the beginning."""
        if turn.player == CRITIC or self.config.critic_alone == 0:
            return True
        return step >= self.config.critic_alone

    def updates(self, player, steps):
        """Its schedule starts when it does."""
        return super().updates(player, steps if player == CRITIC else max(steps - self.config.critic_alone, 1))

    def prepare(self, params, state, batch, *, step, rng):
        """The length of each target; and of all the mean, which every micro-batch needs whole."""
        lengths = jnp.sum(batch.target.mask, axis=1).astype(jnp.float32)
        is_pair = lengths > 0
        return Prepared(rows=(batch, lengths), shared=jnp.sum(lengths) / jnp.sum(is_pair)), state

    def _errors(self, params, rows, mean, *, rng=None):
        """Squared error of the critic for each row, 0 for a row without a pair."""
        batch, lengths = rows
        memory = self.model.apply(
            {"params": params[MODEL]},
            batch.source,
            deterministic=rng is None,
            rngs=None if rng is None else {"dropout": rng},
            method="encode",
        )
        guesses = memory.summary[:, 0].astype(jnp.float32) @ params[CRITIC]["kernel"] + params[CRITIC]["bias"]
        return jnp.where(lengths > 0, (guesses - (lengths - mean)) ** 2, 0.0)

    def loss(self, turn, params, prepared, *, step, rng):
        """See Objective.loss; the model logs `nll`, and `guess_error` per source."""
        batch, lengths = prepared.rows
        errors = self._errors(params, prepared.rows, prepared.shared, rng=rng)
        error = WeightedSum(jnp.sum(errors), jnp.sum(lengths > 0).astype(jnp.float32))
        if turn.player == CRITIC:
            return error, {}
        likelihood, logged = self._likelihood.loss(turn, params, Prepared(rows=batch), step=step, rng=rng)
        hidden = self.config.weight * jnp.sum(errors * lengths)
        return WeightedSum(likelihood.sum - hidden, likelihood.weight), {**logged, "guess_error": error}

    def evaluate(self, params, batch):
        """The likelihood of the model, and the error of the critic; both as they are used, with their averages."""
        prepared, _ = self.prepare(params, {}, batch, step=jnp.int32(0), rng=jax.random.key(0))
        loss, logged = self._likelihood.evaluate(params, batch)
        errors, pairs = self._errors(params, prepared.rows, prepared.shared), jnp.sum(prepared.rows[1] > 0)
        return loss, {**logged, "guess_error": WeightedSum(jnp.sum(errors), pairs.astype(jnp.float32))}

    def turn_flops(self, turn, prepared):
        """See Objective.turn_flops: the critic reads the encoder, which is not trained then."""
        batch, _ = prepared.rows
        if turn.player == MODEL:
            return self._likelihood.turn_flops(turn, Prepared(rows=batch))
        return jnp.sum(self.model.config.encoder.forward_flops(jnp.sum(batch.source.mask, axis=1).astype(jnp.float32)))

    def work(self, rows, source, target):
        """See Objective.work."""
        guesses = self.config.critic_turns * self.model.config.encoder.forward_flops(source)
        likelihood = self._likelihood.work(rows, source, target)
        return Work(
            flops=likelihood.flops + rows * guesses,
            description=f"{likelihood.description}, {self.config.critic_turns} guesses of each length",
            logits_positions=likelihood.logits_positions,
        )
