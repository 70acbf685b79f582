"""Writing files so that nothing is half there: all or nothing, one writer at a time, a full disk in clear words.

    with locked(target, error=DataError), atomic(target) as draft:
        with full_disk(target, "nothing was kept", error=DataError):
            draft.mkdir()
            ...                                 # target is there, complete, when the block has ended

For arrays and their manifest see `saekit._base.store`, which is made of these.
"""

import errno
import hashlib
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from saekit._base.text import byte_size
from saekit.errors import SaekitError

_PIECE = 1 << 24  # bytes read or written at a time
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def atomic(target: Path) -> Generator[Path]:
    """Yield a temporary path beside ``target`` that takes its name only if the block ends without an error.

    Works for a file and for a folder. Whatever interrupts the block (an exception, Ctrl-C, a full disk), the target
    is either absent, as before, or complete; the temporary path is removed. A kill leaves the temporary path behind,
    under a name that nothing reads.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        draft = holder / target.name
        yield draft
        if target.is_dir():  # nothing can be renamed over a folder
            target.rename(holder / "before")
        draft.replace(target)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def locked(path: Path, *, error: type[SaekitError] = SaekitError, wait_seconds: float = -1) -> Generator[None]:
    """Hold the right to write ``path``, alone among processes and threads, and clear away what a kill has left of it.

    The lock is a hidden file beside it. That of a process that dies is free again.

    Args:
        path: File or folder that is written with `atomic`, or in place.
        error: Class of the error if somebody else still writes it after the wait.
        wait_seconds: How long to wait; -1 for as long as it takes.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout:
        raise error(
            f"{path} is being written by another process or thread: wait until it is done, or choose another path"
        ) from None
    try:
        for left in path.parent.glob(".*.part"):
            if re.fullmatch(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}\.part", left.name):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


class NoRoom(OSError):
    """A full disk, and how many bytes did not fit."""

    def __init__(self, needed: int) -> None:
        super().__init__(errno.ENOSPC, f"no room for {byte_size(needed)}")
        self.needed = needed


@contextmanager
def room_for(n_bytes: int) -> Generator[None]:
    """Raise `NoRoom` where the block, which writes so many bytes, finds the disk full."""
    try:
        yield
    except OSError as problem:
        if problem.errno in _FULL:
            raise NoRoom(n_bytes) from problem
        raise


@contextmanager
def full_disk(path: Path, kept: str, *, error: type[SaekitError]) -> Generator[None]:
    """Raise ``error`` where the block finds the disk full: the path, what did not fit, what is left and is kept.

    Args:
        path: What the block writes.
        kept: End of the message: "nothing was written".
        error: Class of the error.
    """
    try:
        yield
    except Exception as problem:
        full = isinstance(problem, OSError) and problem.errno in _FULL
        if not full and f"os error {errno.ENOSPC}" not in str(problem):  # safetensors has errors of its own
            raise
        what = f"another {byte_size(problem.needed)}" if isinstance(problem, NoRoom) else "more room"
        left = byte_size(free_bytes(path))
        raise error(f"the disk is full: {path} needs {what}, and {left} are left; {kept}") from problem


def free_bytes(path: Path) -> int:
    """Return how many bytes are left on the disk that a path is on, or will be."""
    return shutil.disk_usage(next(parent for parent in (path, *path.absolute().parents) if parent.exists())).free


def pour(file: Any, array: np.ndarray, digest: Any = None) -> None:
    """Write the bytes of a contiguous array to an unbuffered file, and add them to a digest."""
    flat = array.reshape(-1).view(np.uint8).data
    with room_for(len(flat)):
        for start in range(0, len(flat), _PIECE):
            piece = flat[start : start + _PIECE]
            if digest is not None:
                digest.update(piece)
            while piece:
                piece = piece[file.write(piece) :]


def digest_of(array: np.ndarray) -> str:
    """Return the SHA-256 of a contiguous array's bytes."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def file_digest(file: Path, size: int) -> Any:
    """Return the SHA-256, to go on with, of the first ``size`` bytes of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while size > 0 and (piece := opened.read(min(_PIECE, size))):
            digest.update(piece)
            size -= len(piece)
    return digest
