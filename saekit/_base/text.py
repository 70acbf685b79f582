"""Text that must not break what it is put into: a page, a terminal line, a table.

    >>> escape("<b>")                 # for HTML content and quoted attributes
    '&lt;b&gt;'
    >>> visible("a b\\n")             # a token: whitespace gets a picture, controls become harmless
    'a·b↵'
    >>> one_line("a\\x1b[31m b\\n c")   # a cell of a printed table: no escape sequence, no second line
    'a�[31m b↵ c'
    >>> byte_size(1_234_567)
    '1.23 MB'

Number formats of the views (significant digits, signs, shares) are in `saekit.views`.
"""

import html
import unicodedata

# Controls (C0 and C1) have no picture and break pages; halves of surrogate pairs are taken by no encoder.
_HARMFUL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)], "\ufffd")
# Characters that turn the rest of a line around: a cell with one would reorder the cells beside it.
_TURNS = dict.fromkeys(map(ord, "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"), "\ufffd")
_PAGE = _HARMFUL | {ord(c): c for c in "\n\t"}
_TOKEN = _HARMFUL | str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽"})
_LINE = _HARMFUL | _TURNS | str.maketrans({"\n": "↵", "\r": "␍", "\t": " ", "\u2028": "↵", "\u2029": "↵"})


def escape(text: str) -> str:
    """Return untrusted text for HTML content and quoted attributes; controls and half characters become U+FFFD."""
    return html.escape(text.translate(_PAGE))


def visible(token: str) -> str:
    """Return a token with visible whitespace and without controls, which have no picture and break pages."""
    return token.translate(_TOKEN)


def one_line(text: str) -> str:
    """Return text for one line of a terminal: no second line, no escape sequence, no change of direction."""
    return text.translate(_LINE)


def width(text: str) -> int:
    """Return how many columns of a terminal a line takes: wide characters two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 or c == "\u200d" for c in text)


def byte_size(n: float) -> str:
    """Return a number of bytes in the unit that suits it, with three digits."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = next(power for power in range(len(units)) if n < 999.5 * 1000**power or power == len(units) - 1)
    return f"{n / 1000**power:.3g} {units[power]}"
