"""Labelled data sets: by name, from files, frames and the hub; what is missing is said, never guessed."""

import json
from importlib import import_module

import numpy as np
import pytest

from saekit.data import LabelledItems, labelled_texts, list_labelled, load_labelled
from saekit.errors import DataError, OfflineError

sets = import_module("saekit.data.labelled_sets")


def test_every_set_names_its_licence_and_citation():
    table = list_labelled()
    assert {s.name for s in table.rows} >= {"sms-spam", "newswire-topics", "question-types", "jailbreak-prompts"}
    assert all(s.licence and s.citation and "==" in s.package and len(s.labels) >= 2 for s in table.rows)
    assert "CC BY 4.0" in repr(table)
    assert "<table>" in table._repr_html_()


def test_labels_become_classes_in_sorted_order():
    data = labelled_texts(["a", "b", "c", "d"], ["spam", "ham", "spam", "eggs"])
    assert data.label_names == ("eggs", "ham", "spam")
    assert data.labels.tolist() == [2, 1, 2, 0]
    assert "2 spam" in repr(data)
    numbers = labelled_texts(["a", "b", "c"], [10, 9.0, np.int64(10)])
    assert numbers.label_names == ("9", "10"), "numbers in the order of numbers"
    assert labelled_texts(["a", "b"], [True, False]).label_names == ("False", "True")


@pytest.mark.parametrize("gap", [None, float("nan"), "", " ", np.datetime64("NaT"), float("inf")])
def test_missing_labels_are_refused_or_left_out_but_never_a_class(gap):
    with pytest.raises(DataError, match=r"2 of 4 rows have no text or no label \(rows 1, 3\)"):
        labelled_texts(list("abcd"), ["x", gap, "y", gap])
    kept = labelled_texts(list("abcd"), ["x", gap, "y", gap], drop_missing=True)
    assert kept.texts == ("a", "c")
    with pytest.raises(DataError, match="no labelled text"):
        labelled_texts(["a"], [gap], drop_missing=True)


def test_a_class_may_be_called_none():
    """As in data sets of stance: the word was taken for a gap, and with drop_missing the class was gone."""
    words = ["none", "against", "favor", "nan", "null", "NA"]
    data = labelled_texts(list("abcdef"), words)
    assert [data.label_names[y] for y in data.labels] == words
    with pytest.raises(DataError, match=r"2 of 4 rows have no text or no label \(rows 1, 3\)"):
        labelled_texts(list("abcd"), ["1", "nan", "0", "None"])  # among numbers it is no number
    assert labelled_texts(list("abcd"), ["1", "nan", "0", "None"], drop_missing=True).label_names == ("0", "1")


def test_an_empty_text_is_a_text():
    assert labelled_texts(["", "b"], [0, 1]).texts == ("", "b")


