"""Both training steps of one architecture: shown to be the same computation, then timed in turns."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import torch
from torch import nn

from seq2seq_jax.batch import Batch
from seq2seq_jax.benchmark.harness import Spread, Timing, paired_ratio, take_turns
from seq2seq_jax.benchmark.training_step import MaximumLikelihoodTraining
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.objective import Params
from seq2seq_jax.training.step import num_parameters
from studies.peers import convolutional, hugging_face, pytorch, recurrent, transformer
from studies.peers.pytorch import PyTorchTraining, Weights
from studies.peers.task import Task

TOLERANCE = 1e-4
"""How far both sides may lie apart, relative to the largest number of each parameter's gradient."""
CHECKED_UPDATES = 3
CHECKED_ROWS, CHECKED_BATCHES = 4, 5
"""A batch may hold an activation that is 0 but for rounding, where ReLU has two slopes: then another one is tried."""
OURS, PEER, COMPILED_PEER = "seq2seq_jax", "PyTorch", "PyTorch, compiled"
SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model, on both sides."""

    model_config: Callable[..., ModelConfig]
    """(task, dropout) -> this project's model."""
    peer: Callable[..., nn.Module]
    """(task, dropout) -> PyTorch's."""
    weights: Callable[[Params], Weights]
    """This project's parameters, or gradients, by PyTorch's names."""
    without_effect: str | None = None
    """What the names of parameters end in whose gradient is rounding alone: a bias of keys moves all the scores of a
    query alike."""


def _recurrent(attention: recurrent.Attention) -> Architecture:
    return Architecture(
        model_config=functools.partial(recurrent.model_config, attention=attention),
        peer=functools.partial(recurrent.RecurrentPeer, attention=attention),
        weights=recurrent.weights,
    )


