"""What the circuit view sends to the browser, as plain data: nodes, edges, contexts, and facts of the whole."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.errors import FeatureIndexError
from saekit.views._shared.index_side import check_index_pair
from saekit.views._shared.rows import number
from saekit.views._shared.words import merge_pieces

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.circuits import Edge, FeatureCircuit, Node, Task
    from saekit.index import FeatureIndex
    from saekit.saes import Directions

ERROR = -1  # the number of an error node, as in saekit.circuits
CONTEXTS = 4  # a feature
BEFORE, AFTER = 9, 6  # tokens around the peak of a context


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


def indexes_by_hook(
    model: "SAETransformerBridge",
    layers: "Sequence[tuple[str, SAE[Any] | Directions]]",
    index: "FeatureIndex | Sequence[FeatureIndex] | None",
) -> "dict[int, FeatureIndex]":
    """Return the index of each layer, a hook point with what is shown there, that has one.

    Raises:
        FeatureIndexError: An index of a hook point that is not shown, or two of one.
        SAEError: An index of another SAE than the one shown there.
    """
    given = [] if index is None else list(index) if isinstance(index, Sequence) else [index]
    hooks = [hook for hook, _ in layers]
    found: dict[int, FeatureIndex] = {}
    for one in given:
        if one.hook_name not in hooks:
            raise FeatureIndexError(
                f"got an index of {one.hook_name}, expected one of the hook points shown: {', '.join(hooks)}"
            )
        layer = hooks.index(one.hook_name)
        if layer in found:
            raise FeatureIndexError(f"got two indexes of {one.hook_name}: pass one a hook point")
        dictionary: Any = layers[layer][1]
        if not hasattr(dictionary, "cfg"):
            raise FeatureIndexError(
                f"got an index of {one.hook_name}, where the circuit has directions and not an SAE: leave it out"
            )
        check_index_pair(one, model, dictionary)
        found[layer] = one
    return found


def context_rows(index: "FeatureIndex", feature: int) -> dict[str, Any]:
    """Return the strongest contexts of a feature as text: ``[value, before, peak, after]``, strongest first."""
    rows = []
    for example in index.top(feature, CONTEXTS):
        cells = merge_pieces([str(token) for token in example.tokens], [float(v) for v in example.activations])
        at = max(i for i, (_, _, first) in enumerate(cells) if first <= example.peak)
        text = [cell[0] for cell in cells]
        before, after = text[max(0, at - BEFORE) : at], text[at + 1 : at + 1 + AFTER]
        rows.append([number(example.value), "".join(before), text[at], "".join(after)])
    return {"dead": bool(index.dead[feature]), "rows": rows, "max": number(index.max[feature])}


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
