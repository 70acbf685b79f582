"""A small line chart as static SVG, the same axes as in `widgets/_shared/chart.js`: no script, no stylesheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from numpy import ndarray

from saekit.views._shared.words import escape, sig

# The hues and dashes of widgets/_shared/chart.css and chart.js.
COLOURS = ("0,120,186", "213,94,0", "0,148,108", "196,106,158", "176,122,0", "118,110,200")
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2", "13 4", "9 2.5 2 2.5 2 2.5")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 250, 160, 36, 66, 8, 30
_LETTERS = 10  # of a name beside its line


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``number`` gives its colour and dash."""

    name: str
    number: int
    xs: Float[ndarray, " point"]
    ys: Float[ndarray, " point"]


def short(value: float) -> str:
    """Write a number on an axis.

    >>> [short(v) for v in (0, 0.05, 46, 1500, 12000, 250000, 1.5e6, 2e9)]
    ['0', '0.05', '46', '1.5k', '12k', '250k', '1.5M', '2G']
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{float(f'{value / unit:.3g}'):g}{letter}"
    return sig(value)


def linear_ticks(high: float, most: int = 4) -> list[float]:
    """Return round values from 0 to at least ``high``."""
    if not 0 < high < math.inf:
        return [0.0, 1.0]
    raw = high / most
    decade = 10 ** math.floor(math.log10(raw) + 1e-9)
    step = decade * next(by for by in (1, 2, 5, 10) if by * decade >= raw * (1 - 1e-9))
    return [float(f"{i * step:.12g}") for i in range(math.ceil(high / step - 1e-9) + 1)]


def decade_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values around low … high for a logarithmic axis: 1, 2, 5, 10 …, decades alone if there are many."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    every = [float(f"{by * 10.0**e:.12g}") for e in range(first, last + 1) for by in (1, 2, 5)]
    start = max(i for i, tick in enumerate(every) if tick <= low * (1 + 1e-9))
    stop = next(i for i, tick in enumerate(every) if tick >= high * (1 - 1e-9))
    fine = every[start : max(stop, start + 1) + 1]
    if len(fine) <= most:
        return fine
    last = max(first + 1, last)
    apart = math.ceil((last - first) / (most - 1))
    return [10.0 ** (first + i * apart) for i in range(math.ceil((last - first) / apart) + 1)]


def dodge(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart, order kept: each at least ``gap`` from the next, within low … high where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    placed = list(wanted)
    floor, ceiling = low, high
    for i in order:
        placed[i] = max(placed[i], floor)
        floor = placed[i] + gap
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def line_chart(
    title: str,
    lines: Sequence[Line],
    words: str,
    *,
    linear: bool = False,
    ticks_as: Callable[[float], str] = short,
    x_label: str = "samples",
    mark: float | None = None,
) -> str:
    """Return the chart as a ``<figure>``; the axis upwards is logarithmic once values differ more than eightfold.

    Args:
        title: Above it.
        lines: One for each run; those without points are left out.
        words: The chart in a sentence, for those who do not see it.
        linear: Keep the axis linear whatever the values.
        ticks_as: Writes the values of that axis.
        x_label: Name of the axis across.
        mark: Where to draw a dotted line upwards.
    """
    lines = [line for line in lines if len(line.xs)]
    values = [float(y) for line in lines for y in line.ys if math.isfinite(y)]
    if not values:
        return ""
    log = not linear and min(values) > 0 and max(values) > 8 * min(values)
    ticks = decade_ticks(min(values), max(values)) if log else linear_ticks(max(values))
    most = max(float(line.xs[-1]) for line in lines) or 1.0
    inner, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + value / most * inner

    def y(value: float) -> float:
        scaled = math.log(value / ticks[0]) / math.log(ticks[-1] / ticks[0]) if log else value / ticks[-1]
        return _HEIGHT - _BOTTOM - scaled * tall

    drawn = [_grid(ticks, y, ticks_as)]
    for i, tick in enumerate(t for t in linear_ticks(most, 3) if t <= most):
        anchor = "middle" if i else "start"
        drawn.append(f'<text x="{x(tick):.0f}" y="{_HEIGHT - 17}" text-anchor="{anchor}">{short(tick)}</text>')
    drawn.append(f'<text x="{_LEFT + inner / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    if mark is not None:
        rule = f"M{x(mark):.0f} {_TOP}V{_HEIGHT - _BOTTOM}"
        drawn.append(f'<path d="{rule}" stroke="currentColor" stroke-dasharray="2 3"/>')
    if log:
        drawn.append(f'<text x="{_WIDTH - _RIGHT}" y="{_TOP + 11}" text-anchor="end">log scale</text>')
    finite = [
        [(x(float(a)), y(float(b))) for a, b in zip(ln.xs, ln.ys, strict=True) if math.isfinite(b)] for ln in lines
    ]
    ends = [points[-1] if points else (_LEFT, _HEIGHT - _BOTTOM) for points in finite]
    places = dodge([end[1] for end in ends], 12, _TOP + 3, _HEIGHT - _BOTTOM)
    for line, points, end, place in zip(lines, finite, ends, places, strict=True):
        drawn.append(_line(line, points, end, place))
    return (
        f'<figure style="margin:0;flex:1 1 200px;max-width:250px"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<svg data-saekit="picture" role="img" aria-label="{escape(words)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'style="width:100%;overflow:visible;font-size:10.5px" fill="currentColor">{"".join(drawn)}</svg></figure>'
    )


def sample(number: int) -> str:
    """Return a short piece of the line with this number, for tables."""
    return (
        f'<svg aria-hidden="true" viewBox="0 0 28 8" width="28" height="8"><path d="M0 4H28" {_stroke(number)}/></svg>'
    )


def _grid(ticks: list[float], y: Callable[[float], float], ticks_as: Callable[[float], str]) -> str:
    parts = [
        f'<path d="M{_LEFT} {y(tick):.0f}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".2"/>'
        f'<text x="{_LEFT - 5}" y="{y(tick) + 3.5:.0f}" text-anchor="end">{ticks_as(tick)}</text>'
        for tick in ticks
    ]
    return "".join(parts)


def _line(line: Line, points: list[tuple[float, float]], end: tuple[float, float], place: float) -> str:
    path = "L".join(f"{a:.0f} {b:.0f}" for a, b in points)
    name = line.name if len(line.name) <= _LETTERS else f"{line.name[: _LETTERS - 1]}…"
    colour = COLOURS[line.number % len(COLOURS)]
    return (
        f'<path d="M{path}" {_stroke(line.number)}/>'
        f'<circle cx="{end[0]:.0f}" cy="{end[1]:.0f}" r="2.6" fill="rgb({colour})"/>'
        f'<text x="{end[0] + 8:.0f}" y="{place + 3.5:.0f}">{escape(name)}</text>'
    )


def _stroke(number: int) -> str:
    dash = DASHES[number % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'fill="none" stroke="rgb({COLOURS[number % len(COLOURS)]})" stroke-width="1.75"{dashed}'
