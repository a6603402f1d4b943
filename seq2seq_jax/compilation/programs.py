"""The programs of an experiment for devices that are not attached; needs neither data nor a tokenizer."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from sentencepiece import sentencepiece_model_pb2

from seq2seq_jax.batch import Batch, FrameRows, SourceRows, TokenRows
from seq2seq_jax.compilation import StepName
from seq2seq_jax.compilation.memory import tensor_groups
from seq2seq_jax.data.batch_format import row_shapes
from seq2seq_jax.data.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNKNOWN_ID,
    VOCABULARY_SIZES,
    Tokenizer,
    TokenizerConfig,
)
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.context import longest_output
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.parallel.mesh import batch_shards, bytes_per_device
from seq2seq_jax.run.system import System, build_mesh


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepProgram:
    """One program of an experiment, before compilation.

    Attributes:
        name: which program.
        work: description of one execution.
        mesh: the mesh that it is for.
        lowered: the lowered program.
        groups: bytes per chip of each kind of argument, and of temporaries whose size is known in advance.
        model_flops: of one execution on all chips; see `seq2seq_jax.modules.flops`.
        longest_output: maximum number of generated tokens, the bound of loops that end when all texts have ended.
    """

    name: StepName
    work: str
    mesh: Mesh
    lowered: jax.stages.Lowered
    groups: dict[str, int]
    model_flops: float
    longest_output: int


def system_without_data(experiment: Experiment, devices: Sequence[Any]) -> System:
    """The system of an experiment on given devices, with a placeholder tokenizer; needs no data.

    Raises:
        ValueError: the mesh does not fit the devices, the model or the batch.
    """
    return System(experiment, stand_in_tokenizer(experiment.tokenizer), build_mesh(experiment, devices))


def stand_in_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """A placeholder tokenizer of numbered words with the config's vocabulary size, for programs that depend on ids
    only.
    """
    model = sentencepiece_model_pb2.ModelProto()
    # Without data, a size that follows it is taken to be the largest.
    size = config.vocabulary_size or VOCABULARY_SIZES[-1]
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.vocab_size = size
    kinds = model.SentencePiece
    special = {PAD_ID: "<pad>", UNKNOWN_ID: "<unk>", BOS_ID: "<s>", EOS_ID: "</s>"}
    model.trainer_spec.pad_id, model.trainer_spec.unk_id = PAD_ID, UNKNOWN_ID
    model.trainer_spec.bos_id, model.trainer_spec.eos_id = BOS_ID, EOS_ID
    for token in range(size):
        kind = kinds.UNKNOWN if token == UNKNOWN_ID else kinds.CONTROL if token in special else kinds.NORMAL
        model.pieces.add(piece=special.get(token, f"▁{token}"), score=-float(token), type=kind)
    serialized = model.SerializeToString()
    return Tokenizer(serialized, None if config.joint else serialized)


def build_step(name: StepName, experiment: Experiment, devices: Sequence[Any]) -> StepProgram:
    """A program of an experiment for devices.

    All rows have the config's maximum lengths, and hold one pair each.

    Raises:
        ValueError: the mesh does not fit the devices, the model or the batch cannot be sharded over it, or the step is
            not supported with the data.
    """
    if name == "generation":
        return _generation(system_without_data(experiment, devices))
    if name == "policy_gradient" and not isinstance(experiment.objective, PolicyGradientConfig):
        if not experiment.task.generates:
            raise ValueError(
                "a step with policy gradients needs pairs, and the data of this config has none. Leave policy_gradient "
                "out of --steps."
            )
        experiment = dataclasses.replace(
            experiment,
            data=dataclasses.replace(experiment.data, packing=False, max_examples_per_row=None),
            objective=PolicyGradientConfig(),
        )
    return _update(name, system_without_data(experiment, devices))


def _update(name: StepName, system: System) -> StepProgram:
    experiment = system.experiment
    shape = row_shapes(experiment.batch_format, experiment.training.target_tokens_per_batch)[-1]
    source, target = shape.source_length, shape.target_length
    most = 1 if experiment.has_unpacked_rows else shape.max_examples
    batch = Batch(
        source=_source_rows(system, shape.rows, source, max_segments=most),
        target=_rows(shape.rows, target, max_segments=most),
    )
    work = system.objective.work(shape.rows, source, target)
    lowered = system.build_update().lower(system.layout, batch)
    return StepProgram(
        name=name,
        work=work.description,
        mesh=system.mesh,
        lowered=lowered,
        groups=tensor_groups(system),
        model_flops=work.flops,
        longest_output=work.longest_output,
    )


def _generation(system: System) -> StepProgram:
    experiment, generation = system.experiment, system.experiment.generation
    length = experiment.max_source_length
    shards = batch_shards(system.mesh)
    rows = math.ceil(max(generation.source_tokens_per_batch // length, 1) / shards) * shards
    room = longest_output(
        length,
        ratio=generation.maximum_length_ratio,
        extra=generation.maximum_length_extra,
        position_limit=experiment.model.decoder.position_limit,
        maximum=generation.controls.maximum_length,
    )
    player = system.layout.players[system.player]
    source = _source_rows(system, rows, length, max_segments=1)
    flops = experiment.model.forward_flops(
        length, room, vocabulary=system.model.vocabulary, hypotheses=generation.num_hypotheses
    )
    return StepProgram(
        name="generation",
        work=f"{rows:,} sources of {length} tokens, {generation.num_hypotheses} hypotheses of {room} for each",
        mesh=system.mesh,
        lowered=system.generator.lower(player.evaluated, source),
        groups={
            "parameters (float32)": bytes_per_device(player.evaluated),
            "batch": _bytes(source) // shards,
        },
        model_flops=rows * flops,
        longest_output=room,
    )


def _rows(count: int, length: int, *, max_segments: int | None) -> TokenRows:
    array = jax.ShapeDtypeStruct((count, length), jnp.int32)
    return TokenRows(tokens=array, segment_ids=array, positions=array, max_segments=max_segments)


def _source_rows(system: System, count: int, length: int, *, max_segments: int | None) -> SourceRows:
    """Rows of tokens, or of frames as the front end reads them."""
    model = system.experiment.model
    if model.front_end is None:
        return _rows(count, length, max_segments=max_segments)
    num_features, kind = model.front_end.stored
    array = jax.ShapeDtypeStruct((count, length), jnp.int32)
    values = jax.ShapeDtypeStruct((count, length, model.source_stride, num_features), jnp.dtype(kind))
    return FrameRows(values=values, counts=array, segment_ids=array, positions=array, max_segments=max_segments)


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
