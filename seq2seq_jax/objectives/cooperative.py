"""Cooperative training: a mediator learns the mean of references and samples, and the generator follows it.

No gradient goes through sampling, and no reward is estimated: at each prefix of a sample the whole distribution of the
next token is compared with the mediator's.
"""

import dataclasses
from collections.abc import Collection
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import Batch, TokenRows, one_token_batch
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.discriminators.discriminator import text_rows
from seq2seq_jax.generation.sampling import Samples
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.embedding import gather_scores
from seq2seq_jax.modules.flops import TRAINING
from seq2seq_jax.objectives.estimators import Reinforce
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
)
from seq2seq_jax.objectives.policy_gradient import Lengths, PolicyGradient, PolicyGradientConfig, has_source
from seq2seq_jax.objectives.sampled_texts import SampledTextsConfig
from seq2seq_jax.optimizers import AdafactorConfig, AdamWConfig
from seq2seq_jax.values import check_values

MEDIATOR = "mediator"
"""Name of the player that learns the mean of references and samples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CooperativeConfig(SampledTextsConfig):
    """Config of cooperative training, normalised per source.

    The mediator M minimises half the negative log-likelihood of the reference and half that of a sample of the
    generator G, so that at best it is the mean of both distributions; the generator minimises
    Σ_t KL(G(· | y_<t, x), M(· | y_<t, x)) over the prefixes of its sample, of which the gradient by the prefixes
    themselves is left out. For texts of one token that is the gradient of twice the Jensen–Shannon divergence.

    Source: Lu et al. 2019 (CoT), equations 9 and 12.
    """

    mediator: ModelConfig | None = None
    """Encoder and decoder of the mediator; None = those of the generator, whose parameters it then starts from."""
    mediator_optimizer: AdamWConfig | AdafactorConfig | None = None
    """Of the mediator; None = as the generator's."""
    mediator_updates: int = 1
    """Updates of the mediator in a step, on the same samples."""
    likelihood_weight: float = 0.0
    """Weight of the negative log-likelihood of the reference in the generator's loss."""

    def __post_init__(self):
        check_values(self, "objective")
        if self.mediator_updates < 1:
            raise ValueError(f"objective.mediator_updates must be at least 1, not {self.mediator_updates}.")
        if self.mediator is not None and (self.mediator.copying or self.mediator.num_experts > 1):
            raise ValueError(
                "objective.mediator has no use for copying or experts: set copying to False and num_experts to 1."
            )
        if self.likelihood_weight < 0.0:
            raise ValueError(f"objective.likelihood_weight must not be negative, and is {self.likelihood_weight}.")
        self.check_sampling()

    def check(self, model: ModelConfig, *, accumulation: int) -> None:
        """See ObjectiveConfig.check."""
        check_sources_are_tokens(model, self)

    def sampling(self) -> PolicyGradientConfig:
        """Policy gradients that draw samples in the same way."""
        estimator = Reinforce(baseline="none", baseline_decay=None)
        return PolicyGradientConfig(estimator=estimator, samples_per_source=1, **self.sampling_fields)

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "Cooperative":
        """The objective for a model; it does not need the tokenizer."""
        return Cooperative(self, model)


@flax.struct.dataclass
class CooperativeRows:
    """What is learned from: sources with references, and a sample of each."""

    batch: Batch
    samples: Samples


