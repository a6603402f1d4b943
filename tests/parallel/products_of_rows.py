"""Products of rows whose batch is sharded: which collectives they need, and what they compute; prints JSON.

Run in a process of its own, which has eight devices.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from seq2seq_jax.modules.precision import kernel_gradient, matrix_product
from seq2seq_jax.modules.recurrence import LSTM, scan_cell
from seq2seq_jax.parallel.mesh import JittedOnMesh, MeshConfig, batch_sharding, replicated

LENGTH, BATCH, HIDDEN = 6, 16, 8


def collectives(function, *shapes) -> dict[str, int]:
    """Number of collectives of each kind in the compiled function, rows divided over eight devices."""
    mesh = MeshConfig(data=8).build(jax.devices())
    rows, whole = NamedSharding(mesh, PartitionSpec(None, "data")), replicated(mesh)
    shardings = tuple(rows if len(shape) == 3 else whole for shape in shapes)
    step = JittedOnMesh(function, mesh, in_shardings=shardings)
    text = str(step.lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile().as_text())
    kinds = re.findall(r" (all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", text)
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def layer(precision):
    """The gradient of an LSTM's parameters."""

    def loss(inputs, kernel, recurrent, keep):
        gates = matrix_product(inputs, kernel, axes=("model", "hidden"), precision=precision)
        outputs = scan_cell(LSTM, False, precision, gates, recurrent, None, keep, None, None)
        return jnp.sum(outputs.astype(jnp.float32) ** 2)

    return jax.grad(loss, argnums=(1, 2))


def merged(rows, gradient):
    """What the dims of rows must not become before a product."""
    merged = (array.reshape(-1, array.shape[-1]) for array in (rows, gradient))
    return kernel_gradient(*merged, precision="bfloat16")


def errors_of_two_products(precision) -> list[float]:
    """Of the gradients of two products, one after the other, on 2 x 2 x 2 devices: their largest errors, relative to
    the largest value, against those without a mesh.

    The product by the transpose of the second parameter is what XLA gets wrong without `gather_features`.
    """
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((8, 12, 16), (16, 48), (48, 16))]

    def loss(x, first, second):
        y = matrix_product(jnp.tanh(x), first, axes=("model", "hidden"), precision=precision)
        return jnp.sum(jnp.sin(matrix_product(y, second, axes=("model", "hidden"), precision=precision)))

    gradients = jax.grad(loss, argnums=(1, 2))
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build(jax.devices())
    kernel = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    on_mesh = JittedOnMesh(
        gradients, mesh, in_shardings=(batch_sharding(mesh), kernel, kernel), out_shardings=(kernel, kernel)
    )
    return [
        float(np.abs(found - expected).max() / np.abs(expected).max())
        for found, expected in zip(on_mesh(*arrays), jax.jit(gradients)(*arrays), strict=True)
    ]


if __name__ == "__main__":
    wide, gates = (LENGTH, BATCH, HIDDEN), (LENGTH, BATCH, 4 * HIDDEN)
    kernel, keep = (HIDDEN, 4 * HIDDEN), (LENGTH, BATCH, 1)
    found = {
        precision: collectives(layer(precision), wide, kernel, kernel, keep) for precision in ("bfloat16", "float32")
    }
    errors = {precision: errors_of_two_products(precision) for precision in ("float32", "bfloat16_products")}
    json.dump({**found, "merged": collectives(merged, wide, gates), "errors": errors}, sys.stdout)
