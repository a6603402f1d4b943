"""Checkpoints through Orbax: asynchronous, complete or absent, read back before they count, verified by checksums."""

import contextlib
import functools
import hashlib
import json
import logging
import math
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from jaxtyping import Array, UInt

from seq2seq_jax.hashing import mixed
from seq2seq_jax.parallel.processes import all_gather_text
from seq2seq_jax.training.progress import Progress

logger = logging.getLogger(__name__)

SAFE_PATH = re.compile(r"[\w ./=+,@:-]*")
"""Paths that Orbax and TensorStore take as they are. Orbax looks for its own files with patterns that begin with the
directory's name, so that nothing matches below `[x]`; TensorStore refuses a backslash."""
FILE_SIZE = 2**26
"""Bytes of the files of a step that is written with little memory: a file is held until it is full."""
ELEMENTS_PER_BLOCK = 2**20
"""Elements of an array whose checksum the host computes at once."""


class DamagedCheckpoint(Exception):
    """A checkpoint's content is not what was saved."""


class RemovedCheckpoint(DamagedCheckpoint):
    """A checkpoint is not there any more: training has removed it for a newer one while it was read."""


class AnotherLayoutError(ValueError):
    """A checkpoint is whole, and its arrays are not those that this version (or this model) has.

    Attributes:
        difference: the first one, in words.
    """

    def __init__(self, message: str, *, difference: str):
        super().__init__(message)
        self.difference = difference


def _none(step: int) -> dict[str, int]:
    return {}


def checksum(array: Array) -> UInt[Array, ""]:
    """A 32-bit sum over the bits and places of an array's elements, the same on every sharding.

    Integer addition is exact and commutes, so that no layout, mesh or order of reduction changes it; each element
    goes through a bijection that depends on its index, so that any change of one element changes the sum.
    """
    if jnp.issubdtype(array.dtype, jnp.bool_):
        array = array.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")

    def of_part(part: Array, first: Any) -> UInt[Array, ""]:
        """The sum over a part whose first element has that index."""
        bits = jax.lax.bitcast_convert_type(part, unsigned).astype(jnp.uint32)
        index = jnp.zeros(part.shape, jnp.uint32)
        for dim, size in enumerate(part.shape):
            index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, part.shape, dim)
        return jnp.sum(mixed(bits + (index + first) * jnp.uint32(0x9E3779B9)), dtype=jnp.uint32)

    if not _is_large(array) or array.ndim < 3:
        return of_part(array, jnp.uint32(0))
    # Layer by layer: a compiler may hold what is summed.
    size = jnp.uint32(math.prod(array.shape[1:]) % 2**32)

    def with_layer(layer: Array, total: UInt[Array, ""]) -> UInt[Array, ""]:
        return total + of_part(array[layer], layer.astype(jnp.uint32) * size)

    return jax.lax.fori_loop(0, array.shape[0], with_layer, jnp.uint32(0))


LARGE = 2**26
"""Bytes of an array whose checksum is a program of its own."""


def _is_large(array: Array) -> bool:
    return array.size * array.dtype.itemsize > LARGE


_checksum = jax.jit(checksum)


@jax.jit
def _checksums(leaves: list[Array]) -> list[UInt[Array, ""]]:
    return [checksum(leaf) for leaf in leaves]


def checksums(tree: Mapping[str, Any]) -> dict[str, int]:
    """Path of each array in a nested dict -> its checksum."""
    leaves = flax.traverse_util.flatten_dict(tree, sep="/")
    small = {path: leaf for path, leaf in leaves.items() if not _is_large(leaf)}
    found = dict(zip(small, map(int, _checksums(list(small.values()))), strict=True))
    return {path: found[path] if path in found else int(_checksum(leaf)) for path, leaf in leaves.items()}


