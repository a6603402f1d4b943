"""Stochastic beam search: texts drawn without replacement, by a beam over log-probabilities with Gumbel noise."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from seq2seq_jax.batch import DecodeState
from seq2seq_jax.generation.context import GenerationContext, GenerationResult
from seq2seq_jax.generation.sampling import IMPOSSIBLE, Policy
from seq2seq_jax.generation.search import pick, reordered, top_k


@flax.struct.dataclass
class DistinctSamples:
    """Texts drawn without replacement, in the order of their perturbed log-probabilities.

    Attributes:
        tokens: token ids up to and including the EOS token, or up to the limit; then pad tokens.
        log_probabilities: natural logarithm of the policy's probability of the text; -inf where there is none.
        perturbed: log-probability plus noise, descending.
        lengths: number of tokens, EOS token included.
        threshold: the perturbed log-probability of the first text that is left out; -inf where none is.
    """

    tokens: Int[Array, "batch samples max_length"]
    log_probabilities: Float[Array, "batch samples"]
    perturbed: Float[Array, "batch samples"]
    lengths: Int[Array, "batch samples"]
    threshold: Float[Array, "batch"]

    def inclusion_probabilities(self) -> Float[Array, "batch samples"]:
        """Probability that a text's perturbed log-probability is above the threshold, given that: Σ f(text) p(text) /
        this over the texts estimates the expectation of f without bias (Horvitz and Thompson).
        """
        difference = self.log_probabilities - self.threshold[:, None]
        return jnp.where(self.threshold[:, None] == -jnp.inf, 1.0, -jnp.expm1(-jnp.exp(difference)))

    def as_result(self) -> GenerationResult:
        """Scored by their perturbed log-probabilities."""
        return GenerationResult(
            tokens=self.tokens, scores=self.perturbed, log_probabilities=self.log_probabilities, lengths=self.lengths
        )


@flax.struct.dataclass
class _State:
    """The loop's carry: prefixes and ended texts of every source, one more than are returned."""

    position: Int[Array, ""]
    last_tokens: Int[Array, "batch beam"]
    tokens: Int[Array, "batch beam max_length"]
    log_probabilities: Float[Array, "batch beam"]
    perturbed: Float[Array, "batch beam"]
    lengths: Int[Array, "batch beam"]
    ended: Bool[Array, "batch beam"]
    keys: Key[Array, "batch beam"]
    decoder: DecodeState


