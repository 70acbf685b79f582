"""Text of an index is found as it was typed: across pieces of characters, whatever the case, never across documents."""

import numpy as np
import pytest

from saekit.data import Tokens, tokens_from_texts
from saekit.errors import FeatureIndexError
from saekit.index import FeatureIndex
from saekit.index.text import folded, search_text
from tests import tiny

TYPED = {
    "ПРИВЕТ": "Он сказал: ПРИВЕТ, и ушёл домой.",
    "ΑΘΗΝΑ": "Η ΑΘΗΝΑ είναι μεγάλη πόλη.",
    "Ἑλλάς": "Ἡ Ἑλλάς ἐστιν παλαιά.",
    "ὅσος": "ὍΣΟΣ καὶ ὅσον.",
    "İstanbul": "Dün İstanbul çok güzeldi.",
    "Straße": "DIE STRASSE IST LANG.",
    "café": "a cafe\u0301 in Paris",
    "戦場": "昨日は戦場の映画を見た。",
    "😀👩‍👩‍👧": "smile 😀👩‍👩‍👧 please",
    "مرحبا": "قالت مرحبا يا عالم",
    "한글": "이것은 \u1112\u1161\u11ab글 이다",
    "nul\0byte": "a nul\0byte here",
}


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, 24, k=12)


@pytest.fixture(scope="module")
def index(model, sae):
    texts = [*TYPED.values(), *(tiny.TEXT[i : i + 60] for i in range(0, 400, 20))]
    tokens = tokens_from_texts(texts, model=model, context_size=256)
    return FeatureIndex.build(model, sae, tokens, window=256, progress=False)


@pytest.mark.parametrize("typed", TYPED)
def test_what_is_typed_is_found_in_any_case_and_composition(index, typed):
    import unicodedata

    for query in {typed, typed.lower(), typed.swapcase(), unicodedata.normalize("NFD", typed), f" {typed}\n"}:
        hits = index.search(text=query)
        assert hits, query
        assert all(folded(typed) in folded("".join(hit.example.tokens)) for hit in hits)
    assert not index.search(text=f"{typed}zzz")


def test_a_token_that_is_a_piece_of_a_character_peaks_on_that_character(model, sae):
    assert len(model.tokenizer("П", add_special_tokens=False)["input_ids"]) == 2
    tokens = tokens_from_texts(["ПППП", "эПэ", "戦П"] * 3, model=model, context_size=16)
    index = FeatureIndex.build(model, sae, tokens, progress=False)
    hits = index.search(token="п")
    assert hits
    assert all("«П»" in repr(hit.example) for hit in hits)
    assert {hit.feature for hit in hits} == {
        feature for feature in range(24) if any("«П»" in repr(example) for example in index.top(feature, fold=False))
    }


def test_examples_are_cut_inside_no_character(model, sae):
    tokens = tokens_from_texts(["戦場の映画を昨日見た。" * 6], model=model, context_size=256)
    assert len(tokens) == 1
    index = FeatureIndex.build(model, sae, tokens, window=7, progress=False)
    examples = [example for interval in index.intervals(0, per=20) for example in interval.examples]
    assert len(examples) > 20
    assert "\ufffd" not in "".join("".join(example.tokens) for example in examples)


def test_nothing_is_found_across_documents_also_without_bos(model, sae):
    texts = [f"one ends in alpha{i}" if i % 2 == 0 else f"beta{i} begins" for i in range(40)]
    with_bos = tokens_from_texts(texts, model=model, context_size=64)
    text = with_bos.document >= 0
    flat, number = with_bos.ids[text], with_bos.document[text]
    size = len(flat) // 32 * 32
    without = Tokens(flat[:size].reshape(-1, 32), number[:size].reshape(-1, 32), np.arange(size // 32))
    for tokens in (with_bos, without):
        index = FeatureIndex.build(model, sae, tokens, window=64, progress=False)
        assert not index.search(text="alpha0beta1")
        assert not index.search(text="<s>")
        assert index.search(text="alpha0")
        assert index.search(text="beta1 beg")
    assert not index.manifest["bos_first"]
    again = index.corpus()
    np.testing.assert_array_equal(again.document, without.document)
    np.testing.assert_array_equal(again.ids, without.ids)


def test_documents_are_kept_by_shards_that_are_merged_and_bos_is_no_guess(model, sae):
    tokens = tokens_from_texts(list(TYPED.values()) * 3, model=model, context_size=48)
    shards = [
        FeatureIndex.build(model, sae, tokens[part], progress=False) for part in (slice(4, 9), slice(9, None), slice(4))
    ]
    merged = FeatureIndex.merge(shards)
    np.testing.assert_array_equal(merged.corpus().document, tokens.document)
    assert merged.manifest["bos_first"]
    assert FeatureIndex.build(model, sae, tokens[:1], progress=False).manifest["bos_first"], "one row is enough"
    same = Tokens(np.full((4, 8), 7, np.int32), np.zeros((4, 8), np.int32), np.arange(4))
    assert not FeatureIndex.build(model, sae, same, progress=False).manifest["bos_first"], "text that begins alike"


def test_an_index_from_before_documents_were_stored_goes_on_loading(index, tmp_path, monkeypatch):
    arrays = {name: array for name, array in index._read.arrays.items() if not name.startswith("document_")}
    old = FeatureIndex(index.path, index.manifest, arrays)
    for typed in TYPED:
        assert [hit.feature for hit in old.search(text=typed)] == [hit.feature for hit in index.search(text=typed)]
    assert (old.corpus().document >= 0).sum() == (old.corpus().ids != 0).sum()


def test_what_is_no_text_cannot_be_searched(index):
    for odd in (3, b"text", ["text"], "\ud83d"):
        for asked in ({"text": odd}, {"token": odd}):
            with pytest.raises(FeatureIndexError, match=r"must be a text|half a surrogate"):
                index.search(**asked)
    assert index.search(text="  ") == index.search(token="\n") == []


def test_folding_by_clusters_is_folding_the_whole_text():
    """Every character there is, after letters that compose with what follows."""
    pieces = [bytes([b]) for b in range(256)]
    points = [p for p in range(0xA0, 0x20000) if not 0xD800 <= p < 0xE000]
    for before in ("e", "ι", "가", "ᄒ", "\u09c7", "i"):
        text = "".join(f"{before}{chr(p)} " for p in points)
        ids = np.frombuffer(text.encode(), np.uint8)[None].astype(np.int64)
        found = search_text(ids, np.ones(ids.shape, bool), np.zeros(ids.shape, bool), pieces)
        assert found.data.decode() == folded(text)
        assert found.begun[-1] == found.done[-1] == len(found.data)
        assert (found.begun >= found.done).all()
