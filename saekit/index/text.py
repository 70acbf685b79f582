"""The text of an indexed corpus as it is searched: characters whole, case folded, documents apart.

Tokens of a byte-level vocabulary are pieces of characters, so their bytes are joined first. Folding changes how long a
text is, so every token keeps where the text of its characters begins and ends.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Integer

_BREAK = b"\xff"  # in no text: it stands between documents, so nothing is found across them
_BREAK_DECODED = 0xDCFF
_CHUNK = 1 << 14  # tokens at a time: a character takes some 30 bytes on the way


@dataclass(frozen=True)
class SearchText:
    """The folded text of a corpus in UTF-8, and where its tokens stand in it.

    Attributes:
        data: The text.
        begun: Number of bytes of all characters that begin in a token or before it ``[token]``.
        done: Number of bytes of all characters that end in a token or before it ``[token]``.
    """

    data: bytes
    begun: Integer[np.ndarray, " token"]
    done: Integer[np.ndarray, " token"]

    def find(self, query: str) -> tuple[Integer[np.ndarray, " match"], Integer[np.ndarray, " match"]]:
        """Return the first and the last token of every occurrence of a text, in order; they may overlap."""
        wanted, places = folded(query).encode(), []
        place = self.data.find(wanted)
        while place >= 0:
            places.append(place)
            place = self.data.find(wanted, place + 1)
        byte = np.array(places, np.int64)
        first = np.searchsorted(self.begun, byte, side="right")
        return first, np.searchsorted(self.done, byte + len(wanted) - 1, side="right")

    def of_token(self, token: int) -> str:
        """Return the folded characters of which a token, by its place in the corpus, holds at least a piece."""
        start = self.done[token - 1] if token else 0
        return self.data[start : self.begun[token]].lstrip(_BREAK).decode("utf-8", "replace")


def folded(text: str) -> str:
    """Return a text as it is compared: whatever the case, and whether accents are composed (Unicode, D145).

    The dot that a folded İ keeps is dropped, so that it is found as i.

    >>> folded("İstanbul"), folded("STRASSE") == folded("Straße"), folded("ΌΣΟΣ") == folded("όσος")
    ('istanbul', True, True)
    """
    decomposed = unicodedata.normalize("NFD", text).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFC", decomposed)


def search_text(
    ids: Integer[np.ndarray, "sequence pos"],
    text: Bool[np.ndarray, "sequence pos"],
    first: Bool[np.ndarray, "sequence pos"],
    pieces: Sequence[bytes],
) -> SearchText:
    """Return the text of a corpus for searching.

    Args:
        ids: Token ids.
        text: Whether each token is text: no BOS, separator or padding.
        first: Whether each token is the first of a document or of a row.
        pieces: Bytes of every token id.
    """
    codes = np.asarray(ids, np.int64) + len(pieces) * first
    codes[~text] = 2 * len(pieces)
    rows = max(1, _CHUNK // ids.shape[1])
    parts = [_part(codes[start : start + rows].ravel(), pieces) for start in range(0, len(codes), rows)]
    begun, done = (np.cumsum(np.concatenate(lengths)) for lengths in ([p[1] for p in parts], [p[2] for p in parts]))
    return SearchText(b"".join(data for data, _, _ in parts), begun, done)


def _part(
    codes: Integer[np.ndarray, " token"], pieces: Sequence[bytes]
) -> tuple[bytes, Integer[np.ndarray, " token"], Integer[np.ndarray, " token"]]:
    """Return the folded text of some rows, and how many of its bytes begin and end in each token."""
    used, which = np.unique(codes, return_inverse=True)
    table = [_piece(code, pieces) for code in used.tolist()]
    length = np.array([len(piece) for piece in table])[which]
    data = b"".join(map(table.__getitem__, which.tolist()))
    if all(piece.removeprefix(_BREAK).isascii() for piece in table):
        return data.lower(), length, length
    text = data.decode("utf-8", "surrogateescape")  # a byte that is no character becomes one code point, and stays
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    size = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
    size[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
    end = np.cumsum(size)
    token_of_byte = np.repeat(np.arange(len(codes)), length)
    start, folded_length, folded_data = _clusters(text, points)
    stop = np.append(start[1:], len(points))
    begun = np.bincount(token_of_byte[(end - size)[start]], folded_length, len(codes)).astype(np.int64)
    done = np.bincount(token_of_byte[end[stop - 1] - 1], folded_length, len(codes)).astype(np.int64)
    return folded_data, begun, done


def _piece(code: int, pieces: Sequence[bytes]) -> bytes:
    first, token = divmod(code, len(pieces))
    return _BREAK if first == 2 else _BREAK * first + pieces[token]


def _clusters(
    text: str, points: Integer[np.ndarray, " character"]
) -> tuple[Integer[np.ndarray, " cluster"], Integer[np.ndarray, " cluster"], bytes]:
    """Return where the clusters of a text begin, parts that fold on their own, their folded lengths, and the folds."""
    single = {c: _fold(c) for c in set(text)}
    length = np.zeros(0x110000, np.uint8)
    length[[ord(c) for c in single]] = [len(fold) for fold in single.values()]
    marks = [ord(c) for c in single if _joins(c)]
    if not marks and all(_encoded(c.casefold()) == fold for c, fold in single.items()):
        return np.arange(len(points)), length[points], _encoded(text.casefold())  # most texts: some ten times as fast
    joins = np.zeros(0x110000, bool)
    joins[marks] = True
    begins = ~joins[points]
    begins[0] = True
    begins[1:] |= points[:-1] == _BREAK_DECODED
    start = np.flatnonzero(begins)
    edges = pairwise([*start.tolist(), len(text)])
    folds = [single[text[a]] if b == a + 1 else _fold(text[a:b]) for a, b in edges]
    return start, np.array([len(fold) for fold in folds]), b"".join(folds)


def _fold(text: str) -> bytes:
    return _encoded(folded(text))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _joins(character: str) -> bool:
    """Return whether a character may change with those before it: a combining mark, or the second of a composition."""
    first = unicodedata.normalize("NFD", character)[0]
    return character >= "\u0300" and (unicodedata.combining(first) > 0 or first in _seconds())


@lru_cache
def _seconds() -> frozenset[str]:
    """Return the characters that compose with one before them, without being combining marks themselves."""
    hangul = map(chr, [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)])
    pairs = (unicodedata.decomposition(chr(point)).split() for point in range(0xC0, 0x20000))
    others = (chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and "<" not in pair[0])
    return frozenset([*hangul, *others])
