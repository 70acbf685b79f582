"""The circuit view as static HTML and SVG: the picture, its strongest nodes in a table. No script, no stylesheet.

The layout is that of `widgets/circuit/picture.js`. The drawn ``<svg data-saekit="picture">`` is left out when stored
notebooks are compared (`notebooks/nbval.cfg`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from saekit.views._shared.contexts import short_hook, spaced
from saekit.views._shared.words import escape, signed, visible
from saekit.views.circuit.state import ERROR, kept_numbers

BLUE, ORANGE = "0,120,186", "213,94,0"
PITCH, ROW, LEFT, TOP, FOOT, GAP = 38, 38, 92, 52, 46, 14
_STRONGEST = 12  # rows of the table
_EDGES = 60  # drawn
_QUIET = "opacity:.75"
_CELL = "padding:.1em .9em .1em 0;text-align:left;font-weight:400;vertical-align:top"


def layout(kept: Sequence[Mapping[str, Any]], layers: int, positions: int) -> dict[str, Any]:
    """Place nodes: positions across, layers upwards, within a cell the strongest first.

    Args:
        kept: Nodes in the order of their ranks.
        layers: How many there are.
        positions: How many there are.

    Returns:
        ``width`` and ``height``; ``nodes``, the place of each ``(x, y)``; ``bands``, of each layer from the lowest
        ``(y, height)``; ``columns``, the middle of each position; ``output``, the place of the logit difference.
    """
    cells: dict[tuple[int, int], list[int]] = {}
    for i, node in enumerate(kept):
        cells.setdefault((node["layer"], node["position"]), []).append(i)
    most = max((len(cell) for cell in cells.values()), default=1)
    across = min(6, max(2, math.ceil(math.sqrt(most))))
    wide = across * PITCH + GAP
    bands: list[tuple[float, float]] = [(0.0, 0.0)] * layers
    y = float(TOP)
    for layer in reversed(range(layers)):
        rows = max((math.ceil(len(cell) / across) for at, cell in cells.items() if at[0] == layer), default=1)
        bands[layer] = (y, float(rows * ROW + 2 * GAP))
        y += bands[layer][1] + GAP
    columns = [LEFT + wide * (position + 0.5) for position in range(positions)]
    places: list[tuple[float, float]] = [(0.0, 0.0)] * len(kept)
    for (layer, position), cell in cells.items():
        rows = math.ceil(len(cell) / across)
        tall = bands[layer][1]
        for place, i in enumerate(cell):
            row, column = divmod(place, across)
            here = min(across, len(cell) - row * across)
            x = columns[position] + (column - (here - 1) / 2) * PITCH
            places[i] = (x, bands[layer][0] + tall / 2 + (row - (rows - 1) / 2) * ROW)
    output = (LEFT + wide * positions / 2, TOP / 2)
    return {
        "width": LEFT + wide * positions + GAP,
        "height": y + FOOT,
        "nodes": places,
        "bands": bands,
        "columns": columns,
        "output": output,
    }


def radius(effect: float, largest: float) -> float:
    """Return the radius of a node: its area follows the effect."""
    return 6 + 8 * math.sqrt(abs(effect) / largest) if largest > 0 else 6.0


def node_name(node: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Say which node it is."""
    what = "reconstruction error" if node["feature"] == ERROR else f"feature {node['feature']}"
    return f"{what} of {facts['hooks'][node['layer']]} at {facts['positions'][node['position']]}"


def score_words(state: Mapping[str, Any]) -> str:
    """Say how much of the behaviour the circuit keeps."""
    point = state["point"]
    if point is None:
        return "faithfulness not computed"
    return f"faithfulness {_two(point['faithfulness'])}, completeness {_two(point['completeness'])}"


