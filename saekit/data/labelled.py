"""Labelled data sets: by name, from a CSV file, a data frame or the hub, and in memory."""

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from saekit._base.checks import unicode_text
from saekit._base.table import Column, Table
from saekit.data.documents import existing
from saekit.data.files import Rows, is_table, open_hub, open_rows
from saekit.data.labelled_sets import LABELLED, LabelledSource
from saekit.errors import DataError

_OWN = "not stated"
_GAPS = ("nan", "na", "none", "null")  # among numbers no numbers; among words they are words
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


@dataclass(frozen=True)
class LabelledItems:
    """A labelled data set of texts, or of images.

    Attributes:
        name: Name of the data set.
        items: Texts; or images, an array of grey values ``[row, column]`` each.
        labels: Place of each item's class in ``label_names``; -1 where it is not known.
        label_names: Names of the classes.
        licence: Licence of the items.
        citation: Work to cite.
        groups: Group of each item, as a word: items of one group never part between training and test, whatever
            they are (the images of one writer, the chapters of one book). Images need one each; texts that are the
            same belong together without.
    """

    name: str
    items: "tuple[str, ...] | tuple[Float[np.ndarray, 'row column'], ...]"
    labels: Int[np.ndarray, " item"]
    label_names: tuple[str, ...]
    licence: str
    citation: str
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.groups and len(self.groups) != len(self.items):
            raise DataError(f"got {len(self.groups):,} groups for {len(self.items):,} items: expected one per item")
        if not self.groups and not self.are_texts:
            raise DataError("images need groups, one per item: what says that two of them are the same?")

    @property
    def are_texts(self) -> bool:
        """Whether the items are texts; a data set without items is one of texts."""
        return not self.items or isinstance(self.items[0], str)

    @property
    def texts(self) -> tuple[str, ...]:
        """The items of a data set of texts. Raises DataError for images."""
        if not self.are_texts:
            raise DataError(f"{self.name!r} holds images: this is for texts")
        return cast("tuple[str, ...]", self.items)

    @property
    def keys(self) -> tuple[str, ...]:
        """A word for each item, the same for the same content: a text itself, the group of an image."""
        return cast("tuple[str, ...]", self.items) if self.are_texts else self.groups

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: "slice | Int[np.ndarray, ' row'] | Bool[np.ndarray, ' item']") -> "LabelledItems":
        """Return some of the items: ``data[:100]``, or by an array of their numbers, or of True or False for each."""
        if not isinstance(rows, slice | np.ndarray):
            raise DataError(f"LabelledItems takes a slice or an array of numbers, not {rows!r}")
        if isinstance(rows, np.ndarray) and rows.dtype == bool and len(rows) != len(self):
            raise DataError(f"expected one True or False for each of {len(self):,} items, got {len(rows):,}")
        chosen = np.arange(len(self))[rows]
        items, groups = (tuple(of[i] for i in chosen) if of else () for of in (self.items, self.groups))
        return replace(self, items=items, groups=groups, labels=self.labels[chosen])

    def sample(self, size: int, *, seed: int = 0, balanced: bool = False) -> "LabelledItems":
        """Return a random sample without replacement, in the order of the data.

        Args:
            size: Number of items; all of them if there are fewer.
            seed: Another seed, another sample.
            balanced: As many of each class, as far as there are.

        Raises:
            DataError: A size below 1.
        """
        return self[sampled_rows(self.labels, size, seed=seed, balanced=balanced)]

    def __repr__(self) -> str:
        known = self.labels[self.labels >= 0]
        counts = np.bincount(known, minlength=len(self.label_names))
        share = ", ".join(f"{n:,} {name}" for n, name in zip(counts, self.label_names, strict=True)) or "no labels"
        what = "texts" if self.are_texts else "images"
        return f"LabelledItems({self.name!r}, {len(self):,} {what}: {share}; {self.licence})"


def sampled_rows(labels: Int[np.ndarray, " item"], size: int, *, seed: int, balanced: bool) -> Int[np.ndarray, " row"]:
    """Return the rows of a random sample without replacement, in order; see `LabelledItems.sample`."""
    if size < 1:
        raise DataError(f"a sample has at least 1 item, not {size}")
    order = np.random.default_rng(seed).permutation(len(labels))
    if balanced:
        rank = np.zeros(len(labels), np.int64)
        for label in np.unique(labels):
            of_label = order[labels[order] == label]
            rank[of_label] = np.arange(len(of_label))
        order = order[np.argsort(rank[order], kind="stable")]
    return np.sort(order[:size])


