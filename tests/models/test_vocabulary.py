"""Tokens as bytes and as readable text."""

from types import SimpleNamespace

import pytest

from saekit.models import encode_text, join_pieces, readable, token_bytes


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
    class Pieces(list):
        all_special_tokens = ("<s>",)

        def convert_ids_to_tokens(self, ids):
            return [self[i] for i in ids]

    model = SimpleNamespace(tokenizer=Pieces(["<s>", "▁the", "<0xE2>"]), cfg=SimpleNamespace(d_vocab=4))
    assert token_bytes(model) == [b"<s>", b" the", b"\xe2", b"<3>"]


def test_a_piece_of_a_character_on_its_own_is_shown_as_its_bytes():
    assert readable("naïve 戦".encode()) == "naïve 戦"
    assert readable(b"\xe6\x88") == "<0xE6><0x88>"
    assert readable(b" \xd0") == " <0xD0>"
    assert readable("\ufffd".encode()) == "\ufffd", "a character of its own"
