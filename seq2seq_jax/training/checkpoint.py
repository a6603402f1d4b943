"""Checkpoints through Orbax: asynchronous, complete or absent, verified by checksums of the arrays."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import Array, UInt
from orbax.checkpoint import checkpoint_managers

from seq2seq_jax.hashing import mixed

logger = logging.getLogger(__name__)


class DamagedCheckpoint(Exception):
    """A checkpoint's content is not what was saved."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run must remember beside its arrays, to go on as if it had never stopped.

    Attributes:
        step: updates done.
        score: of the validation at this step, higher is better; None = there was none.
        loop: further values of the training loop, JSON.
    """

    step: int
    score: float | None
    loop: dict[str, Any]


def checksum(array: Array) -> UInt[Array, ""]:
    """A 32-bit sum over the bits and places of an array's elements, the same on every sharding.

    Integer addition is exact and commutes, so that no layout, mesh or order of reduction changes it; each element
    goes through a bijection that depends on its index, so that any change of one element changes the sum.
    """
    if jnp.issubdtype(array.dtype, jnp.bool_):
        array = array.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    index = jnp.zeros(array.shape, jnp.uint32)
    for dim, size in enumerate(array.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, array.shape, dim)
    return jnp.sum(mixed(bits + index * jnp.uint32(0x9E3779B9)), dtype=jnp.uint32)


@jax.jit
def _checksums(leaves: list[Array]) -> list[UInt[Array, ""]]:
    return [checksum(leaf) for leaf in leaves]


def checksums(tree: Mapping[str, Any]) -> dict[str, int]:
    """Path of each array in a nested dict -> its checksum."""
    leaves = flax.traverse_util.flatten_dict(tree, sep="/")
    return dict(zip(leaves, map(int, _checksums(list(leaves.values()))), strict=True))


class Checkpoints:
    """The checkpoints of one run.

    A step counts once Orbax has renamed its directory into place, which it does last; what lies under a temporary
    name is removed at the next start. Each step holds the state and a JSON record of progress and of the checksums,
    itself under a digest.
    """

    def __init__(self, directory: str | Path, *, keep_latest: int = 2, read_only: bool = False):
        """Args:
        directory: made if it is not there, unless read_only.
        keep_latest: newest steps that are kept, beside the one of the best score.
        """
        self.directory = Path(directory).absolute()
        self._scores: dict[int, float | None] = {}
        self._manager = None if read_only else _manager(self.directory, _NewestAndBest(keep_latest, self._score))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        if self._manager is not None:
            with _write_errors():
                self._manager.close()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        return sorted(ocp.utils.checkpoint_steps(self.directory)) if self.directory.is_dir() else []

    def save(self, state: Any, progress: Progress) -> None:
        """Start saving in the background; returns when the arrays have been copied from the device.

        Args:
            state: a tree of arrays that flax.serialization knows.

        Raises:
            OSError: this or the previous save could not be written; complete checkpoints are untouched.
        """
        tree = flax.serialization.to_state_dict(state)
        content = json.dumps({"progress": dataclasses.asdict(progress), "checksums": checksums(_arrays(tree))})
        record = {"content": content, "digest": hashlib.sha256(content.encode()).hexdigest()}
        self._scores[progress.step] = progress.score
        with _write_errors():
            self._manager.save(
                progress.step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(_arrays(tree)), record=ocp.args.JsonSave(record)),
            )

    def wait(self) -> None:
        """Return when the last save is complete.

        Raises:
            OSError: it could not be written.
        """
        with _write_errors():
            self._manager.wait_until_finished()

    def progress(self, step: int) -> Progress:
        """The record of a step.

        Raises:
            DamagedCheckpoint: it is not what was saved.
        """
        return Progress(**self._record(step)["progress"])

    def restore(self, step: int, layout: Any, *, subtree: tuple[str, ...] = ()) -> Any:
        """The state of a step, or a part of it, verified.

        Args:
            layout: shapes, dtypes and shardings (ShapeDtypeStruct leaves) of what is wanted; any mesh will do.
            subtree: keys that lead from the state to that part.

        Raises:
            DamagedCheckpoint: it cannot be read, or is not what was saved.
        """
        record = self._record(step)
        prefix = "".join(f"{key}/" for key in subtree)
        nested = wanted = _arrays(flax.serialization.to_state_dict(layout))
        for path in flax.traverse_util.flatten_dict(wanted, sep="/"):
            if prefix + path not in record["checksums"]:
                raise DamagedCheckpoint(f"it has no {prefix + path}")
        for key in reversed(subtree):
            nested = {key: nested}
        restore = ocp.args.PyTreeRestore(
            nested, restore_args=ocp.checkpoint_utils.construct_restore_args(nested), partial_restore=True
        )
        try:
            # A manager of its own: one that has saved with another handler refuses this one.
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                restored = checkpointer.restore(self._directory_of(step) / "state", args=restore)
        except Exception as error:
            raise DamagedCheckpoint(f"it cannot be read ({str(error).splitlines()[0][:200]})") from error
        for key in subtree:
            restored = restored[key]
        for path, value in checksums(restored).items():
            if record["checksums"][prefix + path] != value:
                raise DamagedCheckpoint(f"the content of {prefix + path} is not what was saved")
        return flax.serialization.from_state_dict(layout, _with_empty(restored, layout))

    def restore_newest(self, layout: Any) -> tuple[Any, Progress] | None:
        """The newest state that is good, and its record; None where no step is complete.

        Damaged steps are logged, and moved aside so that training can write them anew.

        Raises:
            ValueError: there are checkpoints, all of them damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                restored = self.restore(step, layout), self.progress(step)
            except DamagedCheckpoint as error:
                logger.warning("Checkpoint %d of %s is damaged: %s. Falling back.", step, self.directory, error)
                self._move_aside(step)
                continue
            return restored
        if steps:
            raise ValueError(
                f"{self.directory} holds no good checkpoint: all of steps {steps} are damaged and were moved to "
                f"{self.directory.parent / 'damaged'}. Restore them from a backup, or train in another --run-dir."
            )
        return None

    def best_first(self) -> list[int]:
        """Complete steps, the best score first; those without a score last, newest first.

        Equal scores: the earlier step first. A step whose record is damaged is left out with a warning.
        """
        scored = []
        for step in self.steps():
            try:
                score = self.progress(step).score
            except DamagedCheckpoint as error:
                logger.warning("Checkpoint %d of %s is damaged: %s. Leaving it out.", step, self.directory, error)
                continue
            scored.append((0, -score, step) if score is not None else (1, 0.0, -step))
        return [abs(step) for _, _, step in sorted(scored)]

    def _score(self, step: int) -> float | None:
        """Score of a step that is complete or being saved; None = it has none, or its record is damaged."""
        if step not in self._scores:
            try:
                self._scores[step] = self.progress(step).score
            except DamagedCheckpoint:
                self._scores[step] = None
        return self._scores[step]

    def _directory_of(self, step: int) -> Path:
        return self.directory / f"{step:08d}"

    def _record(self, step: int) -> dict[str, Any]:
        try:
            record = json.loads((self._directory_of(step) / "record" / "metadata").read_text())
            content, digest = record["content"], record["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"its record cannot be read ({error})") from error
        if hashlib.sha256(content.encode()).hexdigest() != digest:
            raise DamagedCheckpoint("its record is not what was saved")
        return json.loads(content)

    def _move_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self.directory.parent / "damaged"
            aside.mkdir(exist_ok=True)
            number = sum(1 for _ in aside.iterdir())
            self._directory_of(step).rename(aside / f"{step:08d}-{number}")
        self._manager.reload()


@dataclasses.dataclass(frozen=True)
class _NewestAndBest(checkpoint_managers.PreservationPolicy):
    """Which checkpoints stay: the newest, and the one of the best score, the earliest of equal ones.

    Orbax's own BestN knows the scores of its process alone: a run that goes on would lose its best checkpoint.
    """

    keep_latest: int
    score: Callable[[int], float | None]

    def should_preserve(self, checkpoints, *, context):
        steps = sorted(info.step for info in checkpoints)
        scored = sorted((self.score(step), -step) for step in steps if self.score(step) is not None)
        kept = {*steps[-self.keep_latest :], *(-step for _, step in scored[-1:])}
        return [info.step in kept for info in checkpoints]


def _manager(directory: Path, policy: _NewestAndBest) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        cleanup_tmp_directories=True,
        step_format_fixed_length=8,
    )
    return ocp.CheckpointManager(directory, options=options)


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
    """Turns what Orbax and TensorStore raise when they cannot write into an OSError of one line."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(" ".join(str(error).split())[:300]) from error


def _arrays(tree: Any) -> Any:
    """A nested dict without its empty dicts and Nones (optax's states without content), which Orbax need not store."""
    flat = flax.traverse_util.flatten_dict(tree)
    return flax.traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if leaf is not None})


def _with_empty(restored: Any, layout: Any) -> Any:
    """Put the empty dicts and Nones of the layout back."""
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(layout), keep_empty_nodes=True)
    values = flax.traverse_util.flatten_dict(restored)
    return flax.traverse_util.unflatten_dict(
        {path: values.get(path, leaf if leaf is None else flax.traverse_util.empty_node) for path, leaf in flat.items()}
    )
