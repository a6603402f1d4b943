"""Jobs of a study in one directory, shared by any number of processes: each is done once, by one of them."""

import contextlib
import dataclasses
import fcntl
import fnmatch
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from seq2seq_jax.files import write_whole

SECONDS_BETWEEN_LOOKS = 5.0
"""Until a process that has nothing to do looks for jobs again, while others do what they need."""
PREEMPTED = "preempted"
"""File of a run that `seq2seq train` has left before its end, with status 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobArguments:
    """What every study of jobs has on its command line."""

    only: tuple[str, ...] = ()
    """Patterns of the names of jobs, such as bt_* or */seed=0, that are done with what they need; empty = all."""
    action: Literal["train", "list", "table"] = "train"
    """Do the jobs and print the table; or print the jobs and where they are; or the table of what is done."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJobArguments(JobArguments):
    """What every study has whose jobs are runs of `seq2seq train`."""

    options: tuple[str, ...] = ()
    """Further options of every training, such as training.steps=20. What is done already stays as it is."""

    @property
    def words(self) -> list[str]:
        """The further options as `seq2seq train` takes them."""
        return [word for each in self.options for word in ("--" + each.removeprefix("--")).split("=", 1)]

    def words_of(self, config: str) -> list[str]:
        """Those of a training with a config: where there is a discriminator with a model of its own, it has the
        precision that model.precision gives the generator.
        """
        given = dict(itertools.pairwise(self.words))
        if "--model.precision" not in given or not config.startswith("multi30k/adversarial"):
            return self.words
        return [*self.words, "--objective.discriminator.model.precision", given["--model.precision"]]


class Claim:
    """A job that this process does, and no other.

    Attributes:
        path: directory of what the job makes.
    """

    def __init__(self, path: Path, lock: int):
        self.path = path
        self._lock = lock

    def seq2seq(self, name: str, *arguments: str) -> None:
        """Run a command of `seq2seq`, with what it prints in the terminal. The job stays claimed until the command has
        ended, even if this process is killed before.

        Raises:
            ValueError: it failed, or a training was ended before its last step.
        """
        words = [name, *arguments]
        status = self.run([sys.executable, "-m", "seq2seq_jax", *words])
        if status:
            raise ValueError(f"seq2seq {' '.join(words)} ended with status {status}: see its message above")
        if name == "train" and (self.path / PREEMPTED).exists():
            raise ValueError(f"seq2seq {' '.join(words)} was ended before its last step")

    def run(self, words: Sequence[str]) -> int:
        """The exit status of a program; one that is under way when this process is asked to end is asked as well."""
        process = subprocess.Popen(words, pass_fds=(self._lock,))
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


@dataclasses.dataclass(frozen=True)
class Job:
    """A part of a study.

    Attributes:
        name: of the job, and of its directory below runs.
        needs: names of jobs that come first.
        work: does it, or goes on with it after a kill, and returns what is kept of it as JSON values.
    """

    name: str
    needs: tuple[str, ...]
    work: Callable[[Claim], dict[str, Any]]


