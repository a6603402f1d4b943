"""Ancestral sampling: one while-loop of fixed shapes over a decoder's one-token step, until all samples have ended."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import DecodeState, Vocabulary
from seq2seq_jax.generation.context import GenerationContext, GenerationResult
from seq2seq_jax.generation.restrictions import Restriction, restricted
from seq2seq_jax.modules.embedding import gather_scores

IMPOSSIBLE = -1e9
"""Log-probability of tokens that are not allowed: the probability is 0, and products with it are never NaN."""

BLOCK = 128
"""Token ids per block of the sums that tokens are sampled with."""

Draws = Callable[[Int[Array, ""], Float[Array, "hypotheses vocab"]], Int[Array, "hypotheses"]]
"""(index of a token, logarithms of unnormalised weights) -> the id that is drawn as that token of each sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """The distribution of the next token, from a model's logits: softmax(logits / temperature) over allowed tokens.

    Suppressed tokens (BOS, pad) are never allowed, the EOS token only after minimum_length other tokens, and of the
    rest what the restrictions keep.
    """

    vocabulary: Vocabulary
    temperature: float = 1.0
    minimum_length: int = 0
    restrictions: tuple[Restriction, ...] = ()

    def log_probabilities(
        self, logits: Float[Array, "*dims vocab"], positions: Int[Array, "*dims"]
    ) -> Float[Array, "*dims vocab"]:
        """Log-probability of each token, float32; IMPOSSIBLE for tokens that are not allowed.

        Args:
            positions: index of the token within its text, from 0.
        """
        ids = jnp.arange(logits.shape[-1])
        never = self.vocabulary.is_suppressed(ids)
        too_early = (ids == self.vocabulary.eos_id) & (positions[..., None] < self.minimum_length)
        scaled = logits.astype(jnp.float32) / self.temperature
        allowed = jax.nn.log_softmax(jnp.where(never | too_early, -jnp.inf, scaled))
        if self.restrictions:
            rows = allowed.reshape(-1, allowed.shape[-1])
            allowed = restricted(rows, self.restrictions).reshape(allowed.shape)
        return jnp.maximum(allowed, IMPOSSIBLE)


@flax.struct.dataclass
class Samples:
    """Sampled texts of every source.

    Attributes:
        tokens: token ids up to and including the EOS token, or up to the limit; then pad tokens.
        log_probabilities: natural logarithm of the policy's probability of each token; 0 at padding.
        lengths: number of tokens, EOS token included.
        ended: whether the text ends in the EOS token, and was not truncated at its limit.
    """

    tokens: Int[Array, "batch samples max_length"]
    log_probabilities: Float[Array, "batch samples max_length"]
    lengths: Int[Array, "batch samples"]
    ended: Bool[Array, "batch samples"]

    @property
    def mask(self) -> Bool[Array, "batch samples max_length"]:
        """True at tokens, False at padding."""
        return jnp.arange(self.tokens.shape[2]) < self.lengths[..., None]

    def as_result(self) -> GenerationResult:
        """The samples in the order in which they were drawn, scored by their log-probabilities."""
        totals = jnp.where(self.lengths > 0, jnp.sum(self.log_probabilities, axis=2), -jnp.inf)
        return GenerationResult(tokens=self.tokens, scores=totals, log_probabilities=totals, lengths=self.lengths)


@flax.struct.dataclass
class _Sampling:
    """The loop's carry: the samples so far, the next index, and the decoder's state."""

    position: Int[Array, ""]
    last_tokens: Int[Array, "batch samples"]
    samples: Samples
    decoder: DecodeState


def draws_by_line(lines: Int[Array, "batch"], *, num_samples: int, seed: int) -> Draws:
    """Draws that are functions of (seed, line, sample, position) and the weights alone, see `draw_perturbed`."""
    key, indices = jax.random.key(seed), jnp.arange(num_samples)
    fold = jax.random.fold_in
    keys = jax.vmap(lambda line: jax.vmap(lambda index: fold(fold(key, line), index))(indices))(lines)

    def drawn(position: Int[Array, ""], log_weights: Float[Array, "hypotheses vocab"]) -> Int[Array, "hypotheses"]:
        numbers = BLOCK + num_blocks(log_weights.shape[1])
        noise = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(fold(key, position), (numbers,))))(keys)
        return draw_perturbed(log_weights, noise.reshape(-1, numbers))

    return drawn


