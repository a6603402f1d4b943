"""Three experts, trained in micro-batches on several meshes, and generated from; prints what came out as JSON.

Run in a process of its own, which has eight devices.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
from architectures import transformer
from on_meshes import TEXTS, TOKENIZER, training_batch

from seq2seq_jax.data.columns import Tokens
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.methods import MixtureOfExperts
from seq2seq_jax.objectives.mixture_of_experts import MixtureOfExpertsConfig
from seq2seq_jax.objectives.objective import values_of
from seq2seq_jax.optimizers import AdamWConfig
from seq2seq_jax.parallel.mesh import MeshConfig, batch_sharding
from seq2seq_jax.training.step import build_update, initial_state, player_optimizers

MESHES = {"one": (1, 1, 1), "all": (2, 2, 2)}
STEPS = 4


def main() -> None:
    """Train on each mesh, once with the batch at once and once in two parts; dropout would not be the same."""
    model = dataclasses.replace(
        transformer(num_layers=1, dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0), num_experts=3
    ).build(TOKENIZER.vocabulary)
    objective = MixtureOfExpertsConfig(unlikelihood_weight=0.3, loss_chunk=8).build(model)
    # Adam divides by the size of a gradient: with a small epsilon rounding would move what has a gradient of 0.
    config = AdamWConfig(learning_rate=1e-2, warmup_steps=1, epsilon=1e-3)
    optimizers, decays = player_optimizers(objective, config, steps=STEPS)
    result = {}
    for name, (data, fsdp, tensor) in MESHES.items():
        mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build(jax.devices()[: data * fsdp * tensor])
        build, layout = initial_state(objective, optimizers, average_decays=decays, seed=0, mesh=mesh)
        for accumulation in (1, 2):
            update = build_update(
                objective,
                optimizers,
                accumulation=accumulation,
                average_decays=decays,
                seed=0,
                mesh=mesh,
                layout=layout,
            )
            state, metrics = build(), []
            for step in range(STEPS):
                state, logged = update(state, jax.device_put(training_batch(step), batch_sharding(mesh)))
                metrics.append(values_of(logged))
            params = state.players["model"].params
            result[f"{name} {accumulation}"] = {
                "metrics": metrics,
                "offsets": np.asarray(params["start_offsets"]).tolist(),
            }
        generator = Generator(model, TOKENIZER, MixtureOfExperts(), source=Tokens(max_length=32), mesh=mesh)
        found = generator.generate(params, TEXTS)
        result[name] = [[each.text for each in texts] for texts in found]
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
