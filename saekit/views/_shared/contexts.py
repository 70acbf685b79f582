"""The strongest contexts of a feature, as several views show them beside what a feature does there."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saekit.errors import FeatureIndexError
from saekit.views._shared.index_side import check_index_pair
from saekit.views._shared.nodes import Node, el, line
from saekit.views._shared.words import merge_pieces, number, sig, visible

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex
    from saekit.saes import Directions

CONTEXTS = 4  # a feature
BEFORE, AFTER = 9, 6  # tokens around the peak of a context


def indexes_by_hook(
    model: "SAETransformerBridge",
    layers: "Sequence[tuple[str, SAE[Any] | Directions]]",
    index: "FeatureIndex | Sequence[FeatureIndex] | None",
) -> "dict[int, FeatureIndex]":
    """Return the index of each layer, a hook point with what is shown there, that has one.

    Raises:
        FeatureIndexError: An index of a hook point that is not shown, or two of one.
        SAEError: An index of another SAE than the one shown there.
    """
    given = [] if index is None else list(index) if isinstance(index, Sequence) else [index]
    hooks = [hook for hook, _ in layers]
    found: dict[int, FeatureIndex] = {}
    for one in given:
        if one.hook_name not in hooks:
            raise FeatureIndexError(
                f"got an index of {one.hook_name}, expected one of the hook points shown: {', '.join(hooks)}"
            )
        layer = hooks.index(one.hook_name)
        if layer in found:
            raise FeatureIndexError(f"got two indexes of {one.hook_name}: pass one a hook point")
        dictionary: Any = layers[layer][1]
        if not hasattr(dictionary, "cfg"):
            raise FeatureIndexError(
                f"got an index of {one.hook_name}, where the circuit has directions and not an SAE: leave it out"
            )
        check_index_pair(one, model, dictionary)
        found[layer] = one
    return found


def context_rows(index: "FeatureIndex", feature: int) -> dict[str, Any]:
    """Return the strongest contexts of a feature as text: ``[value, before, peak, after]``, strongest first."""
    rows = []
    for example in index.top(feature, CONTEXTS):
        cells = merge_pieces([str(token) for token in example.tokens], [float(v) for v in example.activations])
        at = max(i for i, (_, _, first) in enumerate(cells) if first <= example.peak)
        text = [cell[0] for cell in cells]
        before, after = text[max(0, at - BEFORE) : at], text[at + 1 : at + 1 + AFTER]
        rows.append([number(example.value), "".join(before), text[at], "".join(after)])
    return {"dead": bool(index.dead[feature]), "rows": rows, "max": number(index.max[feature])}


def context(row: Sequence[Any]) -> Node:
    """Return one context, a row of `context_rows`: the token on which a feature fires, between its neighbours."""
    _, before, peak, after = row[:4]
    return el("bdi", {"class": "code context"}, spaced(before), el("mark", {}, visible(peak)), spaced(after))


def context_list(found: Mapping[str, Any] | None) -> Node:
    """Return all contexts of a feature, what `context_rows` returns; None where there is no index of them."""
    if not found or not found["rows"]:
        return line(context_words(found), look="faint")
    return el("div", {}, el("h4", {}, context_words(found)), context_items(found["rows"]))


def context_items(rows: Sequence[Sequence[Any]]) -> Node:
    """Return rows of contexts as a list, with their values; a fifth entry of a row is the class of its text."""
    shown = []
    for row in rows:
        label = [el("span", {"class": "faint"}, " · ", el("bdi", {}, row[4]))] if row[4:] and row[4] else []
        value = el("span", {"class": "context-value"}, sig(row[0]))
        shown.append(el("li", {"dir": "auto"}, value, " ", context(row), *label))
    return el("ol", {"class": "contexts"}, *shown)


def context_words(found: Mapping[str, Any] | None) -> str:
    """Say what the values of contexts are relative to, or why there are none."""
    if not found:
        return "No contexts: the view was given no index of this layer."
    if found["dead"] or not found["rows"]:
        return "Never active on the corpus of the index: it has no contexts."
    return f"Top contexts, of at most {sig(found['max'])}"


def spaced(text: str) -> str:
    """Return text with its spaces as spaces, where lines can break, and other whitespace as marks."""
    return " ".join(visible(word) for word in text.split(" "))


def short_hook(hook: str) -> str:
    """Name a hook point in few letters: the layer, counted as transformer-lens does.

    >>> short_hook("blocks.3.hook_resid_post"), short_hook("blocks.3.hook_resid_pre"), short_hook("hook_embed")
    ('layer 3', 'layer 3 (in)', 'hook_embed')
    """
    parts = hook.split(".")
    if len(parts) == 3 and parts[0] == "blocks":
        return f"layer {parts[1]}" + (" (in)" if parts[2].endswith("pre") else "")
    return hook
