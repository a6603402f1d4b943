"""Professor forcing: a recurrent decoder behaves alike whether it reads references or its own samples.

Its hidden states under teacher forcing and those of free-running generation are told apart by a discriminator, and the
decoder learns, beside the likelihood of references, to be taken for one that reads references. The gradient goes
through the hidden states of a sample, and not through the choice of its tokens.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.decoders.recurrent import RecurrentDecoderConfig
from seq2seq_jax.discriminators.discriminator import text_rows
from seq2seq_jax.encoders.recurrent import RecurrentEncoderConfig
from seq2seq_jax.generation.sampling import Samples
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.flops import TRAINING, product_flops
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.modules.precision import Precision
from seq2seq_jax.objectives.adversarial_measures import heaviside, mean_of
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
    per_step,
)
from seq2seq_jax.objectives.policy_gradient import Lengths, PolicyGradient, PolicyGradientConfig, has_source
from seq2seq_jax.objectives.sampled_texts import SampledTextsConfig
from seq2seq_jax.optimizers import AdafactorConfig, AdamWConfig
from seq2seq_jax.values import check_values

DISCRIMINATOR = "discriminator"
"""Name of the player that tells how a decoder has been read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfessorForcingConfig(SampledTextsConfig):
    """Config of professor forcing, normalised per source.

    With D the probability that hidden states are those of teacher forcing, the discriminator minimises
    -1/2 log D(reference) - 1/2 log(1 - D(sample)), and the generator the negative log-likelihood of the reference plus
    free_running_weight times -log D(sample) and teacher_forced_weight times -log(1 - D(reference)).

    Source: Lamb et al. 2016, equations 1 to 4, and the accuracies in section 2.2.
    """

    behaviour: RecurrentEncoderConfig = RecurrentEncoderConfig(model_dim=64, hidden_dim=64, dropout=0.0)
    """What reads the hidden states, projected to its model_dim; its summary is judged."""
    discriminator_optimizer: AdamWConfig | AdafactorConfig | None = AdamWConfig(
        learning_rate=1e-3, schedule="constant", warmup_steps=0
    )
    """Of the discriminator; None = as the generator's."""
    free_running_weight: float = 1.0
    """Weight of what makes free-running states look like those of teacher forcing."""
    teacher_forced_weight: float = 0.0
    """Weight of what makes states of teacher forcing look like free-running ones."""
    accuracy_floor: float = 0.75
    """Accuracy of the discriminator on a batch below which the generator learns from the likelihood alone."""
    accuracy_ceiling: float = 0.99
    """Accuracy on a batch from which on the discriminator is not trained with it."""
    temperature: float = 1.0
    """Temperature of the samples."""

    def __post_init__(self):
        check_values(self, "objective")
        self.check_sampling()
        for name in ("free_running_weight", "teacher_forced_weight"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"objective.{name} must not be negative, and is {getattr(self, name)}.")
        for name in ("accuracy_floor", "accuracy_ceiling"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"objective.{name} must lie in [0, 1], and is {getattr(self, name)}.")
        if self.behaviour.reduction > 1:
            raise ValueError("objective.behaviour reads states one by one: set its pyramid_layers to 0.")
        # What it shares with policy gradients is checked there.
        self.sampling()

    def check(self, model: ModelConfig, *, accumulation: int) -> None:
        """See ObjectiveConfig.check."""
        check_sources_are_tokens(model, self)
        if not isinstance(model.decoder, RecurrentDecoderConfig):
            raise ValueError(
                f"objective professor_forcing compares the states of a recurrent decoder, and model.decoder is "
                f"{type(model.decoder).__name__}: set it to recurrent, or choose another objective."
            )

    def sampling(self) -> PolicyGradientConfig:
        """Policy gradients that draw samples in the same way."""
        return PolicyGradientConfig(
            estimator=Reinforce(baseline="none", baseline_decay=None),
            samples_per_source=1,
            temperature=self.temperature,
            **self.sampling_fields,
        )

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "ProfessorForcing":
        """The objective for a model; it does not need the tokenizer."""
        return ProfessorForcing(self, model)


class BehaviourJudge(nn.Module):
    """A logit of the hidden states of each row: how much more they look like those of teacher forcing."""

    config: RecurrentEncoderConfig
    state_dim: int
    precision: Precision

    @nn.compact
    def __call__(
        self, states: Float[Array, "batch length states"], rows: TokenRows, *, deterministic: bool
    ) -> Float[Array, "batch"]:
        def linear(inputs: int, outputs: int, name: str) -> Linear:
            return Linear(
                input_dims=(inputs,),
                output_dims=(outputs,),
                axes=("model", None),
                bias=True,
                precision="float32",
                name=name,
            )

        read = linear(self.state_dim, self.config.model_dim, "projection")(states.astype(jnp.float32))
        memory = self.config.build(precision=self.precision)(read, rows, deterministic=deterministic)
        return linear(self.config.summary_dim, 1, "score")(memory.summary[:, 0].astype(jnp.float32))[:, 0]


