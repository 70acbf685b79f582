"""The heat map of a grid: sites and classifiers across, poolings and binarisings down; beside it the baselines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from saekit.views._shared.nodes import Element, Node, el, label, line, picture
from saekit.views.probes.words import FIGURE_NAMES, choice_words, interval_words, site_label, standing_words, two

if TYPE_CHECKING:
    from saekit.probes import Estimate, Grid

WIDE, TALL = 96, 34  # of a cell
LEFT, TOP = 196, 44  # what the names of rows and columns take
LINE = 150  # what the names of baselines take at least
LONGEST = 44  # letters of a baseline, whose name may hold a hook point or the settings of a control

Figures = Sequence["Estimate"]


def scale_of(figures: Figures, n_cells: int) -> tuple[float, float]:
    """Return the values of no colour and of full colour, over the cells and what baselines lie within.

    At least as far apart as a usual interval is wide: noise is not to look like a result.
    """
    known = [one for one in figures if math.isfinite(one.value)]
    cells = [one for one in figures[:n_cells] if math.isfinite(one.value)]
    if not cells:
        return 0.0, 1.0
    widths = [one.high - one.low for one in cells if math.isfinite(one.high - one.low)]
    high = max(one.value for one in known)
    low = min(min(one.value for one in cells), high - (median(widths) if widths else 0.0))
    return (low, high) if high > low else (low - 0.5, high)


def shade(value: float, scale: tuple[float, float]) -> float:
    """Return how much colour a value has, 0 to 1; none for what is no number."""
    low, high = scale
    return min(1.0, max(0.0, (value - low) / (high - low))) if math.isfinite(value) else 0.0


def heat_maps(grid: "Grid", figure: str, figures: Figures, chosen: int | None = None) -> Node:
    """Return the heat map and the baselines in the same colours.

    Args:
        grid: The grid.
        figure: Name of the figure that is shown.
        figures: The figure of every cell, then of every baseline.
        chosen: Number of the cell or baseline that is marked.
    """
    scale = scale_of(figures, len(grid.cells))
    cells = _Cells(grid, FIGURE_NAMES[figure], figures, scale, chosen)
    maps = [_map_of_cells(grid, cells)]
    if grid.baselines:
        maps.append(_map_of_baselines(grid, cells))
    read = f"{FIGURE_NAMES[figure]} in validation on {len(grid.validation_rows):,} texts"
    over = f", mean over {len(grid.rounds)} repeats" if len(grid.rounds) > 1 else ""
    ramp = el("span", {"class": "ramp", "aria-hidden": "true"})
    return el(
        "div",
        {},
        el("div", {"class": "beside maps"}, *(el("div", {"class": "table-frame"}, one) for one in maps)),
        line(f"{read}{over}, with its 95 % interval. ★ best by macro F1, ≈ not to be told from it.", look="quiet"),
        el("p", {"class": "faint heat-key", "only": "live"}, two(scale[0]), ramp, two(scale[1])),
    )


@dataclass(frozen=True)
class _Cells:
    """What all cells are drawn with; see `heat_maps`."""

    grid: "Grid"
    figure: str
    figures: Figures
    scale: tuple[float, float]
    chosen: int | None

    def at(self, x: float, y: float, number: int) -> Node:
        """Return a cell or baseline, by its number, with its left upper corner here."""
        grid, found = self.grid, self.figures[number]
        best, as_good = number == grid.best, number in grid.as_good
        rank = ", best in validation" if best else ", not to be told from the best" if as_good else ""
        name = grid.lines[number].name
        size = {"x": x + 1, "y": y + 1, "width": WIDE - 2, "height": TALL - 2, "rx": 3}
        look = "filled chosen" if number == self.chosen else "filled"
        value = f"{two(found.value)} {'★' if best else '≈' if as_good else ''}".strip()
        middle = x + WIDE / 2
        return el(
            "g",
            {
                "class": "heat",
                "role": "gridcell",
                "tabindex": -1,
                "set": ["value", name],
                "key": str(number),
                "data-told": standing_words(grid.behind_best(number), best=best),
            },
            el("title", {}, f"{name}: {self.figure} {interval_words(found)}{rank}"),
            el("rect", {"class": look, "shade": round(shade(found.value, self.scale), 3), **size}),
            label(middle, y + 15, value, "middle"),
            label(middle, y + 28, f"{two(found.low)}–{two(found.high)}", "middle", **{"class": "small"}),
        )


def _map_of_cells(grid: "Grid", cells: _Cells) -> Node:
    axes = {axis: [str(level) for level in levels] for axis, levels in grid.axes.items()}
    sites, poolings, binarisings, classifiers = axes.values()
    columns = len(sites) * len(classifiers)
    drawn: list[Node] = []
    for i, site in enumerate(sites):
        drawn.append(
            _named(LEFT + (i + 0.5) * len(classifiers) * WIDE, 14, site_label(site), "middle", site, bold=True)
        )
        for j, name in enumerate(classifiers):
            drawn.append(_named(LEFT + (i * len(classifiers) + j + 0.5) * WIDE, 34, name, "middle"))
    rows = [(pooling, binarising) for pooling in poolings for binarising in binarisings]
    for i, (pooling, binarising) in enumerate(rows):
        y = TOP + (i + 0.5) * TALL + 4
        if i % len(binarisings) == 0:
            drawn.append(_named(0, y, pooling, "start", bold=True))
        drawn.append(_named(LEFT - 8, y, binarising, "end"))
    in_rows: list[list[Node]] = [[] for _ in rows]
    for number, cell in enumerate(grid.cells):
        site, pooling, binarising, classifier = (str(cell.setting[axis]) for axis in axes)
        column = sites.index(site) * len(classifiers) + classifiers.index(classifier)
        row = rows.index((pooling, binarising))
        in_rows[row].append(cells.at(LEFT + column * WIDE, TOP + row * TALL, number))
    words = f"Heat map of {len(grid.cells)} cells by {cells.figure}. {choice_words(grid)}"
    return _map(LEFT + columns * WIDE, words, "Cells of the grid", drawn, in_rows)


def _map_of_baselines(grid: "Grid", cells: _Cells) -> Node:
    names = [cell.name for cell in grid.baselines]
    wide = max(LINE, round(6.2 * min(LONGEST, max(map(len, names)))))
    drawn = [_named(0, 34, "baselines", "start", bold=True)]
    rows = []
    for i, name in enumerate(names):
        drawn.append(_named(0, TOP + (i + 0.5) * TALL + 4, name, "start", most=LONGEST))
        rows.append([cells.at(wide, TOP + i * TALL, len(grid.cells) + i)])
    words = f"{len(names)} baseline{'s' * (len(names) != 1)} by {cells.figure}"
    return _map(wide + WIDE, words, "Baselines", drawn, rows)


def _map(width: float, words: str, name: str, drawn: Sequence[Node], rows: Sequence[Sequence[Node]]) -> Element:
    shown = (el("g", {"role": "row"}, *row) for row in rows)
    table = el("g", {"role": "grid", "aria-label": name}, *shown)
    height = TOP + len(rows) * TALL + 2
    return picture(width, height, words, *drawn, table, **{"class": "plot heat-map", "role": "group"})


def _named(
    x: float, y: float, text: str, anchor: str, title: str | None = None, *, bold: bool = False, most: int = 24
) -> Node:
    """Return a name in the picture, cut where it is long, whole on hover."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    look = {"font-weight": "600"} if bold else {}
    return [*label(x, y, cut, anchor, **look), el("title", {}, title or text)]
