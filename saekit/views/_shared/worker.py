"""One background thread for a view's slow work: the newest request of each kind wins."""

import threading
from collections.abc import Callable

Stopped = Callable[[], bool]
Job = Callable[[Stopped], None]


class Worker:
    """Runs jobs one after another in a single thread, which lives only while there is work.

    A job is called with ``stopped()``, which turns true once a newer job of its kind was submitted or `stop` was
    called: long jobs look at it between steps, and no job may publish its result after that.
    """

    def __init__(self, lock: "threading.RLock", on_idle: Callable[[], None]) -> None:
        """``lock`` guards everything here; ``on_idle`` is called under it when the last job is done."""
        self._changed = threading.Condition(lock)
        self._on_idle = on_idle
        self._pending: dict[str, tuple[int, Job]] = {}
        self._newest: dict[str, int] = {}
        self._thread: threading.Thread | None = None
        self._tickets = 0

    def submit(self, kind: str, job: Job) -> None:
        """Queue a job; one of the same kind that still waits is dropped, one that runs is told to stop."""
        with self._changed:
            self._tickets += 1
            self._newest[kind] = self._tickets
            self._pending[kind] = (self._tickets, job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="saekit-view", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Forget what waits and tell the running job that nobody wants its result."""
        with self._changed:
            self._pending.clear()
            self._newest.clear()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the thread has nothing left to do; return whether it got there in time."""
        if self._thread is threading.current_thread():
            return False  # a callback in the worker itself must not wait for its own end
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._pending:
                    self._thread = None
                    self._on_idle()
                    self._changed.notify_all()
                    return
                kind = next(iter(self._pending))
                ticket, job = self._pending.pop(kind)
            job(lambda kind=kind, ticket=ticket: self._newest.get(kind) != ticket)
