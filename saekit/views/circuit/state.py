"""What the circuit view sends to the browser, as plain data: nodes, edges, contexts, and facts of the whole."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.views._shared.rows import number

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

    from saekit.circuits import Edge, FeatureCircuit, Node, Task

ERROR = -1  # the number of an error node, as in saekit.circuits


def circuit_nodes(circuit: "FeatureCircuit", most: int) -> "list[Node]":
    """Return the features with the strongest effects, strongest first and none without one, then every error node."""
    from saekit.circuits import Node

    places = range(len(circuit.positions))
    errors = [Node(layer, place, ERROR) for layer in range(len(circuit.hook_names)) for place in places]
    return [*(node for node in circuit.top(most) if circuit.effect(node)), *errors]


def node_rows(circuit: "FeatureCircuit", nodes: "Iterable[Node]") -> list[dict[str, Any]]:
    """Return the nodes as the front-end reads them."""
    return [
        {
            "layer": node.layer,
            "position": node.position,
            "feature": node.feature,
            "effect": number(circuit.effect(node)) or 0.0,
        }
        for node in nodes
    ]


def edge_rows(nodes: "Sequence[Node]", edges: "Iterable[Edge]") -> list[list]:
    """Return ``[source, target, weight]`` with numbers of nodes, strongest first; edges to other nodes are left out."""
    at = {node: i for i, node in enumerate(nodes)}
    rows = [[at[e.source], at[e.target], float(e.weight)] for e in edges if e.source in at and e.target in at]
    return sorted(rows, key=lambda row: -abs(row[2]))


def circuit_facts(circuit: "FeatureCircuit") -> dict[str, Any]:
    """Return what the head of the view says."""
    return {
        "task": circuit.task,
        "gap": number(circuit.gap),
        "accounted": [number(share) for share in circuit.completeness],
        "pairs": circuit.n_prompts,
        "features": sum(effects.size for effects in circuit.features),
    }


def example_tokens(model: "SAETransformerBridge", task: "Task") -> list[str]:
    """Return the token of the first clean prompt at each named position."""
    ids = task.ids[0]
    return [str(model.tokenizer.decode([int(ids[where[0]])])) for where in task.positions.values()]


def kept_numbers(nodes: Sequence[Mapping[str, Any]], size: int, errors: str) -> list[int]:
    """Return the numbers of the nodes in a circuit of ``size`` features, with the error nodes where they are kept."""
    features = [i for i, node in enumerate(nodes) if node["feature"] != ERROR][:size]
    return features + [i for i, node in enumerate(nodes) if node["feature"] == ERROR and errors == "kept"]


def circuit_record(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Circuit.to_json` writes; `widgets/circuit/picture.js` has the same function."""
    facts, nodes, point = state["facts"], state["nodes"], state["point"] or {}
    kept = kept_numbers(nodes, state["size"], state["errors"])

    def named(i: int) -> list:
        node = nodes[i]
        return [facts["hooks"][node["layer"]], facts["positions"][node["position"]], node["feature"]]

    return {
        "task": facts["task"],
        "hook_names": facts["hooks"],
        "positions": facts["positions"],
        "gap": facts.get("gap"),
        "size": state["size"],
        "errors": state["errors"],
        "faithfulness": point.get("faithfulness"),
        "completeness": point.get("completeness"),
        "nodes": [{"node": named(i), "effect": nodes[i]["effect"]} for i in kept],
        "edges": [
            {"source": named(s), "target": named(g), "weight": weight}
            for s, g, weight in state["edges"]
            if s in kept and g in kept
        ],
    }
