"""The circuit view: which features, at which positions and layers, an answer rests on, and how few of them suffice."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit._base.checks import whole
from saekit.views._shared.nodes import Node, el, line
from saekit.views._shared.still import svg_document
from saekit.views._shared.view import Changes, View
from saekit.views._shared.worker import Stopped
from saekit.views.circuit import state
from saekit.views.circuit.graph import ERROR, Graph, graph_of, record_of, whole_record
from saekit.views.circuit.picture import assembled, drawing
from saekit.views.circuit.work import Work

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.circuits import Edge, FeatureCircuit, Task
    from saekit.index import FeatureIndex
    from saekit.saes import Directions

MOST = 100  # features in the picture, and the end of the slider
CURVE = (0, 1, 3, 10, 30, 100, 300, 1000)  # sizes of the curve


class Circuit(View):
    """See a feature circuit: positions across, layers upwards, the logit difference on top.

    A slider says how many features are kept, strongest first; all others at the named positions take their means over
    the task (`saekit.circuits.faithfulness`). What has to be computed is computed in one worker thread, on hook points
    of its own, so that other cells may run the model meanwhile. Each size is computed once.

    Showing the view waits up to a minute for what is under way, so that a stored notebook holds the finished picture;
    finding a circuit takes longer than showing one: pass ``circuit`` and ``edges`` where you have them.

    Traits (typed, checked, linkable with ``ipywidgets.link``; observe with ``names=``):
        value: The selected node, ``(hook name, name of the position, feature)``, -1 for the reconstruction error;
            None for none.
        size: How many features are kept.
        errors: ``"kept"`` or ``"ablated"``: what happens to reconstruction errors at the named positions.

    Attributes:
        circuit: The circuit, None before it is found.
        edges: Its edges, None before they are weighed.

    >>> view = Circuit(model, saes, task, circuit, index=index)  # doctest: +SKIP
    >>> view.size = 5; view.wait(); view.faithfulness            # doctest: +SKIP
    """

    _name = "circuit"
    value = t.Tuple(t.Unicode(), t.Unicode(), t.Int(), default_value=None, allow_none=True).tag(sync=True)
    size = t.Int(0).tag(sync=True)
    errors = t.Enum(("kept", "ablated"), "kept").tag(sync=True)

    _facts = t.Dict(help="the head; the end of the slider; each size in words").tag(sync=True)
    _about = t.List(help="panels: what the numbers refer to").tag(sync=True)
    _drawing = t.Dict(help="the pictures of all sizes, by what happens to errors").tag(sync=True)
    _table = t.List(help="panel: all nodes, strongest first").tag(sync=True)
    _cards = t.List(help="the card of each node").tag(sync=True)
    _record = t.Dict(help="nodes and edges as they are exported").tag(sync=True)
    _measured = t.Dict(help='{"errors/size": faithfulness and completeness, and in words}').tag(sync=True)
    _curve = t.Dict(help="the curve of each kind of errors").tag(sync=True)
    _starts = t.Int(0, help="counts presses of Compute").tag(sync=True)
    _curves = t.Int(0, help="counts presses of Curve").tag(sync=True)

    def __init__(
        self,
        model: "SAETransformerBridge",
        saes: "Sequence[SAE[Any] | Directions] | SAE[Any] | Directions",
        task: "Task",
        circuit: "FeatureCircuit | None" = None,
        edges: "Sequence[Edge] | None" = None,
        index: "FeatureIndex | Sequence[FeatureIndex] | None" = None,
        *,
        k: int = 12,
        test: "Task | None" = None,
        errors: str = "kept",
        steps: int = 5,
        batch_size: int = 16,
    ) -> None:
        """Show a circuit, or find it first.

        Args:
            model: The model.
            saes: SAEs or `Directions`, one on each layer of the circuit, in any order; or a single one.
            task: The pairs of prompts.
            circuit: The circuit that `feature_circuit` returned; found on the task where it is not given.
            edges: The edges that `circuit_edges` returned; weighed between the 12 strongest nodes of neighbouring
                layers where they are not given. ``()``: no edges.
            index: Feature indexes of some of the SAEs, in any order: nodes then show their top contexts.
            k: Number of features kept at first.
            test: Prompts on which faithfulness is measured, better not those by which the circuit was found; by
                default the task.
            errors: What happens to reconstruction errors at first; see the trait.
            steps: Number of points between the runs at which gradients are taken where the circuit is found here, see
                `feature_circuit`.
            batch_size: Number of prompts in a pass.

        Raises:
            SAEError: The SAEs do not fit the model, each other, the circuit or an index; ``steps`` below 1.
            FeatureIndexError: An index of a hook point that the circuit does not have, or two of one.
            TraitError: ``k`` or ``errors`` is out of range.
        """
        self._work = Work(model, saes, task, circuit, index, test=test, steps=steps, batch_size=batch_size)
        hooks = list(self._work.widths)
        features = sum(self._work.widths.values()) * len(task.positions)
        self._most = min(MOST, features)
        self._tokens = state.example_tokens(model, task)
        self._same_prompts = self._work.test is task and circuit is None
        self.circuit: FeatureCircuit | None = None
        self.edges: tuple[Edge, ...] | None = () if len(hooks) == 1 else None if edges is None else tuple(edges)
        self._contexts: Mapping[str, Any] = {}
        self._graph: Graph | None = None  # once there is a circuit
        self._points: dict[tuple[str, int], tuple[float | None, float | None]] = {}
        self._finding = False
        self._waiting: list[tuple[str, int]] = []  # (errors, size) that the curve still lacks
        counts = [f"{size:,} of {features:,}" for size in range(self._most + 1)]
        facts = {"head": state.head(task.name, hooks), "most": self._most, "counts": counts}
        super().__init__(size=self._sized(k), errors=errors, _facts=facts)
        if circuit is not None:
            for name, made in self._shown(circuit).items():
                setattr(self, name, made)
        self.compute()

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def measured(self) -> dict[tuple[str, int], tuple[float | None, float | None]]:
        """Everything measured so far: ``{(errors, size): (faithfulness, completeness)}``."""
        return dict(self._points)

    @property
    def faithfulness(self) -> float | None:
        """Faithfulness of the circuit that is shown, None before it is measured."""
        return self._points.get((self.errors, self.size), (None, None))[0]

    @property
    def completeness(self) -> float | None:
        """Completeness of the circuit that is shown: what is left when its features are ablated; None as above."""
        return self._points.get((self.errors, self.size), (None, None))[1]

    # --- traits -----------------------------------------------------------------------------------------------

    def _sized(self, size: Any) -> int:
        return whole("size, the number of features kept,", size, at_least=0, at_most=self._most, error=t.TraitError)

    @t.validate("size")
    def _check_size(self, proposal: dict) -> int:
        return self._sized(proposal["value"])

    @t.validate("value")
    def _check_value(self, proposal: dict) -> tuple[str, str, int] | None:
        value, widths, positions = proposal["value"], self._work.widths, self._work.task.positions
        if value is None:
            return None
        hook, position, feature = value
        if hook not in widths:
            raise t.TraitError(f"there is no {hook!r} in this circuit: its hook points are {', '.join(widths)}")
        if position not in positions:
            raise t.TraitError(f"there is no position {position!r}: they are {', '.join(positions)}")
        if not ERROR <= feature < widths[hook]:
            raise t.TraitError(
                f"feature must be in 0…{widths[hook] - 1}, or {ERROR} for the reconstruction error, not {feature}"
            )
        return value

    @t.observe("_starts")
    def _on_start(self, _change: Any) -> None:
        self.compute()

    @t.observe("_curves")
    def _on_curve(self, _change: Any) -> None:
        self.measure_curve()

    @t.observe("size", "errors")
    def _on_size(self, _change: Any) -> None:
        with self._guard:
            if self.circuit is not None and (self.errors, self.size) not in self._points:
                self._background("measure", self._measure)

    # --- what is computed -------------------------------------------------------------------------------------

    def compute(self) -> None:
        """Find what is missing of the circuit and measure the size shown, in the background; see `wait`."""
        with self._guard:
            self.error = ""
            unread = self._work.indexes and not self._contexts
            if not self._finding and (self.circuit is None or self.edges is None or unread):
                self._finding = True
                self._background("find", self._find)
            if (self.errors, self.size) not in self._points:
                self._background("measure", self._measure)

    def measure_curve(self, sizes: Sequence[int] = CURVE) -> None:
        """Measure circuits of these sizes too, in the background; sizes beyond all features count as all of them."""
        with self._guard:
            self._waiting = [(self.errors, size) for size in sizes]
            self.compute()
            self._background("measure", self._measure)

    def stop(self) -> None:
        """End what is under way after the batch of prompts at hand, without a result. The Stop button calls this."""
        with self._guard:
            super().stop()
            self._finding, self._waiting = False, []

    def _find(self, stopped: Stopped) -> Changes:
        """Find what is missing, then measure: a measurement that was asked for before had nothing to measure."""
        try:
            yield from self._found(stopped)
        finally:
            with self._guard:
                self._finding = self._finding and stopped()
        with self._guard:
            if not stopped() and (self._waiting or (self.errors, self.size) not in self._points):
                self._background("measure", self._measure)

    def _found(self, stopped: Stopped) -> Changes:
        if self.circuit is None:
            yield {"_doing": "finding the circuit"}
            yield self._shown(self._work.circuit(stopped))
        assert self.circuit is not None
        if self.edges is None:
            yield {"_doing": "weighing edges"}
            yield self._shown(self.circuit, edges=self._work.edges(self.circuit, stopped))
        if self._work.indexes and not self._contexts:
            yield {"_doing": "reading contexts"}
            assert self._graph is not None
            yield self._shown(self.circuit, _contexts=self._work.contexts(self._graph, stopped))
        yield {"_doing": ""}

    def _measure(self, stopped: Stopped) -> Changes:
        """Measure the size that is shown, whatever it becomes meanwhile, then those that wait."""
        if self.circuit is None or self._graph is None:
            return  # the end of `_find` takes it up
        features = self._graph.features
        while not stopped() and (wanted := self._next_size(features)):
            errors, size = wanted
            yield {"_doing": f"measuring {size:,} features, errors {errors}"}
            points = {**self._points, wanted: self._work.measure(self.circuit, size, errors, stopped)}
            rows = state.measured_rows(features, points)
            about = {"_about": self._about_panels(self.circuit), "_curve": state.curves(points)}
            yield {"_points": points, "_measured": rows, **about, "error": ""}
        yield {"_doing": ""}

    def _next_size(self, features: int) -> tuple[str, int] | None:
        """Return what to measure next: what is shown, else the first that waits; None when all is measured.

        Args:
            features: Number of all features; larger sizes count as that.
        """
        with self._guard:
            shown = (self.errors, self.size)
            waiting = dict.fromkeys((errors, min(size, features)) for errors, size in self._waiting)
            self._waiting = [wanted for wanted in waiting if wanted not in self._points]
            return shown if shown not in self._points else next(iter(self._waiting), None)

    def _shown(self, circuit: "FeatureCircuit", **changed: Any) -> dict[str, Any]:
        """Return the traits of a circuit; ``changed`` may hold its ``edges`` and ``_contexts``."""
        edges, contexts = changed.get("edges", self.edges), changed.get("_contexts", self._contexts)
        graph = graph_of(circuit, edges or (), self._most)
        numbers, indexed = range(len(graph.nodes)), self._work.indexes
        return {
            **changed,
            "circuit": circuit,
            "_graph": graph,
            "_about": self._about_panels(circuit),
            "_drawing": {errors: drawing(graph, errors, self._tokens) for errors in ("kept", "ablated")},
            "_table": state.node_table(graph, numbers, contexts),
            "_cards": [state.card(graph, i, contexts, indexed) for i in numbers],
            "_record": whole_record(graph, circuit),
        }

    def _about_panels(self, circuit: "FeatureCircuit") -> list[Node]:
        prompts = len(self._work.test), self._same_prompts
        return [state.about(circuit, *prompts, self._work.levels), state.note(circuit)]

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def __repr__(self) -> str:
        if self._graph is None:
            return f"Circuit({self._work.task.name}: not found yet)"
        size = f"{self.size:,} of {self._graph.features:,} features on {' and '.join(self._graph.hooks)}"
        score = state.score_words(self._points.get((self.errors, self.size)))
        return f"Circuit({self._work.task.name}: {size}, errors {self.errors}, {score})"

    def _title(self) -> str:
        return f"Circuit · {self._work.task.name}"

    def state(self) -> dict[str, Node]:
        """Return what the view shows as plain data, panel by panel; see `saekit.views._shared.nodes`."""
        with self._guard:
            graph, head = self._graph, {"head": self._facts["head"]}
            error = {"error": line(el("b", {}, self.error))} if self.error else {}
            if graph is None:
                return {**head, **error, "nothing": state.nothing()}
            shares = self._points.get((self.errors, self.size))
            about, note = self._about
            chosen = graph.find(self.value)
            table = state.node_table(graph, graph.kept(self.size, self.errors), self._contexts)
            return {
                **head,
                "told": line(state.told_words(graph.features, self.size, self.errors, shares)),
                **error,
                "about": about,
                "picture": self._picture(),
                "table": table,
                "note": note,
                **({"curve": self._curve[self.errors]} if self.errors in self._curve else {}),
                **({} if chosen is None else {"card": self._cards[chosen]}),
            }

    def _picture(self) -> Node:
        drawn = self._drawing[self.errors]
        return assembled(drawn["frames"][min(self.size, len(drawn["frames"]) - 1)], drawn["parts"])

    def to_html(self) -> str:
        """Return a self-contained interactive page; its slider knows the sizes measured so far (`measure_curve`)."""
        return self._page()

    def to_svg(self) -> str:
        """Return the picture as an SVG document that stands alone."""
        self._settle()
        with self._guard:
            return "" if self._graph is None else svg_document(self._picture())

    def to_json(self) -> str:
        """Return the circuit that is shown as JSON: nodes with their effects, edges with their weights, in logits."""
        self._settle()
        with self._guard:
            kept = [] if self._graph is None else self._graph.kept(self.size, self.errors)
            about = {"faithfulness": self.faithfulness, "completeness": self.completeness}
            shown = {"size": self.size, "errors": self.errors, **about}
            return json.dumps(record_of(self._record, kept, shown), indent=1, ensure_ascii=False)
