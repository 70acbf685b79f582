"""The slow part of the circuit view: finding the circuit and measuring it, in the view's worker thread."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit.views._shared.contexts import context_rows
from saekit.views._shared.rows import number
from saekit.views._shared.view import View
from saekit.views._shared.worker import Stopped
from saekit.views.circuit.state import ERROR, circuit_facts, circuit_nodes, edge_rows, node_rows

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

    from saekit.circuits import Ablation, Edge, FeatureCircuit, Task
    from saekit.index import FeatureIndex
    from saekit.saes import Dictionary

EDGES_AMONG = 12  # nodes of each layer between which edges are weighed
CURVE = (0, 1, 3, 10, 30, 100, 300, 1000)  # sizes of the curve


class CircuitWork(View):
    """What `saekit.views.circuit.Circuit` computes, and the traits in which the results travel."""

    size = t.Int(0).tag(sync=True)
    errors = t.Enum(("kept", "ablated"), "kept").tag(sync=True)

    _facts = t.Dict().tag(sync=True)
    _nodes = t.List(help="features in the order of their effects, then the errors").tag(sync=True)
    _edges = t.List(help="[source, target, weight], numbers of nodes").tag(sync=True)
    _contexts = t.Dict(help='{"layer/feature": {dead, max, rows}}').tag(sync=True)
    _measured = t.List(help="{errors, size, faithfulness, completeness}").tag(sync=True)
    _levels = t.Dict(help="logit difference of the model and with nothing kept").tag(sync=True)
    _doing = t.Unicode("").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Compute").tag(sync=True)
    _curves = t.Int(0, help="counts presses of Curve").tag(sync=True)
    _has_kernel = t.Bool(True).tag(sync=True)

    circuit: "FeatureCircuit | None"
    edges: "tuple[Edge, ...] | None"
    _model: "SAETransformerBridge"
    _dictionaries: "list[Dictionary]"
    _task: "Task"
    _test: "Task"
    _indexes: "dict[int, FeatureIndex]"
    _widths: dict[str, int]
    _batch_size: int
    _most: int
    _steps: int
    _ablation: "Ablation | None"  # once there is a circuit
    _finding: bool = False
    _waiting: Sequence[tuple[Any, int]] = ()  # (errors, size) that the curve still lacks

    @property
    def measured(self) -> dict[tuple[str, int], tuple[float, float]]:
        """Everything measured so far: ``{(errors, size): (faithfulness, completeness)}``."""
        return {(p["errors"], p["size"]): (p["faithfulness"], p["completeness"]) for p in self._measured}

    def _point(self) -> dict | None:
        """Return what was measured of the circuit that is shown."""
        here = (self.errors, self.size)
        return next((p for p in self._measured if (p["errors"], p["size"]) == here), None)

    def compute(self) -> None:
        """Find what is missing of the circuit and measure the size shown, in the background; see `wait`."""
        with self._guard:
            self.error = ""
            if self._missing() and not self._finding:
                self._finding = True
                self._background("find", self._find)
            if self._point() is None:
                self._background("measure", self._measure_sizes)

    def measure_curve(self, sizes: Sequence[int] = CURVE) -> None:
        """Measure circuits of these sizes too, in the background; sizes beyond all features count as all of them."""
        with self._guard:
            self._waiting = [(self.errors, size) for size in sizes]
            self.compute()
            self._background("measure", self._measure_sizes)

    def stop(self) -> None:
        """End what is under way after the batch of prompts at hand, without a result. The Stop button calls this."""
        with self._guard:
            super().stop()
            self._finding, self._waiting = False, []
            self._doing = ""

    @t.observe("_starts")
    def _on_start(self, _change: Any) -> None:
        self.compute()

    @t.observe("_curves")
    def _on_curve(self, _change: Any) -> None:
        self.measure_curve()

    @t.observe("size", "errors")
    def _on_size(self, _change: Any) -> None:
        with self._guard:
            if self._nodes and self._point() is None:
                self._background("measure", self._measure_sizes)

    def _missing(self) -> bool:
        return self.circuit is None or self.edges is None or bool(self._indexes and not self._contexts)

    def _find(self, stopped: Stopped) -> None:
        """Find what is missing, then measure: a measurement that was asked for before had nothing to measure."""
        try:
            self._find_missing(stopped)
        finally:
            with self._guard:
                if not stopped():
                    self._finding = False
        with self._guard:
            if not stopped() and self.circuit is not None and (self._waiting or self._point() is None):
                self._background("measure", self._measure_sizes)

    def _find_missing(self, stopped: Stopped) -> None:
        """Find the circuit, weigh its edges and read contexts, as far as there are none yet."""
        from saekit.circuits import circuit_edges, feature_circuit

        parts = self._model, self._dictionaries, self._task
        if self.circuit is None:
            self._publish(stopped, _doing="finding the circuit")
            found = feature_circuit(*parts, steps=self._steps, batch_size=self._batch_size, stop=stopped)
            with self._guard:
                if stopped():
                    return
                self.circuit = found
                self._show_circuit()
        if self.edges is None:
            self._publish(stopped, _doing="weighing edges")
            k = min(EDGES_AMONG, *(width for width in self._widths.values()))
            edges = circuit_edges(*parts, self.circuit, k=k, batch_size=self._batch_size, stop=stopped)
            with self._guard:
                if stopped():
                    return
                self.edges = edges
                self._show_circuit()
        self._publish(stopped, _doing="reading contexts" if self._indexes else "")
        self._read_contexts(stopped)

    def _read_contexts(self, stopped: Stopped) -> None:
        found: dict[str, dict] = {}
        for node in self._nodes:
            key = f"{node['layer']}/{node['feature']}"
            if node["feature"] == ERROR or key in found or node["layer"] not in self._indexes:
                continue
            if stopped():
                return
            found[key] = context_rows(self._indexes[node["layer"]], node["feature"])
        self._publish(stopped, _contexts=found, _doing="")

    def _show_circuit(self) -> None:
        """Send nodes, and edges as far as they are known."""
        assert self.circuit is not None
        nodes = circuit_nodes(self.circuit, self._most)
        with self.hold_sync():
            self._facts = {**self._facts, **circuit_facts(self.circuit)}
            self._nodes = node_rows(self.circuit, nodes)
            self._edges = edge_rows(nodes, self.edges or ())

    def _measure_sizes(self, stopped: Stopped) -> None:
        """Measure the size that is shown, whatever it becomes meanwhile, then those that wait."""
        from saekit.circuits import ablation_of

        if self.circuit is None:
            return  # the end of `_find` takes it up
        while not stopped() and (wanted := self._next_size()):
            kind, size = wanted
            self._publish(stopped, _doing=f"measuring {size:,} features, errors {kind}")
            if self._ablation is None:
                parts = self._model, self._dictionaries, self._test, self.circuit
                self._ablation = ablation_of(*parts, batch_size=self._batch_size, stop=stopped)
            kept, left = self._ablation.measure(size, kind, stop=stopped)
            row = {"errors": kind, "size": size, "faithfulness": number(kept), "completeness": number(left)}
            levels = {"model": self._ablation.whole, "nothing": self._ablation.nothing}
            self._publish(stopped, _measured=[*self._measured, row], _levels=levels, error="")
        self._publish(stopped, _doing="")

    def _next_size(self) -> tuple[Any, int] | None:
        """Return what to measure next: what is shown, else the first that waits; None when all is measured."""
        with self._guard:
            if self._point() is None:
                return self.errors, self.size
            features = self._facts["features"]
            sizes = [(errors, min(size, features)) for errors, size in self._waiting]
            self._waiting = [wanted for wanted in dict.fromkeys(sizes) if wanted not in self.measured]
            return self._waiting[0] if self._waiting else None
