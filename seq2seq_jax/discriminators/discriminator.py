"""What every discriminator has in common: logits of texts, penalties of their gradients, spectral normalisation.

A discriminator gives a logit at each position of a text: of the prefix that ends there if it is causal, otherwise of
the whole text. So the logit of a text is the one at its last position, whatever the discriminator is.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch, TokenRows, Vocabulary, one_token_batch
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.modules.flops import Amount
from seq2seq_jax.modules.segments import is_last, sum_of_segments
from seq2seq_jax.values import check_values

Params = Any
"""A tree of parameters."""

POWER_ITERATIONS = 30
"""Iterations in which the largest singular value of a matrix is found, from the same vector each time."""

EMBEDDING_TABLE = "table"
"""Name of the parameters that spectral normalisation leaves as they are: rows of a table are looked up, and no input is
multiplied with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(abc.ABC):
    """Config of a discriminator."""

    is_causal: ClassVar[bool] = False
    """Whether the logit at a position is that of the prefix that ends there."""
    requires_unpacked_rows: ClassVar[bool] = False
    """Whether every row must hold a single text."""

    spectral_norm: bool = False
    """Whether every matrix but the embeddings is divided by its largest singular value (Miyato et al. 2018)."""

    def __post_init__(self):
        check_values(self, type(self).__name__)

    @property
    def starts_from_generator(self) -> bool:
        """Whether its first parameters are those of the generator, as far as it has the same."""
        return False

    @abc.abstractmethod
    def module(self, model: ModelConfig, vocabulary: Vocabulary) -> "DiscriminatorModule":
        """The module.

        Args:
            model: of the generator.
        """

    @abc.abstractmethod
    def forward_flops(self, source: Amount, target: Amount, *, model: ModelConfig, texts: int = 1) -> Amount:
        """Model FLOPs of the logits of texts of one length that share a source; see `seq2seq_jax.modules.flops`."""

    def build(self, model: ModelConfig, vocabulary: Vocabulary) -> "Discriminator":
        """The discriminator of texts of a model's vocabulary."""
        return Discriminator(self, self.module(model, vocabulary))


