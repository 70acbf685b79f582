"""A feature's card as static HTML: what GitHub, nbviewer, exported pages and `nbval` see.

No script, no stylesheet, no external file; inline styles with ``currentColor`` and ``rgba``, so it reads in light and
dark. The same data give the same bytes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from saekit.views._shared.words import aligned, escape, merge_pieces, percent, sig, signed, visible

_BLUE, _ORANGE = "34,136,230", "214,120,20"  # the two hues of widgets/top_activations/style.css
_SIDE = 10  # tokens on each side of the peak
_TOP, _PER_INTERVAL, _LOGITS, _NEIGHBOURS = 10, 2, 8, 6
_QUIET = "opacity:.75"
_LABEL = "font-variant:small-caps;letter-spacing:.04em;opacity:.75;margin:.9em 0 .2em"
_HANGING, _FIRST = (
    "padding-left:5.5em;text-indent:-5.5em",
    "display:inline-block;width:5.5em;text-indent:0",
)
_CODE = "font-family:ui-monospace,monospace;font-size:.92em"


def feature_html(card: Mapping[str, Any], facts: Mapping[str, Any], prompt: Mapping[str, Any] | None = None) -> str:
    """Return the card as one ``<div>``, at most about 60 kB."""
    parts = [_header(card, facts)]
    if not card["dead"]:
        parts += [_examples(card), histogram_html(card)]
    parts += [_logits(card), _neighbours(card)]
    if prompt and prompt.get("feature") == card["feature"]:
        parts.append(_prompt(prompt, card))
    body = "".join(parts)
    return f'<div style="max-width:68em;line-height:1.5;font-variant-numeric:tabular-nums">{body}</div>'


def facts_line(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Say in words how often and how strongly the feature is active."""
    if card["dead"]:
        return f"dead: never active on {facts['n_tokens']:,} tokens"
    return (
        f"active on {card['count']:,} of {facts['n_tokens']:,} tokens ({percent(card['density'])}) · "
        f"mean when active {sig(card['mean'])} · max {sig(card['max'])}"
    )


def context_line(facts: Mapping[str, Any]) -> str:
    """Say what the numbers refer to: SAE, its L0, and what was left out of the statistics."""
    excluded = ", ".join(f"{n:,} {kind}" for kind, n in facts["excluded"].items() if n)
    left_out = f" · left out: {excluded} tokens" if excluded else ""
    return (
        f"{facts['model']} · {facts['hook']} · L0 {sig(facts['l0'])} of {facts['d_sae']:,} features, "
        f"{facts['dead']:,} dead{left_out}"
    )


