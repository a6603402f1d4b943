"""Two players with turns of 3 to 1, the first steps for one of them alone, on several meshes; prints what came out as
JSON.

Run in a process of its own, which has eight devices.
"""

import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
from architectures import transformer
from batches import batch, random_pairs
from on_meshes import TOKENIZER

from seq2seq_jax.objectives.objective import values_of
from seq2seq_jax.optimizers import AdamWConfig
from seq2seq_jax.parallel.mesh import MeshConfig, batch_sharding
from seq2seq_jax.training.checkpoint import Checkpoints
from seq2seq_jax.training.progress import Progress
from seq2seq_jax.training.step import build_update, initial_state, player_optimizers

sys.path.insert(0, str(Path(__file__).parents[1] / "outside"))

from tandem.objective import HideLengthConfig

ALONE, STEPS, ROWS, LENGTH = 5, 10, 16, 8
MESHES = {"one": (1, 1, 1), "data": (8, 1, 1), "all": (2, 2, 2)}


def training_batch(number: int):
    """One pair per row, and a row without."""
    rng = np.random.default_rng([5, number])
    lengths = rng.integers(2, LENGTH, ROWS - 1), rng.integers(2, LENGTH, ROWS - 1)
    pairs = random_pairs(rng, *lengths, TOKENIZER.vocabulary)
    return batch([*([pair] for pair in pairs), []], LENGTH, LENGTH, TOKENIZER.vocabulary)


class Trainer:
    """The two players on a mesh."""

    def __init__(self, sizes: tuple[int, int, int]):
        data, fsdp, tensor = sizes
        self.mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
        objective = HideLengthConfig(critic_alone=ALONE).build(transformer(num_layers=1).build(TOKENIZER.vocabulary))
        # Adam divides by the size of a gradient: with a small epsilon rounding would move what has a gradient of 0.
        optimizer = AdamWConfig(learning_rate=1e-3, warmup_steps=1, epsilon=1e-3, ema_decay=0.9)
        optimizers, decays = player_optimizers(objective, optimizer, steps=STEPS)
        assert decays == {"model": 0.9, "critic": 0.5}
        self.initial_state, self.layout = initial_state(
            objective, optimizers, average_decays=decays, seed=0, mesh=self.mesh
        )
        self.update = build_update(
            objective,
            optimizers,
            accumulation=2,
            average_decays=decays,
            seed=0,
            mesh=self.mesh,
            layout=self.layout,
        )

    def train(self, state, steps):
        """The state after the steps, and the metrics of each."""
        found = []
        for step in steps:
            rows = jax.device_put(training_batch(step), batch_sharding(self.mesh))
            state, metrics = self.update(state, rows)
            found.append(values_of(metrics))
        return state, found


def optimizer_counts(state) -> dict[str, int]:
    """What each player's optimizer has counted itself."""
    counts = {}
    for name, player in state.players.items():
        leaves = jax.tree.leaves(player.optimizer_state)
        (counts[name],) = {int(leaf) for leaf in leaves if leaf.dtype == np.int32}
        assert int(player.updates) == counts[name]
    return counts


def bits(state) -> list[str]:
    """Every array of a state."""
    return [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(jax.device_get(state))]


def norms(state) -> dict[str, list[float]]:
    """Of the parameters and of the averages of each player."""
    return {
        f"{name} {part}": [float(np.linalg.norm(np.asarray(leaf).ravel())) for leaf in jax.tree.leaves(tree)]
        for name, player in jax.device_get(state.players).items()
        for part, tree in (("params", player.params), ("average", player.average))
    }


def main() -> None:
    """Train on each mesh, stop where the model's turns begin, continue from there in two ways."""
    result = {}
    for name, sizes in MESHES.items():
        trainer = Trainer(sizes)
        state, before = trainer.train(trainer.initial_state(), range(ALONE))
        with Checkpoints(f"{os.getcwd()}/{name}") as checkpoints:
            checkpoints.save(state, Progress(step=ALONE))
            checkpoints.wait()
            counts = {"at the switch": optimizer_counts(state)}
            state, after = trainer.train(state, range(ALONE, STEPS))
            counts["at the end"] = optimizer_counts(state)
            restored, _ = checkpoints.restore_newest(trainer.layout)
        continued, again = trainer.train(restored, range(ALONE, STEPS))
        result[name] = {
            "metrics": before + after,
            "counts": counts,
            "continued": again == after and bits(continued) == bits(state),
            "norms": norms(state),
            "programs": trainer.update.compilations,
        }
        if name == "one":
            state, _ = trainer.train(state, range(STEPS, ALONE + 100))
            result[name]["counts"]["after 100 steps of both"] = optimizer_counts(state)
            result[name]["programs"] = trainer.update.compilations
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
