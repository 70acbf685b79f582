"""Documents of one's own: how they are told apart, what is refused, and with which words."""

import json

import numpy as np
import pytest

from saekit.data import documents, load_corpus, tokens_from_texts
from saekit.errors import DataError, OfflineError

LINES = [
    f"Report {i}: the weather in town number {i * 37 % 101} was {'fair' if i % 3 else 'foul'}, {i}." for i in range(120)
]


def texts_of(tokens, model):
    """Return the documents of tokens by their numbers."""
    numbers = np.unique(tokens.document[tokens.document >= 0])
    return {int(n): model.tokenizer.decode(tokens.ids[tokens.document == n].tolist()) for n in numbers}


def every_source(folder):
    """Yield one corpus in every form that it can have."""
    import datasets
    import pandas
    import pyarrow

    frame = pandas.DataFrame({"id": range(len(LINES)), "text": LINES})
    (folder / "c.txt").write_text("\n\n".join(LINES))
    (folder / "crlf.txt").write_bytes("\r\n \r\n\r\n".join(LINES).encode("utf-8-sig"))
    frame.to_json(folder / "c.jsonl", orient="records", lines=True)
    frame.to_csv(folder / "c.csv", index=False)
    frame.to_csv(folder / "c.tsv", index=False, sep="\t")
    frame.to_parquet(folder / "c.parquet")
    (folder / "many").mkdir()
    for number, line in enumerate(LINES):
        (folder / "many" / f"{number:03}.txt").write_text(line)
    yield from (str(folder / f"c.{kind}") for kind in ("txt", "jsonl", "csv", "tsv", "parquet"))
    yield from (folder / "crlf.txt", folder / "many", frame, pyarrow.Table.from_pandas(frame))
    yield from (
        datasets.Dataset.from_dict({"text": LINES}),
        datasets.Dataset.from_dict({"text": LINES}).to_iterable_dataset(),
    )
    yield from (LINES, tuple(LINES), frame["text"], np.array(LINES))


def test_one_corpus_has_the_same_documents_and_the_same_split_in_every_form(model, tmp_path):
    for source in every_source(tmp_path):
        parts = [
            texts_of(load_corpus(source, model=model, split=s, progress=False), model) for s in ("train", "heldout")
        ]
        assert not parts[0].keys() & parts[1].keys()
        assert parts[0] | parts[1] == dict(enumerate(LINES)), source
        first = locals().get("first", parts)
        assert parts == first, source


def test_what_a_document_is_is_said(model, tmp_path):
    made = {str(source): documents(source).how for source in every_source(tmp_path)}
    assert made[str(tmp_path / "c.txt")] == "by blank lines"
    assert made[str(tmp_path / "c.csv")] == made[str(tmp_path / "c.parquet")] == "by row"
    assert made[str(tmp_path / "many")] == "by file"
    tokens = load_corpus(str(tmp_path / "c.txt"), model=model)
    assert repr(tokens).endswith("; documents by blank lines)")
    assert "c.txt" in repr(tokens)
    (tmp_path / "many" / "notes.md").write_text("left out")
    assert documents(tmp_path / "many").how == "by file (1 other file left out)"


def test_no_document_is_on_both_sides_however_the_file_is_named_or_grows(model, tmp_path, monkeypatch):
    rows = [json.dumps({"text": line}) + "\n" for line in LINES]
    (tmp_path / "corpus.jsonl").write_text("".join(rows))
    (tmp_path / "longer.jsonl").write_text('{"text": "One more document at the top."}\n' + "".join(rows))
    (tmp_path / "mixed.jsonl").write_text("".join(sorted(rows)) + "".join(rows[:50]))
    monkeypatch.chdir(tmp_path)
    names = ["corpus.jsonl", "./corpus.jsonl", str(tmp_path / "corpus.jsonl"), "longer.jsonl", "mixed.jsonl"]
    sides = {
        (name, split): set(texts_of(load_corpus(name, model=model, split=split), model).values())
        for name in names
        for split in ("train", "heldout")
    }
    for name in names:
        for other in names:
            assert not sides[name, "train"] & sides[other, "heldout"]


