"""What controls make of the logits of the next token: a pure function of the tokens so far, for every method."""

from typing import NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Vocabulary
from seq2seq_jax.generation.controls import Controls
from seq2seq_jax.generation.phrases import Phrases, marked
from seq2seq_jax.parallel.mesh import on_each_shard


class Controlled(NamedTuple):
    """Logits of the next token under control."""

    logits: Float[Array, "batch number vocab"]
    """After the repetition penalty; without one the model's own."""
    allowed: Bool[Array, "batch number vocab"] | None
    """Tokens that may come next, of which there is one; None = all."""


@flax.struct.dataclass
class Processor:
    """Controls for the sources of a batch.

    Precedence, from the highest: the method's limit on the length, prefixes, phrases, minimum length, forbidden tokens
    and n-grams. A token that a prefix or a missing phrase needs may repeat an n-gram. Where nothing else is allowed,
    the EOS token is.

    Attributes:
        minimum_lengths: tokens of a text at least, EOS token included.
        prefix: what the texts begin with, padded.
        prefix_lengths: number of tokens.
        phrases: what the texts contain.
        source_mask: True at the tokens of a source, for the coverage penalty.
    """

    controls: Controls = flax.struct.field(pytree_node=False)
    vocabulary: Vocabulary = flax.struct.field(pytree_node=False)
    forbidden: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())
    minimum_lengths: Int[Array, "batch"] | None = None
    prefix: Int[Array, "batch prefix"] | None = None
    prefix_lengths: Int[Array, "batch"] | None = None
    phrases: Phrases | None = None
    source_mask: Bool[Array, "batch source"] | None = None

    @property
    def penalises(self) -> bool:
        """Whether it changes logits, and does not only say which tokens are allowed."""
        return self.controls.repetition_penalty != 1.0

    def __call__(
        self,
        logits: Float[Array, "batch number vocab"],
        tokens: Int[Array, "batch number max_length"],
        position: Int[Array, ""],
        *,
        limits: Int[Array, "batch"],
        progress: Int[Array, "batch number phrases"] | None = None,
    ) -> Controlled:
        """The logits under control.

        Args:
            tokens: of every text so far.
            position: their number, and so the index of the next token.
            limits: of tokens, EOS token included.
            progress: see `Phrases`; None = there are none.
        """
        position = jnp.broadcast_to(position, limits.shape)
        # Scatters are done by each device for its own rows.
        return on_each_shard(_controlled, self, logits, tokens, position, limits, progress)

    def coverage(self, attended: Float[Array, "batch number source"]) -> Float[Array, "batch number"]:
        """What is added to the score of a finished hypothesis: β Σ log(min(attended, 1)) over the source's tokens.

        Args:
            attended: sum of the attention weights of all its tokens for each source token.

        Source: Wu et al. 2016, arXiv:1609.08144, equation 14.
        """
        terms = jnp.log(jnp.clip(attended, jnp.finfo(jnp.float32).tiny, 1.0))
        return self.controls.coverage_penalty * jnp.sum(jnp.where(self.source_mask[:, None], terms, 0.0), axis=-1)


def _controlled(processor: Processor, logits, tokens, position, limits, progress) -> Controlled:
    controls, eos_id = processor.controls, processor.vocabulary.eos_id
    batch, number, vocab_size = logits.shape
    ids = jnp.arange(vocab_size)
    at = position[:, None, None]
    written = jnp.where(jnp.arange(tokens.shape[-1]) < at, tokens, vocab_size)
    if processor.penalises:
        logits = _with_penalty(logits, written, controls.repetition_penalty)

    allowed = None

    def restrict(kept: Bool[Array, "#batch #number vocab"]) -> None:
        nonlocal allowed
        allowed = kept if allowed is None else allowed & kept

    if processor.forbidden:
        kept = np.ones((1, 1, vocab_size), bool)
        kept[..., list(processor.forbidden)] = False
        restrict(jnp.asarray(kept))
    if controls.no_repeat_ngram:
        restrict(~_repeating(tokens, position, controls.no_repeat_ngram, vocab_size))
    if processor.minimum_lengths is not None:
        minimum = processor.minimum_lengths[:, None, None]
        restrict((ids != eos_id) | (at + 1 >= minimum))
    if processor.phrases is not None:
        phrases = processor.phrases
        if controls.no_repeat_ngram:
            following = phrases.continuations(progress)
            allowed = allowed | marked(following, following >= 0, vocab_size)
        restrict(phrases.fitting(progress, limits - position - 1, vocab_size))
        restrict((ids != eos_id) | (phrases.needed(progress) == 0)[..., None])
    if controls.no_repeat_ngram and processor.minimum_lengths is not None:
        stuck = ~jnp.any(allowed & ~processor.vocabulary.is_suppressed(ids), axis=-1, keepdims=True)
        allowed = allowed | (stuck & (ids == eos_id))
    if processor.prefix is not None:
        room = processor.prefix.shape[1]
        forced = jnp.take_along_axis(processor.prefix, jnp.minimum(position, room - 1)[:, None], axis=1)
        is_forced = at < processor.prefix_lengths[:, None, None]
        only = ids == forced[:, :, None]
        allowed = jnp.where(is_forced, only, True if allowed is None else allowed)
    if allowed is not None:
        allowed = jnp.broadcast_to(allowed, (batch, number, vocab_size))
    return Controlled(logits, allowed)


def _with_penalty(
    logits: Float[Array, "batch number vocab"], written: Int[Array, "batch number max_length"], penalty: float
) -> Float[Array, "batch number vocab"]:
    """Logits of tokens that were written divided by the penalty, or multiplied where they are negative.

    Source: Keskar et al. 2019 (CTRL), arXiv:1909.05858, section 4.1, which divides all: of a negative logit that would
    raise the probability.
    """
    logits = logits.astype(jnp.float32)
    seen = marked(written, written < logits.shape[-1], logits.shape[-1])
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def _repeating(
    tokens: Int[Array, "batch number max_length"], position: Int[Array, "batch"], n: int, vocab_size: int
) -> Bool[Array, "batch number vocab"]:
    """Tokens that would make the last n tokens the same as n consecutive ones before."""
    length = tokens.shape[-1]
    if n > length:
        return jnp.zeros((*tokens.shape[:2], vocab_size), bool)
    starts = jnp.arange(length - n + 1)
    same = starts + n - 1 < position[:, None, None]
    for offset in range(n - 1):
        # Before there are n - 1 tokens, no start is before the position of the next one.
        last = jnp.maximum(position - (n - 1) + offset, 0)[:, None, None]
        of_end = jnp.take_along_axis(tokens, last, axis=-1)
        same &= tokens[..., offset : offset + length - n + 1] == of_end
    same = jnp.broadcast_to(same, (*tokens.shape[:2], length - n + 1))
    return marked(tokens[..., n - 1 :], same, vocab_size)


def masked(controlled: Controlled) -> Float[Array, "batch number vocab"]:
    """The logits, -inf for tokens that are not allowed."""
    if controlled.allowed is None:
        return controlled.logits
    return jnp.where(controlled.allowed, controlled.logits, -jnp.inf)