_COLUMNS = (
    Column("name", "name"),
    Column("task", "task"),
    Column("labels", lambda source: ", ".join(source.labels)),
    Column("licence", "licence"),
    Column("citation", "citation", text=False),
    Column("package", "package", text=False),
)


def list_labelled() -> Table[LabelledSource]:
    """List the labelled data sets that need no hub, with task, licence and citation."""
    return Table(tuple(LABELLED.values()), _COLUMNS)


def load_labelled(
    source: "str | Path | Any",
    *,
    text: str = "text",
    label: str = "label",
    configuration: str | None = None,
    split: str = "train",
    max_texts: int | None = None,
    drop_missing: bool = False,
    progress: bool = True,
) -> LabelledItems:
    """Load a labelled data set.

    Args:
        source: A name from `list_labelled` (``"sms-spam"``), a .csv, .tsv, .jsonl or .parquet file, a data frame, or
            the name of a data set on the hub (``"owner/set"``), which streams.
        text: Column of the texts. Not for a data set by name.
        label: Column of the labels: numbers or words; the classes are sorted.
        configuration: Part of a hub data set that has several (``"emotion"`` of ``"cardiffnlp/tweet_eval"``).
        split: Split of a hub data set.
        max_texts: Number of texts at most: of a set by name a random sample, always the same; else the first ones.
            Needed for a hub data set, which may have no end.
        drop_missing: Whether rows without text or label are left out, instead of refused.
        progress: Whether downloads show progress bars.

    Raises:
        DataError: No such set or configuration, other columns, or rows without text or label.
        OfflineError: It has to be downloaded and cannot be.

    Warns:
        UserWarning: The first ``max_texts`` are all of one class, as in a file that is sorted by class.
    """
    if max_texts is not None and max_texts < 1:
        raise DataError(f"max_texts must be at least 1, not {max_texts}")
    if isinstance(source, str) and source in LABELLED:
        known = LABELLED[source]
        texts, labels = zip(*known.rows(progress), strict=True)
        data = LabelledItems(source, texts, np.array(labels), known.labels, known.licence, known.citation)
        return data if max_texts is None else data.sample(max_texts)  # some of the files are sorted by class
    if is_table(source):
        name, rows = "data frame", open_rows(source)
    elif (path := existing(str(source))) is not None and path.is_file():
        name, rows = path.name, open_rows(path)
    elif "/" in str(source) and not str(source).startswith((".", "/", "~")) and max_texts is not None:
        instead = f"a packaged set: {', '.join(LABELLED)}"
        name, rows = str(source), open_hub(str(source), configuration=configuration, split=split, instead=instead)
    else:
        raise DataError(
            f"no labelled data set {str(source)!r:.80}: expected one of {', '.join(LABELLED)}, a .csv, .tsv, .jsonl or "
            f".parquet file, a data frame, or a data set on the hub (owner/name, with max_texts=)"
        )
    texts, labels = _texts_and_labels(rows, text, label, max_texts)
    data = labelled_texts(texts, labels, name=name, drop_missing=drop_missing)
    if len(texts) == max_texts and max_texts > 1 and len(data.label_names) == 1:
        warnings.warn(
            f"the first {max_texts:,} texts of {name!r} are all of one class ({data.label_names[0]}): are they sorted "
            f"by class? Read more of them, and take a sample: .sample({max_texts})",
            stacklevel=2,
        )
    return data


