"""What the circuit view says of a circuit, panel by panel: head, tables, cards of nodes, the curve."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.views._shared.contexts import context, context_list, short_hook
from saekit.views._shared.nodes import Node, el, label, line, picture, row_of, table
from saekit.views._shared.palette import sign
from saekit.views._shared.words import effect_words, signed
from saekit.views.circuit.graph import ERROR, OUTPUT, Graph
from saekit.views.circuit.picture import node_place, node_title

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

    from saekit.circuits import FeatureCircuit, Task

STRONGEST = 12  # rows of the table in a still
ENDS = 4  # edges listed on each side of a node
TICKS = (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)  # sizes on the axis of the curve
MEASURES = ("faithfulness", "completeness")

Measured = Mapping[tuple[str, int], tuple[float | None, float | None]]  # (errors, size): shares


def head(task: str, hooks: Iterable[str]) -> Node:
    """Return the title."""
    about = el("span", {"class": "faint"}, f"{task} · {' and '.join(hooks)}")
    return el("h2", {"class": "headline"}, "Circuit ", about)


def nothing() -> Node:
    """Return what a still says as long as no circuit is found."""
    return line("not found yet: show the view again once ", el("code", {}, "view.wait(None)"), " is done")


def example_tokens(model: "SAETransformerBridge", task: "Task") -> list[str]:
    """Return the token of the first clean prompt at each named position."""
    from saekit.models import token_text

    ids = task.ids[0]
    return [token_text(model, int(ids[where[0]])) for where in task.positions.values()]


def share_text(value: float | None) -> str:
    """Return a measured share with two decimals and a real minus; a dash for one that is not known."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def score_words(shares: tuple[float | None, float | None] | None) -> str:
    """Say how much of the behaviour the circuit keeps."""
    if shares is None:
        return "faithfulness not computed"
    return ", ".join(f"{name} {share_text(share)}" for name, share in zip(MEASURES, shares, strict=True))


def told_words(features: int, size: int, errors: str, shares: tuple[float | None, float | None] | None) -> str:
    """Say what is shown, and how much of the behaviour that keeps."""
    return f"{size:,} of {features:,} features kept, errors {errors}: {score_words(shares)}"


def measured_rows(features: int, points: Measured) -> dict[str, dict[str, Any]]:
    """Return everything measured as the front-end looks it up, under ``"errors/size"``."""
    return {
        f"{errors}/{size}": {
            **dict(zip(MEASURES, shares, strict=True)),
            "shares": [share_text(share) for share in shares],
            "told": told_words(features, size, errors, shares),
        }
        for (errors, size), shares in points.items()
    }


def about(circuit: "FeatureCircuit", prompts: int, same_prompts: bool, levels: Mapping[str, float]) -> Node:
    """Return what the numbers refer to.

    Args:
        circuit: The circuit.
        prompts: Number of prompts on which faithfulness is measured.
        same_prompts: Whether the circuit was found by these.
        levels: Logit difference of the ``model`` and with ``nothing`` kept; empty before anything is measured.
    """
    on = f"faithfulness on {prompts} prompts" + (", those by which the circuit was found" if same_prompts else "")
    if levels:
        ends = f"{signed(levels['model'])} of the model, {signed(levels['nothing'])} with nothing"
        on += f": logit difference {ends}"
    return line(f"effects in logits, mean of {circuit.n_prompts} pairs; {on}", look="quiet")


def note(circuit: "FeatureCircuit") -> Node:
    """Return how much of the gap the effects of each layer account for."""
    parts = zip(circuit.hook_names, circuit.completeness, strict=True)
    shares = (f"{short_hook(hook)} {f'{100 * share:.0f} %' if math.isfinite(share) else '–'}" for hook, share in parts)
    words = (
        "Effects are first-order estimates; errors and other positions included they account for "
        f"{', '.join(shares)} of the gap of {signed(circuit.gap)} logits between clean and corrupted prompts. "
        "Faithfulness is 1 for the whole model, 0 with nothing kept."
    )
    return el("p", {"class": "faint", "only": "live"}, words)


def node_table(graph: Graph, numbers: Iterable[int], contexts: Mapping[str, Any]) -> Node:
    """Return nodes as a table, strongest first."""
    titles = ["node", el("th", {"scope": "col", "only": "live"}, "hook point"), "effect (logits)"]
    rows = []
    for rank, i in enumerate(graph.by_effect(numbers)):
        node = graph.nodes[i]
        what = "error" if node.feature == ERROR else f"feature {node.feature}"
        place = f"{short_hook(graph.hooks[node.layer])} · {graph.positions[node.position]}"
        cells = [
            el("th", {"scope": "row", "class": "nowrap"}, f"{what} · {place}"),
            el("td", {"only": "live"}, graph.hooks[node.layer]),
            signed(graph.effects[i]),
            *([_strongest_context(contexts.get(key_of(graph, i)))] if contexts else []),
        ]
        rows.append(row_of(cells, **{"data-node": str(i), "only": "live" if rank >= STRONGEST else None}))
    return table([*titles, *(["strongest context"] if contexts else [])], rows, **{"class": "nodes"})


def key_of(graph: Graph, i: int) -> str:
    """Return the key of a node's contexts, ``"layer/feature"``: they are the same at every position."""
    return f"{graph.nodes[i].layer}/{graph.nodes[i].feature}"


