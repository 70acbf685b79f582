"""Numbers and tokens as readers see them, in the live view and in stills, and as they travel to the browser."""

import html
import math
from typing import Any

import numpy as np

MARKS = str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"})


def sig(value: float, digits: int = 3) -> str:
    """Round to significant digits, without an exponent for everyday sizes.

    >>> [sig(v) for v in (0, 0.012345, 1.5, 12.34, 1234.5)]
    ['0', '0.0123', '1.5', '12.3', '1,234']
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def rough(value: float) -> str:
    """Round to two digits, on which most processors agree, without an exponent.

    >>> [rough(v) for v in (0.2149, 46, 123.4, 1234.5)]
    ['0.21', '46', '120', '1,200']
    """
    return sig(float(f"{value:.2g}")) if math.isfinite(value) else "–"


def aligned(value: float, largest: float) -> str:
    """Write a column of values on one decimal point: as many decimals as three digits of the largest need."""
    decimals = 0 if largest >= 100 else 1 if largest >= 10 else 2 if largest >= 0.1 else 4
    return f"{value:,.{decimals}f}"


def signed(value: float) -> str:
    """Round to two decimals, with the sign in front: ``+0.42``, ``−0.42`` (a real minus)."""
    return f"{value:+.2f}".replace("-", "−")


def effect_words(effect: float) -> str:
    """Say what an effect on a logit, or on a difference of two, means.

    >>> [effect_words(v) for v in (0.42, -0.42, 0)]
    ['+0.42 logits: supports the answer', '−0.42 logits: works against the answer', '+0.00 logits: does nothing']
    """
    does = "supports the answer" if effect > 0 else "works against the answer" if effect < 0 else "does nothing"
    return f"{signed(effect)} logits: {does}"


def percent(share: float) -> str:
    """Return a share as a percentage with two significant digits.

    >>> [percent(s) for s in (0, 0.00321, 0.5, 1)]
    ['0 %', '0.32 %', '50 %', '100 %']
    """
    if share is None or not math.isfinite(share):
        return "–"
    value = 100 * share
    return f"{value:.0f} %" if value >= 99.5 or value == 0 else f"{sig(value, 2)} %"


def visible(token: str) -> str:
    """Make whitespace visible, and controls harmless: NUL and its like have no picture and break pages."""
    return "".join(c if c >= " " else "\ufffd" for c in token.translate(MARKS))


def escape(text: str) -> str:
    """Escape untrusted text for HTML content and quoted attributes."""
    return html.escape("".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in text))


def merge_pieces(tokens: list[str], values: list[float]) -> list[tuple[str, float, int]]:
    """Join continuation pieces (``""``) to the token before; return (text, strongest value, first position)."""
    merged: list[tuple[str, float, int]] = []
    for position, (token, value) in enumerate(zip(tokens, values, strict=True)):
        if token == "" and merged:
            text, peak, first = merged[-1]
            merged[-1] = (text, max(peak, value), first)
        else:
            merged.append((token or "\ufffd", value, position))
    return merged


def join_starts(tokens: list[str]) -> list[tuple[int, int]]:
    """Return where each whole token begins and ends: continuation pieces (``""``) belong to the token before.

    >>> join_starts(["a", "戦", "", "", "b"])
    [(0, 1), (1, 4), (4, 5)]
    """
    starts = [first for _, _, first in merge_pieces(tokens, [0.0] * len(tokens))]
    return list(zip(starts, [*starts[1:], len(tokens)], strict=True))


def pack(values: Any) -> bytes:
    """Return little-endian float32, the form in which arrays travel to the browser."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def number(value: Any) -> float | None:
    """Return a plain float; None for NaN and infinity, which JSON does not have."""
    value = float(value)
    return value if math.isfinite(value) else None
