"""Trains, continues and generates on meshes of eight devices and on one device; prints what came out as JSON.

Run in a process of its own, which has eight devices. Checkpoints go to the current directory.
"""

import dataclasses
import json
import os
import sys

import jax
import numpy as np
import optax
from architectures import parameters, recurrent, transformer
from batches import batch, random_pairs

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.data.tokenizer import Tokenizer, TokenizerConfig
from seq2seq_jax.generation.ensemble import Ensemble
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.methods import BeamSearch, DiverseBeamSearch, Sampling
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.parallel.mesh import AXES, MeshConfig, batch_sharding, batch_shards, bytes_per_device
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.optimizer import AdamWConfig
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.step import build_update, initial_state, parameter_layouts

MESHES = {"one": (1, 1, 1), "data": (8, 1, 1), "fsdp": (1, 8, 1), "all": (2, 2, 2)}
CONTINUED = (("data", "all"), ("all", "fsdp"), ("fsdp", "one"))
"""(mesh that saves, mesh that goes on) pairs."""

STEPS, SAVED_STEP, ROWS, LENGTH = 20, 10, 16, 16
TEXTS = ["".join(np.random.default_rng(length).choice(list("abcdefgh"), length)) for length in (3, 11, 1, 20, 7)]
TOKENIZER = Tokenizer.train(
    [("abcdefgh", "hgfedcba")], TokenizerConfig(kind="char", vocabulary_size=40, byte_fallback=False)
)


def training_batch(number: int):
    """The batch of a step: one to three pairs per row, drawn from a small vocabulary so that there is much to learn."""
    rng = np.random.default_rng([7, number])
    rows = [
        random_pairs(rng, rng.integers(1, 6, count), rng.integers(1, 6, count), TOKENIZER.vocabulary)
        for count in rng.integers(1, 4, ROWS)
    ]
    return batch(rows, LENGTH, LENGTH, TOKENIZER.vocabulary)


METHODS = {
    "beam": BeamSearch(beam_size=3, n_best=2),
    "sampling": Sampling(samples=2),
    "diverse": DiverseBeamSearch(beam_size=4, groups=2, n_best=2),
}


