"""Ancestral sampling over a decoder's one-token step: one while-loop of fixed shapes, which ends when all have."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import DecodeState, Vocabulary
from seq2seq_jax.generation.search import Step
from seq2seq_jax.modules.embedding import of_tokens

IMPOSSIBLE = -1e9
"""Log-probability of a token that may not come: its probability is 0, and no product with that is NaN."""

BLOCK = 128
"""Ids whose probabilities are added up at a time when one is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """The distribution that a model's logits mean for the next token: softmax(logits / temperature) over those allowed.

    Start and padding ids are never allowed, the end id not before minimum_length other tokens.
    """

    vocabulary: Vocabulary
    temperature: float = 1.0
    minimum_length: int = 0

    def log_probabilities(
        self, logits: Float[Array, "*dims vocab"], positions: Int[Array, "*dims"]
    ) -> Float[Array, "*dims vocab"]:
        """Of each token, float32, IMPOSSIBLE for those that are not allowed.

        Args:
            positions: index of the token within its text, from 0.
        """
        ids = jnp.arange(logits.shape[-1])
        never = (ids == self.vocabulary.start_id) | (ids == self.vocabulary.padding_id)
        too_early = (ids == self.vocabulary.end_id) & (positions[..., None] < self.minimum_length)
        scaled = logits.astype(jnp.float32) / self.temperature
        return jnp.maximum(jax.nn.log_softmax(jnp.where(never | too_early, -jnp.inf, scaled)), IMPOSSIBLE)


@flax.struct.dataclass
class Samples:
    """Sampled texts of every source.

    Attributes:
        tokens: ids up to and including the end id, or up to the limit; then the padding id.
        log_probabilities: natural logarithm of the policy's probability of each token; 0 where there is none.
        lengths: tokens of the text, the end mark counted.
        ended: whether the text has its end mark, and was not cut off at its limit.
    """

    tokens: Int[Array, "batch samples max_length"]
    log_probabilities: Float[Array, "batch samples max_length"]
    lengths: Int[Array, "batch samples"]
    ended: Bool[Array, "batch samples"]

    @property
    def mask(self) -> Bool[Array, "batch samples max_length"]:
        """True where there is a token."""
        return jnp.arange(self.tokens.shape[2]) < self.lengths[..., None]


@flax.struct.dataclass
class _Sampling:
    """What the loop carries: the samples so far, the next index, and the decoder's state."""

    position: Int[Array, ""]
    last_tokens: Int[Array, "batch samples"]
    samples: Samples
    decoder: DecodeState


