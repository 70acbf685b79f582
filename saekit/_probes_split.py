"""Folds that hold no text twice: duplicates stay together, classes keep their shares, the order does not matter."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from saekit.data import LabelledTexts
from saekit.errors import ProbeError


@dataclass(frozen=True)
class Duplicates:
    """Texts that are the same but for case, spaces, punctuation and which digits they hold.

    Attributes:
        group: Number of the group each text belongs to; texts of one group are the same.
        n_texts: How many texts are in a group with others.
        n_groups: How many such groups there are.
        n_conflicting: In how many of them the labels differ.
        largest: A text of the largest group, and how often it occurs; ("", 1) if there is none.
    """

    group: Int[np.ndarray, " text"]
    n_texts: int
    n_groups: int
    n_conflicting: int
    largest: tuple[str, int]

    def __repr__(self) -> str:
        if not self.n_texts:
            return "no duplicates"
        text, count = self.largest
        return (
            f"{self.n_texts:,} texts in {self.n_groups:,} groups of duplicates, {self.n_conflicting:,} of them with "
            f"different labels; {count} times: {text[:60]!r}"
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


def find_duplicates(data: LabelledTexts) -> Duplicates:
    """Find texts that occur more than once, but for case, spaces, punctuation and digits."""
    keys = [same_key(text) for text in data.texts]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    group = np.array([number[key] for key in keys], np.int64)
    count = np.bincount(group, minlength=len(number))
    several = np.flatnonzero(count > 1)
    labels = [set(data.labels[group == g].tolist()) for g in several]
    largest = ("", 1)
    if len(several):
        most = several[count[several].argmax()]
        largest = (data.texts[int(np.flatnonzero(group == most)[0])], int(count[most]))
    conflicting = sum(len(found) > 1 for found in labels)
    return Duplicates(group, int(count[several].sum()), len(several), conflicting, largest)


def in_both(one: LabelledTexts, other: LabelledTexts) -> int:
    """Return how many texts of ``other`` occur in ``one``: a leak, if one is trained on and the other is the test."""
    known = {same_key(text) for text in one.texts}
    return sum(same_key(text) in known for text in other.texts)


def make_folds(data: LabelledTexts, n_folds: int = 5, *, seed: int = 0) -> Folds:
    """Deal texts out to folds: duplicates together, each class evenly, by content and seed alone.

    Raises:
        ProbeError: No labels, one class only, or a class with fewer different texts than folds.
    """
    check_labels(data)
    if n_folds < 3:
        raise ProbeError(f"nested cross-validation needs at least 3 folds, not {n_folds}")
    duplicates = find_duplicates(data)
    group = duplicates.group
    first = np.unique(group, return_index=True)[1]
    drawn = [
        hashlib.sha256(f"{seed}/{same_key(data.texts[i])}".encode("utf-8", "surrogatepass")).digest() for i in first
    ]
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
