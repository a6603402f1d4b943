"""Perturbed embeddings in maximum likelihood: adversarial and virtual adversarial training, cutoff, replaced words and
mixtures of sequences.

A perturbation of a side of a pair is measured over all of its tokens, so that packing changes nothing. What a loss
needs besides the clean one is computed with the same dropout.

Gradients for the parameters and for the embeddings come from the same backward pass: adversarial training takes two
passes, not three, because the loss computes its own gradient (`with_own_gradient`).
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary, shift_right
from seq2seq_jax.modules.embedding import EmbeddingChange, Scoring
from seq2seq_jax.modules.segments import segment_mask
from seq2seq_jax.values import check_values

Params = Any
Sides = dict[str, Any]
"""What belongs to the source and the target of a batch."""
Sums = dict[str, Float[Array, ""]]

PROBE, CUT, REPLACED, MIXED = 1, 2, 3, 4
"""What the key of a step is folded with, so that each use draws its own random numbers."""
SMALLEST = 1e-12
"""What a norm counts as where it is less: a side without a gradient is not perturbed."""


class Pass(NamedTuple):
    """What a pass through the model with changed embeddings gives."""

    loss: Float[Array, ""]
    """Summed over the target tokens."""
    logged: Sums
    hidden: Float[Array, "batch target output"]
    """What the output table is multiplied with."""
    table: Float[Array, "vocab output"]


@dataclasses.dataclass(frozen=True)
class Passes:
    """Passes of one step through the model.

    Attributes:
        run: parameters, changes of the embeddings by side and, as `batch`, the rows in the place of `batch` -> a pass.
        embed: parameters, side, tokens -> embeddings.
        losses: pass, labels, mask -> loss and what is logged of it, summed over the masked labels.
        batch: whose losses are summed.
        vocabulary: of its tokens.
        dims: of the embeddings, by side.
        rng: key of the step.
        scoring: of the vocabulary.
        chunk: target positions whose logits exist at a time; None = all.
    """

    run: Callable[..., Pass]
    embed: Callable[[Params, str, Int[Array, "*dims"]], Float[Array, "*dims dim"]]
    losses: Callable[[Pass, Int[Array, "batch target"], Bool[Array, "batch target"]], tuple[Float[Array, ""], Sums]]
    batch: Batch
    vocabulary: Vocabulary
    dims: dict[str, int]
    rng: jax.Array
    scoring: Scoring
    chunk: int | None

    @property
    def segments(self) -> Sides:
        """Segment ids by side."""
        return {"source": self.batch.source.segment_ids, "target": self.batch.target.segment_ids}

    def inputs(self, batch: Batch) -> Sides:
        """Tokens that are embedded, by side."""
        shifted = shift_right(batch.target, self.vocabulary.bos_id)
        return {"source": batch.source.tokens, "target": shifted.tokens}

    def none(self) -> Sides:
        """No perturbation."""
        return {side: jnp.zeros((*ids.shape, self.dims[side])) for side, ids in self.segments.items()}

    def normalised(self, values: Sides, radius: float) -> Sides:
        """Values divided by their norm over each side of each pair, times a radius; 0 at padding."""
        return {side: radius * per_segment(values[side], ids) for side, ids in self.segments.items()}

    def divergence(self, clean: Pass, other: Pass, *, symmetric: bool) -> Float[Array, ""]:
        """Kullback-Leibler divergence (nats) of the distributions of two passes, summed over the target tokens."""
        return divergences(
            clean, other, self.batch.target.mask, scoring=self.scoring, chunk=self.chunk, symmetric=symmetric
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturbation(abc.ABC):
    """What is added to the loss of maximum likelihood."""

    def __post_init__(self):
        check_values(self, "objective.perturbation")

    @property
    @abc.abstractmethod
    def is_on(self) -> bool:
        """Whether anything is added."""

    @property
    @abc.abstractmethod
    def num_passes(self) -> int:
        """Forward and backward passes of a step."""

    @abc.abstractmethod
    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        """The whole loss, summed over the target tokens, and what is logged of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unperturbed(Perturbation):
    """Nothing: maximum likelihood."""

    @property
    def is_on(self) -> bool:
        return False

    @property
    def num_passes(self) -> int:
        return 1

    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        found = passes.run(params, {})
        return found.loss, found.logged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted(Perturbation):
    """A perturbation with a weight."""

    weight: float = 1.0
    """Weight of the loss under the perturbation; 0 = without it."""

    def __post_init__(self):
        super().__post_init__()
        if self.weight < 0.0:
            raise ValueError(f"objective.perturbation.weight must not be negative, and is {self.weight}.")

    @property
    def is_on(self) -> bool:
        return self.weight > 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fgm(Weighted):
    """Adversarial training: the loss at the embeddings moved along its own gradient (fast gradient method).

    Source: Miyato et al. 2017, equations 5 to 7; for translation Sato et al. 2019.
    """

    radius: float = 1.0
    """Norm of the perturbation, over all tokens of a side of a pair."""

    def __post_init__(self):
        super().__post_init__()
        _check_positive(self, "radius")

    @property
    def num_passes(self) -> int:
        return 2

    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        return ascending(passes, params, weight=self.weight, step=self.radius, radius=self.radius, num_steps=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreeLb(Weighted):
    """Adversarial training in several steps, with the mean of the losses on the way.

    The way begins at the embeddings themselves, whose loss has the weight 1.

    Source: Zhu et al. 2020, algorithm 1.
    """

    radius: float = 1.0
    """Largest norm of the perturbation, over all tokens of a side of a pair."""
    step_size: float = 0.5
    """Length of a step along the normalised gradient."""
    num_steps: int = 2
    """Steps, and losses that the mean is of."""

    def __post_init__(self):
        super().__post_init__()
        _check_positive(self, "radius")
        _check_positive(self, "step_size")
        if self.num_steps < 1:
            raise ValueError(f"objective.perturbation.num_steps must be at least 1, not {self.num_steps}.")

    @property
    def num_passes(self) -> int:
        return 1 + self.num_steps

    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        return ascending(
            passes, params, weight=self.weight, step=self.step_size, radius=self.radius, num_steps=self.num_steps
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vat(Weighted):
    """Virtual adversarial training: the divergence from the model's own distribution, at the embeddings moved to where
    it grows the most.

    Source: Miyato et al. 2017, equations 8 to 10, with one power iteration.
    """

    radius: float = 1.0
    """Norm of the perturbation, over all tokens of a side of a pair."""
    probe: float = 0.1
    """Norm of the random perturbation at which the gradient is taken."""

    def __post_init__(self):
        super().__post_init__()
        _check_positive(self, "radius")
        _check_positive(self, "probe")

    @property
    def num_passes(self) -> int:
        return 3

    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        clean = passes.run(params, {})
        # What the divergence is from is no function of the parameters.
        fixed = jax.lax.stop_gradient(clean)

        def moved(own: Params, change: Sides) -> Float[Array, ""]:
            return passes.divergence(fixed, passes.run(own, added(change)), symmetric=False)

        keys = dict(zip(passes.dims, jax.random.split(jax.random.fold_in(passes.rng, PROBE)), strict=True))
        drawn = {side: jax.random.normal(keys[side], zeros.shape) for side, zeros in passes.none().items()}
        uphill = jax.grad(moved, argnums=1)(jax.lax.stop_gradient(params), passes.normalised(drawn, self.probe))
        change = jax.lax.stop_gradient(passes.normalised(uphill, self.radius))
        divergence = moved(params, change)
        return clean.loss + self.weight * divergence, clean.logged | {"divergence": divergence}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutoff(Weighted):
    """The loss with a part of the embeddings cut off, and the divergence between both.

    Source: Shen et al. 2020, equation 6, with the two-sided divergence of R-Drop.
    """

    rate: float = 0.1
    """Fraction that is cut off, in (0, 1)."""
    kind: Literal["token", "feature", "span"] = "token"
    """What is cut off: tokens, features of all tokens of a row, or a span of each side of a pair."""
    divergence_weight: float = 1.0
    """Weight of the divergence; 0 = none."""

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"objective.perturbation.rate must lie in (0, 1), and is {self.rate}.")
        if self.divergence_weight < 0.0:
            raise ValueError(
                f"objective.perturbation.divergence_weight must not be negative, and is {self.divergence_weight}."
            )

    @property
    def is_on(self) -> bool:
        return self.weight > 0.0 or self.divergence_weight > 0.0

    @property
    def num_passes(self) -> int:
        return 2

    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        keys = jax.random.split(jax.random.fold_in(passes.rng, CUT))
        kept = {
            side: EmbeddingChange(kept=~self.cut(key, ids, dim=passes.dims[side]))
            for key, (side, ids) in zip(keys, passes.segments.items(), strict=True)
        }
        clean, cut = passes.run(params, {}), passes.run(params, kept)
        divergence = passes.divergence(clean, cut, symmetric=True)
        logged = clean.logged | {"cut_nll": cut.logged["nll"], "divergence": divergence}
        return clean.loss + self.weight * cut.loss + self.divergence_weight * divergence, logged

    def cut(
        self, key: jax.Array, segment_ids: Int[Array, "batch length"], *, dim: int
    ) -> Bool[Array, "batch #length #dim"]:
        """What is cut off of one side."""
        batch, length = segment_ids.shape
        if self.kind == "token":
            return jax.random.bernoulli(key, self.rate, (batch, length, 1))
        if self.kind == "feature":
            return jax.random.bernoulli(key, self.rate, (batch, 1, dim))
        same = segment_mask(segment_ids, segment_ids)
        places = jnp.arange(length)
        lengths = jnp.sum(same, axis=-1)
        places_in_segment = jnp.sum(same & (places < places[:, None]), axis=-1)
        size = jnp.round(self.rate * lengths)
        draws = jnp.take_along_axis(jax.random.uniform(key, (batch, length + 1)), segment_ids, axis=1)
        start = jnp.floor(draws * (lengths - size + 1))
        return ((places_in_segment >= start) & (places_in_segment < start + size))[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoublyAdversarial(Weighted):
    """The loss with words of the source and of the decoder's inputs replaced, each by the candidate whose embedding
    differs from its own the most in the direction of the gradient, by the cosine. Labels stay.

    Candidates of an input of the decoder are the tokens that the model finds most probable there, those of a token of
    the source its nearest by the cosine of embeddings, where the paper has language models; and inputs of the decoder
    are drawn uniformly, where it follows the attention to replaced words of the source.

    Source: Cheng et al. 2019 (doubly adversarial inputs), equations 3, 4 and 8 and algorithm 1.
    """

    source_rate: float = 0.25
    """Fraction of the tokens of a source that are replaced."""
    target_rate: float = 0.5
    """Fraction of the decoder's inputs that are replaced."""
    candidates: int = 10
    """Tokens that a replacement is chosen from."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("source_rate", "target_rate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"objective.perturbation.{name} must lie in [0, 1], and is {getattr(self, name)}.")
        if self.candidates < 1:
            raise ValueError(f"objective.perturbation.candidates must be at least 1 token, not {self.candidates}.")

    @property
    def num_passes(self) -> int:
        return 2

    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        old = passes.inputs(passes.batch)

        def clean(own: Params, change: Sides) -> tuple[Float[Array, ""], Pass]:
            found = passes.run(own, added(change))
            return found.loss, found

        def value_and_gradient(own: Params) -> tuple[tuple[Float[Array, ""], Sums], Params]:
            (loss, found), (gradient, uphill) = jax.value_and_grad(clean, argnums=(0, 1), has_aux=True)(
                own, passes.none()
            )
            new = self.replaced(passes, own, found, uphill)

            def replaced(own: Params) -> tuple[Float[Array, ""], Sums]:
                change = {side: passes.embed(own, side, new[side]) - passes.embed(own, side, old[side]) for side in old}
                found = passes.run(own, added(change))
                return found.loss, found.logged

            (adversarial, logged), further = jax.value_and_grad(replaced, has_aux=True)(own)
            gradient = jax.tree.map(lambda total, part: total + self.weight * part, gradient, further)
            return (
                loss + self.weight * adversarial,
                found.logged | {"adversarial_nll": logged["nll"]},
            ), gradient

        return with_own_gradient(value_and_gradient, params)

    def replaced(self, passes: Passes, params: Params, clean: Pass, uphill: Sides) -> Sides:
        """The tokens of both sides, some of them replaced.

        Args:
            clean: the pass with the tokens as they are.
            uphill: the gradient of its loss by the embeddings.
        """
        batch, vocabulary = passes.batch, passes.vocabulary
        # What the model says of an input of the decoder it says at the position before.
        scores = {
            "source": (_unit_rows(self._table(passes, params, "source", vocabulary.source_size)), None),
            "target": (clean.table, jnp.roll(clean.hidden, 1, axis=1)),
        }
        allowed = {"source": batch.source.mask, "target": batch.target.mask & (batch.target.positions > 0)}
        rates = {"source": self.source_rate, "target": self.target_rate}
        keys = jax.random.split(jax.random.fold_in(passes.rng, REPLACED))
        found = {}
        for key, (side, old) in zip(keys, passes.inputs(batch).items(), strict=True):
            table, hidden = scores[side]
            chosen = jax.random.bernoulli(key, rates[side], old.shape) & allowed[side] & ~self._is_special(passes, old)

            def of_row(row: Any, side: str = side, table: Array = table) -> Int[Array, "length"]:
                tokens, states, directions = row
                states = table[tokens] if states is None else states
                ids = jnp.arange(len(table))
                forbidden = self._is_special(passes, ids) | (ids == tokens[:, None])
                likeness = jnp.where(forbidden, -jnp.inf, passes.scoring.scores(table, states))
                values, candidates = jax.lax.top_k(likeness, min(self.candidates, len(table)))
                moves = passes.embed(params, side, candidates) - passes.embed(params, side, tokens)[:, None]
                along = jnp.einsum("lcd,ld->lc", moves, directions.astype(moves.dtype))
                cosines = along / jnp.maximum(jnp.linalg.norm(moves, axis=-1), SMALLEST)
                best = jnp.argmax(jnp.where(values > -jnp.inf, cosines, -jnp.inf), axis=-1)
                return jnp.take_along_axis(candidates, best[:, None], axis=1)[:, 0]

            # One row at a time, whose scores of all tokens exist at once.
            best = jax.lax.map(of_row, (old, hidden, uphill[side]))
            found[side] = jnp.where(chosen, best, old)
        return found

    @staticmethod
    def _table(passes: Passes, params: Params, side: str, size: int) -> Float[Array, "vocab dim"]:
        return passes.embed(params, side, jnp.arange(size)).astype(jnp.float32)

    @staticmethod
    def _is_special(passes: Passes, tokens: Int[Array, "*dims"]) -> Bool[Array, "*dims"]:
        """Whether tokens are no words."""
        return passes.vocabulary.is_suppressed(tokens) | (tokens == passes.vocabulary.eos_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceMixup(Weighted):
    """The loss of mixtures of each row with another one of the batch: embeddings are mixed on both sides, λ to 1 - λ,
    and so are the losses of both labels. Where one of the texts has ended its embeddings are 0. Rows hold one pair.

    Source: Guo et al. 2020 (SeqMix), equations 3 to 5, with one λ in each step.
    """

    alpha: float = 1.0
    """λ is drawn from Beta(alpha, alpha): below 1 one of both rows prevails, above 1 they are mixed in halves."""

    def __post_init__(self):
        super().__post_init__()
        _check_positive(self, "alpha")

    @property
    def num_passes(self) -> int:
        return 2

    def loss(self, passes: Passes, params: Params) -> tuple[Float[Array, ""], Sums]:
        batch = passes.batch
        keys = jax.random.split(jax.random.fold_in(passes.rng, MIXED))
        share = jax.random.beta(keys[0], self.alpha, self.alpha)
        shift = jax.random.randint(keys[1], (), 1, max(len(batch.target.tokens), 2))
        other = jax.tree.map(lambda leaf: jnp.roll(leaf, shift, axis=0), batch)
        clean = passes.run(params, {})
        change = {}
        masks = {"source": (batch.source.mask, other.source.mask), "target": (batch.target.mask, other.target.mask)}
        mine, theirs = passes.inputs(batch), passes.inputs(other)
        for side, (kept, taken) in masks.items():
            own, partner = passes.embed(params, side, mine[side]), passes.embed(params, side, theirs[side])
            moved = jnp.where(taken[..., None], partner, 0.0) - jnp.where(kept[..., None], own, 0.0)
            change[side] = EmbeddingChange(added=(1.0 - share) * moved, kept=kept[..., None])
        united = batch.replace(source=_united(batch.source, other.source), target=_united(batch.target, other.target))
        mixed = passes.run(params, change, batch=united)
        losses = [passes.losses(mixed, rows.target.tokens, rows.target.mask) for rows in (batch, other)]
        loss, logged = jax.tree.map(lambda one, two: share * one + (1.0 - share) * two, *losses)
        return clean.loss + self.weight * loss, clean.logged | {"mixed_nll": logged["nll"]}


def _united(rows: TokenRows, others: TokenRows) -> TokenRows:
    """Rows of one text each that are as long as the longer of two texts."""
    return rows.replace(
        segment_ids=jnp.maximum(rows.segment_ids, others.segment_ids),
        positions=jnp.maximum(rows.positions, others.positions),
    )


def _unit_rows(table: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
    return table / jnp.maximum(jnp.linalg.norm(table, axis=-1, keepdims=True), SMALLEST)


def _check_positive(config: Perturbation, name: str) -> None:
    if getattr(config, name) <= 0.0:
        raise ValueError(f"objective.perturbation.{name} must be above 0, and is {getattr(config, name)}.")


def added(change: Sides) -> Sides:
    """Changes that add these to the embeddings."""
    return {side: EmbeddingChange(added=values) for side, values in change.items()}


def per_segment(
    values: Float[Array, "batch length dim"], segment_ids: Int[Array, "batch length"]
) -> Float[Array, "batch length dim"]:
    """Values divided by their norm over all tokens of their segment; 0 at padding."""
    squares = jnp.sum(jnp.square(values), axis=-1)
    same = segment_mask(segment_ids, segment_ids)
    norms = jnp.sqrt(jnp.sum(jnp.where(same, squares[:, None, :], 0.0), axis=-1))
    return jnp.where((segment_ids > 0)[..., None], values / jnp.maximum(norms, SMALLEST)[..., None], 0.0)


def within_radius(
    values: Float[Array, "batch length dim"], segment_ids: Int[Array, "batch length"], radius: float
) -> Float[Array, "batch length dim"]:
    """Values whose norm over all tokens of their segment is at most a radius, by projection."""
    unit = per_segment(values, segment_ids)
    inside = jnp.sum(unit * values, axis=-1)
    norms = jnp.sum(jnp.where(segment_mask(segment_ids, segment_ids), inside[:, None, :], 0.0), axis=-1)
    return jnp.where((norms > radius)[..., None], radius * unit, values)


def ascending(
    passes: Passes, params: Params, *, weight: float, step: float, radius: float, num_steps: int
) -> tuple[Float[Array, ""], Sums]:
    """The loss, and `weight` times the mean of the losses after each step that moves the embeddings along the gradient.

    Args:
        step: length of a step.
        radius: that no perturbation leaves.
    """

    def at(own: Params, change: Sides) -> tuple[Float[Array, ""], Sums]:
        found = passes.run(own, added(change))
        return found.loss, found.logged

    def value_and_gradient(own: Params) -> tuple[tuple[Float[Array, ""], Sums], Params]:
        change = passes.none()
        (loss, logged), (gradient, uphill) = jax.value_and_grad(at, argnums=(0, 1), has_aux=True)(own, change)
        share = weight / num_steps
        adversarial = jnp.zeros(())
        for number in range(1, num_steps + 1):
            moved = jax.tree.map(jnp.add, change, passes.normalised(uphill, step))
            change = {side: within_radius(moved[side], ids, radius) for side, ids in passes.segments.items()}
            arguments = (0, 1) if number < num_steps else (0,)
            (own_loss, own_logged), found = jax.value_and_grad(at, argnums=arguments, has_aux=True)(own, change)
            uphill = found[-1]
            gradient = jax.tree.map(lambda total, part: total + share * part, gradient, found[0])
            loss += share * own_loss
            adversarial += own_logged["nll"] / num_steps
        return (loss, logged | {"adversarial_nll": adversarial}), gradient

    return with_own_gradient(value_and_gradient, params)


def with_own_gradient(value_and_gradient: Callable[[Params], tuple[Any, Params]], params: Params) -> Any:
    """A loss, and what is logged beside it, whose gradient for the parameters it has computed itself.

    Args:
        value_and_gradient: parameters -> (loss, logged) and the gradient of the loss. Only parameters are
            differentiated.
    """
    value, gradient = jax.lax.stop_gradient(value_and_gradient(jax.lax.stop_gradient(params)))
    return _attached(params, value, gradient)


@jax.custom_vjp
def _attached(params: Params, value: Any, gradient: Params) -> Any:
    """The value, whose gradient for the parameters is the one given."""
    return value


def _attached_forward(params, value, gradient):
    return value, gradient


def _attached_backward(gradient, cotangents):
    of_loss, _ = cotangents
    return jax.tree.map(lambda leaf: (leaf * of_loss).astype(leaf.dtype), gradient), None, None


_attached.defvjp(_attached_forward, _attached_backward)


def divergences(
    clean: Pass,
    other: Pass,
    mask: Bool[Array, "batch target"],
    *,
    scoring: Scoring,
    chunk: int | None,
    symmetric: bool,
) -> Float[Array, ""]:
    """KL(clean, other) (nats), or half the sum of it and KL(other, clean), summed over the masked target positions.

    Args:
        chunk: positions whose logits exist at a time, in the backward pass too; None = all.
    """
    length = mask.shape[1]
    chunk = chunk or length

    @jax.checkpoint
    def of_chunk(total: Float[Array, ""], arrays: Any) -> tuple[Float[Array, ""], None]:
        hidden, changed, kept = arrays
        one = jax.nn.log_softmax(scoring.scores(clean.table, hidden))
        two = jax.nn.log_softmax(scoring.scores(other.table, changed))
        weights = 0.5 * (jnp.exp(one) - jnp.exp(two)) if symmetric else jnp.exp(one)
        return total + jnp.sum(jnp.where(kept, jnp.sum(weights * (one - two), axis=-1), 0.0)), None

    def divided(array: Array) -> Array:
        return jnp.moveaxis(array.reshape(len(array), length // chunk, chunk, *array.shape[2:]), 1, 0)

    arrays = jax.tree.map(divided, (clean.hidden, other.hidden, mask))
    return jax.lax.scan(of_chunk, jnp.zeros(()), arrays)[0]
