"""The slow work of the circuit view: finding a circuit, weighing its edges, measuring it. It knows no widget."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit._base.checks import whole
from saekit.errors import SAEError, Stopped
from saekit.views._shared.contexts import context_rows, indexes_by_hook
from saekit.views._shared.words import number
from saekit.views.circuit.graph import ERROR, Graph
from saekit.views.circuit.state import key_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sae_lens import SAE, SAETransformerBridge

    from saekit.circuits import Ablation, Edge, FeatureCircuit, Task
    from saekit.index import FeatureIndex
    from saekit.saes import Directions

EDGES_AMONG = 12  # nodes of each layer between which edges are weighed


class Work:
    """Finds and measures circuits of one model, its SAEs and a task, on hook points of its own."""

    def __init__(
        self,
        model: "SAETransformerBridge",
        saes: "Sequence[SAE[Any] | Directions] | SAE[Any] | Directions",
        task: "Task",
        circuit: "FeatureCircuit | None",
        index: "FeatureIndex | Sequence[FeatureIndex] | None",
        *,
        test: "Task | None",
        steps: int,
        batch_size: int,
    ) -> None:
        """Check that the parts fit each other; see `saekit.views.circuit.Circuit`."""
        from saekit.circuits import checked_circuit
        from saekit.models import twin

        self.task, self.test = task, test or task
        self._layers = checked_circuit(model, saes, task, circuit)
        checked_circuit(model, self._layers, self.test, circuit)
        self.widths = {layer.hook_name: len(layer.rows) for layer in self._layers}
        self.indexes = indexes_by_hook(model, [(layer.hook_name, layer.of) for layer in self._layers], index)
        self._steps, self._batch_size = whole("steps", steps, at_least=1, error=SAEError), batch_size
        self._model = twin(model)
        self._ablation: Ablation | None = None  # once something of the circuit was measured

    def circuit(self, stop: "Callable[[], bool]") -> "FeatureCircuit":
        """Return the circuit of the task."""
        from saekit.circuits import feature_circuit

        parts = self._model, self._layers, self.task
        return feature_circuit(*parts, steps=self._steps, batch_size=self._batch_size, stop=stop)

    def edges(self, circuit: "FeatureCircuit", stop: "Callable[[], bool]") -> "tuple[Edge, ...]":
        """Return the edges between the strongest nodes of neighbouring layers."""
        from saekit.circuits import circuit_edges

        parts = self._model, self._layers, self.task, circuit
        k = min(EDGES_AMONG, *self.widths.values())
        return circuit_edges(*parts, k=k, batch_size=self._batch_size, stop=stop)

    def contexts(self, graph: Graph, stop: "Callable[[], bool]") -> dict[str, dict]:
        """Return the contexts of all features that are shown and have an index, by `key_of`."""
        found: dict[str, dict] = {}
        for i, node in enumerate(graph.nodes):
            if stop():
                raise Stopped
            if node.feature != ERROR and node.layer in self.indexes and key_of(graph, i) not in found:
                found[key_of(graph, i)] = context_rows(self.indexes[node.layer], node.feature)
        return found

    def measure(
        self, circuit: "FeatureCircuit", size: int, errors: Any, stop: "Callable[[], bool]"
    ) -> tuple[float | None, float | None]:
        """Return faithfulness and completeness of the ``size`` strongest features; what all sizes share is kept."""
        from saekit.circuits import ablation_of

        if self._ablation is None:
            parts = self._model, self._layers, self.test, circuit
            self._ablation = ablation_of(*parts, batch_size=self._batch_size, stop=stop)
        kept, left = self._ablation.measure(size, errors, stop=stop)
        return number(kept), number(left)

    @property
    def levels(self) -> Mapping[str, float]:
        """Logit difference of the model and with nothing kept; empty before anything is measured."""
        done = self._ablation
        return {} if done is None else {"model": done.whole, "nothing": done.nothing}
