"""Several runs in use as one: an ensemble that generates, scores and is evaluated."""

import functools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from seq2seq_jax.experiment import Experiment
from seq2seq_jax.generation.alignment import Aligner
from seq2seq_jax.generation.ensemble import Ensemble, Mean, check_combination
from seq2seq_jax.objectives.ensemble import ensemble_loss
from seq2seq_jax.objectives.maximum_likelihood import MODEL, MaximumLikelihood, MaximumLikelihoodConfig
from seq2seq_jax.run.data import PROGRESS, RunData, no_progress
from seq2seq_jax.run.direction import arrow, is_reverse
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.system import System, build_mesh, check_mesh_of_model
from seq2seq_jax.training.step import build_loss


class EnsembleSystem(System):
    """The programs of several experiments together on one mesh; limits, method and loss are those of the first."""

    def __init__(self, members: Sequence[System], *, mean: Mean, weights: tuple[float, ...]):
        """Args:
        members: on the same mesh, with the same tokenizer.
        mean: see `Ensemble`.
        weights: see `Ensemble`.
        """
        first = members[0]
        super().__init__(first.experiment, first.tokenizer, first.mesh)
        self._members = tuple(members)
        self._mean = mean
        self._weights = weights

    @functools.cached_property
    def model(self) -> Ensemble:
        """The models together."""
        models = tuple(member.model for member in self._members)
        return Ensemble(models, mean=self._mean, weights=self._weights)

    @functools.cached_property
    def player(self) -> str:
        """Under which name the parameters of the members are kept together."""
        return MODEL

    @functools.cached_property
    def parameter_layouts(self) -> dict[str, Any]:
        """Shapes and shardings of the parameters of the members that generate."""
        layouts = [member.parameter_layouts[member.player] for member in self._members]
        return {self.player: Ensemble.parameters(layouts)}

    def build_loss(self) -> Any:
        """The jitted loss of evaluation, with the label smoothing of the first experiment."""
        objective = self._members[0].evaluation_objective
        is_likelihood = isinstance(objective, MaximumLikelihood)
        config = objective.config if is_likelihood else MaximumLikelihoodConfig(label_smoothing=0.0)
        evaluate = ensemble_loss(self.model, config, player=self.player)
        return build_loss(evaluate, mesh=self.mesh, layouts=self.parameter_layouts)

    @property
    def aligner(self) -> Aligner:
        """None: the members' attention cannot be averaged."""
        raise ValueError("an ensemble has no alignment: its members may have different layers. Align one run.")


class EnsembleInference(Inference):
    """Runs in use as one, whose next-token distributions are averaged. Data, limits and method are the first run's.

    Attributes:
        steps: of the members' checkpoints that were read last.
    """

    def __init__(self, runs: Sequence[Inference], *, mean: Mean = "probabilities", weights: Sequence[float] = ()):
        """Args:
        runs: with one tokenizer, for one task and direction.
        mean: see `Ensemble`.
        weights: of the runs, relative to each other; empty = equal.

        Raises:
            ValueError: the runs do not fit together, or the weights do not fit them.
        """
        first, *others = runs
        super().__init__(
            first.directory, first.experiment, data=first.data, progress=first._progress, trust=first._trust
        )
        self.others = tuple(others)
        self.mean: Mean = mean
        self.weights = tuple(map(float, weights))
        self.steps: tuple[int, ...] = ()
        check_combination(mean, self.weights, num_members=len(runs))
        for other in others:
            _check_fits(other, first)

    @classmethod
    def open_all(
        cls,
        paths: Sequence[str | Path],
        *,
        mean: Mean = "probabilities",
        weights: Sequence[float] = (),
        progress: PROGRESS = no_progress,
        trust_code: bool | Collection[str] = False,
    ) -> Inference:
        """Existing runs as an ensemble, or the run where there is one. See `Inference.open`.

        Raises:
            ValueError: see `Inference.open` and `EnsembleInference`.
        """
        runs = [Inference.open(path, progress=progress, trust_code=trust_code) for path in paths]
        if len(runs) == 1:
            check_combination(mean, weights, num_members=1)
            return runs[0]
        return cls(runs, mean=mean, weights=weights)

    def _with(self, experiment: Experiment, data: RunData, *, system: System | None = None) -> Inference:
        first = super()._with(experiment, data, system=system)
        return EnsembleInference((first, *self.others), mean=self.mean, weights=self.weights)

    @functools.cached_property
    def members(self) -> tuple[Inference, ...]:
        """The runs, each with its own system on the ensemble's mesh.

        Raises:
            ValueError: the mesh does not fit one of them.
        """
        mesh = build_mesh(self.experiment)
        members = []
        for run in (Inference._with(self, self.experiment, self.data), *self.others):
            check_mesh_of_model(run.experiment, mesh)
            system = System(run.experiment, run.tokenizer, mesh, trust=run._trust, statistics=run.statistics)
            members.append(run._with(run.experiment, run.data, system=system))
        return tuple(members)

    @functools.cached_property
    def system(self) -> System:
        """What computes with all runs."""
        return EnsembleSystem([member.system for member in self.members], mean=self.mean, weights=self.weights)

    def parameters(self, which: str = "best", *, player: str | None = None) -> tuple[Any, int]:
        """The parameters of all members, and the step of the first one's checkpoint. See `Inference.parameters`."""
        if player not in (None, self.system.player):
            raise ValueError(f"an ensemble has no player {player!r}: take the parameters of one run.")
        restored = [member.parameters(which) for member in self.members]
        self.steps = tuple(step for _, step in restored)
        return Ensemble.parameters([params for params, _ in restored]), self.steps[0]

    def parameters_of_players(self, which: str = "best") -> tuple[dict[str, Any], int]:
        """The parameters of all members as those of one player, and the step. See `parameters`."""
        params, step = self.parameters(which)
        return {self.system.player: params}, step


def _check_fits(other: Inference, first: Inference) -> None:
    """Refuse a run that cannot be in an ensemble with another one.

    Raises:
        ValueError: with what differs, and what to do.
    """
    path, experiment = other.directory.path, other.experiment
    if other.tokenizer.fingerprint != first.tokenizer.fingerprint:
        raise ValueError(
            f"{path} has another tokenizer than {first.directory.path}, so that their tokens are not the same. An "
            "ensemble needs runs with one tokenizer: train the second on the same data, or with --init-from the first; "
            "or rerank the texts of the one by the other: seq2seq rerank."
        )
    if type(experiment.task) is not type(first.experiment.task):
        raise ValueError(
            f"{path} was trained on another task ({type(experiment.task).__name__}) than {first.directory.path} "
            f"({type(first.experiment.task).__name__}). An ensemble needs runs of one task."
        )
    if is_reverse(experiment, first.experiment):
        raise ValueError(
            f"{path} goes from {arrow(experiment)}, the reverse of {first.directory.path}. An ensemble needs runs of "
            "one direction; rerank with a reverse run: seq2seq rerank."
        )
    for side, stack in (("source", experiment.model.encoder), ("target", experiment.model.decoder)):
        longest = getattr(first.experiment, f"max_{side}_length")
        if stack.position_limit is not None and stack.position_limit < longest:
            raise ValueError(
                f"{path} has {stack.position_limit} learned positions, and {first.directory.path} takes "
                f"data.max_{side}_length = {longest} tokens. Name {path} first: the first run sets the limits."
            )
