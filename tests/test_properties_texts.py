"""Any text there is, through corpus, index, search and view: nothing lost, nothing crossed, what is typed is found."""

import csv
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from saekit.data import documents, labelled_texts, load_corpus, tokens_from_texts
from saekit.data.split import is_held_out
from saekit.errors import DataError, FeatureIndexError
from saekit.index import FeatureIndex
from saekit.index.text import folded
from saekit.models import join_pieces, token_bytes
from saekit.views.top_activations import TopActivations
from tests import tiny
from tests.drawn import drawn
from tests.views.panels import elements

pytestmark = pytest.mark.slow
D_SAE = 24
# Characters that fold, join, compose, turn around or are spread over tokens, more often than by chance.
ODD = "aAeEiIıİßẞſςσΣάΆП п戦😀👩\u200d\u0301\u0307\u0323\u0345\u093cक가\u1112\u1161\u11abﬁǰŉ\u202eשم"
ODD += "\0\n\r\t\u2028\ufeff\ufffd<>s/|"
LETTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(st.sampled_from(ODD) | LETTERS, max_size=40)
TEXTS = st.lists(TEXT, min_size=1, max_size=8).filter(any)


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, D_SAE, k=6)


@pytest.fixture(scope="module")
def pieces(model):
    return token_bytes(model)


@drawn(150)
@given(texts=TEXTS, size=st.integers(2, 40))
def test_every_document_is_in_the_tokens_whole_and_apart(model, pieces, texts, size):
    tokens = tokens_from_texts(texts, model=model, context_size=size)
    for number, text in enumerate(texts):
        ids = tokens.ids[tokens.document == number].tolist()
        assert b"".join(pieces[i] for i in ids).decode() == text
        assert "".join(join_pieces([pieces[i] for i in ids])) == text
    assert (tokens.ids[tokens.document < 0] == model.tokenizer.bos_token_id).all()
    assert tokens.bos_first


@drawn(100)
@given(texts=TEXTS)
def test_a_corpus_is_the_same_in_every_form_of_rows_and_split_by_its_text(tmp_path_factory, texts):
    import datasets
    import pandas

    folder = tmp_path_factory.mktemp("corpus")
    frame = pandas.DataFrame({"text": texts})
    lines = [json.dumps({"text": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(texts)]
    (folder / "c.jsonl").write_bytes("\n".join(lines).encode())
    frame.to_parquet(folder / "c.parquet")
    with (folder / "c.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text"], *([text] for text in texts)])
    rows = datasets.Dataset.from_dict({"text": texts})
    for source in (texts, frame, rows, folder / "c.jsonl", folder / "c.parquet", folder / "c.csv"):
        assert list(documents(source).texts) == texts, source


@drawn(40)
@given(texts=st.lists(TEXT, min_size=1, max_size=60), more=st.lists(TEXT, max_size=5))
def test_no_text_is_on_both_sides_of_any_two_corpora_that_hold_it(model, pieces, texts, more):
    def side(corpus, split):
        try:
            tokens = load_corpus(corpus, model=model, context_size=16, split=split)
        except DataError as error:
            assert "no tokens in its" in str(error)
            return set()
        numbers = set(tokens.document.ravel().tolist()) - {-1}
        return {b"".join(pieces[i] for i in tokens.ids[tokens.document == n]).decode() for n in numbers}

    corpora = [texts, more + texts, texts[::-1]]
    sides = {split: [side(corpus, split) for corpus in corpora] for split in ("train", "heldout")}
    assert not set().union(*sides["train"]) & set().union(*sides["heldout"])
    assert set().union(*sides["heldout"]) == {text for text in (*texts, *more) if text and is_held_out(text)}


def segments(index, pieces):
    """Return the folded text of every document's part in every row, by row."""
    tokens = index.corpus()
    found = []
    for ids, document in zip(tokens.ids, tokens.document, strict=True):
        edges = [0, *(np.flatnonzero(np.diff(document)) + 1).tolist(), len(ids)]
        parts = [(document[a], b"".join(pieces[i] for i in ids[a:b])) for a, b in itertools.pairwise(edges)]
        found.append([folded(data.decode("utf-8", "surrogateescape")) for number, data in parts if number >= 0])
    return found


@drawn(25)
@given(texts=TEXTS, data=st.data())
def test_search_finds_what_brute_force_finds(model, sae, pieces, texts, data):
    tokens = tokens_from_texts(texts, model=model, context_size=24)
    index = FeatureIndex.build(model, sae, tokens, window=72, progress=False)  # every window is its whole row
    text = data.draw(st.sampled_from([text for text in texts if text]))
    start = data.draw(st.integers(0, len(text) - 1))
    typed = data.draw(st.sampled_from([text[start : data.draw(st.integers(start + 1, len(text)))], data.draw(TEXT)]))
    typed = data.draw(st.sampled_from([typed, typed.upper(), typed.swapcase()]))
    query = folded(typed).strip()
    rows = {int(n): parts for n, parts in zip(tokens.sequence_ids, segments(index, pieces), strict=True)}
    want = {}
    for feature in range(D_SAE):
        best = index.top(feature, 20, fold=False)
        fits = sum(example.value for example in best if any(query in part for part in rows[example.sequence_id]))
        if query and fits:
            want[feature] = fits / sum(example.value for example in best)
    assert {hit.feature: hit.score for hit in index.search(text=typed)} == pytest.approx(want)
    np.testing.assert_array_equal(index.corpus().document, tokens.document)


@drawn(10)
@given(texts=TEXTS, own=TEXT.filter(str.strip))
def test_a_view_shows_the_text_whole_and_its_state_is_plain_json(model, sae, texts, own):
    index = FeatureIndex.build(model, sae, tokens_from_texts(texts, model=model, context_size=24), progress=False)
    reading = index.read_prompt(model, sae, own)
    assert "".join(reading.tokens) == "<s>" + own
    view = TopActivations(index, model=model, sae=sae, prompt=own)
    assert view.wait(300)
    assert view.error == ""
    for feature in (0, D_SAE - 1):
        view.value = feature
        assert view.wait(300)
        state = view.state()
        json.dumps(state, allow_nan=False).encode()
        (shown,) = elements(state["prompt"], "strip")
        seen = re.sub("[\0-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", own.replace("\r", "␍"))  # controls have no picture
        assert "".join(shown[1]["tokens"]) == "<s>" + seen
        view._repr_html_().encode()


@drawn(60)
@given(
    text=st.text(max_size=5),
    half=st.characters(categories=["Cs"]),
    odd=st.none() | st.integers() | st.floats() | st.binary() | st.lists(TEXT),
)
def test_what_is_no_text_is_refused_everywhere(model, text, half, odd):
    for bad in (f"a{text}{half}", odd):
        for read in (
            lambda bad=bad: tokens_from_texts(["a", bad], model=model),
            lambda bad=bad: list(documents(["a", bad]).texts),
            lambda bad=bad: labelled_texts(["a", bad], [0, 1]),
        ):
            with pytest.raises(DataError, match=r"(text|row|rows) \(?(rows )?1"):
                read()


def test_a_query_that_is_no_text_is_refused(model, sae):
    index = FeatureIndex.build(model, sae, tokens_from_texts(["a cat"], model=model, context_size=8), progress=False)
    for bad in (3, b"a", ["a"], "\ud800"):
        with pytest.raises(FeatureIndexError, match="text"):
            index.search(text=bad)