class DiscriminatorModule(nn.Module):
    """The interface of the modules."""

    def encode(self, source: TokenRows, *, deterministic: bool) -> Any:
        """What all texts of a source share; leaves lead with the batch."""
        raise NotImplementedError

    def embed(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        """Embedded tokens of a text."""
        raise NotImplementedError

    def judge(
        self, embedded: Float[Array, "batch target model"], target: TokenRows, encoded: Any, *, deterministic: bool
    ) -> Float[Array, "batch target"]:
        """The logits.

        Args:
            embedded: tokens of the texts, or any vectors in their place.
            target: their segments and positions.
            encoded: result of `encode`.
        """
        raise NotImplementedError

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Float[Array, "batch target"]:
        """The logits of the targets of a batch."""
        encoded = self.encode(batch.source, deterministic=deterministic)
        return self.judge(self.embed(batch.target.tokens), batch.target, encoded, deterministic=deterministic)


class Discriminator:
    """A discriminator as functions of its parameters. Without a key there is no dropout."""

    def __init__(self, config: DiscriminatorConfig, module: DiscriminatorModule):
        """See DiscriminatorConfig.build."""
        self.config = config
        self.module = module
        self._axes = jax.tree.map(
            lambda leaf: leaf.names if isinstance(leaf, nn.LogicallyPartitioned) else (),
            jax.eval_shape(self.initialize, jax.random.key(0)),
            is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
        )

    def initialize(self, key: jax.Array) -> Params:
        """New parameters, boxed with their logical axes."""
        return self.module.init(key, one_token_batch())["params"]

    def from_generator(self, params: Params, generator: Params) -> Params:
        """New parameters with those of a generator in the place of their own model's."""

        def taken(own, given):
            return {name: taken(part, given[name]) for name, part in own.items()} if isinstance(own, dict) else given

        return {**params, "model": taken(params["model"], generator)}

    def encode(self, params: Params, source: TokenRows, *, key: jax.Array | None = None) -> Any:
        """What all texts of a source share."""
        return self._apply(params, source, key=key, method="encode")

    def embed(self, params: Params, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims model"]:
        """Embedded tokens of texts."""
        return self.module.apply({"params": params}, tokens, method="embed")

    def logits(
        self,
        params: Params,
        target: TokenRows,
        encoded: Any,
        *,
        embedded: Float[Array, "batch target model"] | None = None,
        key: jax.Array | None = None,
    ) -> Float[Array, "batch target"]:
        """A logit at each position of the texts, float32; 0 at padding.

        Args:
            encoded: result of `encode`.
            embedded: vectors in the place of the embedded tokens.
        """
        embedded = self.embed(params, target.tokens) if embedded is None else embedded
        found = self._apply(params, embedded, target, encoded, key=key, method="judge")
        return jnp.where(target.mask, found.astype(jnp.float32), 0.0)

    def logits_of_samples(
        self,
        params: Params,
        tokens: Int[Array, "batch samples length"],
        mask: Bool[Array, "batch samples length"],
        encoded: Any,
        *,
        key: jax.Array | None = None,
    ) -> Float[Array, "batch samples length"]:
        """`logits` of several texts of each source, which is encoded once."""
        keys = None if key is None else jax.random.split(key, tokens.shape[1])

        def of_sample(tokens, mask, key):
            return self.logits(params, text_rows(tokens, mask), encoded, key=key)

        return jax.vmap(of_sample, in_axes=(1, 1, None if keys is None else 0), out_axes=1)(tokens, mask, keys)

    def squared_gradients(
        self,
        params: Params,
        embedded: Float[Array, "batch target model"],
        target: TokenRows,
        encoded: Any,
        *,
        key: jax.Array | None = None,
    ) -> Float[Array, "batch"]:
        """Squared norm of the gradient of a text's logit by the embedded text, of rows of one text each."""

        def total(embedded):
            return jnp.sum(
                logits_of_texts(self.logits(params, target, encoded, embedded=embedded, key=key), target.mask)
            )

        return jnp.sum(jnp.square(jax.grad(total)(embedded).astype(jnp.float32)), axis=(1, 2))

    def _apply(self, params: Params, *arguments: Any, key: jax.Array | None, method: str) -> Any:
        if self.config.spectral_norm:
            params = spectrally_normalized(params, self._axes)
        rngs = None if key is None else {"dropout": key}
        return self.module.apply({"params": params}, *arguments, deterministic=key is None, rngs=rngs, method=method)


def text_rows(tokens: Int[Array, "batch length"], mask: Bool[Array, "batch length"]) -> TokenRows:
    """Rows of one text each."""
    positions = jnp.where(mask, jnp.arange(mask.shape[1]), 0)
    return TokenRows(tokens=tokens, segment_ids=mask.astype(jnp.int32), positions=positions, max_segments=1)


def logits_of_texts(logits: Float[Array, "*dims length"], mask: Bool[Array, "*dims length"]) -> Float[Array, "*dims"]:
    """The logit of each text, that at its last position, of rows of one text each; 0 without a text."""
    following = jnp.concatenate([mask[..., 1:], jnp.zeros_like(mask[..., :1])], axis=-1)
    return jnp.sum(jnp.where(mask & ~following, logits, 0.0), axis=-1)


def logits_of_segments(logits: Float[Array, "batch length"], target: TokenRows) -> Float[Array, "batch segments"]:
    """The logit of each text of packed rows, that of segment s at index s - 1."""
    last = is_last(target.segment_ids) & target.mask
    return sum_of_segments(logits[..., None], last, target.segment_ids)[..., 0]


def spectrally_normalized(params: Params, axes: Any) -> Params:
    """Every matrix divided by its largest singular value, embedding tables left as they are.

    A parameter of more dims is a matrix of its first one and all others; one that leads with a dim of layers is a
    matrix for each layer.

    Args:
        axes: logical axes of each parameter, () = of one that has none.

    Source: Miyato et al. 2018, equation 9; here with `POWER_ITERATIONS` iterations from a fixed vector in the place of
    one that is carried from step to step, so that the result depends on the parameters alone.
    """

    def normalized(path, leaf, names):
        is_stacked = len(names) > 0 and names[0] == "layers"
        if leaf.ndim - is_stacked < 2 or path[-1].key == EMBEDDING_TABLE:
            return leaf
        matrices = leaf.reshape(*leaf.shape[: 1 + is_stacked], -1)
        largest = jax.vmap(largest_singular_value)(matrices) if is_stacked else largest_singular_value(matrices)
        return leaf / largest.reshape(largest.shape + (1,) * (leaf.ndim - is_stacked))

    return jax.tree_util.tree_map_with_path(normalized, params, axes)


def largest_singular_value(matrix: Float[Array, "rows columns"]) -> Float[Array, ""]:
    """By power iteration: too small where the next one is nearly as large, by at most 6% in 60 random matrices of 16 by
    16 and 16 by 32. The gradient takes the vectors as constants.
    """
    fixed = jax.lax.stop_gradient(matrix)

    def unit(vector):
        return vector / (jnp.linalg.norm(vector) + 1e-12)

    def iterate(_, right):
        return unit(fixed.T @ unit(fixed @ right))

    right = unit(jax.random.normal(jax.random.key(0), matrix.shape[1:]))
    right = jax.lax.fori_loop(0, POWER_ITERATIONS, iterate, right)
    left = unit(fixed @ right)
    return jnp.maximum(left @ matrix @ right, 1e-12)
