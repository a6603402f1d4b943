"""The loop over the layers of a stack, and what its backward pass recomputes."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax

from seq2seq_jax.modules.attention import WEIGHTS
from seq2seq_jax.modules.fused_attention import SAVED_NAMES
from seq2seq_jax.parallel.sharded_product import GATHERED_NAME, communicates_explicitly

ACTIVATION_AXES = ("batch", "length", "activation")

Remat = Literal["none", "full", "save_parameters", "save_attention", "save_products"]
"""What the backward pass recomputes: nothing; whole layers; all but what a TPU has gathered of the parameters along
fsdp; all but fused or blocked attention; or all but such attention and matrix products."""


@runtime_checkable
class Layered(Protocol):
    """The fields that `over_layers` reads of the config of any stack of layers."""

    num_layers: int
    scan_layers: bool
    remat: Remat


def over_layers(
    body: Callable[[nn.Module, Any, Any], tuple[Any, Any]],
    layer: nn.Module,
    carry: Any,
    per_layer: Any = None,
    *,
    config: Layered,
) -> tuple[Any, Any]:
    """Run `body(layer, carry, inputs)` for each layer of a stack whose parameters lead with a layer dim.

    Args:
        per_layer: inputs of each layer, a tree of [batch, layers, ...].

    Returns:
        The last carry, and the outputs of all layers as a tree of [batch, layers, ...].
    """
    policies = jax.checkpoint_policies
    attention = policies.save_only_these_names(*SAVED_NAMES)
    if config.remat != "none":
        products = policies.save_from_both_policies(policies.dots_with_no_batch_dims_saveable, attention)
        policy = {
            "full": None,
            "save_parameters": policies.save_only_these_names(GATHERED_NAME),
            "save_attention": attention,
            "save_products": products,
        }[config.remat]
        body = nn.remat(body, policy=policy, prevent_cse=not config.scan_layers)
    elif communicates_explicitly(jax.sharding.get_abstract_mesh()):
        # Gathered parameters of all layers would be the whole model on every device.
        policy = policies.save_anything_except_these_names(GATHERED_NAME)
        body = nn.remat(body, policy=policy, prevent_cse=not config.scan_layers)
    return nn.scan(
        body,
        variable_axes={"params": 0, WEIGHTS: 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=1,
        out_axes=1,
        length=config.num_layers,
        unroll=1 if config.scan_layers else config.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(layer, carry, per_layer)


def each_layer(layer: nn.Module, *, config: Layered) -> Iterator[Callable[..., Any]]:
    """For each layer of a stack, a function that calls its first argument with that layer and the further arguments.

    For decoding steps: their state is one array per layer. Slices of one array of all layers would copy the whole cache
    in every step.
    """
    for index in range(config.num_layers):

        def call(function, *arguments, index=index):
            mapped = nn.map_variables(
                function, "params", trans_in_fn=lambda params: jax.tree.map(lambda leaf: leaf[index], params)
            )
            return mapped(layer, *arguments)

        yield call
