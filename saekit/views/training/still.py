"""The training view as static HTML: final values in a table, the curves beside each other. No clock in it.

The figures have two digits, which most processors agree on. The curves are drawn to the pixel and do not agree: their
``<svg data-saekit="picture">`` is left out when stored notebooks are compared (`notebooks/nbval.cfg`).
"""

import math
from collections.abc import Sequence

from saekit.views._shared.chart_still import Line, line_chart, sample, short
from saekit.views._shared.words import escape, percent, sig
from saekit.views.training.state import CURVES, Run, in_short

POINTS = 100  # of a curve
TITLES = {"loss": "Loss", "fvu": "FVU", "l0": "L0", "dead_share": "Dead features"}
_QUIET = "opacity:.75"
_CELL = "padding:.1em .9em .1em 0;text-align:left;font-weight:400"


def rough(value: float) -> str:
    """Round to two digits without an exponent.

    >>> [rough(v) for v in (0.2149, 46, 123.4, 1234.5)]
    ['0.21', '46', '120', '1,200']
    """
    return sig(float(f"{value:.2g}")) if math.isfinite(value) else "–"


def training_html(runs: Sequence[Run], common: str, *, busy: bool) -> str:
    """Return the view as one ``<div>``; while training is under way without figures, which change by the second."""
    parts = [f'<p style="margin:.2em 0;font-size:1.15em"><strong>Training</strong> {_state(runs, busy)}</p>']
    if common:
        parts.append(f'<p style="margin:0;{_QUIET}">all runs: {escape(common)}</p>')
    if not busy:
        parts.append(_charts(runs))
    parts.append(_table(runs, busy))
    return f'<div style="max-width:68em;line-height:1.5;font-variant-numeric:tabular-nums">{"".join(parts)}</div>'


def _state(runs: Sequence[Run], busy: bool) -> str:
    if busy:
        return "under way; <code>view.wait(None)</code>, then show the view again for the finished curves"
    if all(run.state == "waiting" for run in runs):
        return "not started: press Start in the live view, or call <code>view.start()</code>"
    counts = {state: sum(run.state == state for run in runs) for state in ("done", "stopped", "failed", "waiting")}
    said = {"waiting": "not trained"}
    return ", ".join(f"{n} {said.get(s, s)}" for s, n in counts.items() if n) + f" of {len(runs)}"


def _charts(runs: Sequence[Run]) -> str:
    figures = []
    curves = [run.curves(POINTS) for run in runs]
    for row, curve in enumerate(CURVES, start=1):
        lines = [
            Line(run.name, i, points[0], points[row]) for i, (run, points) in enumerate(zip(runs, curves, strict=True))
        ]
        said = "; ".join(
            f"{run.name} {_value(curve, getattr(run.last, curve))} after {run.last.samples:,} samples"
            for run in runs
            if run.last is not None
        )
        share = curve == "dead_share"
        figures.append(
            line_chart(
                TITLES[curve], lines, f"{TITLES[curve]}: {said}", linear=share, ticks_as=percent if share else short
            )
        )
    drawn = "".join(figures)
    return f'<div style="display:flex;flex-wrap:wrap;gap:.6em 1.2em;margin:.6em 0">{drawn}</div>' if drawn else ""


def _table(runs: Sequence[Run], busy: bool) -> str:
    titles = ["run", "settings"] if busy else ["run", "settings", "state", "samples", *TITLES.values()]
    head = "".join(f'<th scope="col" style="{_CELL};{_QUIET}">{title}</th>' for title in titles)
    rows = []
    for i, run in enumerate(runs):
        cells = [escape(in_short(run.own)) or "–"]
        if not busy:
            cells += [
                {"waiting": "not trained"}.get(run.state, run.state),
                f"{run.last.samples:,}" if run.last else "–",
            ]
            cells += [_value(curve, getattr(run.last, curve)) if run.last else "–" for curve in CURVES]
        name = (
            f'<th scope="row" style="{_CELL};white-space:nowrap">{sample(i)} <b><bdi>{escape(run.name)}</bdi></b></th>'
        )
        told = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
        rows.append(f"<tr>{name}{told}</tr>")
        if run.error and not busy:
            rows.append(f'<tr><td colspan="{len(titles)}" style="{_CELL}">{escape(run.error)}</td></tr>')
    return (
        f'<table style="border-collapse:collapse;font-size:1em"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _value(curve: str, value: float) -> str:
    if curve == "dead_share":
        return percent(value)
    return rough(value)
