"""Several models that read one source and predict one token together."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq2seq_jax.batch import DecodeState, Memory, SourceRows, TokenRows, Vocabulary
from seq2seq_jax.model import EncoderDecoder
from seq2seq_jax.values import check_value

Mean = Literal["probabilities", "log_probabilities"]
"""What is averaged: an arithmetic or a geometric mean of the members' probabilities."""


class Ensemble(nn.Module):
    """Models with one tokenizer as one model, with the interface of `EncoderDecoder` that generation and scoring use.

    Each member keeps its own memory and decoding state; only their next-token distributions meet. One member alone
    gives its own logits, unchanged.

    Attributes:
        members: models of any families, no object twice.
        mean: of what the next-token distribution is the mean. That of log-probabilities is not normalised.
        weights: of the members, relative to each other; empty = equal.
    """

    members: tuple[EncoderDecoder, ...]
    mean: Mean = "probabilities"
    weights: tuple[float, ...] = ()

    @staticmethod
    def parameters(of_members: Sequence[Any]) -> dict[str, Any]:
        """The parameters (or their layouts) of the ensemble, from those of its members in their order."""
        return {f"members_{index}": params for index, params in enumerate(of_members)}

    @property
    def vocabulary(self) -> Vocabulary:
        """Sizes and special ids, which the members share."""
        return self.members[0].vocabulary

    @property
    def num_experts(self) -> int:
        """Experts that all members have."""
        return min(member.num_experts for member in self.members)

    @property
    def seconds_per_position(self) -> float | None:
        """Seconds of a source of which a state is made, the same for all; None = sources are no sound."""
        return self.members[0].seconds_per_position

    @property
    def has_ctc(self) -> bool:
        """Members of an ensemble vote by their decoders alone."""
        return False

    @property
    def position_limit(self) -> int | None:
        """Target tokens that all members have positions for; None = unbounded."""
        return _least(member.position_limit for member in self.members)

    @property
    def source_position_limit(self) -> int | None:
        """Source tokens that all members have positions for; None = unbounded."""
        return _least(member.source_position_limit for member in self.members)

    def encode(self, source: SourceRows, *, deterministic: bool) -> tuple[Memory, ...]:
        """The source as each member encodes it."""
        return tuple(member.encode(source, deterministic=deterministic) for member in self.members)

    def decode(
        self, target: TokenRows, memory: tuple[Memory, ...], *, deterministic: bool
    ) -> tuple[Float[Array, "batch target _"], ...]:
        """Each member's hidden states for each label of the target, with teacher forcing."""
        pairs = zip(self.members, memory, strict=True)
        return tuple(member.decode(target, each, deterministic=deterministic) for member, each in pairs)

    def logits(
        self,
        hidden: tuple[Float[Array, "batch target _"], ...],
        segment_ids: Int[Array, "batch target"],
        memory: tuple[Memory, ...],
    ) -> Float[Array, "batch target vocab"]:
        """Unnormalised log-probabilities of the next token by all members together, float32. See
        `EncoderDecoder.logits`.
        """
        members = zip(self.members, hidden, memory, strict=True)
        return self._combined([member.logits(each, segment_ids, read) for member, each, read in members])

    def start(self, memory: tuple[Memory, ...], *, max_length: int, beam_size: int) -> DecodeState:
        """The members' states before the first token. See `EncoderDecoder.start`."""
        pairs = zip(self.members, memory, strict=True)
        return _together([member.start(each, max_length=max_length, beam_size=beam_size) for member, each in pairs])

    def step(
        self, tokens: Int[Array, "hypotheses"], state: DecodeState
    ) -> tuple[Float[Array, "hypotheses vocab"], DecodeState]:
        """Logits of the next token by all members together, and their next states. See `EncoderDecoder.step`."""
        states = zip(state.per_source, state.per_hypothesis, state.history, strict=True)
        stepped = [member.step(tokens, DecodeState(*parts)) for member, parts in zip(self.members, states, strict=True)]
        return self._combined([logits for logits, _ in stepped]), _together([after for _, after in stepped])

    def _combined(self, logits: list[Float[Array, "*dims vocab"]]) -> Float[Array, "*dims vocab"]:
        if len(logits) == 1:
            return logits[0]
        shares = self.weights or (1.0,) * len(logits)
        shares = [share / math.fsum(shares) for share in shares]
        members = [jax.nn.log_softmax(each.astype(jnp.float32), axis=-1) for each in logits]
        if self.mean == "log_probabilities":
            return sum(share * each for share, each in zip(shares, members, strict=True))
        weighted = [each + math.log(share) for share, each in zip(shares, members, strict=True)]
        return jax.nn.logsumexp(jnp.stack(weighted), axis=0)


def _together(states: Sequence[DecodeState]) -> DecodeState:
    """The states of members as one, whose parts are tuples of theirs."""
    return DecodeState(
        per_source=tuple(state.per_source for state in states),
        per_hypothesis=tuple(state.per_hypothesis for state in states),
        history=tuple(state.history for state in states),
    )


def check_combination(mean: str, weights: Sequence[float], *, num_members: int) -> None:
    """Return if there is such a mean, and weights are none, or one for each member.

    Raises:
        ValueError: there is no such mean, the number of weights is another, or one is not above 0.
    """
    check_value(mean, Mean, "the mean of an ensemble")
    if weights and len(weights) != num_members:
        raise ValueError(
            f"an ensemble of {num_members} runs needs {num_members} weights, and {len(weights)} are given "
            f"({' '.join(map(str, weights))}): give one for each run, the first run's first, or none for equal ones."
        )
    if not all(0 < weight < math.inf for weight in weights):
        raise ValueError(
            f"weights of an ensemble must be above 0, and are {' '.join(map(str, weights))}: leave out the run that "
            "has no weight."
        )


def _least(limits: Iterable[int | None]) -> int | None:
    """The lowest of limits, of which None is none."""
    return min((limit for limit in limits if limit is not None), default=None)