def draws_by_batch(rng: jax.Array, batch_size: int, num_samples: int) -> Draws:
    """Draws that depend on the key, and on the row and the shape of the batch, see `draw`."""

    def drawn(position: Int[Array, ""], log_weights: Float[Array, "hypotheses vocab"]) -> Int[Array, "hypotheses"]:
        uniforms = jax.random.uniform(jax.random.fold_in(rng, position), (batch_size, num_samples))
        return draw(log_weights, uniforms.reshape(-1))

    return drawn


def sample(
    context: GenerationContext,
    *,
    policy: Policy,
    draws: Draws,
    num_samples: int,
    greedy: int = 0,
    given: tuple[Int[Array, "batch samples max_length"], Int[Array, ""]] | None = None,
) -> Samples:
    """Independent samples of texts for every source, drawn token by token.

    A sample ends with the EOS token, or is truncated at its source's limit; no token is forced, so that the probability
    of a sample is the product of its tokens' probabilities under the policy. That is the distribution over what the
    context's controls allow: a token of a prefix has probability 1.

    Pure, and compatible with `jax.jit`. The samples depend on the draws, and not on the mesh.

    Args:
        context: its limits are clipped to 0..max_length, where 0 is for rows without a source. What is `per_source` in
            the decoder's state is never copied for the samples.
        policy: the distribution to sample from.
        draws: see `draws_by_line` and `draws_by_batch`.
        num_samples: number of texts for each source.
        greedy: number of texts, from the first, that are decoded greedily.
        given: tokens that the texts begin with, and how many; nothing is drawn of them, and their log-probabilities
            are 0. None = no token.

    Returns:
        num_samples texts for each source.
    """
    vocabulary, max_length = policy.vocabulary, context.max_length
    state, batch_size = context.start(num_samples), context.limits.shape[0]
    limits = jnp.clip(context.limits, 0, max_length)[:, None]

    def is_open(samples: Samples) -> Bool[Array, "batch samples"]:
        return ~samples.ended & (samples.lengths < limits)

    def stepped(loop: _Sampling) -> tuple[Float[Array, "hypotheses vocab"], DecodeState]:
        logits, after = context.step(loop.last_tokens.reshape(-1), loop.decoder.replace(per_source=state.per_source))
        return logits, after.replace(per_source=None)

    def extend(loop: _Sampling) -> _Sampling:
        logits, after = stepped(loop)
        logits = context.controlled(logits, loop.samples.tokens, loop.position)
        log_probabilities = policy.log_probabilities(logits, jnp.broadcast_to(loop.position, logits.shape[:1]))
        drawn = draws(loop.position, log_probabilities)
        if greedy:
            is_greedy = jnp.arange(num_samples) < greedy
            drawn = jnp.where(jnp.tile(is_greedy, batch_size), jnp.argmax(log_probabilities, axis=-1), drawn)
        chosen = gather_scores(log_probabilities, drawn).reshape(batch_size, num_samples)
        return appended(loop, drawn.reshape(batch_size, num_samples), chosen, after)

    def repeat(loop: _Sampling) -> _Sampling:
        """With the given token; of the step nothing but the state is computed."""
        tokens = jax.lax.dynamic_index_in_dim(given[0], loop.position, axis=2, keepdims=False)
        return appended(loop, tokens, jnp.zeros((batch_size, num_samples)), stepped(loop)[1])

    def appended(
        loop: _Sampling,
        drawn: Int[Array, "batch samples"],
        chosen: Float[Array, "batch samples"],
        after: DecodeState,
    ) -> _Sampling:
        samples = loop.samples
        active = is_open(samples)

        def written(array, values):
            return jax.lax.dynamic_update_index_in_dim(array, values, loop.position, axis=2)

        tokens = jnp.where(active, drawn, vocabulary.pad_id)
        return _Sampling(
            position=loop.position + 1,
            last_tokens=tokens,
            samples=Samples(
                tokens=written(samples.tokens, tokens),
                log_probabilities=written(samples.log_probabilities, jnp.where(active, chosen, 0.0)),
                lengths=samples.lengths + active,
                ended=samples.ended | (active & (drawn == vocabulary.eos_id)),
            ),
            decoder=after,
        )

    def following(loop: _Sampling) -> _Sampling:
        if given is None:
            return extend(loop)
        return jax.lax.cond(loop.position < given[1], repeat, extend, loop)

    shape = (batch_size, num_samples)
    initial = _Sampling(
        position=jnp.zeros((), jnp.int32),
        last_tokens=jnp.full(shape, vocabulary.bos_id, jnp.int32),
        samples=Samples(
            tokens=jnp.full((*shape, max_length), vocabulary.pad_id, jnp.int32),
            log_probabilities=jnp.zeros((*shape, max_length), jnp.float32),
            lengths=jnp.zeros(shape, jnp.int32),
            ended=jnp.zeros(shape, bool),
        ),
        decoder=state.replace(per_source=None),
    )
    return jax.lax.while_loop(lambda loop: jnp.any(is_open(loop.samples)), following, initial).samples


