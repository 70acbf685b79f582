"""Folds that hold no text twice: duplicates stay together, classes keep their shares, the order does not matter."""

import hashlib
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from saekit.data import LabelledTexts, linked
from saekit.errors import ProbeError
from saekit.probes.features import TextFeatures


@dataclass(frozen=True)
class Duplicates:
    """Texts that are the same but for case, spaces, punctuation and which digits they hold, or as far as they are read.

    Attributes:
        group: Number of the group each text belongs to; texts of one group are the same.
        n_texts: How many texts are in a group with others.
        n_as_read: How many of them only because texts were cut: what was read of them is the same, token by token.
        n_groups: How many such groups there are.
        n_conflicting: In how many of them the labels differ.
        largest: A text of the largest group, and how often it occurs; ("", 1) if there is none.
    """

    group: Int[np.ndarray, " text"]
    n_texts: int
    n_as_read: int
    n_groups: int
    n_conflicting: int
    largest: tuple[str, int]

    def __repr__(self) -> str:
        if not self.n_texts:
            return "no duplicates"
        text, count = self.largest
        as_read = f", {self.n_as_read:,} of the texts only as far as they are read" if self.n_as_read else ""
        return (
            f"{self.n_texts:,} texts in {self.n_groups:,} groups of duplicates, {self.n_conflicting:,} of them with "
            f"different labels{as_read}; {count} times: {text[:60]!r}"
        )


@dataclass(frozen=True)
class Folds:
    """Which fold each text is tested in; its training part is all the others.

    Attributes:
        fold: For each text.
        n_folds: How many.
        seed: With which they were drawn.
        duplicates: What was kept together.
    """

    fold: Int[np.ndarray, " text"]
    n_folds: int
    seed: int
    duplicates: Duplicates

    def train(self, *held_out: int) -> Int[np.ndarray, " row"]:
        """Return the texts outside these folds."""
        return np.flatnonzero(~np.isin(self.fold, held_out))

    def test(self, fold: int) -> Int[np.ndarray, " row"]:
        """Return the texts of one fold."""
        return np.flatnonzero(self.fold == fold)


def same_key(text: str) -> str:
    """Return what two texts have in common if they are the same to us.

    >>> same_key("WIN £200 now!!") == same_key("win £150  now")
    True
    """
    letters = re.sub(r"\d+", "0", text.casefold())
    key = "".join(c for c in letters if c.isalnum())
    return key or " ".join(letters.split())


def same_keys(data: LabelledTexts | TextFeatures) -> list[tuple[Hashable, ...]]:
    """Return the keys of each text: texts that share one are the same. Where texts were cut, their tokens are one."""
    if isinstance(data, LabelledTexts):
        return [(same_key(text),) for text in data.texts]
    keys = same_keys(data.data)
    if not data.truncated + data.perhaps_truncated:  # what is read in full is the same only if the texts are
        return keys
    read = (data.ids[start:stop].tobytes() for start, stop in zip(data.id_starts, data.id_starts[1:], strict=False))
    return [(*key, tokens) for key, tokens in zip(keys, read, strict=True)]


def find_duplicates(data: LabelledTexts | TextFeatures) -> Duplicates:
    """Find texts that occur more than once, but for case, spaces, punctuation and digits.

    In an extraction texts that were cut also count as the same if all their tokens up to the cut are.
    """
    return _found(_texts_of(data), same_keys(data))


def in_both(one: LabelledTexts | TextFeatures, other: LabelledTexts | TextFeatures) -> int:
    """Return how many texts of ``other`` occur in ``one``: a leak, if one is trained on and the other is the test."""
    known = {key for keys in same_keys(one) for key in keys}
    return sum(not known.isdisjoint(keys) for keys in same_keys(other))


def make_folds(data: LabelledTexts | TextFeatures, n_folds: int = 5, *, seed: int = 0) -> Folds:
    """Deal texts out to folds: duplicates together, each class evenly, by content and seed alone.

    Pass the extraction where there is one: texts that were cut to the same tokens are duplicates in it.

    Raises:
        ProbeError: No labels, one class only, or a class with fewer different texts than folds.
    """
    return _dealt(_texts_of(data), same_keys(data), n_folds, seed)


