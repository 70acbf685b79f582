"""What a view shows, as plain data that the browser (`widgets/_shared/draw.js`) and the still (`still.py`) draw alike.

A node is a text or a list ``[tag, attributes, *children]``, the form known as JsonML; a panel is a node. Words, scales
and geometry are in it already: whoever draws it computes nothing. Tags are those of HTML and SVG, and ``strip``
(`saekit.views._shared.strips`). Attributes are those of the tags, and these, which both renderers know:

=========  ===========================================================================================================
``class``  looks, separated by blanks: ``.saekit-NAME`` in the stylesheet, an entry of `still.LOOKS` in the still
``tone``   the colour that the look takes: a name of `palette.TONES`
``shade``  how much of it, 0 to 1; likewise ``length``, ``start`` and ``zero``, shares of a width that looks use
``set``    ``[trait, value]``: pressing the node sets the trait; a still cannot be pressed
``key``    the node's name among its siblings: a focus inside a panel that is drawn anew returns to it
``rough``  the node's number with the digits on which processors agree: a still, which is compared, writes it instead
``only``   ``"live"``: what is no use in a still, such as buttons and the rows behind "more"
=========  ===========================================================================================================

A still leaves out roles, tab stops and ``data-`` attributes, and keeps titles.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saekit.views._shared.words import visible

Element = list[Any]
Node = str | Element


def el(tag: str, attributes: Mapping[str, Any] | None = None, *children: Node | None) -> Element:
    """Return an element; attributes and children that are None are left out.

    >>> el("p", {"class": "quiet", "title": None}, "one ", el("b", {}, "two"), None)
    ['p', {'class': 'quiet'}, 'one ', ['b', {}, 'two']]
    """
    kept = {name: value for name, value in (attributes or {}).items() if value is not None}
    return [tag, kept, *(child for child in children if child is not None)]


def line(*children: Node | None, look: str | None = None) -> Element:
    """Return a line of text."""
    return el("p", {"class": look}, *children)


def facts(*rows: Sequence[str]) -> Element:
    """Return facts side by side, each a label (may be ``""``), a value, and a title where more is to be said.

    >>> facts(("max", "11"))
    ['dl', {'class': 'facts'}, ['div', {}, ['dt', {}, 'max'], ' ', ['dd', {}, '11']]]
    """
    shown = []
    for label, value, *title in rows:
        pair = [el("dt", {}, label), " "] if label else []
        shown.append(el("div", {"title": title[0] if title else None}, *pair, el("dd", {}, value)))
    return el("dl", {"class": "facts"}, *shown)


def token(text: str, **attributes: Any) -> Element:
    """Return a token as readers see it, its whitespace as marks."""
    return el("bdi", {"class": "code", **attributes}, visible(text))


def meter(length: float, tone: str) -> Element:
    """Return a bar beside a number, ``length`` from 0 to 1: it repeats what the number says."""
    return el("span", {"class": "meter", "length": round(length, 3), "tone": tone, "aria-hidden": "true"})


def table(
    titles: Sequence[Node],
    rows: Iterable[Sequence[Node]],
    *,
    caption: Node | None = None,
    head: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> Element:
    """Return a table whose first column names the rows.

    Args:
        titles: Titles of the columns; empty for none.
        rows: Cells of each row. A cell that is a ``td`` or ``th`` itself stays as it is.
        caption: Title of the table.
        head: Attributes of the head.
        **attributes: Attributes of the table.
    """
    named = [el("thead", head, el("tr", {}, *(_cell(t, "th", {"scope": "col"}) for t in titles)))] if titles else []
    body = el("tbody", {}, *(row_of(cells) for cells in rows))
    return el("table", attributes, None if caption is None else el("caption", {}, caption), *named, body)


def row_of(cells: Sequence[Node], **attributes: Any) -> Element:
    """Return one row of a table; see `table`. A node that is a ``tr`` itself stays as it is."""
    if cells and cells[0] == "tr" and isinstance(cells, list):
        return cells
    first, *others = cells
    return el("tr", attributes, _cell(first, "th", {"scope": "row"}), *(_cell(cell, "td", {}) for cell in others))


def figure(title: Node, picture: Node, words: str | None = None, **attributes: Any) -> Element:
    """Return a picture under its title, with a sentence below it that says what it shows.

    The sentence is the picture's own label for those who do not see it, so the line itself is not read aloud again.
    """
    said = None if words is None else el("p", {"class": "quiet", "aria-hidden": "true"}, words)
    return el("figure", attributes, el("figcaption", {}, el("h3", {}, title)), picture, said)


def picture(
    width: float, height: float, words: str, *shapes: Node | None, top: float = 0, **attributes: Any
) -> Element:
    """Return an SVG picture; ``words`` say it to those who do not see it, ``top`` is the highest y that is drawn."""
    look = {"class": "plot", "viewBox": f"0 {top:g} {width:g} {height - top:g}", "width": f"{width:g}"}
    return el("svg", {**look, "role": "img", "aria-label": words, **attributes}, *shapes)


def label(x: float, y: float, text: str, anchor: str | None = None, **attributes: Any) -> Element:
    """Return a text in a picture; ``anchor`` is None (it begins at x), ``"middle"`` or ``"end"``."""
    return el("text", {"x": round(x, 1), "y": round(y, 1), "text-anchor": anchor, **attributes}, text)


def walked(node: Node) -> Iterable[list[Any]]:
    """Return every element of a node, itself first, in the order in which they are written."""
    if not isinstance(node, str):
        yield node
        for child in node[2:]:
            yield from walked(child)


def pressed(node: Node, trait: str) -> list[Any]:
    """Return the values to which pressing something in a node can set a trait, in their order."""
    found = (element[1].get("set") for element in walked(node))
    return [value[1] for value in found if value and value[0] == trait]


def _cell(cell: Node, tag: str, attributes: Mapping[str, Any]) -> Node:
    if isinstance(cell, list) and cell and cell[0] in ("td", "th"):
        return cell
    return el(tag, attributes, *([cell] if cell != "" else []))