def labelled_texts(
    texts: Sequence[Any],
    labels: Sequence[Any],
    *,
    groups: Sequence[Any] | None = None,
    name: str = "texts",
    licence: str = _OWN,
    citation: str = _OWN,
    drop_missing: bool = False,
) -> LabelledItems:
    """Return texts and labels of your own as a data set.

    Args:
        texts: The texts.
        labels: One label per text: words, whole numbers or true and false. The classes are sorted: as numbers where
            all are numbers, also numbers in words as a file has them (``"10"``), else as words.
        groups: Group of each text, a word or a number, such as its author: texts of one group never part between
            training and test. None: only texts that are the same stay together.
        name: Name of the data set.
        licence: Licence of the texts.
        citation: Work to cite.
        drop_missing: Whether pairs without text or label are left out, instead of refused: None, NaN, NaT, an
            infinite number, or "" as a label. Words like "none" are classes, but gaps where all other labels are
            numbers.

    Raises:
        DataError: Not as many labels or groups as texts, none at all, missing ones, or what is no text or label; the
            message has the row.
    """
    texts, labels = list(texts), list(labels)
    for what, several in (("label", labels), ("group", texts if groups is None else list(groups))):
        if len(texts) != len(several):
            raise DataError(f"{len(texts):,} texts but {len(several):,} {what}s: expected one {what} per text")
    labels = _plain([_label(i, label) for i, label in enumerate(labels)])
    kept = [
        i for i, (text, label) in enumerate(zip(texts, labels, strict=True)) if not (_missing(text) or label is None)
    ]
    if len(kept) < len(texts) and not drop_missing:
        lost = sorted(set(range(len(texts))) - set(kept))
        shown = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
        raise DataError(
            f"{len(lost):,} of {len(texts):,} rows have no text or no label (rows {shown}): complete them, or leave "
            f"them out with drop_missing=True"
        )
    if not kept:
        raise DataError("no labelled text: expected at least one")
    classes = sorted({labels[i] for i in kept})
    number = {label: n for n, label in enumerate(classes)}
    of = () if groups is None else list(groups)
    return LabelledItems(
        name=name,
        items=tuple(unicode_text(f"the text of row {i}", texts[i], error=DataError) for i in kept),
        labels=np.array([number[labels[i]] for i in kept]),
        label_names=tuple(map(str, classes)),
        licence=licence,
        citation=citation,
        groups=tuple(str(of[i]) for i in kept) if of else (),
    )


def _missing(value: Any) -> bool:
    """Return whether a cell is empty (None, NaN, NaT, NA) or no number; an empty text is a text."""
    if value is None or str(value) in ("<NA>", "NaT"):
        return not isinstance(value, str)
    return isinstance(value, float | np.floating) and not math.isfinite(value)


def _label(row: int, label: Any) -> Any:
    """Return a label that is a word, a number, True or False, or missing; refuse any other."""
    if isinstance(label, str):
        return unicode_text(f"the label of row {row}", label, error=DataError)
    if isinstance(label, bytes) or (isinstance(label, Iterable) and not getattr(label, "ndim", 1) == 0):
        raise DataError(
            f"the label of row {row} must be a word, a whole number, True or False, not {label!r:.80}: give each text "
            f"one label"
        )
    return label


def _plain(labels: Sequence[Any]) -> list[Any]:
    """Return labels that can be sorted: all of them numbers, or all of them words; None where there is none.

    A file has words alone, a data frame numbers, and with a gap 1.0 for 1: all of these become the same classes.
    """
    cells = [None if _missing(y) or (isinstance(y, str) and not y.strip()) else y for y in labels]
    numbers = [_number(y) for y in cells]
    words = [y for y, n in zip(cells, numbers, strict=True) if y is not None and n is None]
    if len(words) < len(cells) - cells.count(None) and all(str(y).strip().lower() in _GAPS for y in words):
        return numbers
    spelled = [
        cell if number is None or isinstance(cell, str) else number for cell, number in zip(cells, numbers, strict=True)
    ]
    return [None if cell is None else str(cell) for cell in spelled]


def _number(label: Any) -> int | float | None:
    """Return a label as a number, whole where it is, if it is one or spells one."""
    if isinstance(label, bool | np.bool_):
        return None
    if isinstance(label, str) and _NUMBER.fullmatch(label.strip()):
        label = float(label) if "." in label else int(label)
    if isinstance(label, int | np.integer):
        return int(label)
    if isinstance(label, float | np.floating):
        return int(label) if float(label).is_integer() else float(label)
    return None


def _texts_and_labels(rows: Rows, text: str, label: str, most: int | None) -> tuple[list[Any], list[Any]]:
    rows.expect(text=text, label=label)
    classes = dict(enumerate(rows.classes.get(label, ())))  # a data set's own words for its classes
    texts, labels = [], []
    for place, cells in islice(rows.cells, most):
        texts.append(rows.cell("text", text, place, cells))
        found = rows.cell("label", label, place, cells)
        labels.append(classes.get(found, found) if isinstance(found, int) else found)
    return texts, labels
