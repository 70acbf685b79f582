"""Small charts as nodes: lines on a linear or logarithmic axis, bars of counts, a histogram. All geometry is done here.

Coordinates have one decimal, which is finer than a screen and coarser than the noise of most processors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from saekit.views._shared.nodes import Node, el, label, picture
from saekit.views._shared.palette import HUES, hue
from saekit.views._shared.words import sig

DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "4 2", "13 4", "9 2.5 2 2.5 2 2.5")
_LETTERS = 10  # of a name beside its line
_GAP = 12  # between two labels, one above the other


@dataclass(frozen=True)
class Line:
    """One line of a chart; ``number`` gives its colour and dash."""

    name: str
    number: int
    xs: Float[ndarray, " point"]
    ys: Float[ndarray, " point"]


@dataclass(frozen=True)
class Axis:
    """An axis that begins at the first of its round ``ticks``, and `at` which share of it a value lies."""

    ticks: tuple[float, ...]
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return where a value lies, 0 at the beginning and 1 at the end; NaN for what the axis cannot show."""
        low = self.ticks[0]
        if self.log:
            return math.log(value / low) / math.log(self.high / low) if value > 0 else math.nan
        return (value - low) / (self.high - low)


@dataclass(frozen=True)
class Box:
    """A picture's size and the margins around what is drawn."""

    width: float
    height: float
    left: float
    right: float
    top: float = 8
    bottom: float = 30

    @property
    def floor(self) -> float:
        """The y of the axis across."""
        return self.height - self.bottom

    def x(self, share: float) -> float:
        """Return the x at a share of the axis across."""
        return round(self.left + share * (self.width - self.left - self.right), 1)

    def y(self, share: float) -> float:
        """Return the y at a share of the axis upwards."""
        return round(self.floor - share * (self.floor - self.top), 1)


LINES = Box(250, 160, 36, 66)
BARS = Box(300, 172, 38, 10)
HISTOGRAM = Box(360, 116, 34, 0, 0, 20)


def short(value: float) -> str:
    """Write a number on an axis.

    >>> [short(v) for v in (0, 0.05, 46, 1500, 12000, 250000, 1.5e6, 2e9)]
    ['0', '0.05', '46', '1.5k', '12k', '250k', '1.5M', '2G']
    """
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{float(f'{value / unit:.3g}'):g}{letter}"
    return sig(value)


def power_of_ten(exponent: int) -> str:
    """Write a power of ten as by hand.

    >>> [power_of_ten(e) for e in (-4, 0, -10)]
    ['10⁻⁴', '10⁰', '10⁻¹⁰']
    """
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def linear_ticks(high: float, most: int = 4) -> list[float]:
    """Return round values from 0 to at least ``high``: steps of 1, 2 or 5 times a power of ten, about ``most``."""
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
    return [float(f"{10.0 ** (first + i * apart):.12g}") for i in range(math.ceil((last - first) / apart) + 1)]


def axis(values: Sequence[float], *, linear: bool = False) -> Axis:
    """Return an axis for values: logarithmic once they differ more than eightfold, from 0 otherwise.

    Args:
        values: What it has to show; what is no number does not count.
        linear: True to keep it linear whatever the values.
    """
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    log = not linear and low > 0 and high > 8 * low
    ticks = decade_ticks(low, high) if log else linear_ticks(high)
    return Axis(tuple(ticks), ticks[-1], log)


def tight_axis(high: float) -> Axis:
    """Return a linear axis from 0 that ends at ``high``, where the data end, and not at a round value."""
    return Axis(tuple(tick for tick in linear_ticks(high, 3) if tick <= high), high) if high > 0 else Axis((0, 1), 1)


def line_path(points: Sequence[tuple[float, float]]) -> str:
    """Return the path through points; where a coordinate is no number the path has a gap."""
    pieces, pen = [], "M"
    for x, y in points:
        known = math.isfinite(x) and math.isfinite(y)
        if known:
            pieces.append(f"{pen}{x:g} {y:g}")
        pen = "L" if known else "M"
    return "".join(pieces)


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


