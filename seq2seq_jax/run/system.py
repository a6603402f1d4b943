"""What computes: mesh, model, objective and update of an experiment, with or without data."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from seq2seq_jax.batch import Batch
from seq2seq_jax.data.columns import Frames
from seq2seq_jax.data.source import LONGEST_ROW
from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.alignment import Aligner
from seq2seq_jax.generation.generator import Generator
from seq2seq_jax.generation.judge import Judge
from seq2seq_jax.generation.method import GenerationMethod
from seq2seq_jax.generation.scorer import Scorer
from seq2seq_jax.modules.front_end import FeatureStatistics
from seq2seq_jax.modules.precision import operand_dtype
from seq2seq_jax.objectives.objective import Objective
from seq2seq_jax.outside import ALL, Trust, UntrustedCodeError
from seq2seq_jax.parallel.chips import peak_flops
from seq2seq_jax.parallel.mesh import RULES, JittedOnMesh, batch_shards, global_batch, rows_of_process
from seq2seq_jax.training.step import (
    TrainState,
    build_loss,
    build_update,
    initial_state,
    learning_rates,
    parameter_layouts,
    player_optimizers,
)


class System:
    """The programs of an experiment on a mesh. Reads and writes no files; its parts are made when they are needed."""

    def __init__(
        self,
        experiment: Experiment,
        tokenizer: Tokenizer,
        mesh: jax.sharding.Mesh,
        *,
        trust: Trust = ALL,
        statistics: FeatureStatistics | None = None,
    ):
        """Args:
        mesh: see `build_mesh`.
        trust: which modules outside the package may be imported for functions that the experiment names.
        statistics: of features; None = the model normalises by none, or nothing is computed.
        """
        self.experiment = experiment
        self.statistics = statistics
        self.tokenizer = tokenizer
        self.mesh = mesh
        self._generators: dict[tuple[GenerationMethod, int], Generator] = {}
        self._trust = trust

    def peak_flops(self, reached: float = 0.0) -> float | None:
        """FLOPs per second of all devices of the mesh together at most, in the model's precision; None = not known.

        See `seq2seq_jax.parallel.chips.peak_flops`.

        Args:
            reached: what all of them together have reached; the peak is no less.
        """
        # One of this process's own: a CPU is measured.
        precision = operand_dtype(self.experiment.model.precision)
        peak = peak_flops(self.mesh.local_devices[0], precision, reached=reached / self.mesh.size)
        return None if peak is None else self.mesh.size * peak

    @functools.cached_property
    def model(self) -> nn.Module:
        """The encoder–decoder."""
        return self.experiment.model.build(self.tokenizer.vocabulary, self.statistics)

    @functools.cached_property
    def objective(self) -> Any:
        """The objective for the model.

        Raises:
            ValueError: it takes code that is not trusted.
        """
        code = self.experiment.objective.foreign_code
        if code is not None and not self._trust.includes(code):
            raise UntrustedCodeError("the objective", f"the function {code}")
        return self.experiment.objective.build(self.model, self.tokenizer)

    @functools.cached_property
    def evaluation_objective(self) -> Objective:
        """What evaluates parameters; imports no code from outside the package."""
        return self.experiment.objective.build_evaluation(self.model)

    @functools.cached_property
    def player(self) -> str:
        """Name of the player that generates."""
        return self.evaluation_objective.players[0].name

    @functools.cached_property
    def parameter_layouts(self) -> dict[str, Any]:
        """Shapes and shardings of the parameters of all players that evaluation sees."""
        return parameter_layouts(self.evaluation_objective, mesh=self.mesh)

    @functools.cached_property
    def optimizers(self) -> tuple[dict[str, Any], dict[str, float | None]]:
        """Of each player its optimizer, and the decay of its moving average."""
        return player_optimizers(self.objective, self.experiment.optimizer, steps=self.experiment.training.steps)

    @functools.cached_property
    def _state(self) -> tuple[Callable[..., TrainState], TrainState]:
        optimizers, average_decays = self.optimizers
        return initial_state(
            self.objective,
            optimizers,
            average_decays=average_decays,
            seed=self.experiment.training.seed,
            mesh=self.mesh,
        )

    @property
    def layout(self) -> TrainState:
        """Shapes and shardings of the state."""
        return self._state[1]

    def initial_state(self, params: dict[str, Any] | None = None) -> TrainState:
        """The state before the first step.

        Args:
            params: of some players; those of others are new ones.
        """
        return self._state[0](params or {})

    def used_parameters(self, state: TrainState) -> dict[str, Any]:
        """The parameters of all players that evaluation sees, the average where there is one."""
        return {player.name: state.players[player.name].evaluated for player in self.evaluation_objective.players}

    @functools.cached_property
    def learning_rates(self) -> Callable[[TrainState], dict[str, float]]:
        """See `seq2seq_jax.training.step.learning_rates`."""
        return learning_rates(self.objective, self.experiment.optimizer, steps=self.experiment.training.steps)

    def build_update(self) -> JittedOnMesh:
        """The jitted update."""
        training, (optimizers, average_decays) = self.experiment.training, self.optimizers
        return build_update(
            self.objective,
            optimizers,
            accumulation=training.accumulation,
            average_decays=average_decays,
            seed=training.seed,
            mesh=self.mesh,
            layout=self.layout,
        )

    def build_loss(self) -> Any:
        """The jitted loss of evaluation, see `seq2seq_jax.training.step.build_loss`."""
        return build_loss(self.evaluation_objective.evaluate, mesh=self.mesh, layouts=self.parameter_layouts)

    def place(self, batch: Batch) -> Batch:
        """A process's rows of a host batch, as part of the global batch on the devices."""
        return global_batch(batch, self.mesh, shard=self.rows_of_process)

    @functools.cached_property
    def rows_of_process(self) -> tuple[int, int]:
        """Which share of the rows of every batch this process makes, and how many shares there are."""
        return rows_of_process(self.mesh)

    @property
    def generator(self) -> Generator:
        """What generates with the model by the experiment's method."""
        return self.generator_by(self.experiment.generation)

    def generator_by(self, method: GenerationMethod, *, max_source_length: int | None = None) -> Generator:
        """What generates with the model by a method; its compiled programs are kept.

        Args:
            max_source_length: tokens of the longest source that is taken as a whole; None = as in training.

        Raises:
            ValueError: the encoder has positions for no such source.
        """
        source = self.experiment.task.source(self.experiment.data)
        if max_source_length is not None:
            limit = self.model.source_position_limit
            longest = LONGEST_ROW if limit is None else limit
            if not 1 <= max_source_length <= longest:
                raise ValueError(
                    f"max_source_length must be 1 to {longest:,} tokens, "
                    f"{'the positions that the encoder has' if limit else 'the longest row'}, not {max_source_length}."
                )
            stride = source.stride if isinstance(source, Frames) else 1
            source = dataclasses.replace(source, max_length=max_source_length * stride)
        key = method, source.max_length
        if key not in self._generators:
            tags = self.experiment.data.required_tokens()
            self._generators[key] = Generator(
                self.model, self.tokenizer, method, source=source, mesh=self.mesh, tags=tags
            )
        return self._generators[key]

    @functools.cached_property
    def scorer(self) -> Scorer:
        """What scores given targets with the model."""
        return Scorer(self.generator, max_target_length=self.experiment.max_target_length)

    @functools.cached_property
    def judge(self) -> Judge:
        """What judges given targets with the discriminator.

        Raises:
            ValueError: there is none.
        """
        discriminator = getattr(self.evaluation_objective, "discriminator", None)
        if discriminator is None:
            raise ValueError(
                f"the run's objective is {type(self.experiment.objective).__name__}, which has no discriminator: give "
                "a run of AdversarialConfig."
            )
        return Judge(self.generator, discriminator, max_target_length=self.experiment.max_target_length)

    @functools.cached_property
    def aligner(self) -> Aligner:
        """What aligns with the model."""
        return Aligner(self.generator, max_target_length=self.experiment.max_target_length)


