"""The probes view as static HTML and SVG: heat map, one cell, one text. No script, no stylesheet.

The drawn ``<svg data-saekit="picture">`` is left out when stored notebooks are compared (`notebooks/nbval.cfg`).
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from saekit.views._shared.contexts import spaced
from saekit.views._shared.words import escape, merge_pieces, percent, signed, visible
from saekit.views.probes.state import interval_words, two

BLUE, ORANGE = "0,120,186", "213,94,0"
MOST_CLASSES = 12  # in a confusion matrix; beyond, the largest confusions are listed
_WIDE, _TALL, _LEFT, _LINE = 96, 34, 196, 150
_LONGEST = 44  # letters of a baseline, whose name may hold a hook point or the settings of a control
_SHADE = 0.6  # opacity of the highest value
_FEATURES = 5  # of a class
_QUIET = "opacity:.75"
_TABLE = '<table style="border-collapse:collapse;font-size:1em">'
_CAPTION = f'<caption style="text-align:left;white-space:nowrap;{_QUIET}">'
_CELL = "padding:.1em .9em .1em 0;text-align:left;font-weight:400;vertical-align:top"


def scale_of(figures: Sequence[Sequence[float | None]], n_cells: int) -> tuple[float, float]:
    """Return the values of no colour and of full colour, over the cells and what baselines lie within.

    At least as far apart as a usual interval is wide: noise is not to look like a result.
    """
    known = [row for row in figures[:n_cells] if row[0] is not None]
    if not known:
        return 0.0, 1.0
    high = max(row[0] for row in figures if row[0] is not None)
    widths = [row[2] - row[1] for row in known if row[1] is not None and row[2] is not None]
    low = min(min(row[0] for row in known if row[0] is not None), high - (median(widths) if widths else 0.0))
    return (low, high) if high > low else (low - 0.5, high)


def shade(value: float | None, low: float, high: float) -> float:
    """Return how much colour a value has, 0 to 1."""
    return 0.0 if value is None else min(1.0, max(0.0, (value - low) / (high - low)))


def probes_html(state: Mapping[str, Any]) -> str:
    """Return the view as one ``<div>``; ``state`` is that of `saekit.views.probes.Probes`."""
    facts = state["facts"]
    head = f'<p style="margin:.2em 0;font-size:1.15em"><strong>Probes</strong> {escape(facts["data"])}</p>'
    if not state["cells"]:
        wait = "not computed yet: show the view again once <code>view.wait(None)</code> is done"
        return f'<div style="max-width:68em;line-height:1.5">{head}<p style="margin:0">{wait}</p></div>'
    about = (
        f'<p style="margin:.4em 0 0;{_QUIET}">{escape(state["names"][state["figure"]])} with its 95 % interval, in '
        f"validation on {facts['n_validation']:,} texts{over_repeats(facts)}. ★ best by macro F1, "
        "≈ not to be told from it.</p>"
    )
    words = f'<p style="margin:0">{escape(facts["choice"])}</p><p style="margin:0">{escape(facts["tested"])}</p>'
    words += f'<p style="margin:0"><strong>{escape(facts["verdict"])}</strong></p>'
    body = head + words + about + _heat_map(state) + _cell(state) + _text(state)
    return f'<div style="max-width:68em;line-height:1.5;font-variant-numeric:tabular-nums">{body}</div>'


def over_repeats(facts: Mapping[str, Any]) -> str:
    """Say that a figure is a mean, if it is."""
    return f", mean over {facts['repeats']} repeats" if facts["repeats"] > 1 else ""


def mark_of(row: Mapping[str, Any], number: int, best: int) -> str:
    """Return the sign beside a cell's figure."""
    return "★" if number == best else "≈" if row["as_good"] else ""


