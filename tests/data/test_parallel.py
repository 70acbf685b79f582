"""Parallel sentences: one label for all languages, and nothing that shares a translation can be told apart."""

from importlib import import_module

import numpy as np
import pytest

from saekit.data import load_parallel, parallel_texts
from saekit.errors import DataError

parallel = import_module("saekit.data.parallel")

MINE = {"en": ["one", "two", "three"], "de": ["eins", "zwei", "drei"]}


def test_ones_own_sentences_become_a_set_with_one_label_for_all_languages():
    data = parallel_texts(MINE, ["odd", "even", "odd"], name="numbers")
    assert data.label_names == ("even", "odd")
    assert data.language("de").texts == ("eins", "zwei", "drei")
    assert data.language("de").labels.tolist() == data.labels.tolist() == [1, 0, 1]
    assert len(set(data.group)) == 3
    assert repr(data) == "ParallelTexts('numbers', 3 sentences in en, de: 1 even, 2 odd)"


def test_sentences_with_a_translation_in_common_are_one_group():
    texts = {"en": ["I see", "I look", "go", "come", "I saw"], "es": ["veo", "miro", "ve", "ven", "veo"]}
    texts["uk"] = ["a", "b", "c", "d", "b"]
    group = parallel_texts(texts, [0, 1, 0, 1, 0]).group
    assert group[0] == group[4] == group[1], "through the last one"
    assert len(set(group)) == 3


def test_groups_are_those_of_a_search_by_hand():
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 60, generator.integers(1, 4)).tolist() for _ in range(50)]
    group = parallel.linked(rows)
    for i in range(50):
        reached, items = {i}, set(rows[i])
        while more := {j for j in range(50) if j not in reached and items & set(rows[j])}:
            reached |= more
            items |= {item for j in more for item in rows[j]}
        assert set(np.flatnonzero(group == group[i])) == reached


def test_rows_that_are_not_parallel_are_refused():
    with pytest.raises(DataError, match="3 in en, 2 in de: row i has to be the same sentence"):
        parallel_texts({**MINE, "de": ["eins", "zwei"]}, [0, 1, 0])
    with pytest.raises(DataError, match="at least two languages, got 1"):
        parallel_texts({"en": ["a"]}, [0])
    with pytest.raises(DataError, match="no text or no label"):
        parallel_texts(MINE, ["odd", None, "odd"])
    data = parallel_texts(MINE, [0, 1, 0])
    with pytest.raises(DataError, match="has en, de, not 'fr'"):
        data.language("fr")


def test_samples_keep_the_rows_together():
    texts = {language: [f"{language} {i}" for i in range(60)] for language in ("x", "y")}
    data = parallel_texts(texts, np.arange(60) % 3)
    sample = data.sample(12, seed=1, balanced=True)
    assert np.bincount(sample.labels).tolist() == [4, 4, 4]
    for x, y, label, group in zip(*sample.texts.values(), sample.labels, sample.group, strict=True):
        assert x.split()[1] == y.split()[1]
        assert int(x.split()[1]) % 3 == label and data.group[int(x.split()[1])] == group


@pytest.fixture
def stand_ins(monkeypatch, tmp_path):
    """Files of the form of Tatoeba's."""
    spanish = ["My son eats.\tMi hijo come.", "I read.\tLeo.", "I read.\tYo leo.", "No milk?\t¿No hay leche?",
               "Go!\t¡Ve!", "I study.\tYo leo.", "Only here.\tSolo aquí."]  # fmt: skip
    ukrainian = ["I read.\tЯ читаю.", "No milk?\tНемає молока?", "Go!\tІди!", "My son eats.\tСин їсть.",
                 "I study.\tЯ вчуся."]  # fmt: skip
    for name, lines in (("spa.tsv", spanish), ("ukr.tsv", ukrainian)):
        (tmp_path / name).write_text("".join(f"{line}\tCC-BY\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(parallel, "package_file", lambda file, progress: tmp_path / file.filename)


def test_topics_are_read_off_the_english_words(stand_ins):
    data = load_parallel()
    assert data.texts["en"] == ("I read.", "No milk?", "I study."), "'son eats' is of two topics"
    assert data.texts["es"] == ("Leo.", "¿No hay leche?", "Yo leo.")
    assert [data.label_names[y] for y in data.labels] == ["learning", "food", "learning"]
    assert data.group[0] == data.group[2] != data.group[1], "a translation in common, though another one stands here"
    assert "words, not meanings" in data.rule


def test_a_question_cannot_be_told_by_its_marks(stand_ins):
    data = load_parallel("question", languages=("es", "uk"))
    assert list(data.texts) == ["es", "uk"]
    assert dict(zip(data.texts["es"], data.labels.tolist(), strict=True))["No hay leche"] == 1
    assert not any(mark in text for of in data.texts.values() for text in of for mark in "?¿!¡")
    assert load_parallel("negation").labels.tolist() == [0, 0, 1, 0, 0]


def test_what_is_not_there_is_refused():
    for wrong, words in (
        ({"label": "colour"}, "expected one of topic, negation, question"),
        ({"languages": ("en", "fr")}, "no language 'fr': expected some of en, es, uk"),
        ({"languages": ("en",)}, "at least two languages, got en"),
    ):
        with pytest.raises(DataError, match=words):
            load_parallel(**wrong)


@pytest.mark.slow
def test_the_packaged_sentences_have_the_sizes_that_the_notebook_names():
    data = load_parallel(progress=False)
    assert np.bincount(data.labels).tolist() == [1416, 1584, 1462, 907]
    assert all(text.strip() for of in data.texts.values() for text in of)
