"""Corpora: boundaries kept, nothing lost, held-out text apart."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import saekit.data.tokens as tokens
from saekit import data
from saekit.data import Tokens, list_corpora, load_corpus, tokens_from_ids, tokens_from_texts
from saekit.data.sources import natural, prose
from saekit.errors import DataError, OfflineError
from saekit.models import encode_text
from tests import tiny

TEXTS = ["The cat sat on the mat. " * 5, "A dog.", "戦場 😀", "", "In 1984 the film was shown in Paris; she said. " * 9]


def test_packing_loses_no_token_and_keeps_every_boundary(model):
    tokens = tokens_from_texts(TEXTS, model=model, context_size=16)
    for number, text in enumerate(TEXTS):
        want = encode_text(model, text)[1:].tolist() if text else []
        assert tokens.ids[tokens.document == number].tolist() == want
    bos = model.tokenizer.bos_token_id
    assert (tokens.ids[:, 0] == bos).all()
    assert (tokens.document[:, 0] == -1).all()
    assert (tokens.ids[tokens.document == -1] == bos).all()
    flat = tokens.document[:, 1:].ravel()
    changes = np.flatnonzero((flat[1:] != flat[:-1]) & (flat[1:] >= 0) & (flat[:-1] >= 0))
    assert len(changes) == 0, "two documents never touch: BOS parts them"


def test_shards_keep_their_sequence_ids(model):
    tokens = tokens_from_texts(TEXTS, model=model, context_size=16)
    assert tokens[2:4].sequence_ids.tolist() == [2, 3]
    assert tokens[1:].fingerprint() != tokens.fingerprint()
    with pytest.raises(DataError, match="slice"):
        tokens[3]


def test_empty_corpora_and_bad_settings_are_refused(model, tmp_path):
    for texts in ([], [""], ["", ""]):
        with pytest.raises(DataError, match="no tokens"):
            tokens_from_texts(texts, model=model)
    with pytest.raises(DataError, match="one string"):
        tokens_from_texts("text", model=model)
    with pytest.raises(DataError, match="split must be"):
        load_corpus("english", model=model, split="test")
    with pytest.raises(DataError, match="context_size"):
        load_corpus("english", model=model, context_size=1)
    with pytest.raises(DataError, match="max_tokens"):
        load_corpus("someone/something", model=model)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="no tokens"):
        load_corpus(str(tmp_path / "empty.txt"), model=model, split="heldout")
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"words": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        load_corpus(str(tmp_path / "bad.jsonl"), model=model)


def test_a_local_file_is_split_by_document_without_overlap_or_loss(model, tmp_path):
    lines = [f"document number {i}. {tiny.TEXT[i : i + 30]}" for i in range(200)]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    parts = {s: load_corpus(str(tmp_path / "c.jsonl"), model=model, split=s) for s in ("train", "heldout")}
    numbers = {s: set(np.unique(t.document)) - {-1} for s, t in parts.items()}
    assert numbers["train"] | numbers["heldout"] == set(range(200))
    assert not numbers["train"] & numbers["heldout"]
    assert 2 <= len(numbers["heldout"]) <= 25
    short = load_corpus(str(tmp_path / "c.jsonl"), model=model, context_size=32, max_tokens=100)
    assert 100 <= short.n_tokens < 100 + 32


def test_a_packaged_corpus_is_mixed_split_and_cached(model, monkeypatch, tmp_path):
    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
    reads = []

    def documents(name):
        def read(progress):
            reads.append(name)
            return iter([f"{name} says {i}: {tiny.TEXT[i : i + 50]}" for i in range(150)])

        return read

    sources = {n: replace(tokens.SOURCES[n], documents=documents(n)) for n in tokens.CORPORA["english-open"]}
    monkeypatch.setattr(tokens, "SOURCES", {**tokens.SOURCES, **sources})
    first = load_corpus("english-open", model=model, progress=False)
    again = load_corpus("english-open", model=model, progress=False)
    held = load_corpus("english-open", model=model, split="heldout", progress=False)
    assert len(reads) == 6, "tokenised once a split"
    assert first.fingerprint() == again.fingerprint()
    text = lambda t: model.tokenizer.decode(t.ids[t.document >= 0])  # noqa: E731
    assert all(f"{n} says" in text(first[:40]) for n in sources), "the first rows are a sample of all sources"
    assert first.sources == ("wikitext", "wikipedia", "sentences")
    per_document = set(np.unique(first.document))
    assert len(per_document) + len(set(np.unique(held.document))) == 450 + 2


def test_the_hub_path_streams_one_text_column(model, monkeypatch):
    import datasets

    asked = {}

    class Rows(list):
        column_names = ("text",)

    def load_dataset(name, configuration=None, *, split, streaming):
        asked.update(name=name, split=split, streaming=streaming)
        return Rows({"text": f"row {i} {tiny.TEXT[:60]}"} for i in range(10_000))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    tokens = load_corpus("someone/corpus", model=model, max_tokens=500)
    assert asked == {"name": "someone/corpus", "split": "train", "streaming": True}
    assert 500 <= tokens.n_tokens < 700
    Rows.column_names = ("content", "url")
    with pytest.raises(DataError, match="columns content, url"):
        load_corpus("someone/corpus", model=model, max_tokens=500)

    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(OfflineError, match="local file"):
        load_corpus("someone/corpus", model=model, max_tokens=500)


def test_wikitext_spacing_and_wiki_markup_become_plain_text():
    assert natural(' He said , " it \'s 1 @.@ 5 @-@ inch " ( sic ) . ') == 'He said, "it\'s 1.5-inch" (sic).'
    assert prose(
        "{{Infobox|a={{b}}}}'''Paris''' ([[City|city]]) is big.<ref name=a/> [[File:x.jpg|thumb|a [[b]]]]"
    ) == ("Paris (city) is big.")


def test_every_source_names_its_licence_and_renders():
    table = list_corpora()
    assert all(s.licence and s.citation and "==" in s.package for _, s in table.rows)
    assert {s.name for n, s in table.rows if n == "english-open"} == {s.name for _, s in table.rows if s.open_licence}
    assert "<table>" in table._repr_html_()
    assert "CC BY 2.0 FR" in repr(table)


def test_tokens_without_text_count_none():
    tokens = Tokens(np.zeros((2, 3), np.int32), np.full((2, 3), -1, np.int32), np.arange(2))
    assert tokens.n_tokens == 0


@pytest.mark.slow
def test_the_english_corpus_has_five_million_tokens_of_six_sources():
    """On the real packages and the real tokenizer, at the first call and out of the cache."""
    from saekit.models import load_model

    model = load_model(progress=False)
    train = load_corpus("english", model=model, progress=False)
    held = load_corpus("english", model=model, split="heldout", progress=False)
    assert train.n_tokens >= 5_000_000
    assert 0.03 < held.n_tokens / train.n_tokens < 0.08
    assert train.ids.shape[1] == 128
    rows = {tuple(row) for row in train.ids[:, 1:40].tolist()}
    assert not [row for row in held.ids[:, 1:40].tolist() if tuple(row) in rows], "no held-out text in training"
    assert not np.isin(train.ids[train.document >= 0], [0, 1, 2]).any(), "no special token inside a text"


@pytest.mark.slow
def test_a_labelled_set_is_loaded_by_name():
    found = data.load_labelled("sms-spam", progress=False)
    assert len(found) == 4837
    assert found.labels.sum() == 638
    assert "638 spam" in repr(found)
    assert found.licence
    with pytest.raises(DataError, match="expected one of sms-spam"):
        data.load_labelled("smsspam")


def test_a_corpus_is_itself_in_every_form_and_another_with_other_text_rows_or_beginning(model):
    tokens = tokens_from_texts(["The cat sat on the mat.", "A dog watched."], model=model, context_size=8)
    same = tokens_from_texts(["The cat sat on the mat.", "A dog watched."], model=model, context_size=8)
    assert tokens.identity() == same.identity()
    assert tokens.identity().facts["begins with"] == 0

    def words(other):
        return [word.rsplit(" against")[0] for word in tokens.identity().difference(other.identity())]

    longer = tokens_from_texts(["The cat sat on the mat.", "A dog watched."], model=model, context_size=16)
    assert f"context size {tokens.ids.shape[1]}" in words(longer)
    other_bos = tokens.ids.copy()
    other_bos[:, 0] = 1
    assert "begins with 0" in words(replace(tokens, ids=other_bos))
    without = replace(tokens, document=np.maximum(tokens.document, 0))
    assert "begins with 0" in words(without), "the same ids, but as text"
    assert f"rows {len(tokens)}" in words(tokens[:1])
    changed = tokens.ids.copy()
    changed[-1, 3] += 1
    assert [word.split()[0] for word in words(replace(tokens, ids=changed))] == ["content"]


def test_a_packaged_corpus_is_cached_by_all_that_the_tokenizer_does(model, model_folder, monkeypatch, tmp_path):
    """The vocabulary is the same; BOS, normaliser and pre-tokeniser are not."""
    from tokenizers import normalizers, pre_tokenizers
    from transformers import AutoTokenizer

    monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))

    def read(progress):
        return iter(f"Text {i}: {tiny.TEXT[i : i + 90]}" for i in range(60))

    sources = {n: replace(tokens.SOURCES[n], documents=read) for n in tokens.CORPORA["english-open"]}
    monkeypatch.setattr(tokens, "SOURCES", {**tokens.SOURCES, **sources})

    def bos(tokenizer):
        tokenizer.bos_token = "</s>"

    def normaliser(tokenizer):
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()

    def pre_tokeniser(tokenizer):
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)

    load_corpus("english-open", model=model, progress=False)  # the cache is filled
    monkeypatch.setattr(model.cfg, "d_vocab", model.cfg.d_vocab)  # upstream counts anew with every tokenizer
    for change in (bos, normaliser, pre_tokeniser):
        monkeypatch.setattr(model, "tokenizer", AutoTokenizer.from_pretrained(model_folder))
        change(model.tokenizer)
        got = load_corpus("english-open", model=model, progress=False)
        monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path / change.__name__))
        want = load_corpus("english-open", model=model, progress=False)
        monkeypatch.setenv("SAEKIT_CACHE", str(tmp_path))
        assert got.fingerprint() == want.fingerprint(), change.__name__


def test_ids_of_ones_own_become_a_corpus_with_documents_padding_and_bos(model):
    bos, pad = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    rows = [[bos, 5, 6, bos, 7, 8], [bos, 9, pad, 9, pad, pad], [4, 4, 4, 4, 4, 4]]
    for ids in (rows, np.array(rows), torch.tensor(rows), np.array(rows, np.uint16)):
        tokens = tokens_from_ids(ids, model=model, padding=pad)
        assert tokens.ids.tolist() == rows
        assert (tokens.document >= 0).astype(int).tolist() == [[0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 0, 0], [1] * 6]
        assert [len(set(row) - {-1}) for row in tokens.document.tolist()] == [2, 1, 1]
        assert len(set(tokens.document.ravel().tolist()) - {-1}) == 4
        assert not tokens.bos_first
    assert tokens_from_ids(rows[:2], model=model).bos_first
    assert tokens_from_ids(rows[:2], model=model).n_tokens == 9
    numbers = [[-1, 0, 0, 1, 1, 1], [-1, 2, 2, 2, 2, 2], [3] * 6]
    assert tokens_from_ids(rows, model=model, document=np.array(numbers)).document.tolist() == numbers


def test_the_rows_of_texts_are_the_same_when_given_as_ids(model):
    made = tokens_from_texts([text for text in TEXTS if text], model=model, context_size=16)
    again = tokens_from_ids(made.ids, model=model, document=made.document)
    assert again.fingerprint() == made.fingerprint()
    assert again.bos_first
    assert made.bos_first


def test_ids_that_no_model_reads_are_refused(model):
    n, long = model.cfg.d_vocab, model.cfg.n_ctx + 1
    for ids, said in (
        ([[1, 2], [3]], "rows of one length"),
        ([["a", "b"]], "rows of one length"),
        ([5, 6, 7], "the shape"),
        (np.zeros((0, 4), np.int64), "no tokens"),
        ([[1.0, 2.0]], "whole numbers"),
        ([[True, False]], "whole numbers"),
        ([[5, n]], f"outside 0 to {n - 1}"),
        ([[-1, 5]], f"outside 0 to {n - 1}"),
        (np.full((2, long), 5), "the model's context holds"),
        ([[0, 0, 0]], "no token of the corpus is text"),
    ):
        with pytest.raises(DataError, match=said):
            tokens_from_ids(ids, model=model)
    for document in ([[0, 0]], [[0.5, 0, 0]], [[-2, 0, 0]]):
        with pytest.raises(DataError, match="document must be whole numbers"):
            tokens_from_ids([[5, 6, 7]], model=model, document=np.array(document))
