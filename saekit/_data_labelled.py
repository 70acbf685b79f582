"""Labelled data sets: by name, from a CSV file, a data frame or the hub, and in memory."""

import csv
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from saekit._data_labelled_sets import LABELLED, LabelledSource
from saekit.errors import DataError, OfflineError

_OWN = "not stated"


@dataclass(frozen=True)
class LabelledTexts:
    """A labelled data set: ``labels[i]`` indexes ``label_names`` and says what ``texts[i]`` is."""

    name: str
    texts: tuple[str, ...]
    labels: Int[np.ndarray, " text"]
    label_names: tuple[str, ...]
    licence: str
    citation: str

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, rows: "slice | Int[np.ndarray, ' row']") -> "LabelledTexts":
        """Return some of the texts: ``data[:100]``, or by an array of their numbers."""
        if not isinstance(rows, slice | np.ndarray):
            raise DataError(f"LabelledTexts takes a slice or an array of numbers, not {rows!r}")
        chosen = np.arange(len(self))[rows]
        return replace(self, texts=tuple(self.texts[i] for i in chosen), labels=self.labels[chosen])

    def sample(self, size: int, *, seed: int = 0, balanced: bool = False) -> "LabelledTexts":
        """Return a random sample without replacement, in the order of the data.

        Args:
            size: Number of texts; all of them if there are fewer.
            seed: Another seed, another sample.
            balanced: As many of each class, as far as there are.
        """
        order = np.random.default_rng(seed).permutation(len(self))
        if balanced and len(self):
            rank = np.zeros(len(self), np.int64)
            for label in np.unique(self.labels):
                of_label = order[self.labels[order] == label]
                rank[of_label] = np.arange(len(of_label))
            order = order[np.argsort(rank[order], kind="stable")]
        return self[np.sort(order[:size])]

    def __repr__(self) -> str:
        known = self.labels[self.labels >= 0]
        counts = np.bincount(known, minlength=len(self.label_names))
        share = ", ".join(f"{n:,} {name}" for n, name in zip(counts, self.label_names, strict=True)) or "no labels"
        return f"LabelledTexts({self.name!r}, {len(self):,} texts: {share}; {self.licence})"