def deal_rest(folds: Folds, data: LabelledTexts | TextFeatures, *, seed: int) -> Folds:
    """Return other folds of the same texts: fold 0 stays, all texts outside it are dealt out anew."""
    rest, keys = folds.train(0), same_keys(data)
    again = _dealt(_texts_of(data)[rest], [keys[i] for i in rest], folds.n_folds - 1, seed)
    fold = np.zeros(len(data), np.int64)
    fold[rest] = 1 + again.fold
    return replace(folds, fold=fold)


def _texts_of(data: LabelledTexts | TextFeatures) -> LabelledTexts:
    return data.data if isinstance(data, TextFeatures) else data


def _found(data: LabelledTexts, keys: Sequence[tuple[Any, ...]]) -> Duplicates:
    group, by_words = _numbered(linked(keys)), _numbered([key[0] for key in keys])
    count = np.bincount(group)
    several = np.flatnonzero(count > 1)
    labels = [set(data.labels[group == g].tolist()) for g in several]
    largest = ("", 1)
    if len(several):
        most = several[count[several].argmax()]
        largest = (data.texts[int(np.flatnonzero(group == most)[0])], int(count[most]))
    conflicting = sum(len(found) > 1 for found in labels)
    n_texts, n_by_words = (int((np.bincount(of)[of] > 1).sum()) for of in (group, by_words))
    return Duplicates(group, n_texts, n_texts - n_by_words, len(several), conflicting, largest)


def _numbered(keys: Iterable[Hashable]) -> Int[np.ndarray, " text"]:
    """Return a number for each key, in the order in which they first occur."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(key, len(number)) for key in keys], np.int64)


def _dealt(data: LabelledTexts, keys: Sequence[tuple[Any, ...]], n_folds: int, seed: int) -> Folds:
    check_labels(data)
    if n_folds < 3:
        raise ProbeError(f"nested cross-validation needs at least 3 folds, not {n_folds}")
    duplicates = _found(data, keys)
    group = duplicates.group
    words = [""] * (group.max() + 1)
    for g, key in zip(group, keys, strict=True):  # of all keys of a group the lowest, whatever the order
        words[g] = min(words[g] or key[0], key[0])
    drawn = [hashlib.sha256(f"{seed}/{word}".encode("utf-8", "surrogatepass")).digest() for word in words]
    first = np.unique(group, return_index=True)[1]
    size = np.bincount(group)
    label = np.array([np.bincount(data.labels[group == g]).argmax() if size[g] > 1 else data.labels[first[g]]
                      for g in range(len(first))])  # fmt: skip
    fold_of_group = np.zeros(len(first), np.int64)
    total = np.zeros(n_folds, np.int64)
    for c in np.unique(data.labels):
        members = sorted(np.flatnonzero(label == c), key=lambda g: (-size[g], drawn[g]))
        if len(members) < n_folds:
            raise ProbeError(
                f"class {data.label_names[c]!r} has {len(members)} different texts, fewer than {n_folds} folds: add "
                f"texts, use fewer folds, or leave the class out"
            )
        filled = np.zeros(n_folds, np.int64)
        for g in members:  # the largest groups first, then each to the fold that is emptiest
            best = min(range(n_folds), key=lambda f: (filled[f], total[f], f))
            fold_of_group[g] = best
            filled[best] += size[g]
            total[best] += size[g]
    return Folds(fold_of_group[group], n_folds, seed, duplicates)


def check_labels(data: LabelledTexts) -> None:
    """Raise ProbeError unless every text has a label and there are at least two classes."""
    if (data.labels < 0).any():
        raise ProbeError("these texts have no labels: extract features from a labelled data set (load_labelled)")
    present = np.unique(data.labels)
    if len(present) < 2:
        names = [data.label_names[i] for i in present]
        raise ProbeError(f"all {len(data):,} texts are of one class ({', '.join(names)}): a probe needs at least two")