def checksum_of_part(part: np.ndarray, begin: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """What a part of an array of a given shape adds to its `checksum`, computed on the host; begin is its first index.

    The sum over parts that cover the array, modulo 2**32, is the array's checksum.
    """
    if not shape:
        part, begin, shape = np.reshape(part, 1), (0,), (1,)
    part = np.ascontiguousarray(part)
    if part.dtype == np.bool_:
        part = part.astype(np.uint8)
    unsigned = part.view(f"u{part.dtype.itemsize}")
    strides = [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
    rows = max(1, ELEMENTS_PER_BLOCK // max(1, math.prod(part.shape[1:])))
    total = 0
    for start in range(0, part.shape[0], rows):
        bits = unsigned[start : start + rows].astype(np.uint32)
        index = np.zeros(bits.shape, np.uint32)
        for dim, stride in enumerate(strides):
            first = begin[dim] + (start if dim == 0 else 0)
            along = (np.arange(first, first + bits.shape[dim], dtype=np.uint64) * np.uint64(stride)).astype(np.uint32)
            index += along.reshape([-1 if other == dim else 1 for other in range(bits.ndim)])
        total += int(np.sum(mixed(bits + index * np.uint32(0x9E3779B9)), dtype=np.uint64))
    return total % 2**32


class Checkpoints:
    """The checkpoints of one run.

    A step counts once Orbax has renamed its directory into place, which it does last; what lies under a temporary
    name is removed at the next start. Each step holds the state and a JSON record of progress and of the checksums,
    itself under a digest. What was written is read back, each process its part, in a thread beside training: only then
    older steps are removed for a new one, and the save that comes next, or `wait`, raises what was found.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_latest: int = 2,
        read_only: bool = False,
        gigabytes_in_flight: int | None = None,
    ):
        """Args:
        directory: made if it is not there, unless read_only.
        keep_latest: newest steps that are kept, beside the one of the best score.
        gigabytes_in_flight: copies of arrays that exist at once while a step is written, so that `save` returns before
            all are copied, and the arrays must stay until `wait` has; None = all are copied before `save` returns.
        """
        self.directory = Path(directory).absolute()
        self._is_gradual = gigabytes_in_flight is not None
        self._keep_latest = keep_latest
        self._ranks: dict[int, tuple[float, float, int] | None] = {}
        self._reading: _ReadBack | None = None
        self._removal: threading.Thread | None = None
        self._link: tempfile.TemporaryDirectory | None = None
        self._manager = None
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, step_format_fixed_length=8)
            handlers = None
            if self._is_gradual:
                state = ocp.PyTreeCheckpointHandler(save_device_host_concurrent_gb=gigabytes_in_flight)
                handlers = {"state": state, "record": ocp.JsonCheckpointHandler()}
            self._manager = ocp.CheckpointManager(self._safe_directory, options=options, item_handlers=handlers)

    @functools.cached_property
    def _safe_directory(self) -> Path:
        """The directory under a name that is no pattern: its own, or that of a link to it."""
        if SAFE_PATH.fullmatch(str(self.directory)):
            return self.directory
        self._link = tempfile.TemporaryDirectory(prefix="seq2seq_jax.")
        link = Path(self._link.name) / "checkpoints"
        link.symlink_to(self.directory, target_is_directory=True)
        if not SAFE_PATH.fullmatch(str(link)):
            raise ValueError(
                f"checkpoints cannot be kept in {self.directory}, nor by a link in {self._link.name}: a library would "
                "take their names for patterns. Set TMPDIR to a directory without such characters, as /tmp."
            )
        return link

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        try:
            if self._manager is not None and not any(exception):
                self.wait()
        finally:
            if self._reading is not None:
                self._reading.cancel()
            if self._manager is not None:
                with _write_errors(self.directory):
                    self._manager.close()
            if self._removal is not None:
                self._removal.join()
            if self._link is not None:
                self._link.cleanup()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        return sorted(ocp.utils.checkpoint_steps(self.directory)) if self.directory.is_dir() else []

    def save(self, state: Any, progress: Progress) -> None:
        """Start saving in the background; returns when the arrays have been copied from the device (but see above).

        Args:
            state: a tree of arrays that flax.serialization knows.

        Raises:
            OSError: this or the previous save could not be written, or the previous one reads back as something else;
                complete checkpoints are untouched.
        """
        self.wait()
        arrays = _arrays(flax.serialization.to_state_dict(state))
        sums = checksums(arrays)
        content = json.dumps({"progress": progress.to_json(), "checksums": sums})
        record = {"content": content, "digest": hashlib.sha256(content.encode()).hexdigest()}
        self._ranks[progress.step] = progress.rank
        own = (
            ocp.args.PyTreeSave(arrays, ocdbt_target_data_file_size=FILE_SIZE)
            if self._is_gradual
            else ocp.args.StandardSave(arrays)
        )
        with _write_errors(self.directory):
            self._manager.save(progress.step, args=ocp.args.Composite(state=own, record=ocp.args.JsonSave(record)))
        self._reading = _ReadBack(self._manager, self._safe_directory / f"{progress.step:08d}" / "state", arrays, sums)

    def wait(self) -> None:
        """Return when the last save is complete and was read back, and what it replaces is gone.

        Raises:
            OSError: it could not be written, or reads back as something else.
        """
        with _write_errors(self.directory):
            self._manager.wait_until_finished()
        if self._reading is None:
            return
        reading, self._reading = self._reading, None
        found = reading.finish()
        if found is not None:
            raise OSError(
                f"the checkpoint {reading.directory.parent.name} in {self.directory} was written, and reads back as "
                f"something else: {found}. The disk, or what it is mounted with, is at fault"
            )
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove all steps but the newest and the best; process 0 does it, in a thread."""
        if self._removal is not None:
            self._removal.join()
        if jax.process_index() != 0:
            return
        steps = self.steps()
        ranked = [rank for rank in map(self._rank, steps) if rank is not None]
        kept = {*steps[-self._keep_latest :], *([max(ranked)[-1]] if ranked else [])}
        removed = []
        for step in set(steps) - kept:
            # Under a temporary name first: a step that is half gone would count, and be damaged.
            removed.append(self.directory / f"{step:08d}.orbax-checkpoint-tmp")
            self._directory_of(step).rename(removed[-1])
        self._removal = threading.Thread(target=lambda: [shutil.rmtree(path, ignore_errors=True) for path in removed])
        self._removal.start()

    def progress(self, step: int) -> Progress:
        """The record of a step.

        Raises:
            DamagedCheckpoint: it is not what was saved.
            AnotherLayoutError: another version wrote it, which recorded other things.
        """
        try:
            return Progress.from_json(self._record(step)["progress"])
        except TypeError as error:
            raise self._another_layout(step, f"its record is another version's ({error})") from error

    def names(self, step: int, *subtree: str) -> set[str]:
        """What lies directly below a part of the state of a step.

        Args:
            subtree: keys that lead from the state to that part.

        Raises:
            DamagedCheckpoint: the record is not what was saved; RemovedCheckpoint if it is gone.
        """
        prefix = "".join(f"{key}/" for key in subtree)
        paths = (path for path in self._record(step)["checksums"] if path.startswith(prefix))
        return {path.removeprefix(prefix).partition("/")[0] for path in paths}

    def restore(
        self,
        step: int,
        layout: Any,
        *,
        subtree: tuple[str, ...] = (),
        added: Callable[[int], Mapping[str, int]] = _none,
    ) -> Any:
        """The state of a step, or a part of it, verified.

        Args:
            layout: shapes, dtypes and shardings (ShapeDtypeStruct leaves) of what is wanted; any mesh will do.
            subtree: keys that lead from the state to that part.
            added: step -> what arrays that earlier versions did not save had held, by path.

        Raises:
            DamagedCheckpoint: it cannot be read, or is not what was saved; RemovedCheckpoint if it is gone.
            AnotherLayoutError: it is whole, and has other arrays than these.
        """
        sums = self._record(step)["checksums"]
        prefix = "".join(f"{key}/" for key in subtree)
        flat = flax.traverse_util.flatten_dict(_arrays(flax.serialization.to_state_dict(layout)), sep="/")
        absent = {path: value for path, value in added(step).items() if path in flat and path not in sums}
        filled = {path: _filled(value, flat.pop(path)) for path, value in absent.items()}
        nested = flax.traverse_util.unflatten_dict(flat, sep="/")
        stored = {path.removeprefix(prefix): value for path, value in sums.items() if path.startswith(prefix)}
        if flat.keys() != stored.keys():
            raise self._another_layout(step, _describe_names(prefix, set(flat), set(stored)))
        for key in reversed(subtree):
            nested = {key: nested}
        try:
            restored = self._read(step, nested)
            for key in subtree:
                restored = restored[key]
            _check(restored, flat, stored)
        except Exception as error:
            self._refuse_removed(step)
            reason = str(error).strip() if isinstance(error, DamagedCheckpoint) else _one_line(error)
            self._refuse_another_layout(step, prefix, flat, stored)
            raise DamagedCheckpoint(reason) from error
        restored = flax.traverse_util.flatten_dict(restored, sep="/") | filled
        restored = flax.traverse_util.unflatten_dict(restored, sep="/")
        return flax.serialization.from_state_dict(layout, _with_empty(restored, layout))

    def _read(self, step: int, nested: dict[str, Any]) -> Any:
        """Arrays as Orbax gives them, for a tree of ShapeDtypeStructs, which may be a part of what was saved."""
        restore = ocp.args.PyTreeRestore(
            nested, restore_args=ocp.checkpoint_utils.construct_restore_args(nested), partial_restore=True
        )
        # A manager of its own: one that has saved with another handler refuses this one.
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(self._safe_directory / f"{step:08d}" / "state", args=restore)

    def _refuse_another_layout(
        self, step: int, prefix: str, wanted: dict[str, jax.ShapeDtypeStruct], stored: dict[str, int]
    ) -> None:
        """Raise AnotherLayoutError if arrays of a step have other shapes or types than is wanted, and are whole."""
        directory = self._safe_directory / f"{step:08d}" / "state"
        try:
            kinds = _stored_kinds(directory)
            others = {
                path: kinds[prefix + path]
                for path, leaf in wanted.items()
                if kinds[prefix + path] != (tuple(leaf.shape), np.dtype(leaf.dtype))
            }
            whole = all(
                checksum_of_part(_read_part(directory, prefix + path, ...), (0,) * len(shape), shape) == stored[path]
                for path, (shape, _) in others.items()
            )
        except Exception:
            return
        if others and whole:
            path, (shape, dtype) = next(iter(others.items()))
            expected = wanted[path]
            raise self._another_layout(
                step,
                f"{prefix + path} is {dtype.name} {list(shape)} there, and {np.dtype(expected.dtype).name} "
                f"{list(expected.shape)} here" + (f" (and {len(others) - 1} more)" if len(others) > 1 else ""),
            )

    def _another_layout(self, step: int, what: str) -> AnotherLayoutError:
        return AnotherLayoutError(
            f"checkpoint {step} of {self.directory} is not damaged and has another layout than this version saves: "
            f"{what}. Use the version that wrote it (the run's experiment.json has its commit), or train a new run "
            "with --init-from, which needs the parameters alone",
            difference=what,
        )

    def restore_newest(
        self, layout: Any, *, added: Callable[[int], Mapping[str, int]] = _none
    ) -> tuple[Any, Progress] | None:
        """The newest state that is good, and its record; None where no step is complete.

        Damaged steps are logged, and moved aside so that training can write them anew.

        Args:
            layout, added: see `restore`.

        Raises:
            AnotherLayoutError: the newest that is not damaged has another layout; nothing was moved for that.
            ValueError: there are checkpoints, all of them damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                restored = self.restore(step, layout, added=added), self.progress(step)
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
        """Complete steps, the best first (see `Progress.rank`); those without a score last, newest first.

        A step whose record is damaged is left out with a warning.
        """
        ranked, others = [], []
        for step in self.steps():
            try:
                rank = self.progress(step).rank
            except RemovedCheckpoint:
                continue
            except DamagedCheckpoint as error:
                logger.warning("Checkpoint %d of %s is damaged: %s. Leaving it out.", step, self.directory, error)
                continue
            (others if rank is None else ranked).append(step if rank is None else rank)
        return [step for *_, step in sorted(ranked, reverse=True)] + others[::-1]

    def _rank(self, step: int) -> tuple[float, float, int] | None:
        """`Progress.rank` of a step that is complete or being saved; None also where its record cannot be used."""
        if step not in self._ranks:
            try:
                self._ranks[step] = self.progress(step).rank
            except (DamagedCheckpoint, AnotherLayoutError):
                self._ranks[step] = None
        return self._ranks[step]

    def _directory_of(self, step: int) -> Path:
        return self.directory / f"{step:08d}"

    def _record(self, step: int) -> dict[str, Any]:
        try:
            record = json.loads((self._directory_of(step) / "record" / "metadata").read_text())
            content, digest = record["content"], record["digest"]
            whole = hashlib.sha256(content.encode()).hexdigest() == digest
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._refuse_removed(step)
            raise DamagedCheckpoint(f"its record cannot be read ({error})") from error
        if not whole:
            raise DamagedCheckpoint("its record is not what was saved")
        return json.loads(content)

    def _refuse_removed(self, step: int) -> None:
        if not self._directory_of(step).exists():
            raise RemovedCheckpoint("it was removed for a newer one while it was read")

    def _move_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            aside = self.directory.parent / "damaged"
            aside.mkdir(exist_ok=True)
            number = sum(1 for _ in aside.iterdir())
            self._directory_of(step).rename(aside / f"{step:08d}-{number}")
        self._manager.reload()


class _ReadBack:
    """Reads a step as soon as it is complete, in a thread; each process what its own devices hold.

    It costs a read of every byte and a core: see `finish` for what a caller waits for.
    """

    def __init__(
        self, manager: ocp.CheckpointManager, directory: Path, arrays: Mapping[str, Any], sums: dict[str, int]
    ):
        """Args:
        manager: has started to save the step.
        directory: where the arrays come to lie.
        sums: checksum of each array.
        """
        self.directory = directory
        self._manager = manager
        self._sums = sums
        self._kinds = {}
        self._parts: dict[str, list[tuple[slice, ...]]] = {}
        for path, array in flax.traverse_util.flatten_dict(arrays, sep="/").items():
            self._kinds[path] = tuple(array.shape), np.dtype(array.dtype)
            # Of the copies of a part that several devices hold, one has the number 0.
            shards = [shard.index for shard in array.addressable_shards if shard.replica_id == 0]
            self._parts[path] = [_whole_slices(index, array.shape) for index in shards]
        self._found: dict[str, Any] = {}
        self._cancelled = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def finish(self) -> str | None:
        """Wait for the end; what is not as it was saved, None = nothing; the same on all processes."""
        self._thread.join()
        found = [json.loads(each) for each in all_gather_text(json.dumps(self._found))]
        for index, each in enumerate(found):
            if "error" in each:
                return each["error"] + (f" (process {index})" if len(found) > 1 else "")
        for path, expected in self._sums.items():
            if sum(each["sums"][path] for each in found) % 2**32 != expected:
                return f"the content of {path} is not what was saved"
        return None

    def cancel(self) -> None:
        """End without an answer."""
        self._cancelled = True
        self._thread.join()

    def _read(self) -> None:
        try:
            self._manager.wait_until_finished()
        except Exception:
            # Who waits for the save hears of it.
            self._found = {"error": "it was not written"}
            return
        try:
            stored = _stored_kinds(self.directory)
            if stored != self._kinds:
                names = _describe_names("", set(self._kinds), set(stored)) or "other shapes or types"
                raise DamagedCheckpoint(names)
            sums = {}
            for path, parts in self._parts.items():
                if self._cancelled:
                    return
                shape, _ = self._kinds[path]
                sums[path] = sum(
                    checksum_of_part(
                        _read_part(self.directory, path, part), tuple(along.start for along in part), shape
                    )
                    for part in parts
                )
            self._found = {"sums": sums}
        except Exception as error:
            self._found = {"error": _one_line(error)}


def _whole_slices(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Slices with a start and a stop."""
    return tuple(slice(*along.indices(size)[:2]) for along, size in zip(index, shape, strict=True))


def _stored_kinds(directory: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Path of each array that lies in a directory -> its shape and dtype, as Orbax describes them."""
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(directory).tree
    finally:
        handler.close()
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: (tuple(leaf.shape), np.dtype(leaf.dtype)) for path, leaf in flat.items()}


def _read_part(directory: Path, path: str, part: Any) -> np.ndarray:
    """A part of an array, read without Orbax: what it holds in memory or looks for by itself cannot help."""
    base = {"driver": "file", "path": f"{directory}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": f"{path.replace('/', '.')}/"}
    return tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True, read=True).result()[part].read().result()


def _check(restored: Any, wanted: dict[str, jax.ShapeDtypeStruct], sums: dict[str, int]) -> None:
    """Compare what was read with what was wanted and saved.

    Raises:
        DamagedCheckpoint: it is something else.
    """
    flat = flax.traverse_util.flatten_dict(restored, sep="/")
    if flat.keys() != wanted.keys():
        raise DamagedCheckpoint("it has other arrays than its record")
    for path, leaf in wanted.items():
        if not isinstance(flat[path], jax.Array) or (flat[path].shape, flat[path].dtype) != (leaf.shape, leaf.dtype):
            raise DamagedCheckpoint(f"{path} is not what was saved")
    for path, value in checksums(restored).items():
        if sums[path] != value:
            raise DamagedCheckpoint(f"the content of {path} is not what was saved")


def _describe_names(prefix: str, wanted: set[str], stored: set[str]) -> str:
    """In words, the first of the names that only one side has."""
    described = []
    for names, has in ((wanted - stored, "it has no"), (stored - wanted, "this version has no")):
        if names:
            more = f" (nor {len(names) - 1} more)" if len(names) > 1 else ""
            described.append(f"{has} {prefix + min(names)}{more}")
    return "; ".join(described)


def _one_line(error: BaseException) -> str:
    described = " ".join(str(error).split())[:200]
    return f"it cannot be read ({described or type(error).__name__})"


FULL = ("RESOURCE_EXHAUSTED", "No space left", "ENOSPC", "quota exceeded", "File too large")
"""What Orbax, TensorStore and the system say where there is no more room to write."""


@contextlib.contextmanager
def _write_errors(directory: Path) -> Iterator[None]:
    """Turns what Orbax and TensorStore raise when they cannot write into an OSError of one line."""
    try:
        yield
    except Exception as error:
        described = " ".join(str(error).split())[:300]
        if any(words in described for words in FULL):
            free = shutil.disk_usage(directory).free
            raise OSError(
                f"the checkpoint could not be written to {directory}: the disk is full, or a limit is reached "
                f"({free / 2**20:,.1f} MiB are free)"
            ) from error
        if isinstance(error, OSError):
            raise
        raise OSError(
            f"the checkpoint could not be written to {directory}: {described or type(error).__name__}"
        ) from error


def _arrays(tree: Any) -> Any:
    """A nested dict without its empty dicts and Nones (optax's states without content), which Orbax need not store."""
    flat = flax.traverse_util.flatten_dict(tree)
    return flax.traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if leaf is not None})


def _filled(value: int, leaf: jax.ShapeDtypeStruct) -> Array:
    """An array with this value everywhere."""
    whole = np.full(leaf.shape, value, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda part: whole[part])


def _with_empty(restored: Any, layout: Any) -> Any:
    """Put the empty dicts and Nones of the layout back."""
    flat = flax.traverse_util.flatten_dict(flax.serialization.to_state_dict(layout), keep_empty_nodes=True)
    values = flax.traverse_util.flatten_dict(restored)
    return flax.traverse_util.unflatten_dict(
        {path: values.get(path, leaf if leaf is None else flax.traverse_util.empty_node) for path, leaf in flat.items()}
    )
