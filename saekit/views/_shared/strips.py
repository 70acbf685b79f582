"""A strip of tokens as a node: the tokens, and for those that have something to show its words and its shade.

Most tokens of a text are silent, and a view holds thousands of them, so a strip is one node with short lists:

===========  =========================================================================================================
``label``    what the strip is, for screen readers
``tokens``   the tokens as readers see them; the bytes of one character are one token
``raw``      ``[number, token as it is]`` of tokens that are more than the shown one with spaces for its dots
``at``       positions in the text at which the tokens begin, one more than tokens; left out where each is one position
``unit``     what stands before the words of a token when it is spoken: ``"activation "``
``rest``     words of every token that ``marks`` leaves out
``marks``    ``[number of the token, words, exact words, shade from -1 to 1]``; the sign chooses the colour. A fifth
             entry is what a still says of the token: words so coarse that processors agree on them
``out``      numbers of tokens left out of the statistics: they are drawn faint
``peak``     number of the token in the middle
``near``     ``[first, last + 1]``, the tokens shown until somebody asks for all of them
``written``  true where whitespace is to stay whitespace, as in a text that was generated
===========  =========================================================================================================
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from saekit.views._shared.nodes import Element
from saekit.views._shared.words import merge_pieces, sig, visible


def shaded_strip(
    label: str,
    tokens: Sequence[str],
    values: Iterable[float],
    scale: float,
    *,
    out: Iterable[int] = (),
    peak: int | None = None,
    side: int | None = None,
) -> Element:
    """Return a strip of activations, shaded by value / scale.

    Args:
        label: What the strip is, for screen readers.
        tokens: Tokens of a text; ``""`` continues the character that the one before began.
        values: Activation of each, 0 or more.
        scale: Activation of the full shade.
        out: Positions left out of the statistics, which are not shaded.
        peak: Position in the middle of what is shown.
        side: Number of tokens shown on each side of it at first; by default all.
    """
    cells = merge_pieces([str(token) for token in tokens], [float(value) for value in values])
    starts = [first for _, _, first in cells]
    left_out = set(out)
    faint = [i for i, start in enumerate(starts) if start in left_out]
    marks = [
        [i, sig(value), sig(value, 4), 0.0 if i in faint or not scale else round(min(1.0, value / scale), 3)]
        for i, (_, value, _) in enumerate(cells)
        if value > 0
    ]
    about: dict[str, Any] = {"unit": "activation ", "rest": "0", "out": faint or None}
    if peak is not None:
        at = max(i for i, start in enumerate(starts) if start <= peak)
        about |= {"peak": at, "near": None if side is None else [max(0, at - side), min(len(cells), at + side + 1)]}
    return strip(label, [text for text, *_ in cells], [*starts, len(tokens)], marks, **about)


def near_only(node: Element) -> Element:
    """Return a strip without the tokens that are not shown at first, for places where nobody can ask for them."""
    about = dict(node[1])
    first, last = about.pop("near")
    about["tokens"] = about["tokens"][first:last]
    for name in ("marks", "raw"):
        about[name] = [[number - first, *more] for number, *more in about.get(name, ()) if first <= number < last]
    about["peak"] -= first
    if "at" in about:
        about["at"] = about["at"][first : last + 1]
    return ["strip", about]


def strip(
    label: str,
    tokens: Sequence[str],
    starts: Sequence[int],
    marks: Sequence[Sequence[Any]],
    *,
    written: bool = False,
    **about: Any,
) -> Element:
    """Return a strip of whole tokens; see the table above.

    Args:
        label: What the strip is, for screen readers.
        tokens: The tokens as they are.
        starts: Positions at which they begin, and the end of the text.
        marks: What there is to show of some of them.
        written: True to keep whitespace as it is.
        **about: Further entries of the table; None leaves one out.
    """
    shown = list(tokens) if written else [visible(token) for token in tokens]
    made = {"label": label, "tokens": shown, "marks": [list(mark) for mark in marks], **about}
    plain = shown if written else [view.replace("·", " ") for view in shown]
    if raw := [[i, token] for i, (token, view) in enumerate(zip(tokens, plain, strict=True)) if token != view]:
        made["raw"] = raw
    if any(after - start != 1 for start, after in pairwise(starts)) or (starts and starts[0]):
        made["at"] = list(starts)
    if written:
        made["written"] = True
    return ["strip", {name: value for name, value in made.items() if value is not None}]
