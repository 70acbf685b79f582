"""The picture of a circuit: positions across, layers upwards, the logit difference on top.

A slider chooses among many sizes, and an exported page has no kernel, so there is a picture for every size. What is the
same in all of them, the marks of nodes and the looks of edges, is held once: a picture names these ``parts``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saekit.views._shared.contexts import short_hook
from saekit.views._shared.nodes import Node, el, label, line, picture
from saekit.views._shared.palette import sign
from saekit.views._shared.words import effect_words, visible
from saekit.views.circuit.graph import ERROR, OUTPUT, Graph, Numbered

PITCH, ROW, LEFT, TOP, FOOT, GAP = 38, 38, 92, 52, 46, 14
EDGES, SHOWN_EDGES = 150, 60  # in the live view and in a still; more would be a grey veil
BOLD = {"font-weight": "600"}

Point = tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Places of a picture's pieces.

    Attributes:
        width: Width of the picture.
        height: Height of the picture.
        nodes: Place of each node.
        bands: Top and height of each layer, from the lowest layer.
        columns: Middle of each position.
        output: Place of the logit difference.
    """

    width: float
    height: float
    nodes: list[Point]
    bands: list[Point]
    columns: list[float]
    output: Point


def layout(kept: Sequence[tuple[int, int]], layers: int, positions: int) -> Layout:
    """Place nodes: positions across, layers upwards, within a cell the strongest first.

    Args:
        kept: Layer and position of each node, in the order of their ranks.
        layers: Number of layers.
        positions: Number of positions.
    """
    cells: dict[tuple[int, int], list[int]] = {}
    for i, cell in enumerate(kept):
        cells.setdefault(cell, []).append(i)
    most = max((len(cell) for cell in cells.values()), default=1)
    across = min(6, max(2, math.ceil(math.sqrt(most))))
    wide = across * PITCH + GAP
    bands: list[Point] = [(0.0, 0.0)] * layers
    y = float(TOP)
    for layer in reversed(range(layers)):
        rows = max((math.ceil(len(cell) / across) for at, cell in cells.items() if at[0] == layer), default=1)
        bands[layer] = (y, float(rows * ROW + 2 * GAP))
        y += bands[layer][1] + GAP
    columns = [LEFT + wide * (position + 0.5) for position in range(positions)]
    places: list[Point] = [(0.0, 0.0)] * len(kept)
    for (layer, position), cell in cells.items():
        rows = math.ceil(len(cell) / across)
        for place, i in enumerate(cell):
            row, column = divmod(place, across)
            here = min(across, len(cell) - row * across)
            x = columns[position] + (column - (here - 1) / 2) * PITCH
            places[i] = (x, bands[layer][0] + bands[layer][1] / 2 + (row - (rows - 1) / 2) * ROW)
    output = (LEFT + wide * positions / 2, TOP / 2)
    return Layout(LEFT + wide * positions + GAP, y + FOOT, places, bands, columns, output)


def drawing(graph: Graph, errors: str, tokens: Sequence[str]) -> dict[str, Any]:
    """Return the pictures of all sizes.

    Args:
        graph: The nodes and edges.
        errors: "kept" or "ablated".
        tokens: A token at each position, for example.

    Returns:
        ``parts``, by their names, and ``frames``, a picture for each size from 0 to all features that are shown.
    """
    every = graph.kept(len(graph.nodes), errors)
    edges = graph.among(every)
    names = {edge[:2]: f"e{i}" for i, edge in enumerate(edges)}
    largest = max((abs(weight) for *_, weight in edges), default=0.0)
    strongest = max((abs(effect) for effect in graph.effects), default=0.0)
    parts = {f"n{i}": _mark(graph, i, radius(graph.effects[i], strongest)) for i in every}
    parts |= {names[edge[:2]]: _edge(edge, largest) for edge in edges}
    shown = sum(graph.nodes[i].feature != ERROR for i in every)
    return {"parts": parts, "frames": [_frame(graph, size, errors, tokens, names) for size in range(shown + 1)]}


def assembled(node: Node, parts: Mapping[str, list[Any]]) -> Node:
    """Return a picture with its parts in their places; `widgets/circuit/index.js` does the same."""
    if isinstance(node, str):
        return node
    tag, attributes, *children = node
    if tag == "part":
        own, about, *inside = parts[attributes["of"]]
        placed = {name: value for name, value in attributes.items() if name != "of"}
        return [own, {**about, **placed}, *inside]
    return [tag, attributes, *(assembled(child, parts) for child in children)]