@dataclass(frozen=True)
class LabelledTable:
    """What `list_labelled` returns: prints as text, renders as a table in Jupyter."""

    rows: tuple[LabelledSource, ...]

    def __repr__(self) -> str:
        return "\n".join(f"{s.name:19} {s.task}  {', '.join(s.labels)}  {s.licence}" for s in self.rows)

    def _repr_html_(self) -> str:
        cells = lambda tag, items: "".join(f"<{tag}>{html.escape(i)}</{tag}>" for i in items)  # noqa: E731
        head = cells("th", ("name", "task", "labels", "licence", "citation", "package"))
        body = "".join(
            f"<tr>{cells('td', (s.name, s.task, ', '.join(s.labels), s.licence, s.citation, s.package))}</tr>"
            for s in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def list_labelled() -> LabelledTable:
    """List the labelled data sets that need no hub, with task, licence and citation."""
    return LabelledTable(tuple(LABELLED.values()))


def load_labelled(
    source: "str | Path | Any",
    *,
    text: str = "text",
    label: str = "label",
    split: str = "train",
    max_texts: int | None = None,
    drop_missing: bool = False,
    progress: bool = True,
) -> LabelledTexts:
    """Load a labelled data set.

    Args:
        source: A name from `list_labelled` (``"sms-spam"``), a ``.csv`` or ``.tsv`` file, a pandas data frame, or
            the name of a data set on the hub (``"owner/set"``), which streams.
        text: Column of the texts. Not for a data set by name.
        label: Column of the labels: numbers or words; the classes are sorted.
        split: Which split of a hub data set.
        max_texts: Stop after so many texts. Needed for a hub data set, which may have no end.
        drop_missing: Leave rows without text or label out, instead of refusing them.
        progress: Show progress bars.

    Raises:
        DataError: No such set, other columns, or rows without text or label.
        OfflineError: It has to be downloaded and cannot be.
    """
    if isinstance(source, str) and source in LABELLED:
        known = LABELLED[source]
        rows = list(known.rows(progress))[:max_texts]
        texts, labels = zip(*rows, strict=True)
        return LabelledTexts(source, texts, np.array(labels), known.labels, known.licence, known.citation)
    if hasattr(source, "columns") and not isinstance(source, str | Path):
        name, found = "data frame", _from_frame(source, text, label)
    elif Path(str(source)).expanduser().is_file():
        name, found = Path(str(source)).name, _from_csv(Path(str(source)).expanduser(), text, label)
    elif "/" in str(source) and not str(source).startswith((".", "/", "~")) and max_texts is not None:
        name, found = str(source), _from_hub(str(source), text, label, split, max_texts)
    else:
        raise DataError(
            f"no labelled data set {str(source)!r}: expected one of {', '.join(LABELLED)}, a .csv or .tsv file, a "
            f"data frame, or a data set on the hub (owner/name, with max_texts=)"
        )
    return labelled_texts(
        [row[0] for row in found[:max_texts]], [row[1] for row in found[:max_texts]],
        name=name, drop_missing=drop_missing,
    )  # fmt: skip


def labelled_texts(
    texts: Sequence[Any], labels: Sequence[Any], *, name: str = "texts", licence: str = _OWN, citation: str = _OWN,
    drop_missing: bool = False,
) -> LabelledTexts:  # fmt: skip
    """Return texts and labels of your own as a data set.

    Args:
        texts: The texts.
        labels: One label a text: words, whole numbers or true and false. The classes are in the order of sorting.
        name: What to call it.
        licence: Of the texts.
        citation: Where they come from.
        drop_missing: Leave pairs without text or label (None, NaN, "") out, instead of refusing them.

    Raises:
        DataError: Not as many labels as texts, none at all, or missing ones.
    """
    texts, labels = list(texts), list(labels)
    if len(texts) != len(labels):
        raise DataError(f"{len(texts):,} texts but {len(labels):,} labels: expected one label a text")
    lost = [i for i, pair in enumerate(zip(texts, labels, strict=True)) if _missing(pair[0], True) or _missing(pair[1])]
    if lost and not drop_missing:
        shown = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
        raise DataError(
            f"{len(lost):,} of {len(texts):,} rows have no text or no label (rows {shown}): complete them, or leave "
            f"them out with drop_missing=True"
        )
    gone = set(lost)
    kept = [(str(t), _plain(y)) for i, (t, y) in enumerate(zip(texts, labels, strict=True)) if i not in gone]
    if not kept:
        raise DataError("no labelled text: expected at least one")
    numbers = all(isinstance(y, int) for _, y in kept)
    classes = sorted({y if numbers else str(y) for _, y in kept})
    number = {y: i for i, y in enumerate(classes)}
    values = np.array([number[y if numbers else str(y)] for _, y in kept])
    return LabelledTexts(name, tuple(t for t, _ in kept), values, tuple(map(str, classes)), licence, citation)


def _missing(value: Any, text: bool = False) -> bool:
    """Return whether a cell is empty; an empty text is a text."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)) or str(value) == "<NA>":
        return True
    return not text and isinstance(value, str) and value.strip().lower() in ("", "nan", "none", "null")


def _plain(label: Any) -> int | str:
    """Return a whole number or a word: 1.0, which a column with a gap turns into, is 1."""
    if isinstance(label, bool | np.bool_):
        return str(bool(label))
    if isinstance(label, int | np.integer):
        return int(label)
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return int(label)
    return str(label)


def _from_frame(frame: Any, text: str, label: str) -> list[tuple[Any, Any]]:
    _expect_columns("the data frame", [str(name) for name in frame.columns], text, label)
    return list(zip(frame[text].tolist(), frame[label].tolist(), strict=True))


def _from_csv(path: Path, text: str, label: str) -> list[tuple[Any, Any]]:
    csv.field_size_limit(1 << 24)  # a text may be long
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            _expect_columns(str(path), list(reader.fieldnames or []), text, label)
            return [(row[text], row[label]) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table in UTF-8 ({error})") from error


def _from_hub(name: str, text: str, label: str, split: str, most: int) -> list[tuple[Any, Any]]:
    from itertools import islice

    from datasets import load_dataset

    try:
        rows = load_dataset(name, split=split, streaming=True)
        found = list(islice(iter(rows), most))
        features = getattr(rows, "features", None)
    except Exception as error:
        raise OfflineError(
            f"could not open {name!r} on the data hub: {str(error).strip().splitlines()[0][:200]}. Connect and try "
            f"again, pass a local file, or use a packaged set: {', '.join(LABELLED)}"
        ) from error
    _expect_columns(f"data set {name!r}", list(found[0]) if found else [], text, label)
    names = getattr((features or {}).get(label), "names", None)  # the hub's own words for the classes
    word = lambda y: names[y] if names and isinstance(y, int) and 0 <= y < len(names) else y  # noqa: E731
    return [(row[text], word(row[label])) for row in found]


def _expect_columns(what: str, columns: list[str], text: str, label: str) -> None:
    if gone := [name for name in (text, label) if name not in columns]:
        raise DataError(
            f"{what} has columns {', '.join(columns) or 'none'}: expected {' and '.join(map(repr, gone))}. Say which "
            f"to take with text= and label="
        )