@flax.struct.dataclass
class ProfessorRows:
    """What the players learn from; the first dim of all leaves is the batch.

    Attributes:
        batch: sources with references.
        samples: one of each source.
        real, free: hidden states of the decoder that reads the reference, and of the one that reads the sample.
    """

    batch: Batch
    samples: Samples
    real: Float[Array, "batch target states"]
    free: Float[Array, "batch length states"]

    @property
    def sample(self) -> TokenRows:
        """The samples as rows of a target."""
        return text_rows(self.samples.tokens[:, 0], self.samples.mask[:, 0])


@flax.struct.dataclass
class ProfessorShared:
    """What the accuracy on a batch decides."""

    accuracy: Float[Array, ""]
    trains_discriminator: Bool[Array, ""]
    is_challenged: Float[Array, ""]
    """1 where the generator learns from the discriminator too, else 0."""


class ProfessorForcing(PolicyGradient):
    """The objective. Hidden states that are compared are those without dropout."""

    against_collapse: ClassVar[str] = "lower objective.free_running_weight"
    against_endless_texts: ClassVar[str] = "lower objective.free_running_weight"

    def __init__(self, config: ProfessorForcingConfig, model: EncoderDecoder):
        super().__init__(config.sampling(), model, None)
        self.professor = config
        self.judge = BehaviourJudge(config.behaviour, model.config.decoder.model_dim, model.config.precision)

    @property
    def players(self) -> tuple[Player, ...]:
        """The model and the discriminator."""
        states = jnp.zeros((1, 1, self.judge.state_dim))
        row = text_rows(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))

        def initialize(key: jax.Array) -> Params:
            return self.judge.init(key, states, row, deterministic=True)["params"]

        return *super().players, Player(
            name=DISCRIMINATOR, initialize=initialize, optimizer=self.professor.discriminator_optimizer
        )

    @property
    def turns(self) -> tuple[str, ...]:
        """The generator first; what both learn from was computed before either."""
        return MODEL, DISCRIMINATOR

    def active(self, turn: Turn, prepared: Prepared, *, step: Int[Array, ""]) -> bool | Bool[Array, ""]:
        """See Objective.active."""
        return True if turn.player == MODEL else prepared.shared.trains_discriminator

    def prepare(
        self, params: dict[str, Params], state: Any, batch: Batch, *, step: Int[Array, ""], rng: jax.Array
    ) -> tuple[Prepared, Any]:
        """A sample of every source, the hidden states of both texts, and how well they are told apart."""
        memory = self._apply(params[MODEL], batch.source, deterministic=True, method="encode")
        drawn = self.draw(params[MODEL], memory, batch.source, rng=rng)
        sample = text_rows(drawn.tokens[:, 0], drawn.mask[:, 0])
        real, free = (self._states(params[MODEL], text, memory) for text in (batch.target, sample))
        rows = ProfessorRows(batch=batch, samples=drawn, real=real, free=free)
        there, own = has_source(batch), params[DISCRIMINATOR]
        right = [heaviside(self._logits(own, real, batch.target)), heaviside(-self._logits(own, free, sample))]
        accuracy = 0.5 * sum(mean_of(each, there) for each in right)
        shared = ProfessorShared(
            accuracy=accuracy,
            trains_discriminator=accuracy < self.professor.accuracy_ceiling,
            is_challenged=(accuracy >= self.professor.accuracy_floor).astype(jnp.float32),
        )
        return Prepared(rows=rows, shared=shared), state

    def _states(self, params: Params, text: TokenRows, memory: Any) -> Float[Array, "batch length states"]:
        """Hidden states of the decoder that reads a text, without dropout."""
        hidden = self._apply(params, text, memory, deterministic=True, method="decode")
        return hidden[..., : self.judge.state_dim]

    def _logits(
        self,
        params: Params,
        states: Float[Array, "batch length states"],
        text: TokenRows,
        *,
        key: jax.Array | None = None,
    ) -> Float[Array, "batch"]:
        rngs = None if key is None else {"dropout": key}
        return self.judge.apply({"params": params}, states, text, deterministic=key is None, rngs=rngs)

    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """See Objective.loss.

        The generator logs `nll` of the references (nats per token), `free_running_loss` (per source), and of the
        samples `entropy` (nats per token, estimated from them), `sample_length` (tokens) and `ended_fraction`.
        """
        config, rows = self.professor, prepared.rows
        batch, sample = rows.batch, rows.sample
        there = has_source(batch)
        num_sources = jnp.sum(there).astype(jnp.float32)
        if turn.player == DISCRIMINATOR:
            keys = [None, None] if rng is None else list(jax.random.split(rng))
            real = self._logits(params[DISCRIMINATOR], rows.real, batch.target, key=keys[0])
            free = self._logits(params[DISCRIMINATOR], rows.free, sample, key=keys[1])
            losses = 0.5 * jax.nn.softplus(-real) + 0.5 * jax.nn.softplus(free)
            return WeightedSum(jnp.sum(losses, where=there), num_sources), {}
        likelihood, logged = self._likelihood.loss(turn, params, Prepared(rows=batch), step=step, rng=rng)
        memory = self._apply(params[MODEL], batch.source, deterministic=True, method="encode")
        judged = jax.lax.stop_gradient(params[DISCRIMINATOR])
        free = self._logits(judged, self._states(params[MODEL], sample, memory), sample)
        of_free = jax.nn.softplus(-free)
        losses = config.free_running_weight * of_free
        if config.teacher_forced_weight > 0.0:
            real = self._logits(judged, self._states(params[MODEL], batch.target, memory), batch.target)
            losses += config.teacher_forced_weight * jax.nn.softplus(real)
        total = likelihood.sum + prepared.shared.is_challenged * jnp.sum(losses, where=there)
        num_tokens = jnp.sum(sample.mask).astype(jnp.float32)
        ended = rows.samples.ended[:, 0].astype(jnp.float32)
        return WeightedSum(total, num_sources), {
            "nll": logged["nll"],
            "free_running_loss": WeightedSum(jnp.sum(of_free, where=there), num_sources),
            "entropy": WeightedSum(-jnp.sum(rows.samples.log_probabilities), num_tokens),
            "sample_length": WeightedSum(num_tokens, num_sources),
            "ended_fraction": WeightedSum(jnp.sum(ended, where=there), num_sources),
        }

    def prepared_metrics(self, prepared: Prepared) -> dict[str, Logged]:
        """See Objective.prepared_metrics."""
        shared = prepared.shared
        return {
            "discriminator_accuracy": per_step(shared.accuracy),
            "discriminator_trained": per_step(shared.trains_discriminator.astype(jnp.float32)),
            "generator_challenged": per_step(shared.is_challenged),
        }

    def counts(self, prepared: Prepared) -> dict[str, Int[Array, ""]]:
        """See Objective.counts: `sampled_tokens`."""
        return {"sampled_tokens": jnp.sum(prepared.rows.samples.lengths)}

    def preparation_flops(self, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.preparation_flops."""
        return jnp.sum(self._preparation_flops(self._lengths(prepared.rows)))

    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.turn_flops."""
        lengths = self._lengths(prepared.rows)
        return jnp.sum(
            self._discriminator_flops(lengths) if turn.player == DISCRIMINATOR else self._update_flops(lengths)
        )

    def _lengths(self, rows: ProfessorRows) -> Lengths:
        source, target = (
            jnp.sum(side.mask, axis=-1).astype(jnp.float32) for side in (rows.batch.source, rows.batch.target)
        )
        drawn = rows.samples.lengths.astype(jnp.float32)
        return Lengths(source=source, reference=target, drawn=drawn, learned=drawn)

    def _decoding_flops(self, source, text):
        """Of the hidden states of a text whose source is encoded, without logits."""
        model = self.model.config
        logits = product_flops(text, model.decoder.model_dim, self.model.vocabulary.target_size)
        encoder = model.encoder_flops(source, vocabulary=self.model.vocabulary)
        return self._forward_flops(source, text[:, None]) - encoder - logits

    def _judging_flops(self, text):
        behaviour = self.professor.behaviour
        projected = product_flops(text, self.judge.state_dim, behaviour.model_dim)
        return projected + behaviour.forward_flops(text) + product_flops(1, behaviour.summary_dim, 1)

    def _preparation_flops(self, lengths: Lengths):
        flops = self._forward_flops(lengths.source, lengths.drawn)
        for text in (lengths.reference, lengths.drawn[:, 0]):
            flops += self._decoding_flops(lengths.source, text) + self._judging_flops(text)
        return flops

    def _discriminator_flops(self, lengths: Lengths):
        return TRAINING * (self._judging_flops(lengths.reference) + self._judging_flops(lengths.drawn[:, 0]))

    def _update_flops(self, lengths: Lengths):
        """The gradient by the discriminator's parameters is not needed, and its products are not counted apart."""
        flops = self._likelihood.pair_flops(lengths.source, lengths.reference)
        texts = [lengths.drawn[:, 0]]
        texts += [lengths.reference] if self.professor.teacher_forced_weight > 0.0 else []
        compared = self.model.config.encoder_flops(lengths.source, vocabulary=self.model.vocabulary)
        for text in texts:
            compared += self._decoding_flops(lengths.source, text) + self._judging_flops(text)
        return flops + TRAINING * compared

    def work(self, rows: int, source: int, target: int) -> Work:
        """See Objective.work: both turns are taken."""
        work, lengths = super().work(rows, source, target), self.longest_lengths(source, target)
        flops = self._discriminator_flops(lengths)
        return dataclasses.replace(
            work,
            flops=work.flops + rows * flops.item(),
            description=f"{work.description}, whose states are told from those of references",
        )

    @property
    def _best_reward(self) -> None:
        """See PolicyGradient: there is no reward."""
