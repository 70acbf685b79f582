"""Training runs one after another, and how fast they are. It knows no widget."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from saekit.views._shared.view import in_words
from saekit.views.training.runs import Run, Trainer

if TYPE_CHECKING:
    from saekit.training import TrainingStep

RATE_SECONDS = 5  # over which samples a second are measured


class Course:
    """Trains runs with one trainer on the same activations."""

    def __init__(self, runs: list[Run], train: Trainer, activations: Any) -> None:
        self.runs = runs
        self._train, self._activations = train, activations
        self._speed: deque[tuple[float, int]] = deque()

    @property
    def rate(self) -> float:
        """Samples a second of the run under way; 0 where it is not known yet."""
        if len(self._speed) < 2:
            return 0.0
        seconds, samples = (last - first for first, last in zip(self._speed[0], self._speed[-1], strict=True))
        return samples / seconds if seconds > 0 else 0.0

    def measure(self) -> None:
        """Note how far the run under way is now: two notes give a rate."""
        now = time.perf_counter()
        self._speed += [(now, run.last.samples) for run in self.runs if run.state == "training" and run.last]
        while len(self._speed) > 2 and now - self._speed[0][0] > RATE_SECONDS:
            self._speed.popleft()

    def train(self, queue: Iterable[Run], stopping: Callable[[], bool], tell: Callable[[bool], None]) -> None:
        """Train the runs of ``queue``; each keeps its records, its SAE and its end.

        Args:
            queue: Runs of this course.
            stopping: Whether the run under way is to end at its next report, and no other to begin.
            tell: Called with True when the state of a run has changed, with False when it has a new record.
        """
        for run in queue:
            if stopping():
                break
            self._speed.clear()
            run.begin()
            tell(True)
            vars(run).update(self._end_of(run, stopping, tell))
            tell(True)

    def _end_of(self, run: Run, stopping: Callable[[], bool], tell: Callable[[bool], None]) -> dict[str, Any]:
        """Train one run; return what there is of it in the end."""
        end: dict[str, Any] = {"state": "done"}

        def on_step(progress: "TrainingStep") -> None:
            run.record(progress)
            if stopping() and progress.step < progress.steps:
                end["state"] = "stopped"
                raise KeyboardInterrupt  # trainers end on it and return what they have
            tell(False)

        try:
            return {"sae": self._train(self._activations, **run.options, on_step=on_step), **end}
        except KeyboardInterrupt:
            return {"state": "stopped"}  # a trainer of another kind: nothing but the curves is left
        except Exception as failure:
            return {"state": "failed", "error": in_words(failure)}
