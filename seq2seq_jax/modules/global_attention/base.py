"""What all kinds of attention of recurrent decoders have in common; they differ in how they score a pair."""

import abc
import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seq2seq_jax.modules.attention import MASKED_SCORE, record
from seq2seq_jax.modules.flops import Amount, product_flops
from seq2seq_jax.modules.precision import Precision, product
from seq2seq_jax.modules.recurrence import Kernel, Project
from seq2seq_jax.values import check_values


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalAttentionConfig(abc.ABC):
    """Settings of a kind of attention."""

    def __post_init__(self):
        check_values(self, type(self).__name__)

    @property
    def has_coverage(self) -> bool:
        """Whether a score depends on the sum of the weights so far, so that steps come one after the other."""
        return False

    @abc.abstractmethod
    def build(self, *, query_dim: int, memory_dim: int, precision: Precision) -> "GlobalAttention":
        """The module, for queries and states of these widths.

        Raises:
            ValueError: widths that cannot be scored, with the fields to change.
        """

    @abc.abstractmethod
    def score_flops(
        self, source: Amount, target: Amount, *, query_dim: int, memory_dim: int, hypotheses: int
    ) -> Amount:
        """FLOPs of the scores of `hypotheses` targets and one source, whose keys they share."""

    def forward_flops(
        self, source: Amount, target: Amount, *, query_dim: int, memory_dim: int, hypotheses: int
    ) -> Amount:
        """FLOPs of scores and contexts of `hypotheses` targets of one source."""
        scores = self.score_flops(source, target, query_dim=query_dim, memory_dim=memory_dim, hypotheses=hypotheses)
        return scores + hypotheses * product_flops(source * target, memory_dim, 1)


class GlobalAttention(nn.Module):
    """context = Σ softmax(score(query, state)) value."""

    query_dim: int
    memory_dim: int
    precision: Precision

    def keys(self, states: Float[Array, "batch source memory"]) -> Float[Array, "batch source key"]:
        """What queries are compared with, the same for all of them."""
        return states

    def constants(self) -> dict[str, Array]:
        """Further parameters that `step_scores` reads, besides kernels."""
        return {}

    def kernels(
        self, keys: Float[Array, "batch source key"], values: Float[Array, "batch source memory"]
    ) -> dict[str, Kernel]:
        """The right operands of the products of a step."""
        return {"values": values, "keys": jnp.swapaxes(keys, 1, 2)}

    def scores(
        self, queries: Float[Array, "batch target query"], keys: Float[Array, "batch source key"]
    ) -> Float[Array, "batch target source"]:
        """Scores of all pairs at once; without coverage."""
        return product("btk,bsk->bts", queries, keys, precision=self.precision)

    @staticmethod
    def step_scores(
        project: Project,
        constants: dict[str, Array],
        query: Float[Array, "rows query"],
        keys: Float[Array, "batch source key"],
        coverage: Float[Array, "rows source"] | None,
    ) -> Float[Array, "rows source"]:
        """Scores of one step, inside a loop over time: no parameter but those of its arguments is there.

        Args:
            project: multiplies by the kernels of `kernels`.
            constants: result of `constants`.
            query: of each hypothesis; the hypotheses of one source are consecutive, so that its keys are read once.
            coverage: sum of the weights of earlier steps.
        """
        return project("keys", query)

    def __call__(
        self,
        queries: Float[Array, "batch target query"],
        keys: Float[Array, "batch source key"],
        values: Float[Array, "batch source memory"],
        mask: Bool[Array, "batch target source"],
    ) -> Float[Array, "batch target memory"]:
        """Contexts of all target positions at once; without coverage."""
        scores = self.scores(queries, keys)
        weights = jax.nn.softmax(jnp.where(mask, scores.astype(jnp.float32), MASKED_SCORE), axis=-1)
        record(self, weights[None, :, None])
        return product("bts,bsm->btm", weights, values, precision=self.precision)


def attend(
    step_scores: Callable[..., Float[Array, "rows source"]],
    project: Project,
    constants: dict[str, Array],
    query: Float[Array, "rows query"],
    keys: Float[Array, "batch source key"],
    mask: Bool[Array, "rows source"],
    coverage: Float[Array, "rows source"] | None,
) -> tuple[Float[Array, "rows memory"], Float[Array, "rows source"]]:
    """Context and weights of one step, inside a loop over time. See `GlobalAttention.step_scores`."""
    scores = step_scores(project, constants, query, keys, coverage)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE), axis=-1)
    return project("values", weights), weights