def build_mesh(experiment: Experiment, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The device mesh of an experiment, checked against the model and the batch.

    Args:
        devices: None = all that are attached.

    Raises:
        ValueError: with the field to change.
    """
    mesh = experiment.mesh.build() if devices is None else experiment.mesh.build(list(devices))
    check_mesh(experiment, mesh)
    return mesh


def check_mesh(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Refuse a mesh that the model or the batch cannot be divided by.

    Raises:
        ValueError: with the field to change.
    """
    shards = batch_shards(mesh)
    rows = experiment.rows_per_batch // experiment.training.accumulation
    if rows % shards:
        row = experiment.max_target_length
        raise ValueError(
            f"a batch of {rows} rows (training.target_tokens_per_batch / data.max_target_length / "
            f"training.accumulation) cannot be divided over data x fsdp = {shards} devices. Set "
            f"training.target_tokens_per_batch to a multiple of {shards * row * experiment.training.accumulation}, or "
            "change the mesh."
        )
    check_mesh_of_model(experiment, mesh)


def check_mesh_of_model(experiment: Experiment, mesh: jax.sharding.Mesh) -> None:
    """Refuse a mesh that the model cannot be divided by.

    Raises:
        ValueError: with the field to change.
    """
    for side, stack in (("encoder", experiment.model.encoder), ("decoder", experiment.model.decoder)):
        for name, (logical_axis, size) in stack.sharded_sizes.items():
            axis = dict(RULES)[logical_axis]
            if size % mesh.shape[axis]:
                raise ValueError(
                    f"mesh.{axis} = {mesh.shape[axis]} must divide model.{side}.{name} = {size}, and does not. "
                    "Change either."
                )
