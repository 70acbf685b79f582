"""A feature of images as static HTML: pictures are inline SVG of a few hundred bytes each, so no file is needed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from saekit.views._shared.words import aligned, escape, percent, sig
from saekit.views.top_activations.still import histogram_html

_BLUE = "34,136,230"
_LEVELS = 8  # shades of grey, each one path
_MOST_PIXELS = 32  # on a side; larger images are drawn coarser
_TOP, _PER_INTERVAL = 12, 4
_QUIET = "opacity:.75"
_LABEL = "font-variant:small-caps;letter-spacing:.04em;opacity:.75;margin:.9em 0 .2em"


def image_html(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Return the card as one ``<div>``, at most about 60 kB for images of digits."""
    name = f" · {escape(card['name'])}" if card["name"] else ""
    parts = [
        f'<p style="margin:.2em 0;font-size:1.25em"><strong>Feature {card["feature"]}</strong>{name}</p>'
        f'<p style="margin:0">{facts_line(card, facts)}</p>'
        f'<p style="margin:0;{_QUIET}">{escape(context_line(facts))}</p>'
    ]
    if not card["dead"]:
        parts += [_examples(card, facts), _classes(card), histogram_html(card)]
    body = "".join(parts)
    return f'<div style="max-width:68em;line-height:1.5;font-variant-numeric:tabular-nums">{body}</div>'


def facts_line(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Say in words how often and how strongly the feature is active."""
    if card["dead"]:
        return f"dead: never active on {facts['n_patches']:,} patches of {facts['n_images']:,} images"
    return (
        f"active on {card['count']:,} of {facts['n_patches']:,} patches ({percent(card['density'])}) in "
        f"{card['images']:,} of {facts['n_images']:,} images · mean when active {sig(card['mean'])} · max "
        f"{sig(card['max'])}"
    )


def context_line(facts: Mapping[str, Any]) -> str:
    """Say what the numbers refer to."""
    where = f" · {facts['hook']}" if facts["hook"] else ""
    return f"{facts['data']}{where} · L0 {sig(facts['l0'])} of {facts['d_sae']:,} features, {facts['dead']:,} dead"


def _examples(card: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    values = np.frombuffer(card["values"], "<f4").reshape(-1, *facts["grid"])
    pixels = np.frombuffer(card["pixels"], np.uint8).reshape(-1, *facts["pixels"])
    parts = []
    for group in card["groups"]:
        if not group["rows"]:
            continue
        title = f"Top images (shade = activation / {sig(card['max'])})"
        if group["kind"] == "interval":
            low, high = aligned(group["low"], card["max"]), aligned(group["high"], card["max"])
            title = f"{low} to {high} ({percent(group['share'])} of its images)"
        shown = group["rows"][: _TOP if group["kind"] == "top" else _PER_INTERVAL]
        pictures = "".join(
            f'<span style="display:inline-block;width:72px;margin:0 8px 6px 0;vertical-align:top">'
            f"{_picture(pixels[row['at']], values[row['at']], row, card['max'], facts['ink'])}"
            f"<br><b>{aligned(row['value'], card['max'])}</b> "
            f'<span style="{_QUIET}">{escape(row["label"])}</span></span>'
            for row in shown
        )
        parts.append(f'<div style="{_LABEL}">{title}</div><div>{pictures}</div>')
    return "".join(parts)


def _picture(pixels: np.ndarray, values: np.ndarray, row: Mapping[str, Any], most: float, ink: bool) -> str:
    """Draw an image and its shaded patches; one path for each shade of grey, runs of equal pixels joined."""
    step = -(-max(pixels.shape) // _MOST_PIXELS)
    coarse = pixels[: pixels.shape[0] // step * step, : pixels.shape[1] // step * step].astype(float)
    coarse = coarse.reshape(coarse.shape[0] // step, step, coarse.shape[1] // step, step).mean((1, 3))
    level = np.rint(coarse / 255 * (_LEVELS - 1)).astype(int)
    tall, wide = level.shape
    grey = lambda at: round(255 * (1 - at / (_LEVELS - 1) if ink else at / (_LEVELS - 1)))  # noqa: E731
    drawn = [f'<rect width="{wide}" height="{tall}" fill="rgb({grey(0)},{grey(0)},{grey(0)})"/>']
    for at in range(1, _LEVELS):
        runs = "".join(_runs(level == at))
        if runs:
            drawn.append(f'<path fill="rgb({grey(at)},{grey(at)},{grey(at)})" d="{runs}"/>')
    down, across = tall / len(values), wide / values.shape[1]
    for (r, c), value in np.ndenumerate(values):
        # One decimal of shade: rounding noise of another processor must not change the bytes.
        if value > 0 and (shade := round(0.75 * min(1.0, float(value) / most), 1)):
            drawn.append(
                f'<rect x="{c * across:g}" y="{r * down:g}" width="{across:g}" height="{down:g}" '
                f'fill="rgba({_BLUE},{shade})"/>'
            )
    words = f"image {row['image']}{', ' + row['label'] if row['label'] else ''}, activation {sig(row['value'])}"
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {wide} {tall}" width="72" '
        f'shape-rendering="crispEdges">{"".join(drawn)}</svg>'
    )


def _runs(where: np.ndarray) -> list[str]:
    """Return a piece of a path for every horizontal run of pixels."""
    pieces = []
    for y, line in enumerate(where):
        change = np.flatnonzero(np.diff(line.astype(int), prepend=0, append=0))
        pieces += [f"M{start} {y}h{stop - start}v1h{start - stop}z" for start, stop in change.reshape(-1, 2)]
    return pieces


def _classes(card: Mapping[str, Any]) -> str:
    if not card["classes"]:
        return ""
    said = " · ".join(
        f"<b>{escape(label)}</b> {percent(active / images) if images else '–'}"
        for label, active, images in card["classes"]
    )
    return f'<div style="{_LABEL}">Share of each class\'s images on which it is active</div><div>{said}</div>'