def radius(effect: float, largest: float) -> float:
    """Return the radius of a node: its area follows the effect."""
    return 6 + 8 * math.sqrt(abs(effect) / largest) if largest > 0 else 6.0


def node_title(graph: Graph, i: int) -> str:
    """Say what a node is."""
    feature = graph.nodes[i].feature
    return "reconstruction error" if feature == ERROR else f"feature {feature}"


def node_place(graph: Graph, i: int) -> str:
    """Say where a node is."""
    hook, position, _ = graph.named(i)
    return f"{hook} at {position}"


def _frame(graph: Graph, size: int, errors: str, tokens: Sequence[str], names: Mapping[tuple, str]) -> Node:
    numbers = graph.kept(size, errors)
    if not numbers:
        return line("Nothing is kept.", look="nothing")
    kept = [graph.nodes[i] for i in numbers]
    placed = layout([(node.layer, node.position) for node in kept], len(graph.hooks), len(graph.positions))
    at: dict[int | None, Point] = {OUTPUT: placed.output, **dict(zip(numbers, placed.nodes, strict=True))}
    edges = []
    for rank, (source, target, _) in enumerate(graph.among(numbers)[:EDGES]):
        (x1, y1), (x2, y2) = at[source], at[target]
        about = {"of": names[source, target], "d": f"M{x1:g} {y1:g}L{x2:g} {y2:g}"}
        edges.append(["part", about if rank < SHOWN_EDGES else {**about, "only": "live"}])
    marks = [["part", {"of": f"n{i}", "transform": f"translate({at[i][0]:g} {at[i][1]:g})"}] for i in numbers]
    size_words = f"{len(graph.positions)} positions across, {len(graph.hooks)} layers upwards"
    words = f"Circuit of {len(numbers)} nodes, {size_words}; the strongest nodes are in the table"
    ground = el("g", {"aria-hidden": "true"}, *_ground(graph, tokens, placed), *reversed(edges))
    return picture(placed.width, placed.height, words, ground, *marks, **{"class": "plot picture"})


def _ground(graph: Graph, tokens: Sequence[str], placed: Layout) -> list[Node]:
    shapes = []
    for hook, (y, tall) in zip(graph.hooks, placed.bands, strict=True):
        size = {"x": LEFT, "y": y, "width": placed.width - GAP - LEFT, "height": tall, "rx": 4}
        name = label(LEFT - 8, y + tall / 2 + 4, short_hook(hook), "end")
        shapes += [el("rect", {"class": "band", **size}), [*name[:2], el("title", {}, hook), *name[2:]]]
    floor = placed.height - FOOT
    for name, token, x in zip(graph.positions, tokens, placed.columns, strict=True):
        shapes.append(label(x, floor + 12, name, "middle", **BOLD))
        shapes.append(label(x, floor + 28, visible(token), "middle", **{"class": "column-token"}))
    x, y = placed.output
    return [*shapes, label(x, y - 4, "logit difference", "middle", **BOLD)]


def _edge(edge: Numbered, largest: float) -> Node:
    source, target, weight = edge
    share = abs(weight) / largest if largest else 0.0
    return el(
        "path",
        {
            "class": "edge",
            "tone": sign(weight),
            "stroke-dasharray": "5 3" if weight < 0 else None,
            "stroke-width": round(0.5 + 3 * share, 2),
            "stroke-opacity": round(0.3 + 0.5 * share, 2),
            "data-ends": f"{source} {'' if target is OUTPUT else target}",
        },
    )


def _mark(graph: Graph, i: int, r: float) -> Node:
    node, effect, r = graph.nodes[i], graph.effects[i], round(r, 1)
    error = node.feature == ERROR
    look = {"class": "missed" if error else "mark", "tone": sign(effect)}
    shape = {"d": f"M0 {-r:g}L{r:g} 0L0 {r:g}L{-r:g} 0Z"} if error else {"r": r}
    name = "error" if error else str(node.feature)
    return el(
        "g",
        {"class": "node", "data-node": str(i), "data-layer": node.layer, "data-position": node.position},
        el("title", {}, f"{node_title(graph, i)}, {node_place(graph, i)}, {effect_words(effect)}"),
        el("circle", {"class": "halo", "r": round(r + 4, 1), "only": "live"}),
        el("path" if error else "circle", look | shape),
        label(0, 4, "−" if effect < 0 else "+", "middle", **{"class": "sign"}),
        label(0, r + 9, name, "middle", **{"class": "number", "font-size": 9}),
    )