def _strongest_context(found: Mapping[str, Any] | None) -> Node:
    if found and found["rows"]:
        return context(found["rows"][0])
    return "dead on the index's corpus" if found and found["dead"] else "–"


def card(graph: Graph, i: int, contexts: Mapping[str, Any], indexed: Iterable[int]) -> Node:
    """Return the card of a node: what it is, its effect, its contexts, its strongest edges.

    Args:
        graph: The nodes and edges.
        i: The node's number.
        contexts: Contexts by `key_of`, as far as they are read.
        indexed: Layers that have an index.
    """
    found, title = contexts.get(key_of(graph, i)), node_title(graph, i)
    if graph.nodes[i].feature == ERROR:
        seen = line("What the dictionary misses here, as one node.", look="faint")
    elif found is None and graph.nodes[i].layer in indexed:
        seen = line("Its contexts are not read yet.", look="faint")
    else:
        seen = context_list(found)
    return el(
        "div",
        {"only": "live"},
        el("h3", {}, title[0].upper() + title[1:]),
        line(node_place(graph, i), look="faint"),
        el(
            "p",
            {"class": "effect"},
            el("span", {"class": f"swatch {sign(graph.effects[i])}", "aria-hidden": "true"}),
            effect_words(graph.effects[i]),
        ),
        line("Not in the circuit that is shown.", look="faint outside"),
        seen,
        *_ends(graph, "Acts through", [(target, w) for source, target, w in graph.edges if source == i]),
        *_ends(graph, "Fed by", [(source, w) for source, target, w in graph.edges if target == i]),
    )


def _ends(graph: Graph, title: str, ends: Sequence[tuple[int | None, float]]) -> list[Node]:
    def told(other: int | None) -> str:
        if other is OUTPUT:
            return "logit difference"
        hook, position, _ = graph.named(other)
        return f"{node_title(graph, other)}, {short_hook(hook)}, {position}"

    items = (el("li", {}, el("b", {}, signed(weight)), f" {told(other)}") for other, weight in ends[:ENDS])
    return [el("h4", {}, title), el("ul", {"class": "ends"}, *items)] if ends else []


def curves(points: Measured) -> dict[str, Node]:
    """Return the curve of each kind of errors of which two sizes or more are measured."""
    drawn = {}
    for errors in ("kept", "ablated"):
        known = sorted(
            (size, kept, left)
            for (kind, size), (kept, left) in points.items()
            if kind == errors and kept is not None and left is not None
        )
        if len(known) > 1:
            drawn[errors] = _curve(known, errors)
    return drawn


def _curve(points: Sequence[tuple[int, float, float]], errors: str) -> Node:
    keys = (part for name in MEASURES for part in (el("span", {"class": f"key key-{name}"}), f"{name} "))
    rows = (
        row_of([f"{size:,}", *(share_text(share) for share in shares)], **{"data-size": str(size)})
        for size, *shares in points
    )
    return el(
        "div",
        {"only": "live"},
        el("h3", {}, f"Measured so far, errors {errors}"),
        el("p", {"class": "curve-keys"}, *keys),
        _curve_picture(points, errors),
        el(
            "details",
            {},
            el("summary", {}, "Values"),
            table(["features kept", *MEASURES], rows, **{"class": "nodes"}),
        ),
    )


def _curve_picture(points: Sequence[tuple[int, float, float]], errors: str) -> Node:
    """Return faithfulness and completeness against size, on a logarithmic axis of sizes."""
    width, height, left, right, top, bottom = 300, 150, 36, 10, 10, 32
    low = min(0.0, *(share for _, *shares in points for share in shares))
    high = max(1.0, *(share for _, *shares in points for share in shares))
    most = max(10, *(size for size, *_ in points))

    def x(size: int) -> float:
        return round(left + math.log1p(size) / math.log1p(most) * (width - left - right), 1)

    def y(share: float) -> float:
        return round(height - bottom - (share - low) / (high - low) * (height - top - bottom), 1)

    shapes: list[Node] = []
    for share in (0, 1):
        shapes.append(el("path", {"class": "rule", "d": f"M{left} {y(share):g}H{width - right}"}))
        shapes.append(label(left - 6, y(share) + 4, str(share), "end"))
    for tick in (tick for tick in TICKS if tick <= most):
        name = f"{tick // 1000}k" if tick >= 1000 else str(tick)
        shapes.append(label(x(tick), height - bottom + 14, name, "middle"))
    shapes.append(label((left + width - right) / 2, height - 4, "features kept", "middle"))
    for at, name in reversed([*enumerate(MEASURES, 1)]):
        dots = (
            el("circle", {"cx": x(point[0]), "cy": y(point[at]), "r": 2.6, "data-size": str(point[0])})
            for point in points
        )
        path = "L".join(f"{x(point[0]):g} {y(point[at]):g}" for point in points)
        shapes.append(el("g", {"class": name}, el("path", {"d": f"M{path}"}), *dots))
    said = (f"{size:,} features {share_text(kept)} and {share_text(left_out)}" for size, kept, left_out in points)
    words = f"Faithfulness and completeness by number of features, errors {errors}: {'; '.join(said)}"
    return picture(width, height, words, *shapes, **{"class": "curve"})