def circuit_html(state: Mapping[str, Any]) -> str:
    """Return the view as one ``<div>``; ``state`` is that of `saekit.views.circuit.Circuit`."""
    facts, nodes = state["facts"], state["nodes"]
    hooks = " and ".join(facts["hooks"])
    head = f'<p style="margin:.2em 0;font-size:1.15em"><strong>Circuit</strong> {escape(facts["task"])} · {hooks}</p>'
    if not nodes:
        wait = "not found yet: show the view again once <code>view.wait(None)</code> is done"
        return f'<div style="max-width:68em;line-height:1.5">{head}<p style="margin:0">{wait}</p></div>'
    told = (
        f'<p style="margin:0">{state["size"]:,} of {facts["features"]:,} features kept, errors {state["errors"]}: '
        f"{score_words(state)}</p>"
    )
    about = (
        f'<p style="margin:0;{_QUIET}">effects in logits, mean of {facts["pairs"]} pairs; '
        f"{escape(measured_words(state))}</p>"
    )
    failed = f'<p style="margin:0"><strong>{escape(state["error"])}</strong></p>' if state["error"] else ""
    body = head + told + failed + about + _picture(state) + _table(state)
    return f'<div style="max-width:68em;line-height:1.5;font-variant-numeric:tabular-nums">{body}</div>'


def measured_words(state: Mapping[str, Any]) -> str:
    """Say what faithfulness was measured on."""
    facts, levels = state["facts"], state["levels"]
    on = f"faithfulness on {facts['prompts']} prompts"
    if facts["same_prompts"]:
        on += ", those by which the circuit was found"
    if not levels:
        return on
    return f"{on}: logit difference {signed(levels['model'])} of the model, {signed(levels['nothing'])} with nothing"


def circuit_svg(state: Mapping[str, Any]) -> str:
    """Return the picture as an SVG document that stands alone, in the colour of the text around it."""
    return _picture(state).replace(
        '<svg data-saekit="picture"', '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"', 1
    )


def _picture(state: Mapping[str, Any]) -> str:
    facts, nodes = state["facts"], state["nodes"]
    numbers = kept_numbers(nodes, state["size"], state["errors"])
    kept = [nodes[i] for i in numbers]
    placed = layout(kept, len(facts["hooks"]), len(facts["positions"]))
    at = dict(zip(numbers, placed["nodes"], strict=True))
    largest = max((abs(node["effect"]) for node in nodes), default=0.0)
    words = f"Circuit of {len(kept)} nodes; {score_words(state)}; the strongest nodes are in the table"
    drawn = [*_ground(facts, placed), *_lines(state, at, placed["output"])]
    drawn += [_node(nodes[i], at[i], largest, facts) for i in numbers]
    width, height = placed["width"], placed["height"]
    return (
        f'<svg data-saekit="picture" role="img" aria-label="{escape(words)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" style="max-width:100%;display:block;margin:.6em 0;font-size:10.5px" fill="currentColor">'
        f"{''.join(drawn)}</svg>"
    )


def _ground(facts: Mapping[str, Any], placed: Mapping[str, Any]) -> list[str]:
    right = placed["width"] - GAP
    parts = []
    for hook, (y, tall) in zip(facts["hooks"], placed["bands"], strict=True):
        parts.append(
            f'<rect x="{LEFT}" y="{y:g}" width="{right - LEFT:g}" height="{tall:g}" rx="4" fill-opacity=".06"/>'
            f'<text x="{LEFT - 8}" y="{y + tall / 2 + 3.5:g}" text-anchor="end">{escape(short_hook(hook))}</text>'
        )
    floor = placed["height"] - FOOT
    for name, token, x in zip(facts["positions"], facts["tokens"], placed["columns"], strict=True):
        parts.append(
            f'<text x="{x:g}" y="{floor + 12:g}" text-anchor="middle" font-weight="600">{escape(name)}</text>'
            f'<text x="{x:g}" y="{floor + 28:g}" text-anchor="middle">{escape(visible(token))}</text>'
        )
    x, y = placed["output"]
    parts.append(f'<text x="{x:g}" y="{y - 4:g}" text-anchor="middle" font-weight="600">logit difference</text>')
    return parts