def _header(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    name = f" · {escape(card['name'])}" if card["name"] else ""
    return (
        f'<p style="margin:.2em 0;font-size:1.25em"><strong>Feature {card["feature"]}</strong>{name}</p>'
        f'<p style="margin:0">{facts_line(card, facts)}</p>'
        f'<p style="margin:0;{_QUIET}">{escape(context_line(facts))}</p>'
    )


def _examples(card: Mapping[str, Any]) -> str:
    values = np.frombuffer(card["values"], "<f4")
    parts = []
    for group in card["groups"]:
        rows = group["rows"][: _TOP if group["kind"] == "top" else _PER_INTERVAL]
        if not rows:
            continue
        if group["kind"] == "top":
            title = f"Top activations (shade = activation / {sig(card['max'])})"
        else:
            low, high = aligned(group["low"], card["max"]), aligned(group["high"], card["max"])
            title = f"{low} to {high} ({percent(group['share'])} of activations)"
        lines = "".join(_row(row, values, card["max"]) for row in rows)
        parts.append(f'<div style="{_LABEL}">{title}</div><div style="{_CODE}">{lines}</div>')
    return "".join(parts)


def _row(row: Mapping[str, Any], values: np.ndarray, scale: float) -> str:
    window = values[row["at"] : row["at"] + len(row["tokens"])]
    first, last = max(0, row["peak"] - _SIDE), row["peak"] + _SIDE + 1
    while first and row["tokens"][first] == "":
        first -= 1  # never begin inside a character
    strip = _strip(row["tokens"][first:last], window[first:last], scale)
    again = f" ×{row['duplicates'] + 1}" if row["duplicates"] else ""
    value = aligned(row["value"], scale)
    return f'<div dir="ltr" style="{_HANGING}"><b style="{_FIRST}">{value}{again}</b>{strip}</div>'


def _strip(tokens: list[str], values: Any, scale: float) -> str:
    """Mark active tokens only: most are silent, and plain text is small."""
    parts = []
    for text, value, _ in merge_pieces(tokens, [float(v) for v in values]):
        shown = f"<bdi>{escape(visible(text))}</bdi>" if _right_to_left(text) else escape(visible(text))
        # One decimal of shade: rounding noise of another processor must not change the bytes.
        shade = round(0.75 * min(1.0, value / scale), 1) if scale and value > 0 else 0
        if shade:
            shown = f'<mark style="color:inherit;background:rgba({_BLUE},{shade})">{shown}</mark>'
        parts.append(shown)
        parts.append("<wbr>")  # whitespace became marks: without this the line could not break
    return "".join(parts)


def _right_to_left(text: str) -> bool:
    return any("\u0590" <= c <= "\u08ff" or "\ufb1d" <= c <= "\ufefc" for c in text)


def histogram_words(histogram: Mapping[str, list], count: int) -> str:
    """Describe a histogram in a sentence, for those who cannot see it."""
    edges, counts = histogram["edges"], histogram["counts"]
    tallest = max(range(len(counts)), key=counts.__getitem__)
    return (
        f"{count:,} activations in {len(counts)} bins from {sig(edges[0])} to {sig(edges[-1])}; most "
        f"({counts[tallest]:,}) between {sig(edges[tallest])} and {sig(edges[tallest + 1])}, "
        f"{counts[-1]:,} in the highest bin"
    )


def histogram_html(card: Mapping[str, Any]) -> str:
    """Return a feature's histogram as inline SVG, ``""`` where there is none."""
    histogram = card["histogram"]
    if not histogram or not any(histogram["counts"]):
        return ""
    counts = histogram["counts"]
    width, height = 360, 64
    step = width / len(counts)
    most = math.log10(1 + max(counts))
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{height - h:.0f}" width="{step - 1:.1f}" height="{h:.0f}"/>'
        for i, n in enumerate(counts)
        if (h := max(1.0, height * math.log10(1 + n) / most) if n else 0)
    )
    words = histogram_words(histogram, card["count"])
    return (
        f'<div style="{_LABEL}">Histogram of activations (log count)</div>'
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {width} {height + 1}" width="{width}" '
        f'style="max-width:100%"><g fill="rgb({_BLUE})">{bars}</g>'
        f'<path d="M0 {height + 0.5}H{width}" stroke="currentColor" stroke-opacity=".5"/></svg>'
        f'<div style="{_QUIET}">{escape(words)}</div>'
    )


def _logits(card: Mapping[str, Any]) -> str:
    sides = (("promoted", "Promotes", _BLUE), ("suppressed", "Suppresses", _ORANGE))
    lines = []
    for key, title, hue in sides:
        words = " ".join(
            f'<span style="{_CODE};white-space:nowrap;border-bottom:2px solid rgb({hue})">'
            f"<bdi>{escape(visible(text))}</bdi></span>&nbsp;{signed(value)}"
            for _, text, value in card["logits"][key][:_LOGITS]
        )
        if words:
            lines.append(f'<div style="{_LABEL}">{title} (logits per unit of activation)</div><div>{words}</div>')
    return "".join(lines)


def _neighbours(card: Mapping[str, Any]) -> str:
    lines = []
    for key, title in (("decoder", "decoder cosine"), ("coactivation", "co-activation (Jaccard)")):
        found = " · ".join(
            f"<b>{n['feature']}</b>{' ' + escape(n['name']) if n['name'] else ''} {n['score']:.2f}"
            for n in card["neighbours"][key][:_NEIGHBOURS]
        )
        if found:
            lines.append(f'<div style="{_LABEL}">Neighbours by {title}</div><div>{found}</div>')
    return "".join(lines)


def _prompt(prompt: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    values = np.frombuffer(prompt["values"], "<f4").copy()
    values[prompt.get("excluded", [])] = 0  # BOS above all: it would drown all others
    most = float(values.max(initial=0))
    scale = max(card["max"], most)
    said = f"strongest {sig(most, 2)}" if most > 0 else "not active on this text"
    return (
        f'<div style="{_LABEL}">On your own text ({said})</div>'
        f'<div style="{_CODE}" dir="ltr">{_strip(prompt["tokens"], values, scale)}</div>'
    )
