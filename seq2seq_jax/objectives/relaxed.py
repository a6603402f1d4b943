"""Relaxed adversarial training: the generator learns through its samples, whose tokens are soft (Gumbel-softmax)."""

import dataclasses
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Batch
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.discriminators.causal import CausalDiscriminatorConfig
from seq2seq_jax.discriminators.discriminator import logits_of_texts, text_rows
from seq2seq_jax.discriminators.losses import Hinge, Logistic, Relativistic
from seq2seq_jax.discriminators.match_matrix import MatchMatrixConfig
from seq2seq_jax.discriminators.two_towers import TwoTowersConfig
from seq2seq_jax.generation.sampling import Policy
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.flops import TRAINING
from seq2seq_jax.objectives.adversarial import DISCRIMINATOR
from seq2seq_jax.objectives.maximum_likelihood import MODEL, EvaluatedByLikelihood, model_player
from seq2seq_jax.objectives.objective import (
    Logged,
    Objective,
    Params,
    Player,
    Prepared,
    Turn,
    WeightedSum,
    Work,
    check_sources_are_tokens,
)
from seq2seq_jax.optimizers import AdafactorConfig, AdamWConfig
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaxedConfig(EvaluatedByLikelihood):
    """Config of relaxed adversarial training, normalised per source, of texts of one length.

    A token is softmax((log π + g) / τ) with Gumbel noise g: a sample of π in the limit τ = 0, where its gradient grows
    without bound. τ falls exponentially from initial_temperature to final_temperature over temperature_steps. With a
    relativistic loss this is RelGAN without its relational memory.

    Source: Jang et al. 2017 and Maddison et al. 2017 (Gumbel-softmax); Nie et al. 2019 (RelGAN), section 2.
    """

    requires_unpacked_rows: ClassVar[bool] = True
    """Samples are drawn per row."""

    length: int = 20
    """Tokens of every text, without an EOS token."""
    initial_temperature: float = 1.0
    """τ of the first step."""
    final_temperature: float = 0.01
    """τ after temperature_steps."""
    temperature_steps: int = 1_000
    """Steps over which τ falls."""
    straight_through: bool = True
    """Whether the discriminator and the next step see the most probable token of each soft one, and the soft one has
    the gradient; otherwise both see the soft ones."""
    discriminator: TwoTowersConfig | CausalDiscriminatorConfig | MatchMatrixConfig = TwoTowersConfig()
    """What tells references from samples; it sees the first `length` tokens of references."""
    discriminator_loss: Relativistic | Logistic | Hinge = Relativistic()
    """What it minimises. The generator minimises the relativistic loss with both sides exchanged, otherwise -log D of
    the logistic loss, and minus the logit of the hinge loss."""
    discriminator_optimizer: AdamWConfig | AdafactorConfig | None = AdamWConfig(
        learning_rate=1e-4, schedule="constant", warmup_steps=0
    )
    """Its optimizer; None = as the generator's."""
    discriminator_updates: int = 1
    """Updates of the discriminator in a step, on the same samples."""
    likelihood_weight: float = 0.0
    """Weight of the maximum-likelihood loss of the references."""
    label_smoothing: float = 0.0
    """Label smoothing of the maximum-likelihood loss and of the validation loss."""

    def __post_init__(self):
        check_values(self, "objective")
        for name in ("length", "temperature_steps", "discriminator_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.{name} must be at least 1, not {getattr(self, name)}.")
        if not 0.0 < self.final_temperature <= self.initial_temperature:
            raise ValueError(
                "objective.final_temperature must be positive and at most initial_temperature, and they are "
                f"{self.final_temperature} and {self.initial_temperature}."
            )
        if self.likelihood_weight < 0.0:
            raise ValueError(f"objective.likelihood_weight must not be negative, and is {self.likelihood_weight}.")

    def check(self, model: ModelConfig, *, accumulation: int) -> None:
        """See ObjectiveConfig.check."""
        check_sources_are_tokens(model, self)
        if model.copying or model.num_experts > 1:
            raise ValueError(
                "objective relaxed feeds soft tokens back, which copies and experts do not: set model.copying to False "
                "and model.num_experts to 1."
            )

    def temperature(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """τ of a step, from 0."""
        share = jnp.minimum(step / self.temperature_steps, 1.0)
        return self.initial_temperature * (self.final_temperature / self.initial_temperature) ** share

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "Relaxed":
        """The objective for a model; it does not need the tokenizer."""
        return Relaxed(self, model)


@flax.struct.dataclass
class RelaxedRows:
    """Pairs, and the noise of the tokens of a sample for each."""

    batch: Batch
    noise: Float[Array, "batch length vocab"]


class Relaxed(Objective):
    """The objective. The discriminator's turn comes first; the generator draws with the same noise in both turns."""

    def __init__(self, config: RelaxedConfig, model: EncoderDecoder):
        self.config = config
        self.model = model
        self.discriminator = config.discriminator.build(model.config, model.vocabulary)
        self.policy = Policy(vocabulary=model.vocabulary, minimum_length=config.length)
        self._likelihood = config.likelihood(model)

    @property
    def players(self) -> tuple[Player, ...]:
        """The model and the discriminator."""
        return model_player(self.model), Player(
            name=DISCRIMINATOR,
            initialize=self.discriminator.initialize,
            optimizer=self.config.discriminator_optimizer,
        )

    @property
    def turns(self) -> tuple[str, ...]:
        """The discriminator first."""
        return (DISCRIMINATOR,) * self.config.discriminator_updates + (MODEL,)

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Prepared, Any]:
        """The noise of the samples. See Objective.prepare."""
        shape = len(batch.source.tokens), self.config.length, self.model.vocabulary.target_size
        return Prepared(rows=RelaxedRows(batch=batch, noise=jax.random.gumbel(rng, shape))), state

    def draw(
        self, params: Params, rows: RelaxedRows, temperature: Float[Array, ""], *, key: jax.Array | None
    ) -> tuple[Float[Array, "batch length vocab"], Float[Array, "batch length"]]:
        """Soft tokens of a sample of each source, and the entropy of each token's distribution (nats).

        Args:
            key: of the encoder's dropout; None = none.
        """
        model, variables, length = self.model, {"params": params}, self.config.length
        rngs = None if key is None else {"dropout": key}
        source = rows.batch.source
        memory = model.apply(variables, source, deterministic=key is None, rngs=rngs, method="encode")
        state = model.apply(variables, memory, max_length=length, beam_size=1, method="start")
        per_source = state.per_source
        number = len(source.tokens)
        first = model.apply(variables, jnp.full(number, model.vocabulary.bos_id), method="embed_inputs")
        table = model.apply(variables, jnp.arange(model.vocabulary.target_size), method="embed_inputs")

        def step(carry, given):
            embedded, state = carry
            noise, place = given
            state = state.replace(per_source=per_source)
            logits, state = model.apply(variables, embedded, state, method="step_embedded")
            log_probabilities = self.policy.log_probabilities(logits, jnp.broadcast_to(place, (number,)))
            perturbed = (log_probabilities + noise) / temperature
            soft = jax.nn.softmax(perturbed)
            if self.config.straight_through:
                hard = jax.nn.one_hot(jnp.argmax(perturbed, axis=-1), soft.shape[-1])
                soft = hard + soft - jax.lax.stop_gradient(soft)
            entropy = -jnp.sum(jnp.exp(log_probabilities) * log_probabilities, axis=-1)
            return ((soft @ table).astype(embedded.dtype), state.replace(per_source=None)), (soft, entropy)

        carry = first, state.replace(per_source=None)
        _, (soft, entropies) = jax.lax.scan(step, carry, (jnp.swapaxes(rows.noise, 0, 1), jnp.arange(length)))
        return jnp.swapaxes(soft, 0, 1), entropies.T

    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """See Objective.loss.

        The generator logs `entropy` (nats per token), `temperature`, and `nll` of the references with a
        likelihood_weight; the discriminator `accuracy`, of pairs of a reference and a sample in the right order.
        """
        config, rows, own = self.config, prepared.rows, params[DISCRIMINATOR]
        batch, length = rows.batch, config.length
        there = jnp.any(batch.source.mask, axis=1)
        num_sources = jnp.sum(there).astype(jnp.float32)
        keys = [None] * 5 if rng is None else list(jax.random.split(rng, 5))
        temperature = config.temperature(step)
        soft, entropies = self.draw(params[MODEL], rows, temperature, key=keys[0])
        full = jnp.broadcast_to(there[:, None], (len(there), length))
        encoded = self.discriminator.encode(own, batch.source, key=keys[1])
        table = self.discriminator.embed(own, jnp.arange(self.model.vocabulary.target_size))
        sample = text_rows(jnp.zeros(full.shape, jnp.int32), full)
        found = self.discriminator.logits(
            own, sample, encoded, embedded=(soft @ table).astype(table.dtype), key=keys[2]
        )
        fake = logits_of_texts(found, full)
        reference = text_rows(batch.target.tokens[:, :length], batch.target.mask[:, :length])
        real = logits_of_texts(self.discriminator.logits(own, reference, encoded, key=keys[3]), reference.mask)
        loss = config.discriminator_loss
        if turn.player == DISCRIMINATOR:
            losses = loss.losses(real, fake[:, None])
            accuracy = WeightedSum(jnp.sum(real > fake, where=there).astype(jnp.float32), num_sources)
            return WeightedSum(jnp.sum(losses, where=there), num_sources), {"accuracy": accuracy}
        if isinstance(loss, Relativistic):
            losses = loss.losses(fake, real[:, None])
        else:
            losses = jax.nn.softplus(-fake) if isinstance(loss, Logistic) else -fake
        total = jnp.sum(losses, where=there)
        num_tokens = num_sources * length
        logged = {
            "entropy": WeightedSum(jnp.sum(entropies, where=there[:, None]), num_tokens),
            "temperature": WeightedSum(temperature * num_sources, num_sources),
        }
        if config.likelihood_weight > 0.0:
            likelihood, of_likelihood = self._likelihood.loss(
                turn, params, Prepared(rows=batch), step=step, rng=keys[4]
            )
            total += config.likelihood_weight * likelihood.sum
            logged["nll"] = of_likelihood["nll"]
        return WeightedSum(total, num_sources), logged

    def evaluate(self, params: dict[str, Params], batch: Batch) -> tuple[WeightedSum, dict[str, Logged]]:
        """The cross-entropy of the references, per target token. See Objective.evaluate."""
        return self._likelihood.evaluate(params, batch)

    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.turn_flops: soft tokens are products with both tables."""
        source = jnp.sum(prepared.rows.batch.source.mask, axis=-1).astype(jnp.float32)
        return jnp.sum(self._flops(turn.player, source))

    def _flops(self, player: str, source):
        length = float(self.config.length)
        generated = self.model.config.forward_flops(source, length, vocabulary=self.model.vocabulary)
        judged = self.config.discriminator.forward_flops(source, length, model=self.model.config, texts=2)
        # A generator's gradient goes through the discriminator, and not the other way round.
        return TRAINING * judged + (TRAINING if player == MODEL else 1) * generated

    def work(self, rows: int, source: int, target: int) -> Work:
        """See Objective.work."""
        flops = sum(float(self._flops(player, float(source))) for player in self.turns)
        return Work(
            flops=rows * flops,
            description=f"soft samples of {self.config.length} tokens for each of {rows:,} sources of {source}",
            longest_output=self.config.length,
        )