def draw(
    log_weights: Float[Array, "hypotheses vocab"], uniforms: Float[Array, "hypotheses"]
) -> Int[Array, "hypotheses"]:
    """Inverse-CDF sampling: the id at which the cumulative weight exceeds uniform * total; never one of weight 0.

    Needs one random number per row instead of one per id. Sums blocks of ids first, then the ids of the selected block.

    Args:
        log_weights: logarithms of unnormalised weights.
        uniforms: in [0, 1).
    """
    weights = _in_blocks(jnp.exp(log_weights), 0.0)
    of_blocks = jnp.sum(weights, axis=-1)
    block, rest = _passed(of_blocks, uniforms * jnp.sum(of_blocks, axis=-1))
    of_block = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + _passed(of_block, rest)[0]


def draw_perturbed(
    log_weights: Float[Array, "hypotheses vocab"], noise: Float[Array, "hypotheses numbers"]
) -> Int[Array, "hypotheses"]:
    """Gumbel-max sampling: first of a block of ids, then of an id of that block; never one of weight 0.

    Rounding of the weights, which differs from one shape of a batch to another, changes what is drawn only where two
    perturbed weights are as close as that. With one uniform number every error moves all later borders of the
    cumulative weights: of 1,000 sentences with 4 samples, 44 had another text one at a time.

    Args:
        log_weights: logarithms of unnormalised weights.
        noise: standard Gumbel, for each block of BLOCK ids, and for each id of a block.
    """
    blocks = _in_blocks(log_weights, -jnp.inf)
    of_blocks = jax.nn.logsumexp(blocks, axis=-1)
    block = jnp.argmax(of_blocks + noise[:, : blocks.shape[1]], axis=-1)
    of_block = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * BLOCK + jnp.argmax(of_block + noise[:, blocks.shape[1] :], axis=-1)


def num_blocks(vocab: int) -> int:
    """Blocks that ids are divided into."""
    return -(-vocab // BLOCK)


def _in_blocks(values: Float[Array, "rows vocab"], padding: float) -> Float[Array, "rows blocks block"]:
    rows, vocab = values.shape
    return jnp.pad(values, ((0, 0), (0, -vocab % BLOCK)), constant_values=padding).reshape(rows, -1, BLOCK)


def _passed(
    weights: Float[Array, "rows choices"], amount: Float[Array, "rows"]
) -> tuple[Int[Array, "rows"], Float[Array, "rows"]]:
    """The index at which the cumulative weight exceeds an amount, and the remainder of the amount at that index."""
    cumulative = jnp.cumsum(weights, axis=-1)
    choices = jnp.arange(weights.shape[1])
    # Rounding may leave the amount at the total: then the last index with a weight.
    last = jnp.max(jnp.where(weights > 0, choices, 0), axis=-1)
    index = jnp.minimum(jnp.sum(cumulative <= amount[:, None], axis=-1), last)
    before = jnp.take_along_axis(cumulative - weights, index[:, None], axis=1)[:, 0]
    return index, jnp.maximum(amount - before, 0.0)