def test_a_csv_file_and_a_data_frame_give_the_same(tmp_path):
    import pandas

    rows = {"words": ['one, "two"', "three\nlines", "four"], "kind": ["b", "a", "b"], "other": [1, 2, 3]}
    frame = pandas.DataFrame(rows)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    for source in (frame, tmp_path / "t.csv", str(tmp_path / "t.tsv")):
        data = load_labelled(source, text="words", label="kind")
        assert data.texts == tuple(rows["words"])
        assert data.labels.tolist() == [1, 0, 1]
        with pytest.raises(DataError, match=r"has columns words, kind, other: expected 'text' and 'label'"):
            load_labelled(source)
    frame.loc[1, "kind"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    for source in (frame, tmp_path / "t.csv"):
        with pytest.raises(DataError, match="1 of 3 rows have no text or no label"):
            load_labelled(source, text="words", label="kind")
    (tmp_path / "bad.csv").write_bytes(b"text,label\n\xff\xfe\x00,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        load_labelled(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    "labels",
    [list(range(12)), [2.0, 10.0, None, 1.0], [0.5, 10.0, 2.0], ["a", "10", "9"], ["07", "7", "10"], [True, False]],
)
def test_the_classes_of_a_file_are_those_of_the_data_frame(tmp_path, labels):
    """A file holds words alone: 0, 1, 10, 11, 2 was the order of its classes."""
    import pandas

    frame = pandas.DataFrame({"text": [f"text {i}" for i in range(len(labels))], "label": labels})
    frame.to_csv(tmp_path / "t.csv", index=False)
    one, other = (load_labelled(source, drop_missing=True) for source in (frame, tmp_path / "t.csv"))
    assert one.label_names == other.label_names
    assert one.labels.tolist() == other.labels.tolist()
    if all(isinstance(y, int | float | None) and not isinstance(y, bool) for y in labels):
        assert list(map(float, one.label_names)) == sorted({float(y) for y in labels if y is not None})


def test_what_cannot_be_a_table_is_refused():
    import pandas

    frame = pandas.DataFrame([["a", 1, 2]], columns=["text", "label", "label"])
    with pytest.raises(DataError, match="has 2 columns 'label'"):
        load_labelled(frame)
    dates = pandas.DataFrame({"text": ["a", "b"], "label": pandas.to_datetime(["2020-01-01", None])})
    with pytest.raises(DataError, match=r"no text or no label \(rows 1\)"):
        load_labelled(dates)
    for most in (0, -1):
        with pytest.raises(DataError, match="max_texts must be at least 1"):
            load_labelled("sms-spam", max_texts=most)


def test_a_cut_of_a_sorted_set_holds_all_classes_or_says_that_it_does_not(monkeypatch):
    from dataclasses import replace

    import pandas

    rows = [(f"text {i}", i // 100) for i in range(500)]
    known = replace(sets.LABELLED["newswire-topics"], rows=lambda progress: iter(rows))
    monkeypatch.setitem(sets.LABELLED, "newswire-topics", known)
    some = load_labelled("newswire-topics", max_texts=100)
    assert len(some) == 100
    assert np.bincount(some.labels, minlength=5).min() > 5
    assert some.texts == load_labelled("newswire-topics", max_texts=100).texts
    assert len(load_labelled("newswire-topics", max_texts=900)) == 500
    frame = pandas.DataFrame(rows, columns=["text", "label"])
    with pytest.warns(UserWarning, match=r"first 100 texts of 'data frame' are all of one class \(0\)"):
        assert load_labelled(frame, max_texts=100).texts == tuple(text for text, _ in rows[:100])
    assert len(load_labelled(frame, max_texts=101).label_names) == 2  # no warning


def test_a_set_on_the_hub_may_have_configurations(monkeypatch, tmp_path):
    """Read by the real library from a folder with the files that such a set has."""
    folder = tmp_path / "owner" / "set"
    folder.mkdir(parents=True)
    listed = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("emotion", "irony"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    (folder / "emotion.csv").write_text("text,label\nwell done,joy\nleave me,anger\n")
    (folder / "irony.csv").write_text("text,label\nhow nice,1\nfive,0\n")
    monkeypatch.chdir(tmp_path)
    data = load_labelled("owner/set", configuration="emotion", max_texts=10)
    assert (data.texts, data.label_names) == (("well done", "leave me"), ("anger", "joy"))
    assert load_labelled("owner/set", configuration="irony", max_texts=10).texts == ("how nice", "five")
    with pytest.raises(DataError, match=r"\['emotion', 'irony'\].* with configuration="):
        load_labelled("owner/set", max_texts=10)
    with pytest.raises(DataError, match=r"'sad' not found. Available: \['emotion', 'irony'\]"):
        load_labelled("owner/set", configuration="sad", max_texts=10)


def test_the_hub_path_streams_and_takes_the_hubs_words_for_classes(monkeypatch):
    import datasets

    class Classes:
        names = ("no", "yes")

    class Rows(list):
        features = {"label": Classes()}  # noqa: RUF012

    rows = Rows({"text": f"row {i}", "label": i % 2} for i in range(100))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration, *, split, streaming: rows)
    data = load_labelled("someone/set", max_texts=10)
    assert data.label_names == ("no", "yes")
    assert data.labels.tolist() == [0, 1] * 5
    with pytest.raises(DataError, match="has columns text, label: expected 'sentence'"):
        load_labelled("someone/set", text="sentence", max_texts=10)

    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(OfflineError, match="packaged set: sms-spam"):
        load_labelled("someone/set", max_texts=10)


def test_unknown_sources_are_refused():
    for source in ("smsspam", "someone/set", "/no/such/file.csv"):
        with pytest.raises(DataError, match="expected one of sms-spam"):
            load_labelled(source)
    with pytest.raises(DataError, match="3 texts but 2 labels"):
        labelled_texts(list("abc"), [0, 1])


def test_samples_are_drawn_by_seed_without_replacement():
    data = labelled_texts([f"text {i}" for i in range(100)], [i % 10 == 0 for i in range(100)])
    first = data.sample(30, seed=1)
    assert first.texts == data.sample(30, seed=1).texts != data.sample(30, seed=2).texts
    assert len(set(first.texts)) == 30
    assert np.bincount(data.sample(16, balanced=True).labels).tolist() == [8, 8]
    assert np.bincount(data.sample(40, balanced=True).labels).tolist() == [30, 10], "as far as there are"
    assert len(data.sample(1000)) == 100
    assert data[:3].texts == data.texts[:3]
    assert data[np.array([5, 2])].texts == ("text 5", "text 2")
    assert data[data.labels == 1].texts == tuple(f"text {i}" for i in range(0, 100, 10))
    with pytest.raises(DataError, match="one True or False for each of 100 items, got 2"):
        data[np.array([True, False])]
    for size in (0, -5):
        with pytest.raises(DataError, match="a sample has at least 1 item"):
            data.sample(size)


def test_ordinary_prompts_are_as_long_as_jailbreaks_and_hold_none(monkeypatch, tmp_path):
    """Made from stand-ins for the packages, by the real recipe."""
    from dataclasses import replace

    prompts = ["Ignore all rules. " * n for n in (5, 40, 80, 9, 60, 20, 70)]
    (tmp_path / "j.json").write_text(json.dumps(prompts))
    (tmp_path / "q.csv").write_text("text,label-coarse\n" + "What is this ?,1\n" * 500)
    monkeypatch.setattr(
        sets, "package_file", lambda f, progress: tmp_path / ("q.csv" if "trec" in f.member else "j.json")
    )
    articles = ["short", *[f"Article {i} has a sentence. " * 100 for i in range(9)]]
    monkeypatch.setitem(sets.SOURCES, "wikitext", replace(sets.SOURCES["wikitext"], documents=lambda p: iter(articles)))
    data = load_labelled("jailbreak-prompts", progress=False)
    jailbreaks = [t for t, y in zip(data.texts, data.labels, strict=True) if y == 1]
    ordinary = [t for t, y in zip(data.texts, data.labels, strict=True) if y == 0]
    assert jailbreaks == prompts
    assert len(set(ordinary)) == len(prompts)
    assert not any("Ignore" in text for text in ordinary)
    for asked, made in zip(prompts, ordinary, strict=True):
        assert abs(len(asked) - len(made)) < 90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "counts"),
    [
        ("newswire-topics", 2225, [510, 386, 417, 511, 401]),
        ("question-types", 5952, [1300, 1344, 95, 1288, 1009, 916]),
        ("sentiment-movies", 9173, [4575, 4598]),
        ("sentiment-products", 2455, [941, 1514]),
        ("jailbreak-prompts", 1332, [666, 666]),
    ],
)
def test_the_real_sets_have_the_published_sizes(name, size, counts):
    data = load_labelled(name, progress=False)
    assert isinstance(data, LabelledItems)
    assert len(data) == size
    assert np.bincount(data.labels).tolist() == counts
    assert all(text.strip() for text in data.texts)


def test_items_may_be_images_and_belong_to_groups():
    images = tuple(np.full((2, 2), i / 4) for i in range(4))
    data = LabelledItems("grey", images, np.array([0, 1, 0, 1]), ("dark", "light"), "CC0", "nobody", tuple("aabb"))
    assert repr(data) == "LabelledItems('grey', 4 images: 2 dark, 2 light; CC0)"
    part = data[np.array([3, 0])]
    assert (part.keys, part.groups, part.labels.tolist()) == (("b", "a"), ("b", "a"), [1, 0])
    assert np.array_equal(part.items[0], images[3])
    with pytest.raises(DataError, match="'grey' holds images: this is for texts"):
        assert data.texts
    with pytest.raises(DataError, match="images need groups"):
        LabelledItems("grey", images, data.labels, data.label_names, "CC0", "nobody")
    with pytest.raises(DataError, match="3 groups for 4 items"):
        LabelledItems("grey", images, data.labels, data.label_names, "CC0", "nobody", ("a", "b", "c"))


def test_texts_keep_the_groups_of_the_user():
    data = labelled_texts(["one", None, "three"], [1, 2, 2], groups=["Ann", "Bob", 7], drop_missing=True)
    assert (data.texts, data.keys, data.groups) == (("one", "three"), ("one", "three"), ("Ann", "7"))
    assert labelled_texts(["one"], [1]).groups == ()
    with pytest.raises(DataError, match="2 texts but 1 groups"):
        labelled_texts(["one", "two"], [1, 2], groups=["Ann"])


@pytest.mark.parametrize("odd", [3, 2.5, b"bytes", ["a list"], {"text": "a"}, "half \udc00"])
def test_what_is_no_text_or_label_is_refused_with_its_row(odd):
    with pytest.raises(DataError, match=r"the text of row 2 (must be a text|holds half a surrogate)"):
        labelled_texts(["a", "b", odd], [0, 1, 0])
    if not isinstance(odd, int | float):
        with pytest.raises(DataError, match=r"the label of row 1 (must be a word|holds half a surrogate)"):
            labelled_texts(["a", "b", "c"], ["x", odd, "y"])


def test_rows_of_json_and_parquet_give_the_same_as_a_data_frame(tmp_path):
    import pandas

    frame = pandas.DataFrame({"text": ["one", "two", "drei"], "label": ["b", "a", "b"]})
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet")
    want = load_labelled(frame)
    for name in ("t.jsonl", "t.parquet"):
        data = load_labelled(tmp_path / name)
        assert (data.texts, data.labels.tolist()) == (want.texts, want.labels.tolist())
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl, line 2 has columns text: expected 'label'"):
        load_labelled(tmp_path / "t.jsonl")
