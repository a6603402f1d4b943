"""The sizes of the device mesh, as a config says them. Imports nothing heavy, as the help of a command asks for it."""

import dataclasses
from typing import TYPE_CHECKING, Any

from seq2seq_jax.values import check_values

if TYPE_CHECKING:
    import jax

AXES = ("data", "fsdp", "tensor", "sequence")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1 for all that are left."""

    data: int = -1
    """Copies of the parameters, each with its share of the rows."""
    fsdp: int = 1
    """Shards of the parameters along the model dim, each with its share of the rows."""
    tensor: int = 1
    """Shards of heads, hidden dims and vocabulary, all with the same rows."""
    sequence: int = 1
    """Shards of the activations along the length of their rows, for long sources."""

    def __post_init__(self):
        check_values(self, "mesh")
        sizes = dataclasses.astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"mesh sizes must be at least 1, one of them may be -1 (the rest); they are {sizes}.")

    def build(self, devices: list[Any] | None = None) -> "jax.sharding.Mesh":
        """The mesh over `devices` (jax.Device or what describes one; by default all that there are).

        Devices that talk fast to each other, those of a host or of a TPU slice, are neighbours along sequence, tensor
        and fsdp, in this order; data goes across hosts or slices first.

        Raises:
            ValueError: the sizes do not make up the number of devices, or cannot be laid over hosts or slices.
        """
        from seq2seq_jax.parallel.mesh import lay_out

        return lay_out(dataclasses.astuple(self), devices)
