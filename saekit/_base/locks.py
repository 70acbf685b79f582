"""One writer at a time, among processes and threads, and a word to whoever waits.

A lock is a hidden file beside what is written: ``.NAME.lock``. The operating system holds it, so that of a process that
dies, however it dies, is free again. Where a disk has no such locks, the file itself is the lock.
"""

import errno
import os
import socket
import threading
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saekit._base.files import clear_away, disk_errors
from saekit._base.progress import Stop, ask
from saekit.errors import SaekitError

_SILENT = 1.0  # seconds of waiting before there is a word
_POLL = 0.05  # seconds between two looks
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def locked(
    path: Path, *, error: type[SaekitError] = SaekitError, wait_seconds: float = -1, stop: Stop = None
) -> Generator[None]:
    """Hold the right to write ``path``, alone among processes and threads, and clear away what a kill has left of it.

    Args:
        path: File or folder that is written with `atomic`, or in place.
        error: Class of the error if somebody else still writes it after the wait, or if nothing can be written there.
        wait_seconds: How long to wait; -1 for as long as it takes.
        stop: Function that is asked while it waits; once it returns True, `saekit.errors.Stopped` is raised.

    Warns:
        UserWarning: It has waited a second, and for whom; or the disk has no locks.
    """
    with disk_errors(path, "nothing was written", error=error):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, error, wait_seconds, stop)
    try:
        _sign(lock, f"{os.getpid()} {threading.get_ident()} {time.strftime('%H:%M:%S')} {socket.gethostname()}")
        clear_away(path)
        yield
    finally:
        _sign(lock, "")
        lock.release()


def _acquired(path: Path, error: type[SaekitError], wait_seconds: float, stop: Stop) -> Any:
    from filelock import FileLock, SoftFileLock, Timeout

    real = path.resolve()  # one lock, by whatever name a folder is called
    file = real.with_name(f".{real.name}.lock")
    lock, began, told = FileLock(file), time.monotonic(), False
    while True:
        try:
            lock.acquire(timeout=0)
            return lock
        except Timeout:
            pass
        except (NotImplementedError, OSError) as problem:
            without = isinstance(problem, NotImplementedError) or problem.errno in _NO_LOCKS
            if not without or isinstance(lock, SoftFileLock):
                raise
            file = file.with_suffix(".softlock")  # what was tried has left the other one
            warnings.warn(
                f"the disk of {path} has no locks: the file {file} stands for one. After a crash of the machine it may "
                f"have to be deleted by hand",
                stacklevel=4,
            )
            lock = SoftFileLock(file)
            continue
        who, ours = _holder(lock)
        if ours:
            raise error(f"{path} is being written by this very thread: that has to end first")
        waited = time.monotonic() - began
        if 0 <= wait_seconds <= waited:
            raise error(f"{path} is being written by {who}: wait until it is done, or choose another path")
        if waited >= _SILENT and not told:
            told = True
            warnings.warn(f"{path} is being written by {who}: waiting until it is done", stacklevel=4)
        ask(stop)
        time.sleep(_POLL)


def _sign(lock: Any, text: str) -> None:
    """Write into a lock who holds it; a file that is itself the lock is signed by filelock."""
    from filelock import SoftFileLock

    if not isinstance(lock, SoftFileLock):
        with suppress(OSError):  # a courtesy to those who wait: the lock holds without it, and Windows forbids it
            Path(lock.lock_file).write_text(text, encoding="utf-8")


def _holder(lock: Any) -> tuple[str, bool]:
    """Return who holds a lock, in words, and whether that is this thread."""
    from filelock import SoftFileLock

    if isinstance(lock, SoftFileLock):
        return f"process {lock.pid} (its lock is {lock.lock_file}: delete that if there is no such process)", False
    said = ""
    with suppress(OSError, ValueError):  # not signed yet, or not readable: the lock is held all the same
        said = Path(lock.lock_file).read_text(encoding="utf-8")
    words = said.split(" ", 3)
    if len(words) < 4:
        return "another process or thread", False
    process, thread, since, host = words
    here = (process, host) == (str(os.getpid()), socket.gethostname())
    place = "" if host == socket.gethostname() else f" on {host}"
    who = "another thread of this process" if here else f"process {process}{place}"
    return f"{who} since {since}", here and thread == str(threading.get_ident())
