"""Tokens as bytes and as readable text."""

import pytest

from saekit.models import encode_text, join_pieces, token_bytes
from saekit.models.vocabulary import from_sentencepiece


@pytest.mark.parametrize(
    "text",
    [
        "plain words",
        "naïve café",
        "戦場のヴァルキュリア",
        "😀👩‍👩‍👧 family",
        "مرحبا بالعالم",
        "tab\tline\nend ",
        "nul\0byte",
        "née",
    ],
)
def test_joined_pieces_are_the_text_whatever_the_script(model, text):
    ids = encode_text(model, text)[1:]
    pieces = token_bytes(model)
    joined = join_pieces([pieces[i] for i in ids])
    assert "".join(joined) == text
    assert len(joined) == len(ids)
    assert "\ufffd" not in "".join(joined)


def test_a_character_cut_in_two_is_shown_as_a_replacement_character():
    assert join_pieces(["戦".encode()[:2]]) == ["\ufffd"]
    assert join_pieces([b"a", "é".encode()[:1], "é".encode()[1:] + b"b"]) == ["a", "é", "b"]


def test_sentencepiece_vocabularies_become_bytes_too():
    assert from_sentencepiece("▁the") == b" the"
    assert from_sentencepiece("<0xE2>") == b"\xe2"
