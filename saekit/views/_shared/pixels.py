"""Small grey images under shaded patches, and tables of numbers laid out as the patches are, as nodes.

``["pixels", about]`` is an image and ``["patches", about]`` a table. Both have ``grid``, rows and columns of patches,
and ``marks``, ``[number of the patch, words, exact words, shade]`` of those that are not 0. An image has a ``label``,
its ``size``, its ``pixels`` as one byte each, and ``ink`` where they are ink on paper; a table has a ``caption``. The
browser draws images to the pixel (`widgets/_shared/pixels.js`), the still coarser, as shapes of a few hundred bytes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from saekit.views._shared.nodes import Node, el
from saekit.views._shared.words import aligned, sig

_LEVELS = 8  # shades of grey in a still, each one path
_MOST_PIXELS = 32  # on a side in a still; larger images are drawn coarser


def pixels(
    label: str,
    image: Float[np.ndarray, "row column"],
    values: Float[np.ndarray, "grid_row grid_column"],
    scale: float,
    *,
    ink: bool = False,
) -> Node:
    """Return an image, its patches shaded by value / scale.

    Args:
        label: The image for those who do not see it.
        image: Grey values from 0 to 1.
        values: One value for each patch, 0 or more.
        scale: Value of the full shade.
        ink: True where the grey values are ink on paper: 1 is black.
    """
    grey = np.rint(255 * image).astype(np.uint8)
    about = {"label": label, "size": list(grey.shape), "pixels": grey.tobytes(), **_patches(values, scale)}
    return ["pixels", about | ({"ink": True} if ink else {})]


def patches(
    caption: str, values: Float[np.ndarray, "grid_row grid_column"], write: Callable[[float], str], scale: float
) -> Node:
    """Return a table of one number for each patch.

    Args:
        caption: Title of the table.
        values: The numbers, 0 or more.
        write: Writes a number that is not 0.
        scale: Value of the full shade.
    """
    return ["patches", {"caption": caption, **_patches(values, scale, write)}]


def place_of(number: int, columns: int) -> str:
    """Say where the patch with this number stands, counting from 1."""
    row, column = divmod(number, columns)
    return f"row {row + 1}, column {column + 1}"


def as_shapes(about: Mapping[str, Any]) -> Node:
    """Return an image as a picture of a few shapes: one path for each shade of grey, runs of equal pixels joined."""
    grey = np.frombuffer(about["pixels"], np.uint8).reshape(about["size"])
    step = -(-max(grey.shape) // _MOST_PIXELS)
    coarse = grey[: grey.shape[0] // step * step, : grey.shape[1] // step * step].astype(float)
    coarse = coarse.reshape(coarse.shape[0] // step, step, coarse.shape[1] // step, step).mean((1, 3))
    level = np.rint(coarse / 255 * (_LEVELS - 1)).astype(int)
    tall, wide = level.shape

    def fill(at: int) -> str:
        share = at / (_LEVELS - 1)
        value = round(255 * (1 - share if about.get("ink") else share))
        return f"rgb({value},{value},{value})"

    shapes = [el("rect", {"width": wide, "height": tall, "fill": fill(0)})]
    for at in range(1, _LEVELS):
        if runs := "".join(_runs(level == at)):
            shapes.append(el("path", {"fill": fill(at), "d": runs}))
    rows, columns = about["grid"]
    down, across = tall / rows, wide / columns
    for number, _, _, shade in about["marks"]:
        row, column = divmod(number, columns)
        place = {"x": f"{column * across:g}", "y": f"{row * down:g}"}
        size = {"width": f"{across:g}", "height": f"{down:g}"}
        shapes.append(el("rect", {"class": "filled", "shade": shade, **place, **size}))
    look = {"viewBox": f"0 0 {wide} {tall}", "width": 72, "shape-rendering": "crispEdges"}
    return el("svg", {"role": "img", "aria-label": about["label"], **look}, *shapes)


def as_table(about: Mapping[str, Any]) -> Node:
    """Return a table of patches as elements."""
    rows, columns = about["grid"]
    marks = {number: (words, shade) for number, words, _, shade in about["marks"]}

    def cell(number: int) -> Node:
        words, shade = marks.get(number, ("0", 0))
        return el("td", {"class": "shaded", "shade": shade}, words)

    lines = (el("tr", {}, *(cell(row * columns + column) for column in range(columns))) for row in range(rows))
    return el("table", {"class": "patch-table"}, el("caption", {}, about["caption"]), el("tbody", {}, *lines))


def _patches(values: np.ndarray, scale: float, write: Callable[[float], str] | None = None) -> dict[str, Any]:
    marks = [
        [i, write(value) if write else aligned(value, scale), sig(value, 4), round(min(1.0, value / scale), 3)]
        for i, value in enumerate(values.ravel().tolist())
        if value > 0
    ]
    return {"grid": list(values.shape), "marks": marks}


def _runs(where: np.ndarray) -> list[str]:
    """Return a piece of a path for every horizontal run of pixels."""
    pieces = []
    for y, row in enumerate(where):
        change = np.flatnonzero(np.diff(row.astype(int), prepend=0, append=0))
        pieces += [f"M{start} {y}h{stop - start}v1h{start - stop}z" for start, stop in change.reshape(-1, 2)]
    return pieces