class Cooperative(PolicyGradient):
    """The objective."""

    against_collapse: ClassVar[str] = "raise objective.likelihood_weight"

    def __init__(self, config: CooperativeConfig, model: EncoderDecoder):
        super().__init__(config.sampling(), model, None)
        self.cooperative = config
        own = model.config if config.mediator is None else config.mediator
        self.mediator = own.build(model.vocabulary)

    @property
    def players(self) -> tuple[Player, ...]:
        """The model and the mediator."""

        def initialize(key: jax.Array) -> Params:
            return self.mediator.init(key, one_token_batch())["params"]

        return *super().players, Player(
            name=MEDIATOR, initialize=initialize, optimizer=self.cooperative.mediator_optimizer
        )

    @property
    def turns(self) -> tuple[str, ...]:
        """The mediator first, which the generator follows."""
        return (MEDIATOR,) * self.cooperative.mediator_updates + (MODEL,)

    def initial_params(self, params: dict[str, Params], *, given: Collection[str]) -> dict[str, Params]:
        """See Objective.initial_params: a mediator of the generator's architecture starts from it."""
        if self.cooperative.mediator is not None or MEDIATOR in given:
            return params
        return {**params, MEDIATOR: jax.tree.map(jnp.copy, params[MODEL])}

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Prepared, Any]:
        """A sample of every source. See Objective.prepare."""
        memory = self._apply(params[MODEL], batch.source, deterministic=True, method="encode")
        drawn = self.draw(params[MODEL], memory, batch.source, rng=rng)
        return Prepared(rows=CooperativeRows(batch=batch, samples=drawn)), state

    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """See Objective.loss.

        The mediator logs `sample_nll` and `reference_nll` (nats per token); the generator `divergence` from the
        mediator and `entropy` (nats per token), `sample_length` (tokens) and `ended_fraction`.
        """
        rows: CooperativeRows = prepared.rows
        batch, samples = rows.batch, rows.samples
        there = has_source(batch)
        num_sources = jnp.sum(there).astype(jnp.float32)
        sample = text_rows(samples.tokens[:, 0], samples.mask[:, 0])
        keys = [None] * 3 if rng is None else list(jax.random.split(rng, 3))
        if turn.player == MEDIATOR:
            memory = self._of_player(MEDIATOR, params, batch.source, key=keys[0], method="encode")
            losses, logged = 0.0, {}
            for name, text, key in (("reference", batch.target, keys[1]), ("sample", sample, keys[2])):
                scores = gather_scores(self._distribution(MEDIATOR, params, text, memory, key=key), text.tokens)
                nll = -jnp.sum(jnp.where(text.mask, scores, 0.0), axis=1)
                losses += 0.5 * nll
                logged[f"{name}_nll"] = WeightedSum(jnp.sum(nll), jnp.sum(text.mask).astype(jnp.float32))
            return WeightedSum(jnp.sum(losses, where=there), num_sources), logged
        mediated = self._of_player(MEDIATOR, params, batch.source, key=None, method="encode")
        wanted = jax.lax.stop_gradient(self._distribution(MEDIATOR, params, sample, mediated, key=None))
        memory = self._of_player(MODEL, params, batch.source, key=keys[0], method="encode")
        own = self._distribution(MODEL, params, sample, memory, key=keys[1])
        probabilities = jnp.exp(own)
        # Tokens that are not allowed have the same logarithm on both sides, and a probability of 0.
        divergences = jnp.sum(probabilities * (own - wanted), axis=-1)
        entropies = -jnp.sum(probabilities * own, axis=-1)
        losses = jnp.sum(jnp.where(sample.mask, divergences, 0.0), axis=1)
        if self.cooperative.likelihood_weight > 0.0:
            scores = self._distribution(MODEL, params, batch.target, memory, key=keys[2])
            scores = jnp.where(batch.target.mask, gather_scores(scores, batch.target.tokens), 0.0)
            losses -= self.cooperative.likelihood_weight * jnp.sum(scores, axis=1)
        num_tokens = jnp.sum(sample.mask).astype(jnp.float32)
        logged = {
            "divergence": WeightedSum(jnp.sum(divergences, where=sample.mask), num_tokens),
            "entropy": WeightedSum(jnp.sum(entropies, where=sample.mask), num_tokens),
            "sample_length": WeightedSum(num_tokens, num_sources),
            "ended_fraction": WeightedSum(jnp.sum(samples.ended[:, 0], where=there).astype(jnp.float32), num_sources),
        }
        return WeightedSum(jnp.sum(losses, where=there), num_sources), logged

    def _of_player(self, player: str, params: dict[str, Params], *arguments: Any, key: jax.Array | None, method: str):
        model = self.model if player == MODEL else self.mediator
        rngs = None if key is None else {"dropout": key}
        variables = {"params": params[player]}
        return model.apply(variables, *arguments, deterministic=key is None, rngs=rngs, method=method)

    def _distribution(
        self, player: str, params: dict[str, Params], text: TokenRows, memory: Any, *, key: jax.Array | None
    ) -> Float[Array, "batch length vocab"]:
        """Log-probabilities of the next token at each position of texts, under the policy of samples."""
        model = self.model if player == MODEL else self.mediator
        hidden = self._of_player(player, params, text, memory, key=key, method="decode")
        logits = model.apply({"params": params[player]}, hidden, text.segment_ids, memory, method="logits")
        return self.policy.log_probabilities(logits, text.positions)

    def counts(self, prepared: Prepared) -> dict[str, Int[Array, ""]]:
        """See Objective.counts: `sampled_tokens`."""
        return {"sampled_tokens": jnp.sum(prepared.rows.samples.lengths)}

    def preparation_flops(self, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.preparation_flops."""
        return jnp.sum(self._preparation_flops(self._lengths(prepared.rows)))

    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.turn_flops."""
        lengths = self._lengths(prepared.rows)
        return jnp.sum(self._mediator_flops(lengths) if turn.player == MEDIATOR else self._update_flops(lengths))

    def _lengths(self, rows: CooperativeRows) -> Lengths:
        batch = rows.batch
        source, target = (jnp.sum(side.mask, axis=-1).astype(jnp.float32) for side in (batch.source, batch.target))
        drawn = rows.samples.lengths.astype(jnp.float32)
        return Lengths(source=source, reference=target, drawn=drawn, learned=drawn)

    def _mediated_flops(self, source, text):
        return self.mediator.config.forward_flops(source, text, vocabulary=self.model.vocabulary)

    def _mediator_flops(self, lengths: Lengths):
        texts = lengths.reference, lengths.drawn[:, 0]
        once = self.mediator.config.encoder.forward_flops(lengths.source)
        return TRAINING * (sum(self._mediated_flops(lengths.source, text) for text in texts) - once)

    def _update_flops(self, lengths: Lengths):
        flops = TRAINING * self._forward_flops(lengths.source, lengths.learned)
        flops += self._mediated_flops(lengths.source, lengths.drawn[:, 0])
        if self.cooperative.likelihood_weight > 0.0:
            reference = self._forward_flops(lengths.source, lengths.reference[:, None])
            flops += TRAINING * (reference - self.model.config.encoder.forward_flops(lengths.source))
        return flops

    def work(self, rows: int, source: int, target: int) -> Work:
        """See Objective.work."""
        work, lengths = super().work(rows, source, target), self.longest_lengths(source, target)
        flops = self.cooperative.mediator_updates * self._mediator_flops(lengths)
        return dataclasses.replace(
            work,
            flops=work.flops + rows * flops.item(),
            description=f"{work.description}, compared with a mediator",
        )

    @property
    def _best_reward(self) -> None:
        """See PolicyGradient: there is no reward."""