def sample(
    step: Step,
    state: DecodeState,
    *,
    policy: Policy,
    rng: jax.Array,
    num_samples: int,
    max_lengths: Int[Array, "batch"],
    max_length: int,
    greedy: int = 0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Samples:
    """Texts drawn token by token, independently of each other, for every source.

    A sample ends with the end id, or is cut off at its source's limit; no token is forced, so that the probability of
    a sample is the product of those of its tokens. top_k and top_p restrict what is drawn, but not the
    log-probabilities that are returned: these are always the policy's own, as teacher forcing gives them.

    Pure, and fit for `jax.jit`. The key alone decides the draws, whatever mesh the batch lies on.

    Args:
        step: the decoder's next-token logits and next state, with all that it reads bound but the state.
        state: the decoder's state before the first token: leaves of `per_source` lead with batch, and are never
            copied for the samples; those of `per_hypothesis` lead with batch * num_samples, those of `history` with
            batch.
        policy: the distribution that is drawn from.
        num_samples: texts for each source.
        max_lengths: limit of each source in tokens, the end mark counted; brought into 0..max_length, where 0 is for
            rows without a source.
        max_length: tokens that the arrays have room for.
        greedy: this many of the texts, the first ones, take the likeliest token each time.
        top_k: draw from the most probable tokens, this many; None = all.
        top_p: draw from the most probable tokens that together have at least this probability (Holtzman et al.
            2020); None = all.

    Returns:
        num_samples texts for each source.
    """
    vocabulary = policy.vocabulary
    batch_size = max_lengths.shape[0]
    limits = jnp.clip(max_lengths, 0, max_length)[:, None]

    def is_open(samples: Samples) -> Bool[Array, "batch samples"]:
        return ~samples.ended & (samples.lengths < limits)

    def extend(loop: _Sampling) -> _Sampling:
        logits, after = step(loop.last_tokens.reshape(-1), loop.decoder.replace(per_source=state.per_source))
        log_probabilities = policy.log_probabilities(logits, jnp.broadcast_to(loop.position, logits.shape[:1]))
        uniforms = jax.random.uniform(jax.random.fold_in(rng, loop.position), (batch_size, num_samples))
        drawn = draw(restricted(log_probabilities, top_k=top_k, top_p=top_p), uniforms.reshape(-1))
        if greedy:
            is_greedy = jnp.arange(num_samples) < greedy
            drawn = jnp.where(jnp.tile(is_greedy, batch_size), jnp.argmax(log_probabilities, axis=-1), drawn)
        chosen = of_tokens(log_probabilities, drawn).reshape(batch_size, num_samples)
        drawn = drawn.reshape(batch_size, num_samples)

        samples = loop.samples
        goes_on = is_open(samples)

        def written(array, values):
            return jax.lax.dynamic_update_index_in_dim(array, values, loop.position, axis=2)

        tokens = jnp.where(goes_on, drawn, vocabulary.padding_id)
        return _Sampling(
            position=loop.position + 1,
            last_tokens=tokens,
            samples=Samples(
                tokens=written(samples.tokens, tokens),
                log_probabilities=written(samples.log_probabilities, jnp.where(goes_on, chosen, 0.0)),
                lengths=samples.lengths + goes_on,
                ended=samples.ended | (goes_on & (drawn == vocabulary.end_id)),
            ),
            decoder=after.replace(per_source=None),
        )

    shape = (batch_size, num_samples)
    begun = _Sampling(
        position=jnp.zeros((), jnp.int32),
        last_tokens=jnp.full(shape, vocabulary.start_id, jnp.int32),
        samples=Samples(
            tokens=jnp.full((*shape, max_length), vocabulary.padding_id, jnp.int32),
            log_probabilities=jnp.zeros((*shape, max_length), jnp.float32),
            lengths=jnp.zeros(shape, jnp.int32),
            ended=jnp.zeros(shape, bool),
        ),
        decoder=state.replace(per_source=None),
    )
    return jax.lax.while_loop(lambda loop: jnp.any(is_open(loop.samples)), extend, begun).samples


def restricted(
    log_probabilities: Float[Array, "hypotheses vocab"], *, top_k: int | None, top_p: float | None
) -> Float[Array, "hypotheses vocab"]:
    """IMPOSSIBLE for all but the most probable tokens; those as probable as the last one allowed are kept with it.

    Args:
        top_k: this many; None = all.
        top_p: as many as are needed for this probability, after top_k; None = all.
    """
    if top_k is None and top_p is None:
        return log_probabilities
    descending = -jnp.sort(-log_probabilities, axis=-1)
    kept = jnp.arange(descending.shape[-1]) < (descending.shape[-1] if top_k is None else top_k)
    if top_p is not None and top_p < 1.0:
        probabilities = jax.nn.softmax(jnp.where(kept, descending, IMPOSSIBLE))
        kept &= jnp.cumsum(probabilities, axis=-1) - probabilities < top_p
    threshold = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(log_probabilities >= threshold, log_probabilities, IMPOSSIBLE)


def draw(
    log_weights: Float[Array, "hypotheses vocab"], uniforms: Float[Array, "hypotheses"]
) -> Int[Array, "hypotheses"]:
    """The id at which the cumulative weight passes the uniform number's share of the whole; never one of weight 0.

    Needs one random number a row instead of one an id, and adds up blocks of ids first, then those of the block found.

    Args:
        log_weights: logarithms of weights, which need not add up to 1.
        uniforms: in [0, 1).
    """
    rows, vocab = log_weights.shape
    weights = jnp.pad(jnp.exp(log_weights), ((0, 0), (0, -vocab % BLOCK))).reshape(rows, -1, BLOCK)
    of_blocks = jnp.sum(weights, axis=-1)
    block, rest = _passed(of_blocks, uniforms * jnp.sum(of_blocks, axis=-1))
    of_block = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + _passed(of_block, rest)[0]


def _passed(
    weights: Float[Array, "rows choices"], amount: Float[Array, "rows"]
) -> tuple[Int[Array, "rows"], Float[Array, "rows"]]:
    """Where the cumulative weight passes an amount, and what of the amount lies in that place."""
    cumulative = jnp.cumsum(weights, axis=-1)
    choices = jnp.arange(weights.shape[1])
    # Rounding may leave the amount at the whole: then the last place that has weight.
    last = jnp.max(jnp.where(weights > 0, choices, 0), axis=-1)
    place = jnp.minimum(jnp.sum(cumulative <= amount[:, None], axis=-1), last)
    before = jnp.take_along_axis(cumulative - weights, place[:, None], axis=1)[:, 0]
    return place, jnp.maximum(amount - before, 0.0)
