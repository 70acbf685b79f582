"""The nodes and edges of a circuit that the view shows, by number: what picture, words and exports are made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saekit.views._shared.words import number

if TYPE_CHECKING:
    from saekit.circuits import Edge, FeatureCircuit, Node

ERROR = -1  # the number of an error node, as in saekit.circuits
OUTPUT = None  # the target of an edge to the logit difference
Numbered = tuple[int, int | None, float]


@dataclass(frozen=True)
class Graph:
    """What is shown of a circuit.

    Attributes:
        hooks: Hook points, lowest first.
        positions: Names of the positions.
        nodes: Features in the order of their effects, none without one, then all error nodes.
        effects: Effect of each node, in logits.
        edges: ``(source, target, weight)`` with numbers of nodes, strongest first; from every node of the highest layer
            one to `OUTPUT`, with its effect.
        features: Number of all features at the positions, shown or not.
    """

    hooks: tuple[str, ...]
    positions: tuple[str, ...]
    nodes: "tuple[Node, ...]"
    effects: tuple[float, ...]
    edges: tuple[Numbered, ...]
    features: int

    def kept(self, size: int, errors: str) -> list[int]:
        """Return the nodes of the circuit with ``size`` features, and the error nodes where errors are "kept"."""
        features = [i for i, node in enumerate(self.nodes) if node.feature != ERROR][:size]
        return features + [i for i, node in enumerate(self.nodes) if node.feature == ERROR and errors == "kept"]

    def among(self, numbers: Iterable[int]) -> list[Numbered]:
        """Return the edges between these nodes, and from them to the output, strongest first."""
        inside = {OUTPUT, *numbers}
        return [edge for edge in self.edges if edge[0] in inside and edge[1] in inside]

    def by_effect(self, numbers: Iterable[int]) -> list[int]:
        """Return the nodes, strongest first."""
        return sorted(numbers, key=lambda i: -abs(self.effects[i]))

    def named(self, i: int) -> list[Any]:
        """Return the value that names a node: ``[hook name, name of the position, feature]``."""
        node = self.nodes[i]
        return [self.hooks[node.layer], self.positions[node.position], node.feature]

    def find(self, value: Iterable[Any] | None) -> int | None:
        """Return the number of the node that a value names; None where there is none."""
        wanted = None if value is None else list(value)
        return next((i for i in range(len(self.nodes)) if self.named(i) == wanted), None)


def graph_of(circuit: "FeatureCircuit", edges: "Iterable[Edge]", most: int) -> Graph:
    """Return its ``most`` strongest features and all errors; edges to other nodes are left out."""
    from saekit.circuits import Node

    places = range(len(circuit.positions))
    errors = [Node(layer, place, ERROR) for layer in range(len(circuit.hook_names)) for place in places]
    nodes = (*(node for node in circuit.top(most) if circuit.effect(node)), *errors)
    effects = tuple(number(circuit.effect(node)) or 0.0 for node in nodes)
    at = {node: i for i, node in enumerate(nodes)}
    last = len(circuit.hook_names) - 1
    lines: list[Numbered] = [
        *((at[e.source], at[e.target], float(e.weight)) for e in edges if e.source in at and e.target in at),
        *((i, OUTPUT, effect) for i, effect in enumerate(effects) if nodes[i].layer == last),
    ]
    return Graph(
        hooks=tuple(circuit.hook_names),
        positions=tuple(circuit.positions),
        nodes=nodes,
        effects=effects,
        edges=tuple(sorted(lines, key=lambda line: -abs(line[2]))),
        features=sum(effects.size for effects in circuit.features),
    )


def whole_record(graph: Graph, circuit: "FeatureCircuit") -> dict[str, Any]:
    """Return all nodes and edges as plain data, of which `record_of` takes what is kept."""
    return {
        "task": circuit.task,
        "hook_names": list(graph.hooks),
        "positions": list(graph.positions),
        "gap": number(circuit.gap),
        "nodes": [{"node": graph.named(i), "effect": effect} for i, effect in enumerate(graph.effects)],
        "edges": [list(edge) for edge in graph.edges if edge[1] is not OUTPUT],
    }


def record_of(whole: Mapping[str, Any], kept: Iterable[int], shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Circuit.to_json` writes; "Save JSON" in the browser takes the same out of the same.

    Args:
        whole: All nodes and edges, of `whole_record`.
        kept: Numbers of the nodes that are kept.
        shown: ``size``, ``errors``, ``faithfulness`` and ``completeness`` of the circuit that is shown.
    """
    numbers = list(kept)
    inside, nodes = set(numbers), whole["nodes"]
    about = {name: value for name, value in whole.items() if name not in ("nodes", "edges")}
    edges = [
        {"source": nodes[source]["node"], "target": nodes[target]["node"], "weight": weight}
        for source, target, weight in whole["edges"]
        if source in inside and target in inside
    ]
    return {**about, **shown, "nodes": [nodes[i] for i in numbers], "edges": edges}
