"""Bytes and characters of tokens: what a vocabulary's entries stand for, and readable text of several tokens."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


@lru_cache
def _byte_alphabet() -> dict[str, int]:
    """Map the printable stand-ins of byte-level BPE (Radford et al. 2019) back to bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def from_byte_level(surface: str) -> bytes:
    """Return the bytes of an entry of a byte-level vocabulary."""
    alphabet = _byte_alphabet()
    if all(c in alphabet for c in surface):
        return bytes(alphabet[c] for c in surface)
    return surface.encode()  # an added token, stored as it reads


def from_sentencepiece(surface: str) -> bytes:
    """Return the bytes of an entry of a SentencePiece vocabulary: ``<0x41>`` is one byte, ``▁`` a space."""
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", surface):
        return bytes([int(byte[1], 16)])
    return surface.replace("▁", " ").encode()


def token_bytes(model: "SAETransformerBridge", ids: Sequence[int] | None = None) -> list[bytes]:
    """Return the bytes that token ids stand for, ``[d_vocab]``, or those of some ids.

    A token is a piece of UTF-8, not always whole characters: 戦 is three pieces in a byte-level vocabulary.
    """
    tokenizer = model.tokenizer
    ids = range(model.cfg.d_vocab) if ids is None else ids
    if tokenizer is None:
        return [f"<{i}>".encode() for i in ids]
    known, special = len(tokenizer), set(tokenizer.all_special_tokens)
    convert = from_byte_level if _is_byte_level(tokenizer) else from_sentencepiece
    surfaces = iter(tokenizer.convert_ids_to_tokens([i for i in ids if i < known]))
    own = [next(surfaces) if i < known else f"<{i}>" for i in ids]
    return [(s or "").encode() if s is None or s in special else convert(s) for s in own]


def _is_byte_level(tokenizer: Any) -> bool:
    """Return whether entries spell bytes by printable stand-ins: what decodes them says so."""
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None and backend.decoder is not None:
        return b"ByteLevel" in backend.decoder.__getstate__()
    return "Ġ" in "".join(s or "" for s in tokenizer.convert_ids_to_tokens(list(range(min(2000, len(tokenizer))))))


def whole_text(piece: bytes) -> str | None:
    """Return the text of a token that is whole characters; None for pieces of one."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


def readable(piece: bytes) -> str:
    """Return a token on its own as a string; bytes that are a piece of a character as SentencePiece writes them.

    >>> readable(b" caf"), readable(b" \\xe6\\x88")
    (' caf', ' <0xE6><0x88>')
    """
    text = piece.decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: f"<0x{ord(byte[0]) - 0xDC00:02X}>", text)


def join_pieces(pieces: Sequence[bytes]) -> list[str]:
    """Turn the bytes of consecutive tokens into readable strings, one per token.

    A character that is spread over several tokens stands whole at the first of them; the rest get ``""``. Bytes
    that are no UTF-8 (a text cut inside a character) become U+FFFD.

    >>> join_pieces([b"caf", b"\\xc3", b"\\xa9", b"!"])
    ['caf', 'é', '', '!']
    """
    texts = []
    held, start = b"", 0  # bytes of an unfinished character, and the token at which it began
    for number, piece in enumerate(pieces):
        texts.append("")
        if held:
            length = _length(held[0])
            if len(held) + len(piece) < length:
                held += piece
                continue
            taken = length - len(held)  # the rest of the character; what follows it is this token's own
            texts[start] += (held + piece[:taken]).decode("utf-8", errors="replace")
            piece = piece[taken:]
        done = len(piece) - _unfinished(piece)
        texts[number] += piece[:done].decode("utf-8", errors="replace")
        held, start = piece[done:], number
    if held:
        texts[start] += "\ufffd"
    return texts


def _length(lead: int) -> int:
    """Return how many bytes a character has whose first byte is ``lead``."""
    return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _unfinished(data: bytes) -> int:
    """Return how many bytes at the end of ``data`` are the beginning of a character that is not complete."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            return back if _length(byte) > back else 0
        if byte < 0x80:
            return 0
    return 0
