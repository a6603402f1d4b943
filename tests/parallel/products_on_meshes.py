"""Products with sharded parameters on meshes of eight devices, with explicit collectives and without; prints JSON.

Run in a process of its own, which has eight devices.
"""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seq2seq_jax.modules.feed_forward import FeedForward
from seq2seq_jax.modules.linear import Linear
from seq2seq_jax.parallel import sharded_product
from seq2seq_jax.parallel.mesh import AXES, RULES, MeshConfig, shardings

MESHES = ((1, 8, 1, 1), (2, 2, 2, 1), (1, 2, 2, 2))
COLLECTIVES = ("all_gather", "reduce_scatter")


class Block(nn.Module):
    """Heads and their output as in attention, and a feed-forward layer: parameters sharded along every dim."""

    precision: str

    def setup(self):
        settings = {"bias": True, "precision": self.precision}
        self.heads = Linear((16,), (4, 32), ("model", "heads", "head_dim"), **settings)
        self.output = Linear((4, 32), (16,), ("heads", "head_dim", "model"), **settings)
        self.feed_forward = FeedForward(hidden_dim=48, activation="gelu", gated=True, dropout=0.25, **settings)

    def __call__(self, x):
        x = x + self.output(jnp.tanh(self.heads(x)))
        return x + self.feed_forward(x, deterministic=False)


def found(sizes, precision, *, explicit):
    """Result and gradients, and the numbers of explicit collectives in the program."""
    sharded_product.communicates_explicitly = lambda mesh: explicit
    mesh = MeshConfig(**dict(zip(AXES, sizes, strict=True))).build()
    block = Block(precision)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6, 16)), jnp.float32)

    def results(params, x):
        def loss(params, x):
            y = block.apply({"params": params}, x, rngs={"dropout": jax.random.key(2)})
            return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

        gradients, y = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return y.astype(jnp.float32), gradients

    with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
        boxed = jax.eval_shape(lambda: block.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, x))
        layout = shardings(mesh, boxed["params"])
        make = lambda: nn.unbox(block.init({"params": jax.random.key(1), "dropout": jax.random.key(2)}, x))["params"]  # noqa: E731
        params = jax.jit(make, out_shardings=layout)()
        program = jax.jit(results, in_shardings=(layout, None)).lower(params, x)
        counts = {name: program.as_text().count(f"stablehlo.{name}") for name in COLLECTIVES}
        arrays = jax.tree.leaves_with_path(program.compile()(params, x))
    return {jax.tree_util.keystr(path): np.asarray(leaf).ravel().tolist() for path, leaf in arrays}, counts


if __name__ == "__main__":
    cases = [(sizes, "float32") for sizes in MESHES] + [((2, 2, 2, 1), "bfloat16")]
    print(
        json.dumps(
            [
                {
                    "mesh": sizes,
                    "precision": precision,
                    "plain": found(sizes, precision, explicit=False),
                    "explicit": found(sizes, precision, explicit=True),
                }
                for sizes, precision in cases
            ]
        )
    )
