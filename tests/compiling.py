"""How tests compile: fast, not well. Most of their time goes to compiling small programs, each run once or twice."""

import atexit
import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import tempfile
import time
import zlib

FAST_FLAGS = "--xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older way to compile what XLA fuses takes half the time; later versions have the newer one alone.
    FAST_FLAGS += " --xla_cpu_use_fusion_emitters=false"

FAST = {
    "XLA_FLAGS": FAST_FLAGS,
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    # XLA's own caches would lie below the session's directory, whose name would then be part of every program's key.
    "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}
CACHE = "JAX_COMPILATION_CACHE_DIR"
DAYS_KEPT = 14
"""Programs are compiled again after this many days, so that those that no test needs any more do not pile up."""


def compile_fast() -> None:
    """Set it for this process and those that it starts, which share what they have compiled; before jax is imported.

    What a session has compiled is kept for the next one; see `Session`.
    """
    if FAST.items() <= os.environ.items():
        return
    session = Session(_kept())
    atexit.register(session.end)
    os.environ.update(FAST, **{CACHE: str(session.directory)})


def compiling_as_usual() -> dict[str, str]:
    """The environment of a process that compiles as users' do, where what the compiler makes is measured."""
    return {name: value for name, value in os.environ.items() if name not in {*FAST, CACHE}}


def flags_for_devices(count: int) -> str:
    """XLA_FLAGS of a process that has `count` devices, and else compiles as this one."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()


def _kept() -> pathlib.Path:
    """The directory of programs for these versions and this CPU, in the user's cache."""
    cpu = platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    key = hashlib.sha256("\n".join([*versions, platform.python_version(), cpu]).encode()).hexdigest()[:16]
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(caches) / "seq2seq_jax" / "tests" / key


class Session:
    """The compiled programs of one session of tests.

    A process that is killed while jax writes a program leaves a part of it, which jax would try to read for ever. So
    a session works in a directory of its own, which begins with links to the programs that are kept; at its end those
    of its own that are whole are kept too.

    Attributes:
        directory: of the session's programs.
    """

    def __init__(self, kept: pathlib.Path):
        self._kept = kept
        self._owner = os.getpid()
        try:
            kept.mkdir(parents=True, exist_ok=True)
            self.directory = pathlib.Path(tempfile.mkdtemp(prefix="session-", dir=kept))
        except OSError:
            # A home that cannot be written: nothing is kept.
            self.directory = pathlib.Path(tempfile.mkdtemp(prefix="compiled-"))
            return
        oldest = time.time() - DAYS_KEPT * 24 * 3600
        for path in kept.iterdir():
            if path == self.directory:
                continue
            # Another session may be removing the same.
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime >= oldest:
                    if path.suffix == ".program":
                        os.link(path, self.directory / path.stem)
                elif path.suffix == ".program":
                    path.unlink()
                else:
                    # Of a session that was killed.
                    shutil.rmtree(path)

    def end(self) -> None:
        """Keep what is new and whole, and remove the session's directory."""
        if os.getpid() != self._owner:
            return
        if self.directory.parent == self._kept:
            for path in self.directory.iterdir():
                target = self._kept / f"{path.name}.program"
                if not target.exists() and _is_whole(path.read_bytes()):
                    path.rename(target)
        shutil.rmtree(self.directory, ignore_errors=True)


def _is_whole(program: bytes) -> bool:
    """Whether a file is a compiled program as jax writes it: compressed by zlib, with a checksum at its end."""
    try:
        zlib.decompress(program)
    except zlib.error:
        return False
    return True
