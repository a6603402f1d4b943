"""Compiled programs kept on disk between runs, by JAX's own cache, where a program that was kept can do no harm."""

import contextlib
import hashlib
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

MIN_COMPILE_SECONDS = 0.1
"""Programs that compile faster are not kept."""

LARGEST = 2 * 2**30
"""Bytes of all programs above which the oldest half is removed."""


def keep_compiled_programs(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Have JAX keep what it compiles from now on, and take it from there the next time.

    JAX finds a program again by what it computes, the versions of JAX and XLA, the flags and the kind of device. Code
    for a CPU may not run on another CPU, so each kind of CPU has a directory of its own. Nothing is done where the user
    has set or switched off JAX's cache, among several processes, which must compile alike, where the cache cannot be
    written, and where its content would be read without a checksum (JAX prefers Zstandard to zlib, where it finds it).

    Args:
        environment: tells where caches of the user are: XDG_CACHE_HOME, or .cache in HOME.

    Returns:
        The directory; None = nothing was done.
    """
    import jax

    given = jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache
    if given or jax.distributed.is_initialized() or not _notices_damage():
        return None
    directory = _directory(environment)
    if directory is None or not _is_writable(directory):
        return None
    _remove_oldest(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    # A program that was damaged there, or cannot be written, is compiled as if there were no cache.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)
    return directory


def _notices_damage() -> bool:
    """Whether JAX compresses with zlib, which has a checksum."""
    return sys.version_info < (3, 14) and importlib.util.find_spec("zstandard") is None


def _directory(environment: Mapping[str, str]) -> Path | None:
    """Where the programs for this CPU are kept; None = the user has no place for caches."""
    caches, home = environment.get("XDG_CACHE_HOME", ""), environment.get("HOME", "")
    # By its specification a relative path there does not count.
    root = Path(caches) if os.path.isabs(caches) else Path(home) / ".cache" if os.path.isabs(home) else None
    return None if root is None else root / "seq2seq_jax" / "compiled" / _kind_of_cpu()


def _kind_of_cpu(description: Path = Path("/proc/cpuinfo")) -> str:
    """A short digest of the model of this machine's CPU and of its instructions."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        lines |= {line for line in description.read_text(errors="replace").splitlines() if line.startswith(names)}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _is_writable(directory: Path) -> bool:
    try:
        # Code that is loaded and run: nobody else may put it there.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory.stat().st_uid == os.geteuid() and os.access(directory, os.W_OK)
    except OSError:
        return False


def _remove_oldest(directory: Path, *, largest: int = LARGEST) -> None:
    """Make room, if the programs take more."""
    with contextlib.suppress(OSError):
        files = sorted(
            ((each.stat().st_mtime, each.stat().st_size, each) for each in directory.iterdir()), reverse=True
        )
        if sum(size for _, size, _ in files) <= largest:
            return
        kept = 0
        for _, size, path in files:
            kept += size
            if kept > largest // 2:
                path.unlink(missing_ok=True)