def end_places(ends: Sequence[tuple[float, float]], near: float, low: float, high: float) -> list[float]:
    """Return the heights of labels at line ends: only those that end within ``near`` of each other make room."""
    groups: list[list[int]] = []
    for i in sorted(range(len(ends)), key=lambda i: ends[i][0]):
        if groups and ends[i][0] - ends[groups[-1][-1]][0] < near:
            groups[-1].append(i)
        else:
            groups.append([i])
    placed = [0.0] * len(ends)
    for group in groups:
        for i, place in zip(group, dodge([ends[i][1] for i in group], _GAP, low, high), strict=True):
            placed[i] = place
    return placed


def line_chart(
    lines: Sequence[Line],
    words: str,
    *,
    linear: bool = False,
    ticks_as: Callable[[float], str] = short,
    x_label: str = "samples",
    x_high: float = 0,
    mark: float | None = None,
) -> Node:
    """Return lines over a common axis from 0, the name of each at its end.

    Args:
        lines: The lines; those without points, and those without numbers, are left out.
        words: The chart in a sentence, for those who do not see it.
        linear: True to keep the axis upwards linear whatever the values; else see `axis`.
        ticks_as: Writes the values of that axis.
        x_label: Name of the axis across.
        x_high: Least value at which the axis across ends.
        mark: Value across at which a dotted line stands.
    """
    box, drawn = LINES, [one for one in lines if np.isfinite(one.ys).any()]
    across = tight_axis(max([x_high, *(float(one.xs[-1]) for one in drawn)]))
    up = axis([float(y) for one in drawn for y in one.ys], linear=linear)
    paths = [[(box.x(across.at(float(x))), _up(box, up, float(y))) for x, y in _pairs(one)] for one in drawn]
    ends = [(path[-1][0], next((y for _, y in reversed(path) if math.isfinite(y)), box.floor)) for path in paths]
    places = end_places(ends, box.right, box.top + 3, box.floor)
    shapes = [*_grid(box, up, ticks_as if drawn else lambda _: "")]
    for i, tick in enumerate(across.ticks if drawn else ()):
        shapes.append(label(box.x(across.at(tick)), box.floor + 13, short(tick), "middle" if i else "start"))
    shapes.append(_name(box, box.left, x_label))
    if mark is not None:
        shapes.append(el("path", {"class": "chart-mark", "d": f"M{box.x(across.at(mark)):g} {box.top}V{box.floor:g}"}))
    if up.log:
        shapes.append(label(box.width - box.right, box.top + 11, "log scale", "end"))
    shapes += [_line(*parts) for parts in zip(drawn, paths, ends, places, strict=True)]
    return picture(box.width, box.height, words, *shapes, **{"class": "plot chart"})


def bar_chart(
    counts: Sequence[int],
    words: str,
    *,
    apart: tuple[int, str],
    number: int,
    ticks: Sequence[tuple[float, str]],
    x_label: str,
) -> Node:
    """Return bars of counts over a common axis, and one bar at the left for what the axis cannot show.

    Args:
        counts: Heights of the bars.
        words: The chart in a sentence, for those who do not see it.
        apart: Height of the bar at the left, and what it is called.
        number: Number of the line whose colour the bars have.
        ticks: Where along the counts, 0 to 1, which label stands.
        x_label: Name of the axis across.
    """
    box, up = BARS, axis([*counts, apart[0]], linear=True)
    start = box.left + 50
    slot = (box.width - box.right - start) / len(counts)

    def bar(x: float, wide: float, count: int) -> Node:
        tall = max(1.0, box.floor - box.y(up.at(count))) if count else 0
        return _rect("column", x, box.floor - tall, wide, tall, tone=hue(number))

    shapes = [
        *_grid(box, up, short),
        _rect("column-apart", box.left + 6, box.y(up.at(apart[0])), 16, box.floor - box.y(up.at(apart[0]))),
        label(box.left + 14, box.floor + 13, apart[1], "middle"),
        *(bar(start + i * slot, max(1.0, slot - 0.75), count) for i, count in enumerate(counts)),
        *(label(start + at * slot * len(counts), box.floor + 13, text, "middle") for at, text in ticks),
        _name(box, start, x_label),
    ]
    return picture(box.width, box.height, words, *shapes, **{"class": "plot chart"})