def test_documents_that_differ_in_white_space_alone_are_on_one_side():
    from saekit.data.split import is_held_out

    for line in LINES:
        assert is_held_out(line) == is_held_out(f"  {line.replace(' ', chr(10))}\r\n")
    assert 0.02 < np.mean([is_held_out(f"{i}") for i in range(3000)]) < 0.08


def test_held_out_documents_that_nearly_equal_a_training_document_are_counted(model):
    from saekit.data.split import is_held_out

    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(5000)]
    texts = [" ".join(rng.choice(words, 60)) for _ in range(300)]
    held = [text for text in texts if is_held_out(text)]
    copies = [next(copy for end in "!?.;:" if not is_held_out(copy := text + end)) for text in held[:4]]
    load_corpus(texts, model=model, split="heldout")  # no warning
    with pytest.warns(UserWarning, match=rf"4 of {len(held)} held-out documents nearly equal a training document"):
        load_corpus([*texts, *copies], model=model, split="heldout")


def test_a_corpus_of_one_document_says_so(model, tmp_path):
    (tmp_path / "book.txt").write_text("One chapter. " * 50)
    said = []
    for split in ("train", "heldout"):
        try:
            load_corpus(tmp_path / "book.txt", model=model, split=split)
        except DataError as error:
            said.append(str(error))
    assert len(said) == 1
    assert "by blank lines, it has 1, " in said[0]
    assert "separator=" in said[0]


def test_a_named_separator_parts_a_file_of_text(model, tmp_path):
    (tmp_path / "c.txt").write_text("<|end|>".join(f"{line}\n\nA second paragraph." for line in LINES) + "<|end|>\n")
    found = documents(tmp_path / "c.txt", separator="<|end|>")
    assert list(found.texts) == [f"{line}\n\nA second paragraph." for line in LINES]
    assert found.how == "by '<|end|>'"
    with pytest.raises(DataError, match="separator must be"):
        documents(tmp_path / "c.txt", separator="")


