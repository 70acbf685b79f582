"""Read what a view shows out of its panels, independently of both renderers."""

import numpy as np


def elements(node, tag=None, look=None):
    """Return the elements of a panel, or of a dict of panels, with this tag and this look, in their order."""
    if isinstance(node, str):
        return []
    if isinstance(node, dict):
        return [one for panel in node.values() for one in elements(panel, tag, look)]
    mine = tag in (None, node[0]) and look in (None, *node[1].get("class", "").split())
    return ([node] if mine else []) + [one for child in node[2:] for one in elements(child, tag, look)]


def text(node):
    """Return the text of a panel."""
    if isinstance(node, str):
        return node
    if node[0] == "strip":
        return "".join(node[1]["tokens"])
    return "".join(map(text, node[2:]))


def strip_values(strip, length):
    """Return the words of a strip's tokens as numbers, for each token of it."""
    values = np.zeros(length)
    for number, _, exact, *_ in strip[1]["marks"]:
        values[number] = float(exact.replace(",", ""))
    return values