ARCHITECTURES = {
    "marian": Architecture(
        model_config=hugging_face.marian_model_config,
        peer=hugging_face.MarianPeer,
        weights=hugging_face.bart_weights,
        without_effect="k_proj.bias",
    ),
    "t5": Architecture(
        model_config=hugging_face.t5_model_config, peer=hugging_face.T5Peer, weights=hugging_face.t5_weights
    ),
    "transformer": Architecture(
        model_config=transformer.model_config, peer=transformer.TransformerPeer, weights=transformer.weights
    ),
    "recurrent_general": _recurrent("general"),
    "recurrent_additive": _recurrent("additive"),
    "convolutional": Architecture(
        model_config=convolutional.model_config, peer=convolutional.ConvolutionalPeer, weights=convolutional.weights
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """How near both sides come to each other with the same parameters, the same batch and no dropout."""

    loss: float
    """This project's, nats per target token."""
    loss_difference: float
    """Relative, of the two losses."""
    gradient_difference: float
    """The largest of any number of the gradient, relative to the largest number of its parameter's gradient."""
    updated_loss_difference: float
    """Relative, the largest of the losses of the updates after the first: clipping and optimizer agree, too."""


class Disagreement(Exception):
    """The two sides do not compute the same."""


def our_training(architecture: Architecture, task: Task, *, dropout: float) -> MaximumLikelihoodTraining:
    """This project's side."""
    return MaximumLikelihoodTraining(
        architecture.model_config(task, dropout=dropout),
        vocabulary=task.vocabulary,
        objective=task.objective,
        optimizer=task.optimizer,
        seed=SEED,
    )


def their_training(
    architecture: Architecture, task: Task, params: Params, *, threads: int | None, compiled: bool = False
) -> PyTorchTraining:
    """PyTorch's side with dropout, from this project's parameters, of which it has as many."""
    # What XLA does with float32 on a GPU by itself.
    torch.set_float32_matmul_precision("high")
    # Of one function torch.compile makes a limited number of versions, and then silently none.
    torch.compiler.reset()
    peer = PyTorchTraining(architecture.peer(task, dropout=task.dropout), task, compiled=compiled, threads=threads)
    peer.load(architecture.weights(params))
    counts = num_parameters(params), pytorch.num_parameters(peer)
    assert counts[0] == counts[1], f"{counts[0]} parameters here and {counts[1]} in PyTorch"
    return peer


def check(name: str, task: Task, *, threads: int | None, batch: Batch | None = None) -> Agreement:
    """Copy this project's parameters into the peer, and compare loss, gradient and updates without dropout, in float32.

    Args:
        threads: of PyTorch; None = one a core.
        batch: rows of one segment, of which groups of CHECKED_ROWS are tried; None = random words in full rows.

    Raises:
        Disagreement: by more than TOLERANCE.
    """
    task = dataclasses.replace(task, precision="float32", rows=min(task.rows, CHECKED_ROWS))
    for number in range(CHECKED_BATCHES):
        rows = slice(number * task.rows, (number + 1) * task.rows)
        tried = task.batch(seed=number) if batch is None else jax.tree.map(lambda field, rows=rows: field[rows], batch)
        loss, differences = _differences(ARCHITECTURES[name], task, tried, threads=threads)
        if max(differences.values()) <= TOLERANCE:
            return Agreement(loss=loss, **differences)
    raise Disagreement(f"{name}: the two sides lie further apart than {TOLERANCE}: {differences}")


def _differences(
    architecture: Architecture, task: Task, host_batch: Batch, *, threads: int | None
) -> tuple[float, dict[str, float]]:
    """This project's loss, and the metrics of `Agreement`."""
    with jax.default_matmul_precision("highest"):
        ours = our_training(architecture, task, dropout=0.0)
        batch = ours.place(host_batch)
        step = ours.step()
        params = jax.tree.map(np.asarray, step.state.players["model"].params)
        loss, gradient = ours.loss_and_gradient(params, batch)
        loss, gradient = float(loss), architecture.weights(jax.tree.map(np.asarray, gradient))
        updated_losses = np.array([step(batch) for _ in range(CHECKED_UPDATES + 1)])[1:]

    torch.set_float32_matmul_precision("highest")
    peer = PyTorchTraining(architecture.peer(task, dropout=0.0), task, compiled=False, threads=threads)
    peer.load(architecture.weights(params))
    peer_batch = peer.place(host_batch)
    peer_loss, peer_gradient = peer.loss_and_gradient(peer_batch)
    peer_updated_losses = np.array([peer(peer_batch) for _ in range(CHECKED_UPDATES + 1)])[1:]
    largest = {key: float(np.abs(value).max()) for key, value in gradient.items()}
    for key in largest:
        if architecture.without_effect is not None and key.endswith(architecture.without_effect):
            largest[key] = max(largest.values())
    return loss, {
        "loss_difference": abs(peer_loss - loss) / loss,
        "gradient_difference": max(
            float(np.abs(peer_gradient[key] - value).max()) / largest[key] for key, value in gradient.items()
        ),
        "updated_loss_difference": float(np.max(np.abs(peer_updated_losses / updated_losses - 1.0))),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One architecture's training steps, timed in turns."""

    parameters: int
    """Numbers that are trained, as many on both sides."""
    timings: dict[str, Timing]
    """By contender."""
    fastest_peer: str
    """PyTorch's contender of the smaller median."""
    ratio: Spread
    """Seconds of the fastest peer over seconds of this project, paired by rounds: above 1, this project is faster."""


def compare(name: str, task: Task, *, compiled: bool, rounds: int, calls: int, threads: int | None) -> Comparison:
    """Time the training steps of an architecture in turns, with dropout.

    Args:
        compiled: whether PyTorch has a second contender, which goes through torch.compile.
        rounds, calls: see `harness.take_turns`.
        threads: of PyTorch; None = one a core.
    """
    architecture = ARCHITECTURES[name]
    ours = our_training(architecture, task, dropout=task.dropout)
    host_batch = task.batch(seed=SEED)
    batch = ours.place(host_batch)
    step = ours.step()
    params = jax.tree.map(np.asarray, step.state.players["model"].params)
    contenders = {OURS: lambda: step(batch)}
    for peer_name in (PEER, COMPILED_PEER) if compiled else (PEER,):
        peer = their_training(architecture, task, params, threads=threads, compiled=peer_name == COMPILED_PEER)
        contenders[peer_name] = functools.partial(peer, peer.place(host_batch))
    timings = take_turns(contenders, rounds=rounds, calls=calls)
    fastest = min((peer for peer in timings if peer != OURS), key=lambda peer: timings[peer].spread.median)
    return Comparison(
        parameters=num_parameters(params),
        timings=timings,
        fastest_peer=fastest,
        ratio=paired_ratio(timings[fastest].seconds, timings[OURS].seconds),
    )
