"""The circuit view: which features, at which positions and layers, an answer rests on, and how few of them suffice."""

import json
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import traitlets as t

from saekit._base.checks import whole
from saekit.errors import SAEError
from saekit.views._shared.contexts import indexes_by_hook
from saekit.views.circuit.state import ERROR, circuit_record, example_tokens
from saekit.views.circuit.still import circuit_html, circuit_svg, score_words
from saekit.views.circuit.work import CircuitWork

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.circuits import Edge, FeatureCircuit, Task
    from saekit.index import FeatureIndex
    from saekit.saes import Directions

MOST = 100  # features in the picture, and the end of the slider


class Circuit(CircuitWork):
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

    >>> view = Circuit(model, saes, task, circuit, index=index)  # doctest: +SKIP
    >>> view.size = 5; view.wait(); view.faithfulness            # doctest: +SKIP
    """

    _name = "circuit"
    value = t.Tuple(t.Unicode(), t.Unicode(), t.Int(), default_value=None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        model: "SAETransformerBridge",
        dictionaries: "Sequence[SAE[Any] | Directions] | SAE[Any] | Directions",
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
            dictionaries: SAEs or `Directions`, one on each layer of the circuit, in any order; or a single one.
            task: The pairs of prompts.
            circuit: From `feature_circuit`; found on the task where it is not given.
            edges: From `circuit_edges`; weighed between the 12 strongest nodes of neighbouring layers where they are
                not given. ``()``: no edges.
            index: Feature indexes of some of the SAEs, in any order: nodes then show their top contexts.
            k: Features kept at first.
            test: Prompts on which faithfulness is measured, better not those by which the circuit was found; by
                default the task.
            errors: See the trait.
            steps: Points between the runs at which gradients are taken where the circuit is found here, see
                `feature_circuit`.
            batch_size: Prompts a pass.

        Raises:
            SAEError: The dictionaries do not fit the model, each other, the circuit or an index; ``steps`` below 1.
            FeatureIndexError: An index of a hook point that the circuit does not have, or two of one.
            TraitError: ``k`` or ``errors`` is out of range.
        """
        from saekit.circuits import checked_circuit
        from saekit.models import twin

        layers = checked_circuit(model, dictionaries, task, circuit)
        checked_circuit(model, layers, test or task, circuit)
        self._dictionaries = layers
        self._widths = {layer.hook_name: len(layer.rows) for layer in layers}
        self._indexes = indexes_by_hook(model, [(layer.hook_name, layer.of) for layer in layers], index)
        self._task, self._test, self._batch_size = task, test or task, batch_size
        self._steps = whole("steps", steps, at_least=1, error=SAEError)
        self._most = min(MOST, sum(self._widths.values()) * len(task.positions))
        self._ablation = None
        self.circuit: FeatureCircuit | None = circuit
        self.edges: tuple[Edge, ...] | None = None if edges is None else tuple(edges)
        if len(layers) == 1:
            self.edges = ()
        self._found_here = circuit is None
        self._model = twin(model)
        facts = {
            "hooks": list(self._widths),
            "positions": list(task.positions),
            "tokens": example_tokens(model, task),
            "task": task.name,
            "most": self._most,
            "prompts": len(self._test),
            "same_prompts": self._test is task and circuit is None,
            "indexed": sorted(self._indexes),
        }
        super().__init__(size=self._sized(k), errors=errors, _facts=facts)
        if circuit is not None:
            self._show_circuit()
        self.compute()

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def faithfulness(self) -> float | None:
        """Faithfulness of the circuit that is shown, None before it is measured."""
        point = self._point()
        return None if point is None else point["faithfulness"]

    @property
    def completeness(self) -> float | None:
        """Completeness of the circuit that is shown: what is left when its features are ablated; None as above."""
        point = self._point()
        return None if point is None else point["completeness"]

    # --- traits -----------------------------------------------------------------------------------------------

    def _sized(self, size: Any) -> int:
        try:
            fits = not isinstance(size, bool) and 0 <= operator.index(size) <= self._most
        except TypeError:
            fits = False
        if not fits:
            raise t.TraitError(f"size must be a whole number of features in 0…{self._most}, not {size!r}")
        return operator.index(size)

    @t.validate("size")
    def _check_size(self, proposal: dict) -> int:
        return self._sized(proposal["value"])

    @t.validate("value")
    def _check_value(self, proposal: dict) -> tuple[str, str, int] | None:
        value = proposal["value"]
        if value is None:
            return None
        hook, position, feature = value
        if hook not in self._widths:
            raise t.TraitError(f"there is no {hook!r} in this circuit: its hook points are {', '.join(self._widths)}")
        if position not in self._task.positions:
            raise t.TraitError(f"there is no position {position!r}: they are {', '.join(self._task.positions)}")
        if not ERROR <= feature < self._widths[hook]:
            raise t.TraitError(
                f"feature must be in 0…{self._widths[hook] - 1}, or {ERROR} for the reconstruction error, not {feature}"
            )
        return value

    # --- what is shown without a kernel -----------------------------------------------------------------------

    def __repr__(self) -> str:
        if not self._nodes:
            return f"Circuit({self._facts['task']}: not found yet)"
        size = f"{self.size:,} of {self._facts['features']:,} features on {' and '.join(self._facts['hooks'])}"
        return f"Circuit({self._facts['task']}: {size}, errors {self.errors}, {score_words(self._state())})"

    def _title(self) -> str:
        return f"Circuit · {self._facts['task']}"

    def _state(self) -> dict[str, Any]:
        shown = {"size": self.size, "errors": self.errors, "point": self._point(), "levels": self._levels}
        return {
            "facts": self._facts,
            "nodes": self._nodes,
            "edges": self._edges,
            "contexts": self._contexts,
            "error": self.error,
            **shown,
        }

    def _static(self) -> str:
        with self._guard:
            return circuit_html(self._state())

    def to_html(self) -> str:
        """Return a self-contained interactive page; its slider knows the sizes measured so far (`measure_curve`)."""
        return self._page(busy=False, _doing="", _has_kernel=False)

    def to_svg(self) -> str:
        """Return the picture as an SVG document."""
        self._settle()
        with self._guard:
            return circuit_svg(self._state()) if self._nodes else ""

    def to_json(self) -> str:
        """Return the circuit that is shown as JSON: nodes with their effects, edges with their weights, in logits."""
        self._settle()
        with self._guard:
            return json.dumps(circuit_record(self._state()), indent=1, ensure_ascii=False)