def _heat_map(state: Mapping[str, Any]) -> str:
    facts, figures = state["facts"], state["figures"][state["figure"]]
    axes, n_cells = facts["axes"], facts["n_cells"]
    low, high = scale_of(figures, n_cells)
    n_classifiers, n_binarise = len(axes["classifier"]), len(axes["binarise"])
    columns, rows = len(axes["sae"]) * n_classifiers, len(axes["pooling"]) * n_binarise
    top, right = 44, _LEFT + columns * _WIDE
    lines = state["cells"][n_cells:]
    longest = min(_LONGEST, max((len(row["name"]) for row in lines), default=0))
    line = max(_LINE, 6.2 * longest)
    width = right + (28 + line + _WIDE if lines else 0)
    height = top + max(rows, len(lines)) * _TALL + 6
    drawn = []
    for i, name in enumerate(facts["sites"]):
        x = _LEFT + (i + 0.5) * n_classifiers * _WIDE
        drawn.append(_label(x, 14, name, "middle", bold=True))
    for i in range(columns):
        drawn.append(_label(_LEFT + (i + 0.5) * _WIDE, 34, axes["classifier"][i % n_classifiers], "middle"))
    for i in range(rows):
        y = top + (i + 0.5) * _TALL + 4
        if i % n_binarise == 0:
            drawn.append(_label(0, y, axes["pooling"][i // n_binarise], "start", bold=True))
        drawn.append(_label(_LEFT - 8, y, axes["binarise"][i % n_binarise], "end"))
    for number, row in enumerate(state["cells"][:n_cells]):
        site, pooling, binarise, classifier = row["at"]
        x = _LEFT + (site * n_classifiers + classifier) * _WIDE
        y = top + (pooling * n_binarise + binarise) * _TALL
        drawn.append(_square(x, y, number, state, low, high))
    if lines:
        drawn.append(_label(right + 28, 34, "baselines", "start", bold=True))
    for i, row in enumerate(lines):
        y = top + i * _TALL
        drawn.append(_label(right + 28, y + _TALL / 2 + 4, row["name"], "start", most=_LONGEST))
        drawn.append(_square(right + 28 + line, y, n_cells + i, state, low, high))
    words = f"Heat map of {n_cells} cells and {len(lines)} baselines. {facts['choice']}"
    return (
        f'<svg data-saekit="picture" role="img" aria-label="{escape(words)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" style="max-width:100%;display:block;margin:.6em 0;font-size:11.5px" fill="currentColor">'
        f"{''.join(drawn)}</svg>"
    )


def _label(x: float, y: float, text: str, anchor: str, *, bold: bool = False, most: int = 24) -> str:
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(cut)}<title>{escape(text)}</title></text>'


def _square(x: float, y: float, number: int, state: Mapping[str, Any], low: float, high: float) -> str:
    row, found = state["cells"][number], state["figures"][state["figure"]][number]
    border = ' stroke="currentColor" stroke-width="2"' if state["opened"].get("number") == number else ""
    mark = mark_of(row, number, state["facts"]["best"])
    value = f"{two(found[0])} {mark}".strip()
    middle = x + _WIDE / 2
    return (
        f"<g><title>{escape(row['name'])}: {interval_words(found)}</title>"
        f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{_WIDE - 2}" height="{_TALL - 2}" rx="3" '
        f'fill="rgba({BLUE},{_SHADE * shade(found[0], low, high):.2f})"{border}/>'
        f'<text x="{middle:g}" y="{y + 15:g}" text-anchor="middle">{value}</text>'
        f'<text x="{middle:g}" y="{y + 28:g}" text-anchor="middle" font-size="9.5" opacity=".8">'
        f"{two(found[1])}–{two(found[2])}</text></g>"
    )


def _cell(state: Mapping[str, Any]) -> str:
    opened = state["opened"]
    if not opened:
        return ""
    row = state["cells"][opened["number"]]
    shown = ", ".join(f"{state['names'][f]} {interval_words(v[opened['number']])}" for f, v in state["figures"].items())
    head = f'<p style="margin:.6em 0 0"><strong>{escape(row["label"])}</strong></p><p style="margin:0">{shown}</p>'
    tables = [_confusion(opened["confusion"], state["facts"]["classes"], state["facts"]["repeats"])]
    if opened["features"]:
        tables.append(_features(opened["features"], state))
    return (
        f'{head}<div style="display:flex;flex-wrap:wrap;gap:.6em 2.4em;align-items:flex-start">{"".join(tables)}</div>'
    )


def confusions(matrix: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Return ``(true, predicted, count)`` of the largest entries off the diagonal, largest first."""
    off = [(t, p, n) for t, row in enumerate(matrix) for p, n in enumerate(row) if n and t != p]
    return sorted(off, key=lambda entry: -entry[2])[:MOST_CLASSES]


def _confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], repeats: int) -> str:
    counted = f", each counted once in each of {repeats} repeats" if repeats > 1 else ""
    caption = f"{_CAPTION}texts by true class (rows) and prediction (columns){counted}</caption>"
    if len(classes) > MOST_CLASSES:
        rows = "".join(
            f'<tr><td style="{_CELL}">{escape(classes[t])} taken for {escape(classes[p])}</td>'
            f'<td style="{_CELL}">{n:,}</td></tr>'
            for t, p, n in confusions(matrix)
        )
        return f"{_TABLE}{caption}<tbody>{rows}</tbody></table>"
    head = "".join(f'<th scope="col" style="{_CELL}">{escape(name)}</th>' for name in ("", *classes))
    rows = ""
    for name, counts in zip(classes, matrix, strict=True):
        whole = max(sum(counts), 1)
        cells = "".join(
            f'<td style="{_CELL};background:rgba({BLUE},{_SHADE * n / whole:.2f});text-align:right">{n:,}</td>'
            for n in counts
        )
        rows += f'<tr><th scope="row" style="{_CELL}">{escape(name)}</th>{cells}</tr>'
    return f"{_TABLE}{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _features(features: Sequence[Sequence[Sequence]], state: Mapping[str, Any]) -> str:
    """Tables by class; of two classes the second alone, whose signs are the first's turned round."""
    classes = state["facts"]["classes"]
    shown = [1] if len(classes) == 2 else range(min(len(classes), MOST_CLASSES))
    tables = []
    for c in shown:
        against = f", − for {escape(classes[0])}" if len(classes) == 2 else ""
        rows = "".join(_feature(row, state) for row in features[c][:_FEATURES])
        caption = (
            f"{_CAPTION}features: + for {escape(classes[c])}{against}; "
            f"active in so many texts of {escape(classes[c])} / of the others</caption>"
        )
        tables.append(f"{_TABLE}{caption}<tbody>{rows}</tbody></table>")
    return "".join(tables)


def _feature(row: Sequence, state: Mapping[str, Any]) -> str:
    feature, effect, _, mine, others = row
    context = state["contexts"].get(f"{state['site']}/{feature}", {}).get("rows") or []
    words = f"<td>{context_html(context[0])}</td>" if context else ""
    return (
        f'<tr><td style="{_CELL};white-space:nowrap">feature {feature}</td><td style="{_CELL}">{signed(effect)}</td>'
        f'<td style="{_CELL};white-space:nowrap">{percent(mine)} / {percent(others)}</td>{words}</tr>'
    )


def context_html(row: Sequence) -> str:
    """Return one context: the token where a feature fires, marked, between its neighbours."""
    _, before, peak, after = row[:4]
    mark = f'<mark style="color:inherit;background:rgba({BLUE},.3)">{escape(visible(peak))}</mark>'
    return (
        f'<bdi style="font-family:ui-monospace,monospace">{escape(spaced(before))}{mark}{escape(spaced(after))}</bdi>'
    )


def result_words(result: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Say the class of a text, with its probability where the classifier has one."""
    chances = result["probabilities"]
    if chances is not None:
        return f"{result['label']}, probability {two(chances[result['class']])}"
    first, second = sorted(result["scores"], reverse=True)[:2]
    return f"{result['label']}, by {two(first - second)} in score: this classifier gives no probability"


def _text(state: Mapping[str, Any]) -> str:
    result = state["result"]
    if not result:
        return ""
    classes = state["facts"]["classes"]
    parts = np.frombuffer(result["parts"], "<f4").reshape(len(classes), -1)[result["class"]]
    spans = []
    merged = merge_pieces(result["tokens"], parts.tolist())
    summed = np.add.reduceat(parts, [first for *_, first in merged])  # a character's pieces count together
    most = float(np.abs(summed).max())
    for (text, _, _), value in zip(merged, summed.tolist(), strict=True):
        hue, alpha = (BLUE if value >= 0 else ORANGE), (_SHADE * abs(value) / most if most else 0.0)
        spans.append(
            f'<span style="background:rgba({hue},{alpha:.2f})" title="{signed(value)}">{escape(spaced(text))}</span>'
        )
    said = f'<p style="margin:.8em 0 0"><strong>{escape(result_words(result, classes))}</strong></p>'
    strip = f'<p style="margin:0;font-family:ui-monospace,monospace"><bdi>{"".join(spans)}</bdi></p>'
    note = result["exact"]
    if result["intercepts"] is not None:
        intercept = signed(result["intercepts"][result["class"]])
        note = f"blue: for {escape(result['label'])}, orange: against; the intercept adds {intercept}. {note}"
    return f'{said}{strip}<p style="margin:0;{_QUIET}">{note}</p>'
