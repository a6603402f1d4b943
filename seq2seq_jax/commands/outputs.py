"""Files that commands write their results to: opened before the work, written as the work goes."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from seq2seq_jax.paths import user_path

STANDARD_OUTPUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class OutputFile:
    """A file for results, which were missed if it turned out only after the work that it cannot be written.

    What the file held before stays until the first result comes. After a failure, such as a full disk, it takes nothing
    more, so that another file of the same work can be finished.

    Attributes:
        failure: why it takes nothing more; None = nothing is wrong.
    """

    def __init__(self, path: str | None, option: str = "--output"):
        """Args:
        path: None, "-" or /dev/stdout = standard output.
        option: that named it, for messages.

        Raises:
            ValueError: it cannot be written.
        """
        self.path = path
        self.option = option
        self.failure: OSError | None = None
        self._started = False
        self._is_new = False
        self.is_standard_output = path is None or path in STANDARD_OUTPUT
        if self.is_standard_output:
            if sys.stdout is None or sys.stdout.closed:
                raise ValueError(f"standard output is closed. Open it, or name a file with {option}.")
            return
        self.path = path = os.fspath(user_path(path))
        self._is_new = not os.path.lexists(path)
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ValueError(
                f"{option} {path} cannot be written ({error.strerror}). Name a file in a directory that is there and "
                "can be written to; nothing was done yet."
            ) from error
        self.status = os.fstat(self._descriptor)

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads along."""
        return self.is_standard_output and sys.stdout.isatty()

    def write(self, text: str) -> None:
        """Write text, at once and as UTF-8; even the empty text ends what was there. A failure is kept for `finish`."""
        if self.failure is None:
            try:
                self._start()
                self._write(text.encode())
            except OSError as error:
                self.failure = OSError(error.errno, error.strerror, self.path or "standard output")

    def _start(self) -> None:
        """Remove what the file held before."""
        if not self._started:
            self._started = True
            # A device has no end to cut off, and is not the command's to empty.
            if not self.is_standard_output and stat.S_ISREG(self.status.st_mode) and not self.path.startswith("/dev/"):
                os.ftruncate(self._descriptor, 0)

    def _write(self, data: bytes) -> None:
        if self.is_standard_output:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self) -> None:
        """Say what failed.

        Raises:
            OSError: something could not be written.
        """
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        """Close it; a new file to which nothing was written is removed."""
        if not self.is_standard_output:
            os.close(self._descriptor)
            if self._is_new and not self._started:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)


def refuse_unwritable(path: str | None, option: str = "--json") -> None:
    """Refuse a file that is written at the end of the work, when it would be too late.

    Raises:
        ValueError: it cannot be written.
    """
    path = None if path is None else os.fspath(user_path(path))
    # A pipe would end for its reader when it is closed again.
    if path is not None and (not os.path.exists(path) or os.path.isfile(path) or os.path.isdir(path)):
        OutputFile(path, option).close()


def refuse_unwritable_directory(path: Path, option: str = "--output") -> None:
    """Refuse a directory, there or not yet, in which no file could be made.

    Raises:
        ValueError: it, or the nearest directory above it that is there, cannot be written to.
    """
    nearest = next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "cannot be written to" if nearest.is_dir() else "is not a directory"
        raise ValueError(f"{option} {path} cannot be made: {nearest} {reason}. Name another; nothing was done yet.")


@contextlib.contextmanager
def open_outputs(
    *named: tuple[str, str | None], inputs: Sequence[str | None] = ()
) -> Iterator[list[OutputFile | None]]:
    """Files for results, closed at the end.

    Args:
        named: (option, path) of each; a path of None has no file.
        inputs: paths of files that are read meanwhile, which none of them may be; neither may the file that is standard
            input.

    Raises:
        ValueError: one cannot be written, or two are the same file.
        OSError: one could not be written in the end.
    """
    with contextlib.ExitStack() as opened:
        files: list[OutputFile | None] = []
        given = [os.path.expanduser(path) for path in inputs if path not in (None, "-")]
        read = [os.stat(path) for path in given if os.path.exists(path)]
        with contextlib.suppress(OSError):
            read.append(os.fstat(0))
        for option, path in named:
            if path is None:
                files.append(None)
                continue
            file = OutputFile(path, option)
            opened.callback(file.close)
            files.append(file)
            regular = [each for each in files if each and not each.is_standard_output]
            if file.is_standard_output or not stat.S_ISREG(file.status.st_mode):
                continue
            if any(os.path.samestat(file.status, each) for each in read):
                raise ValueError(f"{option} {path} is the file that is read. Name another one.")
            if any(each is not file and os.path.samestat(file.status, each.status) for each in regular):
                raise ValueError(f"{option} {path} is the file of another output. Name another one.")
        yield files
        there = [file for file in files if file is not None]
        for failed in there:
            if failed.failure is not None:
                for whole in there:
                    if whole.failure is None:
                        failed.failure.add_note(f"{whole.option} {whole.path or 'standard output'} is complete.")
                failed.finish()
