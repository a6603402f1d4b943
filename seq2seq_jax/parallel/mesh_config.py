"""The sizes of the device mesh, as a config says them. Imports nothing heavy, as the help of a command asks for it."""

import dataclasses
from typing import TYPE_CHECKING, Any

from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    import jax

AXES = ("data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1 for all remaining devices."""

    data: int = -1
    """Replicas of the parameters, each with a shard of the rows (data parallelism)."""
    fsdp: int = 1
    """Shards of the parameters along the model dim, each with a shard of the rows (fully sharded data parallelism)."""
    tensor: int = 1
    """Shards of heads, hidden dims and vocabulary, all with the same rows (tensor parallelism)."""
    sequence: int = 1
    """Shards of the activations along the length of their rows, for long sources (sequence parallelism)."""

    def __post_init__(self):
        check_values(self, "mesh")
        sizes = dataclasses.astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"mesh sizes must be at least 1, one of them may be -1 (the rest); they are {sizes}.")

    def build(self, devices: list[Any] | None = None) -> "jax.sharding.Mesh":
        """The mesh over `devices` (jax.Device or topology descriptions; by default all devices).

        Devices with fast links, those of one host or TPU slice, are neighbours along sequence, tensor and fsdp, in this
        order; the data axis spans hosts or slices first.

        Raises:
            ValueError: the product of the sizes is not the number of devices, or the sizes do not fit the hosts or
                slices.
        """
        from seq2seq_jax.parallel.mesh import lay_out

        return lay_out(dataclasses.astuple(self), devices)
