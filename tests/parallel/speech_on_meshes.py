"""Models of speech, trained with dropout and SpecAugment on several meshes; prints losses as JSON.

Run in a process of its own, which has eight devices.
"""

import json
import sys

import jax
import numpy as np
from speech import MODELS, VOCABULARY, spoken_batch, spoken_pairs

from seq2seq_jax.objectives.joint_ctc import JointCtcConfig
from seq2seq_jax.objectives.objective import values_of
from seq2seq_jax.optimizers import AdamWConfig
from seq2seq_jax.parallel.mesh import MeshConfig, batch_sharding
from seq2seq_jax.training.step import build_update, initial_state, player_optimizers

MESHES = {"one": (1, 1, 1), "fsdp and tensor": (1, 2, 2), "data, fsdp and tensor": (2, 2, 2)}
STEPS, ROWS = 4, 8


def main() -> None:
    """Train each model on each mesh."""
    result = {}
    for name, config in MODELS.items():
        objective = JointCtcConfig().build(config.build(VOCABULARY))
        # Adam divides by the size of a gradient: with a small epsilon rounding would move what has a gradient of 0.
        optimizer = AdamWConfig(learning_rate=3e-3, warmup_steps=1, epsilon=1e-3)
        optimizers, decays = player_optimizers(objective, optimizer, steps=STEPS)
        rng = np.random.default_rng(0)
        batches = [
            spoken_batch(
                name,
                [spoken_pairs(name, rng, rng.integers(5, 20, 2)) for _ in range(ROWS)],
                source_length=12,
                target_length=12,
            )
            for _ in range(STEPS)
        ]
        for mesh_name, (data, fsdp, tensor) in MESHES.items():
            mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
            build, layout = initial_state(objective, optimizers, average_decays=decays, seed=0, mesh=mesh)
            update = build_update(
                objective, optimizers, accumulation=1, average_decays=decays, seed=0, mesh=mesh, layout=layout
            )
            state, losses = build(), []
            for batch in batches:
                state, logged = update(state, jax.device_put(jax.device_get(batch), batch_sharding(mesh)))
                losses.append(values_of(logged)["loss"])
            result[f"{name} {mesh_name}"] = losses
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
