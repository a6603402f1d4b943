"""Maximum likelihood: cross-entropy of the target tokens, with label smoothing, z-loss, unlikelihood and coverage."""

import dataclasses
import functools
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch, Memory, TokenRows
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.model import EncoderDecoder, ModelConfig
from seq2seq_jax.modules.dropout import has_dropout
from seq2seq_jax.modules.embedding import EmbeddingChange, Scoring, gather_scores
from seq2seq_jax.modules.flops import TRAINING, Amount, causal_pairs, product_flops
from seq2seq_jax.modules.pointer import Pointed, coverage_losses
from seq2seq_jax.modules.segments import lengths_of_pairs, segment_mask
from seq2seq_jax.objectives.objective import (
    Logged,
    Objective,
    ObjectiveConfig,
    Params,
    Player,
    Prepared,
    Turn,
    WeightedSum,
    Work,
)
from seq2seq_jax.objectives.perturbations import (
    Cutoff,
    DoublyAdversarial,
    Fgm,
    FreeLb,
    Pass,
    Passes,
    SequenceMixup,
    Unperturbed,
    Vat,
)
from seq2seq_jax.values import check_values

MODEL = "model"
"""Name of the player that generates."""


def model_player(model: EncoderDecoder) -> Player:
    """The player that generates, with new parameters and the experiment's optimizer."""

    def initialize(key: jax.Array) -> Params:
        return model.init(key, model.smallest_batch)["params"]

    return Player(name=MODEL, initialize=initialize)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaximumLikelihoodConfig(ObjectiveConfig):
    """Config of maximum likelihood."""

    label_smoothing: float = 0.1
    """Probability mass of the label that is spread uniformly over the vocabulary; with model.copying over its own
    distribution, before copies."""
    z_loss: float = 0.0
    """Weight of the squared log of the softmax normaliser (T5 and PaLM: 1e-4)."""
    loss_chunk: int | None = None
    """Target positions of a row whose logits are computed at a time, so that those of all positions never exist at
    once; None = all. Must divide data.max_target_length."""
    unlikelihood_weight: float = 0.0
    """Weight of the unlikelihood of repetition: -log(1 - p(c)), summed over the tokens c that stand before a position
    in its target and are not its label; 0 = none."""
    coverage_weight: float = 0.0
    """Weight of the coverage loss, the weight that a token's copying gives to source tokens as far as earlier tokens of
    its target have given it to them already; only for model.copying. 0 = none."""
    r_drop_weight: float = 0.0
    """Weight α of R-Drop: every row is computed twice with different dropout, and the loss is the mean of both plus
    α / 2 times the mean of the two Kullback-Leibler divergences between their distributions (half of the paper's sum);
    0 = rows are computed once."""
    perturbation: Unperturbed | Fgm | FreeLb | Vat | Cutoff | DoublyAdversarial | SequenceMixup = Unperturbed()
    """What is required of the model under changes of its embeddings: unperturbed, fgm (adversarial training), free_lb
    (the same in several steps), vat (virtual adversarial training), cutoff, doubly_adversarial (words replaced on both
    sides) or sequence_mixup."""
    sampling_schedule: Literal["none", "linear", "exponential", "inverse_sigmoid"] = "none"
    """Scheduled sampling: schedule of the probability that a decoder input is a model prediction instead of the label.
    After i updates it is sampling_limit times min(i / steps, 1), 1 - exp(-i / steps) or
    1 - steps / (steps + exp(i / steps)), with steps = sampling_steps."""
    sampling_limit: float | None = None
    """Limit of the probability of a model prediction; only for scheduled sampling."""
    sampling_steps: int | None = None
    """Time scale of the schedule (updates); only for scheduled sampling."""
    sampling_choice: Literal["sample", "argmax"] | None = None
    """Whether predictions are sampled, or the most probable tokens; only for scheduled sampling."""

    def __post_init__(self):
        check_values(self, "objective")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"objective.label_smoothing must lie in [0, 1), not {self.label_smoothing}.")
        if self.z_loss < 0.0:
            raise ValueError(f"objective.z_loss must not be negative, and is {self.z_loss}.")
        if self.unlikelihood_weight < 0.0:
            raise ValueError(f"objective.unlikelihood_weight must not be negative, and is {self.unlikelihood_weight}.")
        if self.coverage_weight < 0.0:
            raise ValueError(f"objective.coverage_weight must not be negative, and is {self.coverage_weight}.")
        if self.r_drop_weight < 0.0:
            raise ValueError(f"objective.r_drop_weight must not be negative, and is {self.r_drop_weight}.")
        if self.loss_chunk is not None and self.loss_chunk < 1:
            raise ValueError(f"objective.loss_chunk must be at least 1 position, not {self.loss_chunk}.")

        for field in ("sampling_limit", "sampling_steps", "sampling_choice"):
            value = getattr(self, field)
            if (value is None) != (self.sampling_schedule == "none"):
                raise ValueError(
                    f"objective.{field} must be set if and only if objective.sampling_schedule is not none; they are "
                    f"{value} and {self.sampling_schedule}."
                )
        if self.sampling_limit is not None and not 0.0 < self.sampling_limit <= 1.0:
            raise ValueError(f"objective.sampling_limit must lie in (0, 1], not {self.sampling_limit}.")
        if self.sampling_steps is not None and self.sampling_steps < 1:
            raise ValueError(f"objective.sampling_steps must be at least 1 update, not {self.sampling_steps}.")

        if self.perturbation.is_on and isinstance(self.perturbation, SequenceMixup | DoublyAdversarial):
            name = type(self.perturbation).__name__
            if self.sampling_schedule != "none":
                raise ValueError(
                    f"objective.perturbation {name} changes decoder inputs that are labels, and with scheduled "
                    "sampling some are not. Set sampling_schedule to none, or the perturbation to unperturbed."
                )
            if self.r_drop_weight > 0.0 and isinstance(self.perturbation, SequenceMixup):
                raise ValueError(
                    "objective.perturbation SequenceMixup mixes rows, which R-Drop compares two by two. Set "
                    "objective.r_drop_weight to 0, or the perturbation to unperturbed."
                )

    @property
    def requires_unpacked_rows(self) -> bool:
        """See ObjectiveConfig.requires_unpacked_rows: where rows are mixed."""
        return self.perturbation.is_on and isinstance(self.perturbation, SequenceMixup)

    def check(self, model: ModelConfig, *, accumulation: int) -> None:
        """See ObjectiveConfig.check."""
        if self.coverage_weight > 0.0 and not model.copying:
            raise ValueError(
                f"objective.coverage_weight = {self.coverage_weight} has no effect without copying. Set model.copying "
                "to True, or coverage_weight to 0."
            )
        masks = model.front_end is not None and model.front_end.spec_augment is not None
        if self.r_drop_weight > 0.0 and not (masks or has_dropout(model.encoder) or has_dropout(model.decoder)):
            raise ValueError(
                f"objective.r_drop_weight = {self.r_drop_weight} has no effect without dropout: both passes are the "
                "same. Set model.encoder.dropout or model.decoder.dropout, or r_drop_weight to 0."
            )
        if model.front_end is not None and self.perturbation.is_on:
            raise ValueError(
                f"objective.perturbation {type(self.perturbation).__name__} changes embeddings, and sources of "
                "model.front_end have none. Set it to unperturbed; model.front_end.spec_augment masks frames."
            )
        if model.copying and isinstance(self.perturbation, Vat | Cutoff | SequenceMixup):
            raise ValueError(
                f"objective.perturbation {type(self.perturbation).__name__} is not supported with model.copying. Set "
                "it to fgm or unperturbed, or copying to False."
            )
        for field, without in (("unlikelihood_weight", 0.0), ("r_drop_weight", 0.0), ("sampling_schedule", "none")):
            value = getattr(self, field)
            if model.copying and value != without:
                raise ValueError(
                    f"objective.{field} = {value} is not supported with model.copying. Set it to {without}, or copying "
                    "to False."
                )

    def sampling_probability(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Probability that a decoder input is a model prediction, after `step` updates.

        Source: Bengio et al. 2015, section 2.4.
        """
        scale = float(self.sampling_steps)
        done = step / scale
        grown = {
            "linear": lambda: jnp.minimum(done, 1.0),
            "exponential": lambda: 1.0 - jnp.exp(-done),
            "inverse_sigmoid": lambda: 1.0 - scale / (scale + jnp.exp(done)),
        }[self.sampling_schedule]()
        return self.sampling_limit * grown

    def build(self, model: EncoderDecoder, tokenizer: Tokenizer | None = None) -> "MaximumLikelihood":
        """The objective for a model; it does not need the tokenizer."""
        return MaximumLikelihood(self, model)


class EvaluatedByLikelihood(ObjectiveConfig):
    """Config of an objective whose parameters are evaluated by the likelihood of references, without foreign code."""

    label_smoothing: float

    def likelihood(self, model: EncoderDecoder) -> "MaximumLikelihood":
        """Maximum likelihood with the label smoothing of the objective."""
        return MaximumLikelihoodConfig(label_smoothing=self.label_smoothing).build(model)

    def build_evaluation(self, model: EncoderDecoder) -> Objective:
        """What evaluates parameters: the likelihood of references."""
        return self.likelihood(model)


@flax.struct.dataclass
class Copied:
    """What copying adds to the likelihood of labels.

    Attributes:
        log_generated: log p_gen, of the vocabulary's distribution.
        log_copied: log (1 - p_gen) Σ weight, over the source tokens that are the label.
    """

    log_generated: Float[Array, "*dims"]
    log_copied: Float[Array, "*dims"]

    @classmethod
    def of(cls, pointed: Pointed, labels: Int[Array, "batch target"], memory: Memory) -> "Copied":
        """Of labels, where a model's pointer points."""
        return cls(pointed.log_generated, pointed.log_copied(labels, memory.tokens[:, None]))


def cross_entropy(
    logits: Float[Array, "*dims vocab"],
    labels: Int[Array, "*dims"],
    *,
    label_smoothing: float,
    z_loss: float,
    copied: Copied | None = None,
) -> tuple[Float[Array, "*dims"], Float[Array, "*dims"]]:
    """Loss and negative log-likelihood (nats) of each token.

    With q = (1 - ε) onehot(label) + ε / vocab, the loss is -Σ q log p + z (log Z)². With copying, -log p(label) is that
    of the mixture, and the rest of the sum that of the vocabulary's distribution.

    Args:
        copied: what copying adds; None = nothing is copied.

    Source: Szegedy et al. 2016, section 7 (label smoothing); Chowdhery et al. 2022, section 5 (z-loss); See et al.
    2017, equation 9 (copying).
    """
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    negative_log_likelihood = log_normalizer - gather_scores(logits, labels)
    if copied is not None:
        negative_log_likelihood = -jnp.logaddexp(copied.log_generated - negative_log_likelihood, copied.log_copied)
    uniform = log_normalizer - jnp.mean(logits, axis=-1)
    loss = (1.0 - label_smoothing) * negative_log_likelihood + label_smoothing * uniform
    return loss + z_loss * jnp.square(log_normalizer), negative_log_likelihood


LEAST_COMPLEMENT = 1e-5
"""What 1 - p counts as in the unlikelihood of a token where it is less, as in the code of Welleck et al. 2020: no loss
is infinite, and a candidate that is as good as certain has no gradient."""


@flax.struct.dataclass
class Negatives:
    """The negative candidates of rows of a target, for unlikelihood.

    Attributes:
        rows: rows of the output table of the tokens of the target.
        allowed: at [b, t, c], whether the token at place c of the row is a candidate at place t.
    """

    rows: Float[Array, "batch candidates model"]
    allowed: Bool[Array, "batch target candidates"]


def negative_candidates(target: TokenRows) -> Bool[Array, "batch target target"]:
    """At [b, t, c], whether the token at place c of a row is a negative candidate at place t: it stands before t in the
    same segment, for the first time there, and is not the label of t.

    Source: Welleck et al. 2020, equation 5 (previous context tokens).
    """
    places = jnp.arange(target.tokens.shape[1])
    earlier = segment_mask(target.segment_ids, target.segment_ids) & (places < places[:, None])
    is_same = target.tokens[:, :, None] == target.tokens[:, None, :]
    is_repeated = jnp.any(earlier & is_same, axis=-1)
    return earlier & ~is_same & ~is_repeated[:, None, :]


def unlikelihood(
    scores: Float[Array, "*dims vocab"],
    candidate_scores: Float[Array, "*dims candidates"],
    allowed: Bool[Array, "*dims candidates"],
) -> Float[Array, "*dims"]:
    """-Σ log(1 - p(c)) over the allowed candidates of each position (nats).

    Args:
        scores: logits of all tokens.
        candidate_scores: those of the candidates.

    Source: Welleck et al. 2020, equation 4 (without its weight).
    """
    probabilities = jnp.exp(candidate_scores - jax.nn.logsumexp(scores, axis=-1, keepdims=True))
    losses = -jnp.log(jnp.maximum(1.0 - probabilities, LEAST_COMPLEMENT))
    return jnp.sum(losses, axis=-1, where=allowed)


def divergence(scores: Float[Array, "rows *dims vocab"]) -> Float[Array, "rows *dims"]:
    """1/2 KL(p, q) + 1/2 KL(q, p) (nats) of the distributions p of each even row and q of the row behind it, given for
    both.

    Args:
        scores: logits.

    Source: Wu et al. 2021 (R-Drop), equation 2.
    """
    log_probabilities = jax.nn.log_softmax(scores)
    first, second = log_probabilities[::2], log_probabilities[1::2]
    found = 0.5 * jnp.sum((jnp.exp(first) - jnp.exp(second)) * (first - second), axis=-1)
    return jnp.repeat(found, 2, axis=0)


def each_row_twice(array: Array) -> Array:
    """Every row with a copy behind it, on the same device."""
    return jnp.stack([array, array], axis=1).reshape(2 * len(array), *array.shape[1:])


class MaximumLikelihood(Objective):
    """The objective. Its loss is the mean over target tokens, EOS tokens included, of the global batch."""

    def __init__(self, config: MaximumLikelihoodConfig, model: EncoderDecoder):
        self.config = config
        self.model = model

    @property
    def players(self) -> tuple[Player, ...]:
        """The model alone."""
        return (model_player(self.model),)

    def loss(
        self, turn: Turn, params: dict[str, Params], prepared: Prepared, *, step: Int[Array, ""], rng: jax.Array | None
    ) -> tuple[WeightedSum, dict[str, Logged]]:
        """See Objective.loss; without an rng, dropout and scheduled sampling are off.

        Logs `nll`, the negative log-likelihood without label smoothing, with an unlikelihood_weight `unlikelihood`,
        with an r_drop_weight `divergence` (all in nats per target token), and with copying `copy_probability`, the mean
        of 1 - p_gen, and `coverage`, the coverage loss (per target token). With a perturbation `nll` is that of the
        embeddings as they are; `adversarial_nll`, `cut_nll`, `mixed_nll` and `divergence` are those of changed ones.
        """
        batch: Batch = prepared.rows
        config = self.config
        if config.r_drop_weight > 0.0:
            if rng is None:
                config = dataclasses.replace(config, r_drop_weight=0.0)
            else:
                batch = jax.tree.map(each_row_twice, batch)
        weight = jnp.sum(batch.target.mask).astype(jnp.float32)
        run = functools.partial(self._pass, config, step=step, rng=rng)
        further = {}
        if rng is None or not config.perturbation.is_on:
            found, further = run(params[turn.player], {}, batch=batch)
            loss, sums = found.loss, found.logged
        else:
            stacks = {"source": self.model.config.encoder, "target": self.model.config.decoder}
            passes = Passes(
                run=lambda own, change, batch=batch: run(own, change, batch=batch)[0],
                embed=self._embedded,
                losses=functools.partial(self._losses, config),
                batch=batch,
                vocabulary=self.model.vocabulary,
                dims={side: stack.model_dim for side, stack in stacks.items()},
                rng=rng,
                scoring=self.model.config.scoring,
                chunk=config.loss_chunk,
            )
            loss, sums = config.perturbation.loss(passes, params[turn.player])
        return WeightedSum(loss, weight), {name: WeightedSum(total, weight) for name, total in sums.items()} | further

    def _embedded(self, params: Params, side: str, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        method = "embed_source" if side == "source" else "embed_inputs"
        return self.model.apply({"params": params}, tokens, method=method)

    def _losses(
        self,
        config: MaximumLikelihoodConfig,
        found: Pass,
        labels: Int[Array, "batch target"],
        mask: Bool[Array, "batch target"],
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The cross-entropy of labels under the distributions of a pass, without unlikelihood."""
        scoring = self.model.config.scoring
        return _vocabulary_loss(config, scoring, found.table, None, None, found.hidden, labels, mask)

    def _pass(
        self,
        config: MaximumLikelihoodConfig,
        params: Params,
        change: dict[str, EmbeddingChange],
        *,
        batch: Batch,
        step: Int[Array, ""],
        rng: jax.Array | None,
    ) -> tuple[Pass, dict[str, WeightedSum]]:
        """A pass through the model, and what is logged beside its sums.

        Args:
            config: of the loss.
            change: of the embeddings, by side.
        """
        variables = {"params": params}
        apply = functools.partial(
            self.model.apply, variables, deterministic=rng is None, rngs=None if rng is None else {"dropout": rng}
        )
        memory = apply(batch.source, change=change.get("source"), method="encode")
        inputs, logged = self._inputs(variables, batch, memory, step, rng)
        hidden = apply(batch.target, memory, inputs=inputs, change=change.get("target"), method="decode")

        target, table = batch.target, self.model.apply(variables, method="output_table")
        negatives = None
        if self.config.unlikelihood_weight > 0.0:
            negatives = Negatives(rows=table[target.tokens], allowed=negative_candidates(target))
        copied, of_copying = None, {}
        if self.model.config.copying:
            pointed = self.model.apply(variables, hidden, target.segment_ids, memory, method="point")
            copied = Copied.of(pointed, target.tokens, memory)
            values = {"copy_probability": jax.nn.sigmoid(-pointed.score), "coverage": coverage_losses(pointed)}
            of_copying = {name: jnp.sum(value, where=target.mask) for name, value in values.items()}
        loss, sums = _vocabulary_loss(
            config, self.model.config.scoring, table, negatives, copied, hidden, target.tokens, target.mask
        )
        if self.config.coverage_weight > 0.0:
            loss += self.config.coverage_weight * of_copying["coverage"]
        loss, logged = self.with_memory(loss, logged, variables, batch, memory)
        return Pass(loss, sums | of_copying, hidden, table), logged

    def with_memory(
        self,
        loss: Float[Array, ""],
        logged: dict[str, WeightedSum],
        variables: dict[str, Params],
        batch: Batch,
        memory: Memory,
    ) -> tuple[Float[Array, ""], dict[str, WeightedSum]]:
        """The loss and what is logged, with what an objective adds that reads the encoder's states; by default nothing.

        Args:
            loss: summed over the target tokens.
            variables: of the model.
            memory: of the batch's sources.
        """
        return loss, logged

    def turn_flops(self, turn: Turn, prepared: Prepared) -> Float[Array, ""]:
        """See Objective.turn_flops."""
        source, target = (lengths.astype(jnp.float32) for lengths in lengths_of_pairs(prepared.rows))
        return jnp.sum(self.pair_flops(source, target))

    def work(self, rows: int, source: int, target: int) -> Work:
        """See Objective.work."""
        return Work(
            flops=rows * self.pair_flops(source, target),
            description=f"{rows:,} pairs of {source}{self._source_unit} + {target} tokens",
            logits_positions=self.config.loss_chunk or target,
        )

    @property
    def _source_unit(self) -> str:
        """What a length of a source counts, if it is not tokens."""
        seconds = self.model.config.seconds_per_position
        return "" if seconds is None else f" positions of {seconds:g} s"

    def pair_flops(self, source: Amount, target: Amount) -> Amount:
        """Model FLOPs of a step on a pair of these lengths (tokens).

        With scheduled sampling the decoder's forward pass that predicts its inputs counts too, with unlikelihood the
        scores of earlier tokens, with R-Drop all of it twice, and with a perturbation as often as it has passes.
        """
        config = self.model.config
        forward = config.forward_flops(source, target, vocabulary=self.model.vocabulary)
        predictions = 0.0
        if self.config.sampling_schedule != "none":
            predictions = forward - config.encoder_flops(source, vocabulary=self.model.vocabulary)
        if self.config.unlikelihood_weight > 0.0:
            forward += product_flops(causal_pairs(target), config.decoder.model_dim, 1)
        passes = self.config.perturbation.num_passes if self.config.perturbation.is_on else 1
        return (TRAINING * forward + predictions) * (2 if self.config.r_drop_weight > 0.0 else 1) * passes

    def _inputs(self, variables, batch, memory, step, rng):
        """Decoder inputs, for scheduled sampling; None = the labels. And metrics to log."""
        if rng is None or self.config.sampling_schedule == "none":
            return None, {}
        inputs = self.model.apply(
            jax.lax.stop_gradient(variables),
            batch.target,
            jax.lax.stop_gradient(memory),
            probability=self.config.sampling_probability(step),
            argmax=self.config.sampling_choice == "argmax",
            rngs={"sampling": rng},
            method="scheduled_inputs",
        )
        return inputs, {}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _vocabulary_loss(
    config: MaximumLikelihoodConfig,
    scoring: Scoring,
    table: Float[Array, "vocab model"],
    negatives: Negatives | None,
    copied: Copied | None,
    hidden: Float[Array, "batch target model"],
    labels: Int[Array, "batch target"],
    mask: Bool[Array, "batch target"],
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Loss, and what is logged beside it, summed over the target; only the loss is differentiable.

    The loss is a sum, so the gradient of a chunk follows from its logits alone. The forward pass computes it right
    away: logits are neither saved for the backward pass nor recomputed. Those of negative candidates are products with
    their rows of the table, [target, candidates] in each row of the batch. Copying adds two numbers per label.

    Source: Hsu et al. 2024, section 3.2 (fused linear cross-entropy).
    """
    rows, allowed = (None, None) if negatives is None else (negatives.rows, negatives.allowed)

    def add(sums, chunk):
        hidden, *rest = chunk
        return jax.tree.map(jnp.add, sums, _masked_sums(config, *_scores(scoring, table, rows, hidden), *rest)), None

    return _over_chunks(config, add, _no_sums(config, negatives), (hidden, copied, labels, mask, allowed))[0]


def _vocabulary_loss_forward(config, scoring, table, negatives, copied, hidden, labels, mask):
    rows, allowed = (None, None) if negatives is None else (negatives.rows, negatives.allowed)

    def add(carry, chunk):
        sums, operand_gradients = carry
        hidden, copied, *rest = chunk
        scores, to_operands = jax.vjp(functools.partial(_scores, scoring), table, rows, hidden)
        loss, to_terms, logged = jax.vjp(
            lambda *terms: _masked_sums(config, *terms, *rest), *scores, copied, has_aux=True
        )
        *of_scores, of_copied = to_terms(jnp.ones_like(loss))
        *of_operands, of_hidden = to_operands(tuple(of_scores))
        return jax.tree.map(jnp.add, (sums, operand_gradients), ((loss, logged), of_operands)), (of_copied, of_hidden)

    carry = _no_sums(config, negatives), jax.tree.map(jnp.zeros_like, [table, rows])
    arrays = hidden, copied, labels, mask, allowed
    (sums, operand_gradients), of_positions = _over_chunks(config, add, carry, arrays)
    return sums, (*operand_gradients, *of_positions)


def _vocabulary_loss_backward(config, scoring, gradients, cotangents):
    of_loss, _ = cotangents
    table, rows, copied, hidden = jax.tree.map(lambda gradient: gradient * of_loss.astype(gradient.dtype), gradients)
    return table, None if rows is None else Negatives(rows=rows, allowed=None), copied, hidden, None, None


_vocabulary_loss.defvjp(_vocabulary_loss_forward, _vocabulary_loss_backward)


def _scores(scoring, table, rows, hidden):
    """Scores of all tokens, and of the candidates with these rows of the table, if there are any."""
    of_candidates = None if rows is None else scoring.scores_of_rows(rows, hidden)
    return scoring.scores(table, hidden), of_candidates


def _no_sums(config, negatives):
    """What `_masked_sums` adds to."""
    names = ["nll"]
    names += [] if negatives is None else ["unlikelihood"]
    names += ["divergence"] if config.r_drop_weight > 0.0 else []
    return jnp.zeros(()), {name: jnp.zeros(()) for name in names}


def _masked_sums(config, scores, candidate_scores, copied, labels, mask, allowed):
    loss, nll = cross_entropy(
        scores, labels, label_smoothing=config.label_smoothing, z_loss=config.z_loss, copied=copied
    )
    logged = {"nll": nll}
    if candidate_scores is not None:
        logged["unlikelihood"] = unlikelihood(scores, candidate_scores, allowed)
        loss += config.unlikelihood_weight * logged["unlikelihood"]
    if config.r_drop_weight > 0.0:
        logged["divergence"] = divergence(scores)
        loss += config.r_drop_weight / 2 * logged["divergence"]
    return jax.tree.map(lambda each: jnp.sum(jnp.where(mask, each, 0.0)), (loss, logged))


def negative_log_likelihoods(
    config: MaximumLikelihoodConfig,
    scoring: Scoring,
    table: Float[Array, "vocab model"],
    copied: Copied | None,
    hidden: Float[Array, "batch target model"],
    labels: Int[Array, "batch target"],
) -> Float[Array, "batch target"]:
    """Negative log-likelihood of each label (nats), in chunks of positions; not to be differentiated, which would keep
    the logits of all of them.
    """

    def of_chunk(nothing, chunk):
        hidden, copied, labels = chunk
        scores = scoring.scores(table, hidden)
        return nothing, cross_entropy(scores, labels, label_smoothing=0.0, z_loss=0.0, copied=copied)[1]

    return _over_chunks(config, of_chunk, (), (hidden, copied, labels))[1]


def _over_chunks(config, add, carry, arrays):
    """`lax.scan` of `add` over chunks of dim 1 of the arrays; the results of the chunks are concatenated again."""
    batch, length = arrays[0].shape[:2]
    chunk = config.loss_chunk or length
    if length % chunk:
        raise ValueError(f"objective.loss_chunk must divide the target row of {length} tokens, and {chunk} does not.")
    if chunk == length:
        return add(carry, arrays)

    def divided(array):
        return jnp.moveaxis(array.reshape(batch, length // chunk, chunk, *array.shape[2:]), 1, 0)

    def joined(chunks):
        return jnp.moveaxis(chunks, 0, 1).reshape(batch, length, *chunks.shape[3:])

    carry, of_chunks = jax.lax.scan(add, carry, jax.tree.map(divided, arrays))
    return carry, jax.tree.map(joined, of_chunks)
