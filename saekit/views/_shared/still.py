"""Draw a node as static HTML: what GitHub, nbviewer, exported pages and stored notebooks show.

No script, no stylesheet, no external file; colours are ``rgba`` over whatever ground there is, so it reads in light and
dark. The same node gives the same bytes. Pictures, ``<svg data-saekit="picture">``, and tables with the look ``drawn``
hold more digits than processors agree on; they are left out when stored notebooks are compared (`notebooks/nbval.cfg`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from saekit.views._shared.nodes import Node
from saekit.views._shared.palette import BLUE, FULL, TONES, sign
from saekit.views._shared.pixels import as_shapes, as_table
from saekit.views._shared.words import escape

# What an element becomes: the tag in the still and its style. Tags that are not named here stay as they are.
_SMALL_CAPS = "font-variant:small-caps;letter-spacing:.04em;opacity:.75;margin:.9em 0 .2em"
TAGS = {
    "h2": ("p", "margin:.2em 0;font-size:1.25em;font-weight:600"),
    "h3": ("div", _SMALL_CAPS),
    "h4": ("div", _SMALL_CAPS),
    "p": ("p", "margin:0"),
    "dl": ("div", ""),
    "ul": ("div", ""),
    "ol": ("div", ""),
    "li": ("div", ""),
    **dict.fromkeys(("section", "article", "header", "figure", "figcaption", "details", "summary"), ("div", "")),
    **dict.fromkeys(("button", "label", "dt", "dd"), ("span", "")),
    "table": ("table", "border-collapse:collapse;font-size:1em"),
    "caption": ("caption", "text-align:left;white-space:nowrap;opacity:.75"),
    "th": ("th", "padding:.1em .9em .1em 0;text-align:left;font-weight:400;vertical-align:top"),
    "td": ("td", "padding:.1em .9em .1em 0;text-align:left;vertical-align:top"),
    "mark": ("mark", f"color:inherit;background:rgba({','.join(map(str, BLUE))},.3)"),
}
# What a look is in the still; {tone} and {shade} are those of the node, {length} and the like its shares of a width.
LOOKS = {
    "quiet": "opacity:.75",
    "title": "margin:.2em 0;font-size:1.25em",
    "strong": "font-weight:600",
    "code": "font-family:ui-monospace,monospace;font-size:.92em",
    "nowrap": "white-space:nowrap",
    "right": "text-align:right",
    "apart": "margin-top:.6em",
    "beside": "display:flex;flex-wrap:wrap;gap:.2em 2.4em;align-items:flex-start",
    "hanging": "padding-left:5.5em;text-indent:-5.5em",
    "value": "display:inline-block;min-width:5.5em;text-indent:0;font-weight:600",
    "shaded": "color:inherit;background:rgba({tone},{shade})",
    "meter": "display:inline-block;height:.7em;width:calc({length}*5em);background:rgba({tone},.75)",
    "under": "border-bottom:2px solid rgb({tone})",
    "as-written": "white-space:pre-wrap;overflow-wrap:anywhere",
    "text-column": "flex:1 1 17em;min-width:0",
    "table-frame": "overflow-x:auto",
    "span-bar": "display:inline-block;height:.8em;margin-left:calc({start}*15em);width:calc({length}*15em);"
    "min-width:1px;background:rgba({tone},.75)",
    "bar-cell": "min-width:15em",
    "thumbnail": "display:inline-block;width:72px;margin:0 8px 6px 0;vertical-align:top",
    "below": "display:block",
    "amount": "white-space:nowrap",
    # Shapes of pictures.
    "plot": "max-width:100%;display:block;margin:.4em 0;font-size:10.5px;overflow:visible;fill:currentColor",
    "rule": "stroke:currentColor;stroke-opacity:.2",
    "heat-map": "font-size:11.5px",
    "chosen": "stroke:currentColor;stroke-width:2",
    "small": "font-size:9.5px;opacity:.8",
    "axis": "stroke:currentColor;stroke-opacity:.5",
    "chart-mark": "stroke:currentColor;stroke-dasharray:2 3",
    "column": "fill:rgba({tone},.75)",
    "column-apart": "fill:currentColor;fill-opacity:.5",
    "line": "fill:none;stroke:rgb({tone});stroke-width:1.75",
    "leader": "fill:none;stroke:rgb({tone});stroke-width:.75",
    "dot": "fill:rgb({tone})",
    "filled": "fill:rgba({tone},{shade})",
    "faint": "opacity:.75",
    "band": "fill-opacity:.06",
    "edge": "fill:none;stroke:rgb({tone})",
    "mark": "fill:rgba({tone},.4);stroke:rgb({tone});stroke-width:1.5",
    "missed": "fill:rgba({tone},.12);stroke:rgb({tone});stroke-width:1.5;stroke-dasharray:3 2",
}
_BETWEEN = {"title": " · ", "facts": " · ", "features": " · "}  # looks whose children stand in one line in a still
_IN_LINE = {"h2": "font-weight:600", "b": "font-weight:600"}
_EXPANDED = {"pixels": as_shapes, "patches": as_table}
_DROPPED = {"input", "select", "textarea", "option"}
_KEPT = {"title", "dir", "scope", "colspan", "rowspan"}
_SHARES = ("length", "start", "zero")
# Attributes of our own, and what only somebody who can press and choose has a use for.
_NEVER = re.compile(r"(class|tone|shade|set|key|only|rough|tabindex|style|role|length|start|zero|aria-.*|data-.*)$")
_VOID = {"wbr", "br"}


def still(panels: Iterable[Node], *, width: str = "68em") -> str:
    """Return panels one below the other as one ``<div>``.

    Args:
        panels: The panels in their order.
        width: Greatest width of lines.
    """
    body = "".join(map(html_of, panels))
    return f'<div style="max-width:{width};line-height:1.5;font-variant-numeric:tabular-nums">{body}</div>'


def svg_document(picture: Node) -> str:
    """Return a picture as an SVG document that stands alone."""
    alone = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
    return html_of(picture).replace('<svg data-saekit="picture"', alone, 1)


def html_of(node: Node, *, drawing: bool = False, in_line: bool = False) -> str:
    """Return one node as HTML.

    Args:
        node: The node.
        drawing: True inside a picture, whose shapes keep all their attributes.
        in_line: True for something that stands in one line with others.
    """
    if isinstance(node, str):
        return escape(node)
    tag, attributes, *children = node
    children = [attributes["rough"]] if "rough" in attributes else children
    if attributes.get("only") == "live" or tag in _DROPPED:
        return ""
    if tag == "strip":
        return _strip(attributes)
    if tag in _EXPANDED:
        return html_of(_EXPANDED[tag](attributes))
    looks = attributes.get("class", "").split()
    if "flow" in looks:
        return _flow(children)
    drawing = drawing or tag == "svg"
    between = next((_BETWEEN[look] for look in looks if look in _BETWEEN), None)
    shown = (html_of(child, drawing=drawing, in_line=between is not None) for child in children)
    inside = (between or "").join(part for part in shown if part)
    plain, style = ("span", _IN_LINE.get(tag, "")) if in_line else TAGS.get(tag, (tag, ""))
    written = _written(tag, attributes, _styled(style, looks, attributes, 2 if drawing else 1), drawing)
    if plain == "span" and not written:
        return inside
    return f"<{plain}{written}>" if plain in _VOID else f"<{plain}{written}>{inside}</{plain}>"


def _styled(style: str, looks: Iterable[str], attributes: Mapping[str, Any], decimals: int = 1) -> str:
    values = {
        "tone": ",".join(map(str, TONES[attributes.get("tone", "plus")])),
        # One decimal: rounding noise of another processor must not change the bytes. Pictures are not compared.
        "shade": round(FULL * abs(attributes.get("shade", 0)), decimals),
        **{name: attributes.get(name, 0) for name in _SHARES},
    }
    return ";".join(part for part in (style, *(LOOKS.get(look, "").format(**values) for look in looks)) if part)


def _written(tag: str, attributes: Mapping[str, Any], style: str, drawing: bool) -> str:
    kept = attributes if drawing else {name: value for name, value in attributes.items() if name in _KEPT}
    written = {name: value for name, value in kept.items() if value is not False and not _NEVER.match(name)}
    if "drawn" in attributes.get("class", "").split():
        written = {"data-saekit": "picture", **written}
    if tag == "svg":
        words = attributes.get("aria-label")
        named = {"aria-hidden": "true"} if words is None else {"role": "img", "aria-label": words}
        written = {"data-saekit": "picture", **named, **written}
    if style:
        written["style"] = style
    return "".join(f' {name}="{escape(str(value))}"' for name, value in written.items())


def _flow(children: list[Any]) -> str:
    """Write a small table as a line: its caption above, each row a word or two that stay together."""
    parts = []
    for child in children:
        if child[0] == "caption":
            parts.append(html_of(["h4", {}, *child[2:]]))
        elif child[0] == "tbody":
            rows = (html_of(["span", {**row[1], "class": "nowrap"}, *_spaced(row[2:])]) for row in child[2:])
            parts += ["<div>", " ".join(row for row in rows if row), "</div>"]
    return "".join(parts)


def _spaced(cells: list[Any]) -> Iterator[Node]:
    for number, cell in enumerate(cells):
        yield from ["\u00a0"] if number else []
        yield ["span", {}, *cell[2:]]


def _strip(about: Mapping[str, Any]) -> str:
    """Mark active tokens only: most are silent, and plain text is small."""
    first, last = about.get("near", (0, len(about["tokens"])))
    marks = {number: mark for number, *mark in about["marks"]}
    written = about.get("written", False)
    parts = []
    for number in range(first, last):
        text = about["tokens"][number]
        shown = f"<bdi>{escape(text)}</bdi>" if _right_to_left(text) and not written else escape(text)
        _, _, value, *told = marks.get(number, ("", "", 0))
        if style := round(FULL * abs(value), 1) and _styled("", ("shaded",), {"shade": value, "tone": sign(value)}):
            title = f' title="{escape(told[0])}"' if told else ""
            shown = f'<mark{title} style="{style}">{shown}</mark>'
        parts.append(shown)
        if not written:
            parts.append("<wbr>")  # whitespace became marks: without this the line could not break
    code = "white-space:pre-wrap;overflow-wrap:anywhere" if written else LOOKS["code"]
    return f'<span dir="{"auto" if written else "ltr"}" style="{code}">{"".join(parts)}</span>'


def _right_to_left(text: str) -> bool:
    return any("\u0590" <= c <= "\u08ff" or "\ufb1d" <= c <= "\ufefc" for c in text)