ROWS = {
    "null": ('{"text": null}', "must be a text .str., not None"),
    "number": ('{"text": 3.5}', r"not 3.5: write str\(number\)"),
    "NaN": ('{"text": NaN}', "not nan"),
    "messages": ('{"text": [{"role": "user", "content": "hi"}]}', "apply_chat_template"),
    "column": ('{"words": "hi", "n": 1}', "has columns words, n: expected 'text'. Say which to take with text="),
    "surrogate": ('{"text": "half \\ud83d"}', r"half a surrogate pair \(U\+D83D at character 5\)"),
    "comma": ('{"text": "a"},', "no JSON object .*without commas between the lines"),
    "array": ('[{"text": "a"}]', "is a JSON list"),
    "string": ('"just a text"', "is a JSON str"),
    "pretty": ("{", "a whole object on every line"),
    "deep": ("[" * 100_000, "no JSON object"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_that_holds_no_text_is_named_with_file_and_line(model, tmp_path, kind):
    row, said = ROWS[kind]
    (tmp_path / "c.jsonl").write_text(f'{{"text": "fine"}}\n\n{row}\n{{"text": "fine"}}\n')
    with pytest.raises(DataError, match=rf"c\.jsonl, line 3.*{said}"):
        list(documents(tmp_path / "c.jsonl").texts)
    for split in ("train", "heldout"):
        with pytest.raises(DataError, match=r"c\.jsonl, line 3"):
            load_corpus(tmp_path / "c.jsonl", model=model, split=split)


def test_bytes_that_are_no_utf8_are_named_with_file_and_line(tmp_path):
    for name, data, line in (
        ("c.txt", b"fine\n\nna\xefve\n", 3),
        ("c.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n', 2),
        ("c.csv", b"text\nfine\n\xe9t\xe9\n", 3),
        ("utf16.txt", "some text".encode("utf-16"), 1),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}, line {line} is not UTF-8 \(byte 0x"):
            list(documents(tmp_path / name).texts)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    for name, text in (("c.txt", "é"), ("c.jsonl", '{"text": "é"}'), ("c.csv", "text\né")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert list(documents(tmp_path / name).texts) == ["é"]


def test_nul_and_white_space_are_text_and_an_empty_text_has_no_tokens(model):
    texts = ["nul\0byte", "   ", "", "\n\t", "\u200b", "end"]
    tokens = tokens_from_texts(texts, model=model)
    assert texts_of(tokens, model) == {i: text for i, text in enumerate(texts) if text}


def test_a_text_too_long_to_be_tokenised_whole_is_named(model, tmp_path):
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "long " * 10_000_000}))
    with pytest.raises(DataError, match=r"50,000,000 characters.*at most 10,000,000"):
        for split in ("train", "heldout"):  # one of the two
            load_corpus(tmp_path / "c.jsonl", model=model, split=split)


@pytest.mark.parametrize("odd", [None, 3, float("nan"), b"bytes", ["a"], {"text": "a"}, "\ud800"])
def test_what_is_no_text_is_refused_at_every_entrance(model, odd):
    from saekit.errors import SaekitError
    from saekit.models import encode_start, encode_text, encode_texts, encode_whole, token_ids

    for read in (token_ids, encode_texts):
        with pytest.raises(SaekitError, match="text 1"):
            read(model, ["fine", odd])
    for read in (encode_text, encode_start, encode_whole):
        with pytest.raises(SaekitError, match=r"the (text|prompt) (must be|holds)"):
            read(model, odd)
    for read in (tokens_from_texts, load_corpus):
        with pytest.raises(DataError, match="text 1"):
            read(["fine", odd], model=model)


def test_what_is_no_corpus_is_refused(model, tmp_path):
    import datasets

    for source in (3, None, b"bytes", {"text": "a"}):
        with pytest.raises(DataError, match="a corpus must be"):
            load_corpus(source, model=model)
    parts = datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": LINES}))
    with pytest.raises(DataError, match="has splits train: pass one of them"):
        load_corpus(parts, model=model)
    with pytest.raises(DataError, match="no packaged corpus or local file"):
        load_corpus("A text in place of a name. " * 500, model=model)
    (tmp_path / "c.json").write_text('[{"text": "a"}]')
    with pytest.raises(DataError, match=r"Of a \.json file make \.jsonl"):
        load_corpus(tmp_path / "c.json", model=model)
    (tmp_path / "c.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read as a parquet file"):
        load_corpus(tmp_path / "c.parquet", model=model)
    (tmp_path / "c.csv").write_text("text;label\na;b\n")
    with pytest.raises(DataError, match="has columns text;label: expected 'text'"):
        load_corpus(tmp_path / "c.csv", model=model)
    (tmp_path / "c.csv").write_text("text,label\na,b,c\n")
    with pytest.raises(DataError, match="line 2 has 3 cells, the table 2 columns"):
        load_corpus(tmp_path / "c.csv", model=model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"has no \.txt file"):
        load_corpus(tmp_path / "empty", model=model)


def test_rows_longer_than_the_models_context_are_refused_when_made(model):
    most = model.cfg.n_ctx
    for make in (tokens_from_texts, load_corpus):
        with pytest.raises(
            DataError, match=rf"context_size {2 * most} is longer than the context of tiny, {most} tokens"
        ):
            make(LINES, model=model, context_size=2 * most)
    assert tokens_from_texts(LINES, model=model, context_size=most).ids.shape[1] == most


def test_a_hub_set_streams_by_row_from_its_files(model, monkeypatch, tmp_path):
    """Read by the real library from a folder that stands for the hub."""
    import datasets

    pages = datasets.Dataset.from_dict({"page": LINES})
    pages.to_parquet(tmp_path / "pages.parquet")
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *args, **kwargs: load(str(tmp_path), *args, **kwargs))
    monkeypatch.chdir(tmp_path)
    tokens = load_corpus("someone/pages", model=model, text="page", max_tokens=200, context_size=32)
    assert 200 <= tokens.n_tokens < 232
    assert "someone/pages" in repr(tokens)
    with pytest.raises(DataError, match="has columns page: expected 'text'"):
        load_corpus("someone/pages", model=model, max_tokens=200)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(OfflineError, match="could not open 'someone/pages'"):
        load_corpus("someone/pages", model=model, max_tokens=200)
