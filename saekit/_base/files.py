"""Writing files so that nothing is half there: all or nothing, and a disk that takes no more in clear words.

    with locked(target, error=DataError), disk_errors(target, "nothing was kept", error=DataError):
        with atomic(target) as draft:
            draft.mkdir()
            ...                                 # target is there, complete, when the block has ended

The lock is that of `saekit._base.locks`. For arrays and their manifest see `saekit._base.store`, made of these.
"""

import errno
import hashlib
import os
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
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
)  # fmt: skip


@contextmanager
def atomic(target: Path) -> Generator[Path]:
    """Yield a temporary path beside ``target`` that takes its name only if the block ends without an error.

    Works for a file and for a folder. Whatever interrupts the block (an exception, Ctrl-C, a full disk), the target
    is either absent, as before, or complete; the temporary path is removed. A kill leaves the temporary path behind,
    under a name that nothing reads; the next to lock the target clears it away.
    """
    with _aside(target) as holder:
        draft = holder / target.name
        yield draft
        _exchange(draft, target, holder)


def publish(draft: Path, target: Path) -> None:
    """Give what is complete at ``draft``, on the same disk, the name of ``target``, and the place of what is there."""
    with _aside(target) as holder:
        _exchange(draft, target, holder)


@contextmanager
def _aside(target: Path) -> Generator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield holder
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _exchange(draft: Path, target: Path, holder: Path) -> None:
    if not target.is_dir():
        draft.replace(target)
        return
    before = target.rename(holder / f"{target.name}.before")  # nothing can be renamed over a folder
    try:
        draft.replace(target)
    except BaseException:
        before.rename(target)
        raise


def clear_away(target: Path) -> None:
    """Remove what a kill has left of earlier writers of ``target``, whose lock is held.

    One that was killed while it put a new folder in the place of an old one leaves neither there: the old one is back.
    """
    for left in target.parent.glob(".*.part"):
        if re.fullmatch(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}\.part", left.name):
            before = left / f"{target.name}.before"
            if before.exists() and not target.exists():
                before.rename(target)
            shutil.rmtree(left, ignore_errors=True)


class NoRoom(OSError):
    """A full disk, and how many bytes did not fit."""

    def __init__(self, number: int, needed: int) -> None:
        super().__init__(number, f"no room for {byte_size(needed)}")
        self.needed = needed


@contextmanager
def room_for(n_bytes: int) -> Generator[None]:
    """Raise `NoRoom` where the block, which writes so many bytes, finds the disk full."""
    try:
        yield
    except Exception as problem:
        if (number := _errno(problem)) in (*_FULL, errno.EFBIG):
            raise NoRoom(number, n_bytes) from problem
        raise


@contextmanager
def disk_errors(path: Path, kept: str, *, error: type[SaekitError]) -> Generator[None]:
    """Raise ``error`` where the block finds the disk full, or that it may not write: the path, what is needed and kept.

    Args:
        path: What the block writes.
        kept: End of the message: "nothing was written".
        error: Class of the error.
    """
    try:
        yield
    except Exception as problem:
        number = _errno(problem)
        what = f"another {byte_size(problem.needed)}" if isinstance(problem, NoRoom) else "more room"
        if number in _FULL:
            left = byte_size(free_bytes(path))
            raise error(f"the disk is full: {path} needs {what}, and {left} are left; {kept}") from problem
        if number == errno.EFBIG:
            raise error(f"{path} needs {what}, and a file so large is not allowed here; {kept}") from problem
        if number in _REFUSED and _concerns(problem, path):
            raise error(f"{path} cannot be written ({problem}); {kept}. Choose another path") from problem
        raise


def _errno(problem: Exception) -> int:
    """Return the number of an error of the operating system; safetensors and tokenizers say it in words. 0: none."""
    if isinstance(problem, SaekitError):
        return 0
    if isinstance(problem, OSError):
        return problem.errno or 0
    said = re.search(r"os error (\d+)", str(problem))
    return int(said[1]) if said else 0


def _concerns(problem: Exception, path: Path) -> bool:
    """Say whether an error is about a path, its parents, or what lies beside it; not about what else a block reads."""
    where = getattr(problem, "filename", None)
    if not isinstance(where, str | os.PathLike):
        return True
    path, where = path.absolute(), Path(where).absolute()
    return where.is_relative_to(path.parent) or path.is_relative_to(where)


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