def _lines(state: Mapping[str, Any], at: Mapping[int, tuple[float, float]], output: tuple[float, float]) -> list[str]:
    nodes = state["nodes"]
    last = len(state["facts"]["hooks"]) - 1
    edges = [(at[s], at[t], w) for s, t, w in state["edges"] if s in at and t in at]
    edges += [(at[i], output, nodes[i]["effect"]) for i in at if nodes[i]["layer"] == last]
    edges = sorted(edges, key=lambda edge: -abs(edge[2]))[:_EDGES]
    largest = max((abs(edge[2]) for edge in edges), default=0.0)
    parts = []
    for (x1, y1), (x2, y2), weight in edges:
        share = abs(weight) / largest if largest else 0.0
        dashed = ' stroke-dasharray="5 3"' if weight < 0 else ""
        parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" fill="none" stroke="rgb({_hue(weight)})" '
            f'stroke-width="{0.5 + 3 * share:.1f}" stroke-opacity="{0.3 + 0.5 * share:.2f}"{dashed}/>'
        )
    return parts


def _node(node: Mapping[str, Any], place: tuple[float, float], largest: float, facts: Mapping[str, Any]) -> str:
    (x, y), r = place, radius(node["effect"], largest)
    colour = _hue(node["effect"])
    name = f"{node_name(node, facts)}: {signed(node['effect'])} logits"
    if node["feature"] == ERROR:
        shape = (
            f'<path d="M{x:g} {y - r:.1f}L{x + r:.1f} {y:g}L{x:g} {y + r:.1f}L{x - r:.1f} {y:g}Z" '
            f'fill="rgba({colour},.12)" stroke="rgb({colour})" stroke-width="1.5" stroke-dasharray="3 2"/>'
        )
    else:
        shape = (
            f'<circle cx="{x:g}" cy="{y:g}" r="{r:.1f}" '
            f'fill="rgba({colour},.4)" stroke="rgb({colour})" stroke-width="1.5"/>'
        )
    label = "error" if node["feature"] == ERROR else str(node["feature"])
    sign = "+" if node["effect"] >= 0 else "−"
    mark = f'<text x="{x:g}" y="{y + 3.5:g}" text-anchor="middle">{sign}</text>'
    under = f'<text x="{x:g}" y="{y + r + 9:.1f}" text-anchor="middle" font-size="9">{label}</text>'
    return f"<g><title>{escape(name)}</title>{shape}{mark}{under}</g>"


def _table(state: Mapping[str, Any]) -> str:
    facts, nodes, contexts = state["facts"], state["nodes"], state["contexts"]
    chosen = sorted(kept_numbers(nodes, state["size"], state["errors"]), key=lambda i: -abs(nodes[i]["effect"]))
    chosen = chosen[:_STRONGEST]
    titles = ["node", "effect (logits)", *(["strongest context"] if contexts else [])]
    head = "".join(f'<th scope="col" style="{_CELL};{_QUIET}">{title}</th>' for title in titles)
    rows = []
    for i in chosen:
        what = "error" if nodes[i]["feature"] == ERROR else f"feature {nodes[i]['feature']}"
        where = f"{short_hook(facts['hooks'][nodes[i]['layer']])} · {facts['positions'][nodes[i]['position']]}"
        cells = [f'<th scope="row" style="{_CELL};white-space:nowrap">{what} · {escape(where)}</th>']
        cells.append(f'<td style="{_CELL}">{signed(nodes[i]["effect"])}</td>')
        if contexts:
            cells.append(f'<td style="{_CELL};font-family:ui-monospace,monospace">{_context(nodes[i], contexts)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table style="border-collapse:collapse;font-size:1em"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _context(node: Mapping[str, Any], contexts: Mapping[str, Any]) -> str:
    found = contexts.get(f"{node['layer']}/{node['feature']}")
    if not found:
        return "–"
    if not found["rows"]:
        return "dead on the index's corpus" if found["dead"] else "–"
    _, before, peak, after = found["rows"][0]
    shown = [escape(spaced(before)), escape(visible(peak)), escape(spaced(after))]
    return f'<bdi>{shown[0]}<mark style="color:inherit;background:rgba({BLUE},.3)">{shown[1]}</mark>{shown[2]}</bdi>'


def _hue(value: float) -> str:
    return BLUE if value >= 0 else ORANGE


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "−")
