"""The loss of an ensemble, which is evaluated and never trained."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seq2seq_jax.batch import Batch
from seq2seq_jax.generation.ensemble import Ensemble
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig, cross_entropy
from seq2seq_jax.objectives.objective import Logged, Params, WeightedSum


def ensemble_loss(
    model: Ensemble, config: MaximumLikelihoodConfig, *, player: str
) -> Callable[[dict[str, Params], Batch], tuple[WeightedSum, dict[str, Logged]]]:
    """The loss that maximum likelihood has of a model, for an ensemble: see `Objective.evaluate`.

    Args:
        config: its label smoothing, z-loss and chunks.
        player: whose parameters are the ensemble's.
    """

    def evaluate(params: dict[str, Params], batch: Batch) -> tuple[WeightedSum, dict[str, Logged]]:
        apply = functools.partial(model.apply, {"params": params[player]})
        target = batch.target
        memory = apply(batch.source, deterministic=True, method="encode")
        hidden = apply(target, memory, deterministic=True, method="decode")
        rows, length = target.tokens.shape
        chunk = math.gcd(length, config.loss_chunk or length)

        def divided(array):
            return jnp.moveaxis(array.reshape(rows, -1, chunk, *array.shape[2:]), 1, 0)

        def sums(part):
            hidden, segment_ids, labels, mask = part
            logits = apply(hidden, segment_ids, memory, method="logits")
            losses = cross_entropy(logits, labels, label_smoothing=config.label_smoothing, z_loss=config.z_loss)
            return tuple(jnp.sum(jnp.where(mask, each, 0.0)) for each in losses)

        whole = hidden, target.segment_ids, target.tokens, target.mask
        if chunk == length:
            loss, nll = sums(whole)
        else:
            loss, nll = (jnp.sum(each) for each in jax.lax.map(sums, jax.tree.map(divided, whole)))
        weight = jnp.sum(target.mask).astype(jnp.float32)
        return WeightedSum(loss, weight), {"nll": WeightedSum(nll, weight)}

    return evaluate