class Trainer:
    """A model of its own on one mesh."""

    def __init__(self, sizes: tuple[int, int, int], config: ModelConfig):
        data, fsdp, tensor = sizes
        self.mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
        self.model = config.build(TOKENIZER.vocabulary)
        objective = MaximumLikelihoodConfig(loss_chunk=8).build(self.model)
        optimizers = {"model": AdamWConfig(learning_rate=3e-3, warmup_steps=5, ema_decay=0.9).build(STEPS)}
        self.initial_state, self.layout = initial_state(
            objective,
            optimizers,
            average_decays={"model": 0.9},
            seed=0,
            mesh=self.mesh,
        )
        self.update = build_update(
            objective,
            optimizers,
            accumulation=2,
            average_decays={"model": 0.9},
            seed=0,
            mesh=self.mesh,
            layout=self.layout,
        )

    def train(self, state, steps):
        """The state after the steps, and the loss of each."""
        losses = []
        for step in steps:
            rows = jax.tree.map(
                lambda array: jax.make_array_from_process_local_data(batch_sharding(self.mesh), array),
                training_batch(step),
            )
            state, metrics = self.update(state, rows)
            losses.append(float(metrics["loss"].mean))
        return state, losses

    def generated(self, method):
        """Texts and log-probabilities by a method; three sources of 16 places per batch, which four shards do not
        divide evenly.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.layout.players["model"].params)
        params = jax.device_put(parameters(self.model, seed=2), shardings)
        limits = {"maximum_length_ratio": 1.0, "maximum_length_extra": 4, "source_tokens_per_batch": 48}
        method = dataclasses.replace(method, **limits)
        generator = Generator(self.model, TOKENIZER, method, source=Tokens(max_length=32), mesh=self.mesh)
        hypotheses = generator.generate(params, TEXTS)
        return [[(each.text, each.log_probability) for each in best] for best in hypotheses]

    def generated_together(self):
        """Texts and log-probabilities of an ensemble of the model with a recurrent one, both sharded over the mesh."""
        models = self.model, recurrent().build(TOKENIZER.vocabulary)
        drawn = [parameters(model, seed=seed) for seed, model in enumerate(models)]
        layouts = [
            parameter_layouts(MaximumLikelihoodConfig().build(model), mesh=self.mesh)["model"] for model in models
        ]
        shardings = jax.tree.map(lambda leaf: leaf.sharding, layouts)
        generator = Generator(
            Ensemble(models), TOKENIZER, BeamSearch(beam_size=3), source=Tokens(max_length=32), mesh=self.mesh
        )
        params = Ensemble.parameters(jax.device_put(drawn, shardings))
        return [[(each.text, each.log_probability) for each in best] for best in generator.generate(params, TEXTS)]


def share_of_a_device(tree) -> float:
    """Elements of the arrays that one device holds, of all."""
    leaves = jax.tree.leaves(tree)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)
    assert held == bytes_per_device(tree)
    return sum(leaf.addressable_shards[0].data.size for leaf in leaves) / sum(leaf.size for leaf in leaves)


def layouts():
    """Specs of parameters and of optimizers' states on a mesh of 2 x 2 x 2, by path."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    # 21 ids and 3 heads cannot be divided by 2; a model dim of 18 can.
    config = transformer(model_dim=18, num_heads=3, head_dim=6)
    model = config.build(dataclasses.replace(TOKENIZER.vocabulary, source_size=21, target_size=21))
    _, layout = initial_state(
        MaximumLikelihoodConfig().build(model),
        {"model": optax.adafactor(0.1, min_dim_size_to_factor=16)},
        average_decays={"model": None},
        seed=0,
        mesh=mesh,
    )
    player = layout.players["model"]
    parts = {"params": player.params, "moments": player.optimizer_state}
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [list(leaf.shape), list(leaf.sharding.spec)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(parts)
    }


def main() -> None:
    directory = os.getcwd()
    config = transformer(num_kv_heads=2, tied_embeddings="none", scan_layers=True)
    trainers = {name: Trainer(sizes, config) for name, sizes in MESHES.items()}
    losses, continued, shares = {}, {}, {}
    for name, trainer in trainers.items():
        state, losses[name] = trainer.train(trainer.initial_state(), range(SAVED_STEP))
        shares[name] = share_of_a_device(state.players["model"].params)
        with Checkpoints(f"{directory}/{name}") as checkpoints:
            checkpoints.save(state, Progress(step=SAVED_STEP))
            checkpoints.wait()
        _, last = trainer.train(state, range(SAVED_STEP, STEPS))
        losses[name] += last
    for before, after in CONTINUED:
        with Checkpoints(f"{directory}/{before}") as checkpoints:
            state, _ = checkpoints.restore_newest(trainers[after].layout)
        _, continued[f"{before} to {after}"] = trainers[after].train(state, range(SAVED_STEP, STEPS))
    rest = {
        str(sizes): MeshConfig(**dict(zip(AXES, sizes, strict=True))).build().axis_sizes
        for sizes in ((-1, 1, 1, 1), (2, -1, 2, 1), (1, 1, -1, 1), (1, 2, 1, -1))
    }
    result = {
        "losses": losses,
        "continued": continued,
        "shares": shares,
        "generated": {
            name: {
                **{kind: trainers[name].generated(method) for kind, method in METHODS.items()},
                "together": trainers[name].generated_together(),
            }
            for name in ("one", "all")
        },
        "layouts": layouts(),
        "meshes": rest,
        "batch_shards": {name: batch_shards(trainer.mesh) for name, trainer in trainers.items()},
    }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
