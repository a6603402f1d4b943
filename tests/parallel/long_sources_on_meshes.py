"""Outputs, gradients and memory for sources of 4,096 tokens, divided along their length and not; prints JSON.

Run in a process of its own, which has eight devices.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from architectures import RELATIVE, VOCABULARY, convolutional, recurrent, transformer
from batches import batch, random_pairs

from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.parallel.mesh import JittedOnMesh, MeshConfig, batch_sharding, replicated
from seq2seq_jax.training.optimizer import AdamWConfig
from seq2seq_jax.training.step import initial_state

WIDE = {"model_dim": 32, "num_heads": 2, "hidden_dim": 64, "scan_layers": True}
MODELS = {
    "transformer": (transformer(**WIDE, attention_kernel="plain"), 4_096),
    "blocked": (transformer(**WIDE, attention_kernel="blocked"), 4_096),
    "relative": (transformer(**WIDE, **RELATIVE, remat="full"), 128),
    "recurrent": (recurrent(), 64),
    "convolutional": (convolutional(max_positions=64), 64),
}
TARGET_LENGTH = 32
MESHES = {"one": (1, 1, 1, 1), "tensor": (1, 1, 2, 1), "sequence": (1, 1, 2, 4)}


def computed(name: str, sizes: tuple[int, ...]) -> tuple[dict[str, Any], int]:
    """The mean loss, the nats of each target token and the gradient; and bytes of temporary memory a device."""
    config, length = MODELS[name]
    mesh = MeshConfig(**dict(zip(("data", "fsdp", "tensor", "sequence"), sizes, strict=True))).build(
        jax.devices()[: int(np.prod(sizes))]
    )
    objective = MaximumLikelihoodConfig().build(config.build(VOCABULARY))
    build, layout = initial_state(
        objective, {"model": AdamWConfig().build(10)}, average_decays={"model": None}, seed=0, mesh=mesh
    )
    lengths = (length, length // 3, length // 2), (TARGET_LENGTH, 9, 17)
    pairs = random_pairs(np.random.default_rng(0), *lengths, VOCABULARY)
    rows = batch([[pairs[0]], pairs[1:]], length, TARGET_LENGTH, VOCABULARY)

    def loss(params, rows):
        total, _ = objective.evaluate({"model": params}, rows)
        logits = objective.model.apply({"params": params}, rows)
        return total.mean, jnp.where(rows.target.mask[..., None], jax.nn.log_softmax(logits), 0.0)

    params = build().players["model"].params
    sharding = jax.tree.map(lambda leaf: leaf.sharding, layout.players["model"].params)
    step = JittedOnMesh(
        jax.value_and_grad(loss, has_aux=True),
        mesh,
        in_shardings=(sharding, batch_sharding(mesh)),
        out_shardings=((replicated(mesh), replicated(mesh)), sharding),
    )
    memory = step.lower(params, rows).compile().memory_analysis().temp_size_in_bytes
    (value, outputs), gradient = step(params, rows)
    return jax.device_get({"loss": value, "outputs": outputs, "gradient": gradient}), memory


def difference(left: Any, right: Any) -> float:
    """The largest absolute difference of two trees of arrays."""
    return max(jax.tree.leaves(jax.tree.map(lambda one, other: float(np.abs(one - other).max()), left, right)))


def main() -> None:
    found = {}
    for name in MODELS:
        results = {mesh: computed(name, sizes) for mesh, sizes in MESHES.items()}
        expected = results["one"][0]
        found[name] = {
            "memory": {mesh: memory for mesh, (_, memory) in results.items()},
            "largest": {
                part: difference(expected[part], jax.tree.map(np.zeros_like, expected[part])) for part in expected
            },
            "differences": {
                mesh: {part: difference(expected[part], values[part]) for part in expected}
                for mesh, (values, _) in results.items()
            },
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
