"""Files that are written completely or not at all, under names that nobody can foresee, and digests of large ones."""

import concurrent.futures
import hashlib
import os
import secrets
from pathlib import Path

BLOCK_BYTES = 2**24
"""Bytes of a file that are hashed at a time."""

UNFINISHED = ".unfinished"
"""Ends the name of a file that is being written."""


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, or replace it: whoever reads it finds all of the old content or all of the new.

    It is written under a random name, which must not exist yet, and then renamed. So a link that somebody has planted
    in the directory is replaced, and never written through.

    Raises:
        OSError: it could not be written; an old file is untouched.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def remove_unfinished(directory: Path) -> None:
    """Remove what `write_whole` had under way when its process was killed; call where no other process writes."""
    for path in directory.glob(f".*{UNFINISHED}"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of the SHA-256 of each block of a file, hex; the blocks are hashed on all cores.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        descriptor = file.fileno()

        def block_digest(start: int) -> bytes:
            return hashlib.sha256(os.pread(descriptor, BLOCK_BYTES, start)).digest()

        starts = range(0, os.fstat(descriptor).st_size, BLOCK_BYTES)
        if len(starts) <= 1:
            digests = [block_digest(start) for start in starts]
        else:
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                digests = list(pool.map(block_digest, starts))
    return hashlib.sha256(b"".join(digests)).hexdigest()