def histogram_words(histogram: Mapping[str, Sequence[float]], total: int) -> str:
    """Say a histogram in a sentence, for those who do not see it."""
    edges, counts = histogram["edges"], histogram["counts"]
    tallest = max(range(len(counts)), key=counts.__getitem__)
    return (
        f"{total:,} activations in {len(counts)} bins from {sig(edges[0])} to {sig(edges[-1])}; most "
        f"({counts[tallest]:,}) between {sig(edges[tallest])} and {sig(edges[tallest + 1])}, "
        f"{counts[-1]:,} in the highest bin"
    )


def histogram_bars(histogram: Mapping[str, Sequence[float]], words: str) -> Node:
    """Return a histogram of activations with a logarithmic axis of counts: a single activation still has a bar."""
    box, edges, counts = HISTOGRAM, histogram["edges"], histogram["counts"]
    top = math.ceil(2 * math.log10(1 + max(counts))) / 2  # the next power of ten or half of one
    slot = (box.width - box.left) / len(counts)
    shapes: list[Node] = []
    for decade in range(math.floor(math.log10(max(1, *counts))) + 1):
        shapes += _rule(box, box.y(math.log10(1 + 10**decade) / top), short(10**decade))
    for i, count in enumerate(counts):
        if count:
            y = min(box.y(math.log10(1 + count) / top), box.floor - 1.5)
            shapes.append(_rect("column", box.left + i * slot, y, max(1.0, slot - 1), box.floor - y))
    shapes.append(el("path", {"class": "axis", "d": f"M{box.left} {box.floor:g}H{box.width}"}))
    shapes += [
        label(box.left, box.floor + 14, sig(edges[0])),
        label(box.width, box.floor + 14, sig(edges[-1]), "end"),
        label((box.left + box.width) / 2, box.floor + 14, "activation", "middle"),
    ]
    return picture(box.width, box.height, words, *shapes, top=-6, **{"class": "plot chart histogram"})


def sample(number: int) -> Node:
    """Return a short piece of the line with this number, for tables and legends."""
    size = {"class": "sample", "viewBox": "0 0 28 8", "width": 28, "height": 8, "aria-hidden": "true"}
    return el("svg", size, el("path", {**_stroke(number), "d": "M0 4H28"}))


def looks() -> int:
    """Return how many lines look different before one look comes again."""
    return math.lcm(len(HUES), len(DASHES))


def _pairs(one: Line) -> zip:
    return zip(one.xs, one.ys, strict=True)


def _up(box: Box, up: Axis, value: float) -> float:
    at = up.at(value) if math.isfinite(value) else math.nan
    return box.y(at) if math.isfinite(at) else math.nan


def _grid(box: Box, up: Axis, ticks_as: Callable[[float], str]) -> list[Node]:
    return [shape for tick in up.ticks for shape in _rule(box, box.y(up.at(tick)), ticks_as(tick))]


def _rule(box: Box, y: float, text: str) -> list[Node]:
    rule = el("path", {"class": "rule", "d": f"M{box.left:g} {y:g}H{box.width - box.right:g}"})
    return [rule, label(box.left - 5, y + 3.5, text, "end")]


def _name(box: Box, left: float, text: str) -> Node:
    return label((left + box.width - box.right) / 2, box.height - 4, text, "middle")


def _line(one: Line, path: Sequence[tuple[float, float]], end: tuple[float, float], place: float) -> Node:
    x, y = end
    name = one.name if len(one.name) <= _LETTERS else f"{one.name[: _LETTERS - 1]}…"
    tone = {"tone": hue(one.number)}
    return el(
        "g",
        {"data-line": one.name},
        el("path", {**_stroke(one.number), "d": line_path(path)}),
        el("circle", {"class": "dot", **tone, "cx": x, "cy": y, "r": 2.6}),
        el("path", {"class": "leader", **tone, "d": f"M{x + 3:g} {y:g}L{x + 8:g} {round(place, 1):g}"}),
        el("text", {"class": "label", "x": x + 10, "y": round(place + 3.5, 1)}, el("title", {}, one.name), name),
    )


def _stroke(number: int) -> dict[str, Any]:
    dash = DASHES[number % len(DASHES)]
    return {"class": "line", "tone": hue(number), **({"stroke-dasharray": dash} if dash else {})}


def _rect(look: str, x: float, y: float, width: float, height: float, **attributes: Any) -> Node:
    sizes = {name: round(v, 1) for name, v in (("x", x), ("y", y), ("width", width), ("height", height))}
    return el("rect", {"class": look, **attributes, **sizes})
