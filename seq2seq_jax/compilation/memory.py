"""Memory of a device: what a compiled program needs, and what takes it."""

import dataclasses

import jax

from seq2seq_jax.data.batch_format import row_shapes
from seq2seq_jax.parallel.mesh import batch_shards, bytes_per_device
from seq2seq_jax.run.system import System

ARRAYS_PER_SIDE = 3
"""Of a row: tokens, segment ids and positions, int32 each."""

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
"""What the message of jax's error begins with, when a device or its compiler has too little memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Memory use of one chip, in bytes.

    Attributes:
        arguments: inputs, such as state and batch.
        results: outputs that do not replace a donated input.
        temporaries: gradients, activations, gathered parameters.
        program: compiled code.
    """

    arguments: int
    results: int
    temporaries: int
    program: int

    @classmethod
    def of(cls, compiled: jax.stages.Compiled) -> "MemoryUse":
        """The compiler's analysis of a program."""
        stats = compiled.memory_analysis()
        return cls(
            arguments=stats.argument_size_in_bytes,
            results=stats.output_size_in_bytes - stats.alias_size_in_bytes,
            temporaries=stats.temp_size_in_bytes,
            program=stats.generated_code_size_in_bytes,
        )

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return self.arguments + self.results + self.temporaries + self.program


def tensor_groups(system: System) -> dict[str, int]:
    """Bytes per device of what an update holds whose size is known without a compiler, for rows of the largest shape.

    These are the state, the batch, the gradients and, where the objective states them, the logits; groups of no bytes
    are left out.
    """
    experiment, players = system.experiment, system.layout.players.values()
    shape = row_shapes(experiment.batch_format, experiment.training.target_tokens_per_batch)[-1]
    positions = shape.rows * (shape.source_length + shape.target_length)
    params = bytes_per_device([player.params for player in players])
    groups = {
        "parameters (float32)": params,
        "optimizer's state": bytes_per_device([player.optimizer_state for player in players]),
        "average of parameters": bytes_per_device([player.average for player in players]),
        "objective's state": bytes_per_device(system.layout.objective),
        "batch": 4 * ARRAYS_PER_SIDE * positions // batch_shards(system.mesh),
        "gradients, of the temporaries": params,
    }
    work = system.objective.work(shape.rows, shape.source_length, shape.target_length)
    if work.logits_positions is not None:
        groups["logits (float32), of the temporaries"] = _logits_bytes(system, shape.rows, work.logits_positions)
    return {group: size for group, size in groups.items() if size}


def _logits_bytes(system: System, rows: int, positions: int) -> int:
    """Bytes per device of the logits of n positions of every row of a micro-batch."""
    mesh = system.mesh
    vocabulary = system.model.vocabulary.target_size
    shards = mesh.shape["tensor"] if vocabulary % mesh.shape["tensor"] == 0 else 1
    return 4 * rows // system.experiment.training.accumulation // batch_shards(mesh) * positions * vocabulary // shards
