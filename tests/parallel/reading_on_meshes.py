"""Reads a parameter that is stored transposed onto eight devices, and prints what was read as JSON."""

import json
from pathlib import Path

import jax
import numpy as np

from seq2seq_jax.parallel.mesh_config import MeshConfig
from seq2seq_jax.pretrained import table
from seq2seq_jax.pretrained.safetensors_files import NewTensor, TensorFiles, write_file
from seq2seq_jax.pretrained.table import Entry, load, places
from seq2seq_jax.pretrained.transforms import Matrix

SHAPE, LAYERS = (256, 1_024), 2
"""Of the stored tensor of a layer."""


def main() -> None:
    """Read it, and compare."""
    path = Path("model.safetensors")
    values = np.random.default_rng(0).normal(size=(LAYERS, *SHAPE)).astype(np.float32)
    stored = [
        NewTensor(name=f"{layer}.w", dtype="F32", shape=SHAPE, values=lambda layer=layer: values[layer])
        for layer in range(LAYERS)
    ]
    write_file(path, stored, metadata={})
    mesh = MeshConfig(data=2, fsdp=4).build(jax.devices())
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
    layouts = {"x/layer/kernel": jax.ShapeDtypeStruct((LAYERS, *SHAPE[::-1]), np.float32, sharding=sharding)}
    rows = places([Entry("{layer}.w", ("x/layer/kernel",), Matrix())], layouts)
    asked: list[np.ndarray] = []
    table.will_need = asked.append
    kernel = load(TensorFiles.open(Path()).tensors, rows, layouts)["x/layer/kernel"]
    assert kernel.sharding == sharding
    found = {
        "equal": bool(np.array_equal(kernel, values.transpose(0, 2, 1))),
        "read": sum(high - low for low, high in map(np.lib.array_utils.byte_bounds, asked)),
        "size": values.nbytes,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
