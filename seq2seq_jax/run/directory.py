"""A run directory: what is on disk, and who may write to it."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from seq2seq_jax.data.tokenizer import Tokenizer
from seq2seq_jax.files import remove_unfinished
from seq2seq_jax.modules.front_end import FeatureStatistics
from seq2seq_jax.parallel.processes import first_process_first
from seq2seq_jax.run.description import DESCRIPTION_FILE
from seq2seq_jax.run.statistics import load_statistics
from seq2seq_jax.training.checkpoint import Checkpoints, DamagedCheckpoint, RemovedCheckpoint, logger
from seq2seq_jax.training.lock import locked


def _no_release() -> None:
    """Of a process that holds nothing."""


class RunDirectory:
    """The files of a run: experiment.json, tokenizer, checkpoints."""

    def __init__(self, path: Path, *, tokenizer_fingerprint: str | None = None):
        """Args:
        tokenizer_fingerprint: of the tokenizer that belongs to the run; None = whatever lies in the directory.
        """
        self.path = path
        self.tokenizer_fingerprint = tokenizer_fingerprint

    @property
    def is_of_a_run(self) -> bool:
        """Whether a run has begun here."""
        return (self.path / DESCRIPTION_FILE).is_file()

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer.

        Raises:
            ValueError: there is none in the directory, or it is not the one that the run was trained with.
        """
        return Tokenizer.load(self.path, fingerprint=self.tokenizer_fingerprint)

    @functools.cached_property
    def statistics(self) -> FeatureStatistics:
        """Those that the run's features are normalised by; see `load_statistics`."""
        return load_statistics(self.path)

    @contextlib.contextmanager
    def held(self, *, lost: Callable[[str], None]) -> Iterator[Callable[[], None]]:
        """Within, no other training has this directory; of several processes the first holds it for all.

        Gives what releases it before that; see `locked`.

        Args:
            lost: see `locked`.

        Raises:
            ValueError: another training has it.
        """
        with contextlib.ExitStack() as lock:
            with first_process_first():
                holds = jax.process_index() == 0
                release = lock.enter_context(locked(self.path, lost=lost)) if holds else _no_release
            yield release

    def refuse_foreign_checkpoints(self) -> None:
        """For a run that is about to begin here, which would continue from them.

        Raises:
            ValueError: there are checkpoints, of what is not known.
        """
        with self.checkpoints(read_only=True) as checkpoints:
            steps = checkpoints.steps()
        if steps:
            raise ValueError(
                f"expected no checkpoints in {self.path}, which has no {DESCRIPTION_FILE}; there is one of step "
                f"{steps[-1]:,}: bring its {DESCRIPTION_FILE} and tokenizer back, or give another --run-dir."
            )

    def remove_unfinished(self) -> None:
        """Delete what a killed training of this run left half-written."""
        for place in (self.path, self.path / "samples", self.path / "plots"):
            remove_unfinished(place)

    def checkpoints(self, *, read_only: bool, keep_latest: int = 1) -> Checkpoints:
        """The run's checkpoints.

        Args:
            keep_latest: how many of the newest stay, where some are written.
        """
        return Checkpoints(self.path / "checkpoints", keep_latest=keep_latest, read_only=read_only)

    def restore(self, which: str, read: Callable[[Checkpoints, int], Any]) -> tuple[Any, int]:
        """What is read of a checkpoint, and its step; what is damaged, or removed meanwhile, is passed over where
        `which` allows another.

        Args:
            which: see `candidates`.
            read: takes the checkpoints and the step.

        Raises:
            ValueError: there is no such checkpoint, or no good one.
        """
        with self.checkpoints(read_only=True) as checkpoints:
            damaged: set[int] = set()
            while order := [step for step in self.candidates(which, checkpoints) if step not in damaged]:
                try:
                    return read(checkpoints, order[0]), order[0]
                except RemovedCheckpoint:
                    # Training continues meanwhile: there is another now.
                    continue
                except DamagedCheckpoint as error:
                    logger.warning("Checkpoint %d of %s is damaged: %s.", order[0], self.path, error)
                    damaged.add(order[0])
        raise ValueError(
            f"{self.path} has no good checkpoint: {sorted(damaged)} cannot be used. Choose another, or train again."
        )

    def restore_players(self, which: str, layouts: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """The parameters of players that are used (the average where there is one), by name, and the step.

        Args:
            which: see `candidates`.
            layouts: shapes and shardings of the players' parameters.

        Raises:
            ValueError: there is no such checkpoint, no good one, or none with such players.
        """

        def read(checkpoints: Checkpoints, step: int) -> dict[str, Any]:
            return {name: used_params(checkpoints, step, name, layout) for name, layout in layouts.items()}

        return self.restore(which, read)

    def candidates(self, which: str, checkpoints: Checkpoints) -> list[int]:
        """Steps whose checkpoints are the requested ones, the preferred one first.

        Args:
            which: "best" (by score; the newest without any), "latest", or a step.

        Raises:
            ValueError: there is none.
        """
        steps = checkpoints.steps()
        if not steps:
            raise ValueError(
                f"{self.path} has no complete checkpoint yet. Train it first: seq2seq train CONFIG "
                f"--run-dir {self.path}"
            )
        if which == "best":
            return checkpoints.best_first() or steps
        if which == "latest":
            return steps[::-1]
        if which.isdecimal() and len(which) < 20 and int(which) in steps:
            return [int(which)]
        raise ValueError(f"{self.path} has no checkpoint {which!r}. Give best, latest or one of {steps}.")


def used_params(checkpoints: Checkpoints, step: int, player: str, layout: Any) -> Any:
    """The parameters of a player that are used: the average where it has one.

    Raises:
        DamagedCheckpoint: see `Checkpoints.restore`.
        AnotherLayoutError: there is no such player, or it has other parameters.
    """
    part = "average" if "average" in checkpoints.names(step, "players", player) else "params"
    return checkpoints.restore(step, layout, subtree=("players", player, part))