def stochastic_beam_search(
    context: GenerationContext, *, policy: Policy, num_samples: int, seed: int
) -> DistinctSamples:
    """Texts drawn without replacement, each as if drawn from the policy after the ones before it were removed.

    The noise of a text is a function of (seed, line, its tokens): more samples add texts to those of fewer. A text ends
    with the EOS token, or is truncated at its source's limit, as in `sampling.sample`.

    Source: Kool et al. 2019, arXiv:1903.06059, algorithm 1; section 4.1 (threshold and inclusion probabilities).
    """
    vocabulary, max_length, beam = context.vocabulary, context.max_length, num_samples + 1
    batch_size = context.limits.shape[0]
    limits = jnp.clip(context.limits, 0, max_length)[:, None]
    decoder = context.start(beam)

    def is_open(state: _State) -> Bool[Array, "batch beam"]:
        return ~state.ended & (state.perturbed > -jnp.inf) & (state.lengths < limits)

    def extend(state: _State) -> _State:
        logits, after = context.step(
            state.last_tokens.reshape(-1), state.decoder.replace(per_source=decoder.per_source)
        )
        logits = context.controlled(logits, state.tokens, state.position)
        positions = jnp.broadcast_to(state.position, logits.shape[:1])
        of_tokens = policy.log_probabilities(logits, positions).reshape(batch_size, beam, -1)
        vocab = of_tokens.shape[-1]
        open_ = is_open(state)
        totals = jnp.where(
            open_[:, :, None] & (of_tokens > IMPOSSIBLE), state.log_probabilities[:, :, None] + of_tokens, -jnp.inf
        )
        noise = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, (vocab,))))(state.keys)
        perturbed = _conditioned(totals + noise, totals, state.perturbed)
        # What has ended stays as it is, as its own only continuation, at the place of the pad token.
        kept = jnp.where(open_, -jnp.inf, state.perturbed)
        pool = perturbed.at[:, :, vocabulary.pad_id].set(kept).reshape(batch_size, -1)
        chosen, places = top_k(pool, beam)
        parents, tokens = places // vocab, places % vocab
        before = pick((state.tokens, state.log_probabilities, state.lengths, state.ended, open_), parents)
        written, log_probabilities, lengths, ended, was_open = before
        tokens = jnp.where(was_open, tokens, vocabulary.pad_id)
        log_probabilities = jnp.where(was_open, pick(totals.reshape(batch_size, -1), places), log_probabilities)
        fold = jax.vmap(jax.vmap(jax.random.fold_in))
        return _State(
            position=state.position + 1,
            last_tokens=tokens,
            tokens=jax.lax.dynamic_update_index_in_dim(written, tokens, state.position, axis=2),
            log_probabilities=jnp.where(chosen > -jnp.inf, log_probabilities, -jnp.inf),
            perturbed=chosen,
            lengths=lengths + was_open,
            ended=ended | (was_open & (tokens == vocabulary.eos_id)),
            keys=fold(pick(state.keys, parents), tokens),
            decoder=after.replace(per_source=None, per_hypothesis=reordered(after.per_hypothesis, parents)),
        )

    first = jnp.where(jnp.arange(beam) == 0, 0.0, -jnp.inf)
    of_lines = jax.vmap(lambda line: jax.random.fold_in(jax.random.key(seed), line))(context.lines)
    shape = (batch_size, beam)
    state = _State(
        position=jnp.zeros((), jnp.int32),
        last_tokens=jnp.full(shape, vocabulary.bos_id, jnp.int32),
        tokens=jnp.full((*shape, max_length), vocabulary.pad_id, jnp.int32),
        log_probabilities=jnp.broadcast_to(first, shape),
        # The noise of the root is that of the largest of all texts, and shifts all alike.
        perturbed=jnp.broadcast_to(first, shape),
        lengths=jnp.zeros(shape, jnp.int32),
        ended=jnp.zeros(shape, bool),
        keys=jnp.broadcast_to(of_lines[:, None], shape),
        decoder=decoder.replace(per_source=None),
    )
    # The root's own perturbed log-probability is a draw of the standard Gumbel distribution.
    root = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, vocabulary.bos_id)))(of_lines)
    state = state.replace(perturbed=state.perturbed + root[:, None])
    state = jax.lax.while_loop(lambda state: jnp.any(is_open(state)), extend, state)
    found = state.perturbed[:, :num_samples] > -jnp.inf
    return DistinctSamples(
        tokens=jnp.where(found[:, :, None], state.tokens[:, :num_samples], vocabulary.pad_id),
        log_probabilities=state.log_probabilities[:, :num_samples],
        perturbed=state.perturbed[:, :num_samples],
        lengths=jnp.where(found, state.lengths[:, :num_samples], 0),
        threshold=state.perturbed[:, num_samples],
    )


def _conditioned(
    noisy: Float[Array, "batch beam vocab"],
    totals: Float[Array, "batch beam vocab"],
    maximum: Float[Array, "batch beam"],
) -> Float[Array, "batch beam vocab"]:
    """The perturbed log-probabilities of continuations, given that the largest is that of their parent.

    Source: Kool et al. 2019, appendix B.3, in its numerically stable form.
    """
    highest = jnp.max(noisy, axis=-1, keepdims=True)
    maximum = maximum[:, :, None]
    # Of a parent without continuations all terms are -inf.
    safe_highest = jnp.where(highest > -jnp.inf, highest, 0.0)
    safe_maximum = jnp.where(maximum > -jnp.inf, maximum, 0.0)
    value = safe_maximum - noisy + jnp.log1p(-jnp.exp(noisy - safe_highest))
    conditioned = safe_maximum - jnp.maximum(0.0, value) - jnp.log1p(jnp.exp(-jnp.abs(value)))
    return jnp.where(totals > -jnp.inf, conditioned, -jnp.inf)
