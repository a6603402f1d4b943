"""The loss of a discriminator on references, samples and earlier samples, with penalties of its gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seq2seq_jax.batch import Batch, TokenRows
from seq2seq_jax.discriminators.discriminator import Discriminator, logits_of_texts, text_rows
from seq2seq_jax.discriminators.losses import Contrastive, Hinge, Logistic, PointwiseLoss, Relativistic, Wasserstein
from seq2seq_jax.objectives.objective import Params
from seq2seq_jax.rewards.sizes import pad_to

DiscriminatorLoss = Logistic | Hinge | Wasserstein | Relativistic | Contrastive


def discriminator_losses(
    discriminator: Discriminator,
    params: Params,
    loss: DiscriminatorLoss,
    batch: Batch,
    tokens: Int[Array, "batch samples length"],
    mask: Bool[Array, "batch samples length"],
    *,
    of_prefixes: bool,
    r1_weight: float,
    replayed: Batch | None,
    replay_fraction: float | None,
    pad_id: int,
    rng: jax.Array | None,
) -> tuple[Float[Array, "batch"], dict[str, Float[Array, "batch"]]]:
    """The loss of each source, and what is logged of it: `r1` and `gradient_penalty`, both without their weights.

    Args:
        batch: sources with references, one per row.
        tokens, mask: samples.
        of_prefixes: whether the loss of a text is the mean over its prefixes, or that of the whole text.
        replayed: pairs of a source and an earlier sample, one per row; None = none.
        replay_fraction: weight of these in the place of the samples.
        rng: of dropout; None = none.
    """
    keys = [None] * 5 if rng is None else list(jax.random.split(rng, 5))
    encoded = discriminator.encode(params, batch.source, key=keys[0])
    real = discriminator.logits(params, batch.target, encoded, key=keys[1])
    fake = discriminator.logits_of_samples(params, tokens, mask, encoded, key=keys[2])

    def each_text(function, logits, mask):
        if not of_prefixes:
            return function(logits_of_texts(logits, mask))
        values = jnp.sum(jnp.where(mask, function(logits), 0.0), axis=-1)
        return values / jnp.maximum(jnp.sum(mask, axis=-1), 1)

    if isinstance(loss, PointwiseLoss):
        of_fake = jnp.mean(each_text(loss.of_fake, fake, mask), axis=1)
        if replayed is not None:
            found = discriminator.logits(
                params, replayed.target, discriminator.encode(params, replayed.source, key=keys[3]), key=keys[3]
            )
            is_one = jnp.any(replayed.source.mask, axis=1) & jnp.any(replayed.target.mask, axis=1)
            old = each_text(loss.of_fake, found, replayed.target.mask)
            of_fake += jnp.where(is_one, replay_fraction * (old - of_fake), 0.0)
        losses = 0.5 * each_text(loss.of_real, real, batch.target.mask) + 0.5 * of_fake
    else:
        losses = loss.losses(logits_of_texts(real, batch.target.mask), logits_of_texts(fake, mask))
    logged = {}
    if r1_weight > 0.0:
        embedded = discriminator.embed(params, batch.target.tokens)
        logged["r1"] = discriminator.squared_gradients(params, embedded, batch.target, encoded)
        losses += 0.5 * r1_weight * logged["r1"]
    if loss.gradient_penalty > 0.0:
        logged["gradient_penalty"] = gradient_penalties(
            discriminator, params, batch.target, tokens[:, 0], mask[:, 0], encoded, pad_id=pad_id, rng=keys[4]
        )
        losses += loss.gradient_penalty * logged["gradient_penalty"]
    return losses, logged


def gradient_penalties(
    discriminator: Discriminator,
    params: Params,
    reference: TokenRows,
    tokens: Int[Array, "batch length"],
    mask: Bool[Array, "batch length"],
    encoded: Any,
    *,
    pad_id: int,
    rng: jax.Array | None,
) -> Float[Array, "batch"]:
    """(‖∇d‖ - 1)² where an embedded reference and a sample are mixed, which is as long as the longer of them.

    Source: Gulrajani et al. 2017 (WGAN-GP), equation 3.
    """
    room = max(tokens.shape[1], reference.tokens.shape[1])
    mixed = 0.0
    shares = jnp.full(len(tokens), 0.5) if rng is None else jax.random.uniform(rng, (len(tokens),))
    masks = []
    for share, (ids, there) in zip(
        (shares, 1.0 - shares), ((reference.tokens, reference.mask), (tokens, mask)), strict=True
    ):
        ids, there = pad_to(ids, room, pad_id), pad_to(there, room, False)
        embedded = discriminator.embed(params, ids) * there[..., None]
        mixed += share[:, None, None] * embedded
        masks.append(there)
    rows = text_rows(jnp.full(masks[0].shape, pad_id), masks[0] | masks[1])
    squares = discriminator.squared_gradients(params, mixed, rows, encoded)
    return jnp.square(jnp.sqrt(squares + 1e-12) - 1.0)