class Jobs:
    """Jobs in the order of their importance. What is done is a file below `done`, so that any number of processes can
    work in the directory, one after the other or at once.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.jobs: dict[str, Job] = {}

    def add(self, name: str, work: Callable[[Claim], dict[str, Any]], *needs: str) -> str:
        """A further job; its name.

        Raises:
            ValueError: there is one of that name.
        """
        if name in self.jobs:
            raise ValueError(f"two jobs are called {name}")
        self.jobs[name] = Job(name, needs, work)
        return name

    def path(self, name: str) -> Path:
        """Directory of what a job makes."""
        return self.directory / "runs" / name

    def result(self, name: str) -> dict[str, Any] | None:
        """What a finished job has kept; None = it is not finished."""
        return self._read("done", name)

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Names that fit one of the patterns; without patterns all.

        Raises:
            ValueError: there are none.
        """
        found = [name for name in self.jobs if not patterns or any(fnmatch.fnmatch(name, each) for each in patterns)]
        if not found:
            raise ValueError(f"--only {' '.join(patterns)} is no job; there are {', '.join(self.jobs)}.")
        return found

    def states(self, names: Iterable[str]) -> Iterator[str]:
        """A line for each job: done in how many seconds, failed, under way or open."""
        for name in names:
            found = self.result(name)
            if found is not None:
                state = f"done in {found['seconds']:,} s"
            elif self._is_claimed(name):
                state = "under way"
            else:
                state = "failed" if self._failure(name) is not None else "open"
            yield f"{state:<16} {name}"

    def do(self, names: Iterable[str], *, wait: float = SECONDS_BETWEEN_LOOKS) -> dict[str, str]:
        """Do jobs, and all that they need, until none is left that can be done. What another process does meanwhile is
        waited for if a job needs it, and at the end. A job that fails takes with it those that need it, and no other;
        it is not tried again before the next call.

        Args:
            wait: seconds between looks for jobs where there is nothing to do.

        Returns:
            Of each job that failed, in whichever process, the message.
        """
        since, wanted = time.time(), self._with_needs(names)
        while True:
            failed = {name: message for name in wanted if (message := self._failure(name, since=since)) is not None}
            hopeless = set(failed)
            for name in wanted:
                if not hopeless.isdisjoint(self.jobs[name].needs):
                    hopeless.add(name)
            left = [name for name in wanted if name not in hopeless and self.result(name) is None]
            if not left:
                return failed
            ready = (name for name in left if all(self.result(need) is not None for need in self.jobs[name].needs))
            # One at a time: afterwards more may be ready, of more importance than the next in this list.
            if not any(self._try(name, since=since) for name in ready):
                time.sleep(wait)

    def _with_needs(self, names: Iterable[str]) -> list[str]:
        found: dict[str, None] = {}

        def add(name: str) -> None:
            for need in self.jobs[name].needs:
                add(need)
            found.setdefault(name)

        for name in names:
            add(name)
        return list(found)

    def _try(self, name: str, *, since: float) -> bool:
        """Do a job, unless another process does; whether there is something new."""
        with self._claimed(name) as claim:
            if claim is None:
                return False
            # Meanwhile another process may have been here.
            if self.result(name) is not None or self._failure(name, since=since) is not None:
                return True
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            begun = time.monotonic()
            try:
                found = self.jobs[name].work(claim)
            except Exception as error:
                message = " ".join(str(error).split()) or type(error).__name__
                failure = {"message": message, "time": time.time(), "traceback": traceback.format_exc().splitlines()}
                self._write("failed", name, failure)
                print(f"{time.strftime('%H:%M:%S')} {name} failed: {message}", file=sys.stderr, flush=True)
                return True
            self._write("done", name, found | {"seconds": round(time.monotonic() - begun)})
            self._file("failed", name).unlink(missing_ok=True)
            return True

    def _write(self, kind: str, name: str, content: dict[str, Any]) -> None:
        path = self._file(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @contextlib.contextmanager
    def _claimed(self, name: str) -> Iterator[Claim | None]:
        """A claim on a job; None = another process has it, or a command that one has started."""
        path = self._lock_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield Claim(self.path(name), lock)
        finally:
            os.close(lock)

    def _lock_file(self, name: str) -> Path:
        return self.directory / "locks" / name.replace("/", ",")

    def _is_claimed(self, name: str) -> bool:
        if not self._lock_file(name).exists():
            return False
        with self._claimed(name) as claim:
            return claim is None

    def _failure(self, name: str, *, since: float = 0.0) -> str | None:
        """The message of a job that failed since then (seconds since 1970)."""
        failure = self._read("failed", name)
        return failure["message"] if failure is not None and failure["time"] >= since else None

    def _read(self, kind: str, name: str) -> dict[str, Any] | None:
        try:
            return json.loads(self._file(kind, name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _file(self, kind: str, name: str) -> Path:
        return self.directory / kind / f"{name.replace('/', ',')}.json"


def carry_out(jobs: Jobs, chosen: JobArguments, show: Callable[[], None]) -> None:
    """What --action says, of the jobs of --only.

    Args:
        show: prints the table of what is done.

    Raises:
        ValueError: jobs failed, or there is none of that name.
    """
    names = jobs.matching(chosen.only)
    if chosen.action == "list":
        print("\n".join(jobs.states(names)))
        return
    failed = {}
    if chosen.action == "train":
        with _ending_when_asked():
            failed = jobs.do(names)
    show()
    if failed:
        messages = "; ".join(f"{name}: {message}" for name, message in failed.items())
        raise ValueError(
            f"{len(failed)} job(s) failed, and the same command tries them again. {messages}. More is in "
            f"{jobs.directory / 'failed'}."
        )


@contextlib.contextmanager
def _ending_when_asked() -> Iterator[None]:
    """Within, SIGTERM raises SystemExit, so that what is under way is asked to end as well and saves what it has."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
