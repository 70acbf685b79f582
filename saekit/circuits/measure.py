"""Faithfulness one size at a time: for views, where a reader asks for one size after another and may change her mind.

The same numbers as `saekit.circuits.faithfulness`; what all sizes share (the means, the model itself, the run with
nothing kept) is computed once. A task can be told to end between two batches.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, TypeVar

from jaxtyping import Int
from torch import Tensor

from saekit.circuits.faithful import Errors, Means, ablated, check_ablation, clean_runs, mean_nodes, share_kept
from saekit.circuits.pairs import Task
from saekit.circuits.result import ERROR, Dictionaries, FeatureCircuit, Node, checked_circuit
from saekit.errors import SAEError

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

T = TypeVar("T")


class Interrupted(Exception):
    """Nobody wants the result any more."""


@dataclass(frozen=True, repr=False)
class StoppableTask(Task):
    """A task that raises `Interrupted` before its next batch once ``stopped()`` is true."""

    stopped: Callable[[], bool] = field(default=lambda: False, compare=False)

    def batches(self, size: int = 16) -> "Iterator[tuple[Int[Tensor, 'batch'], Task]]":
        """Yield the parts of the task, as `Task.batches` does."""
        yield from _until(self.stopped, super().batches(size))


def stoppable(task: Task, stopped: Callable[[], bool]) -> StoppableTask:
    """Return the task with an ear for ``stopped()``."""
    return StoppableTask(**{f.name: getattr(task, f.name) for f in fields(Task)}, stopped=stopped)


def _until(stopped: Callable[[], bool], parts: Iterable[T]) -> Iterator[T]:
    """Yield the parts; raise `Interrupted` before the next one once ``stopped()`` is true."""
    for part in parts:
        if stopped():
            raise Interrupted
        yield part


@dataclass(frozen=True)
class Point:
    """Faithfulness and completeness of the ``size`` strongest features, as in `saekit.circuits.Faithfulness`."""

    size: int
    errors: Errors
    faithfulness: float
    completeness: float


class Measure:
    """Measures circuits of any size on one task; each size costs two runs of the task's prompts.

    Attributes:
        model: Mean logit difference of the model itself, None before the first call.
        nothing: The same with all features and errors at the named positions ablated.
    """

    def __init__(
        self,
        model: "SAETransformerBridge",
        dictionaries: Dictionaries,
        task: Task,
        circuit: FeatureCircuit,
        *,
        batch_size: int = 16,
    ) -> None:
        """Get ready; the arguments are those of `saekit.circuits.faithfulness`.

        Raises:
            SAEError: Dictionaries or positions other than the circuit's.
            TaskError: Fewer than two different prompts.
        """
        self._layers = checked_circuit(model, dictionaries, task, circuit)
        check_ablation(task)
        self._bridge, self._task, self._circuit, self._batch_size = model, task, circuit, batch_size
        self._means: Means | None = None
        self._runs: list[tuple[Task, Tensor]] | None = None
        self.model: float | None = None
        self.nothing: float | None = None

    def __call__(self, size: int, errors: Errors, *, stopped: Callable[[], bool] = lambda: False) -> Point:
        """Keep the ``size`` strongest features, errors kept or ablated; raise `Interrupted` once ``stopped()``.

        Raises TaskError where ablating everything changes nothing, so that there is no share.
        """
        if errors not in ("kept", "ablated"):
            raise SAEError(f"errors must be 'kept' or 'ablated', not {errors!r}")
        task = stoppable(self._task, stopped)
        if self._means is None:
            self._means = mean_nodes(self._bridge, self._layers, task, batch_size=self._batch_size)
        if self._runs is None:
            self._runs = list(clean_runs(self._bridge, self._layers, task, batch_size=self._batch_size))
        if self.model is None:
            self.model = self._run(stopped, None)
        if self.nothing is None:
            self.nothing = self._run(stopped, set())
        kept = set(self._circuit.top(size))
        if errors == "kept":
            places = range(len(self._circuit.positions))
            kept |= {Node(layer, place, ERROR) for layer in range(len(self._layers)) for place in places}
        inside, outside = (
            share_kept(self._run(stopped, kept, inside=side), self.model, self.nothing) for side in (True, False)
        )
        return Point(size, errors, inside, outside)

    def _run(self, stopped: Callable[[], bool], kept: set[Node] | None, *, inside: bool = True) -> float:
        assert self._runs is not None and self._means is not None
        return ablated(self._bridge, self._layers, _until(stopped, self._runs), self._means, kept, inside=inside)
