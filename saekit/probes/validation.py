"""Cross-validation that leaks nothing: duplicates never part, every text is predicted by a fit that has not seen it.

Folds hold no text twice, classes keep their shares, and the order of the texts does not matter. scikit-learn's
StratifiedGroupKFold is not used: it breaks ties by the order in which the texts came, and takes ten times as long.
"""

import hashlib
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from saekit.data import LabelledItems, linked
from saekit.errors import ProbeError
from saekit.probes.classifiers import Fitted
from saekit.probes.features import TextFeatures
from saekit.probes.score import PerText, Scored, f1_of

Rows = Int[np.ndarray, " row"]


@dataclass(frozen=True)
class Duplicates:
    """Texts that are the same but for case, spaces, punctuation and which digits they hold, or as far as they are read.

    Attributes:
        group: Number of the group each text belongs to; texts of one group are the same.
        n_texts: Number of texts that are in a group with others.
        n_as_read: Number of those that are there only because texts were cut: what was read of them is the same, token
            by token.
        n_groups: Number of groups of more than one text.
        n_conflicting: Number of those groups in which the labels differ.
        largest: Text of the largest group, and how often it occurs; ("", 1) if there is none.
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
        fold: Number of the fold of each text.
        n_folds: Number of folds.
        seed: Seed with which they were drawn.
        duplicates: Groups of texts that were kept together.
    """

    fold: Int[np.ndarray, " text"]
    n_folds: int
    seed: int
    duplicates: Duplicates

    def train(self, *held_out: int) -> Rows:
        """Return the texts outside these folds."""
        return np.flatnonzero(~np.isin(self.fold, held_out))

    def test(self, fold: int) -> Rows:
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


def same_keys(data: LabelledItems | TextFeatures) -> list[tuple[Hashable, ...]]:
    """Return the keys of each text: texts that share one are the same. Where texts were cut, their tokens are one."""
    if isinstance(data, LabelledItems):
        words = [same_key(text) if data.are_texts else text for text in data.keys]
        groups = [("group", group) for group in data.groups]
        return list(zip(words, groups, strict=True)) if groups else [(word,) for word in words]
    keys = same_keys(data.data)
    if not data.truncated:  # what is read in full is the same only if the texts are
        return keys
    read = (data.ids[start:stop].tobytes() for start, stop in zip(data.id_starts, data.id_starts[1:], strict=False))
    return [(*key, tokens) for key, tokens in zip(keys, read, strict=True)]


def find_duplicates(data: LabelledItems | TextFeatures) -> Duplicates:
    """Find texts that occur more than once, but for case, spaces, punctuation and digits.

    In an extraction texts that were cut also count as the same if all their tokens up to the cut are.
    """
    return _duplicates(_texts_of(data), same_keys(data))


def in_both(one: LabelledItems | TextFeatures, other: LabelledItems | TextFeatures) -> int:
    """Return how many texts of ``other`` occur in ``one``: a leak, if one is trained on and the other is the test."""
    known = {key for keys in same_keys(one) for key in keys}
    return sum(not known.isdisjoint(keys) for keys in same_keys(other))


def make_folds(data: LabelledItems | TextFeatures, n_folds: int = 5, *, seed: int = 0) -> Folds:
    """Deal texts out to folds: duplicates together, each class evenly, by content and seed alone.

    Pass the extraction where there is one: texts that were cut to the same tokens are duplicates in it.

    Raises:
        ProbeError: No labels, one class only, or a class with fewer different texts than folds.
    """
    return _dealt(_texts_of(data), same_keys(data), n_folds, seed)


def deal_rest(folds: Folds, data: LabelledItems | TextFeatures, *, seed: int) -> Folds:
    """Return other folds of the same texts: fold 0 stays, all texts outside it are dealt out anew."""
    rest, keys = folds.train(0), same_keys(data)
    again = _dealt(_texts_of(data)[rest], [keys[i] for i in rest], folds.n_folds - 1, seed)
    fold = np.zeros(len(data), np.int64)
    fold[rest] = 1 + again.fold
    return replace(folds, fold=fold)


def _texts_of(data: LabelledItems | TextFeatures) -> LabelledItems:
    return data.data if isinstance(data, TextFeatures) else data


def _duplicates(data: LabelledItems, keys: Sequence[tuple[Any, ...]]) -> Duplicates:
    group, by_words = _numbered(linked(keys)), _numbered([key[0] for key in keys])
    count = np.bincount(group)
    several = np.flatnonzero(count > 1)
    largest = ("", 1)
    if len(several):
        most = several[count[several].argmax()]
        largest = (data.keys[int(np.flatnonzero(group == most)[0])], int(count[most]))
    conflicting = int(((_labels_by_group(data, group) > 0).sum(1) > 1).sum())
    n_texts, n_by_words = (int((np.bincount(of)[of] > 1).sum()) for of in (group, by_words))
    return Duplicates(group, n_texts, n_texts - n_by_words, len(several), conflicting, largest)


def _labels_by_group(data: LabelledItems, group: PerText) -> Int[np.ndarray, "group c"]:
    """Return how many texts of each group have each label; those without one count as a class of their own."""
    n_classes = len(data.label_names) + 1
    counts = np.bincount(group * n_classes + data.labels + 1, minlength=(group.max(initial=-1) + 1) * n_classes)
    return counts.reshape(-1, n_classes)


def _numbered(keys: Iterable[Hashable]) -> PerText:
    """Return a number for each key, in the order in which they first occur."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(key, len(number)) for key in keys], np.int64)


def _dealt(data: LabelledItems, keys: Sequence[tuple[Any, ...]], n_folds: int, seed: int) -> Folds:
    check_labels(data)
    if n_folds < 3:
        raise ProbeError(f"nested cross-validation needs at least 3 folds, not {n_folds}")
    duplicates = _duplicates(data, keys)
    group = duplicates.group
    by_label = _labels_by_group(data, group)
    words, size, label = [""] * len(by_label), by_label.sum(1), by_label.argmax(1) - 1
    for g, key in zip(group, keys, strict=True):  # of all keys of a group the lowest, whatever the order
        words[g] = min(words[g] or key[0], key[0])
    drawn = [hashlib.sha256(f"{seed}/{word}".encode("utf-8", "surrogatepass")).digest() for word in words]
    fold_of_group = np.zeros(len(by_label), np.int64)
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


def check_labels(data: LabelledItems) -> None:
    """Raise ProbeError unless every text has a label and there are at least two classes."""
    if (data.labels < 0).any():
        raise ProbeError("these texts have no labels: extract features from a labelled data set (load_labelled)")
    present = np.unique(data.labels)
    if len(present) < 2:
        names = [data.label_names[i] for i in present]
        raise ProbeError(f"all {len(data):,} texts are of one class ({', '.join(names)}): a probe needs at least two")


@dataclass(frozen=True)
class Recipe:
    """Something that learns from some of the texts and scores all of them.

    Whatever it fits (scalers, thresholds, vocabularies, columns), it fits on the rows that it is given.

    Attributes:
        name: What it reads and how.
        family: Kind of what it reads: "sae", "control", "hidden", "text", "own" or "none".
        setting: Settings behind it, as far as they apply.
        labels: Class of each text.
        n_classes: Number of classes.
        strengths: Settings to choose among, the simplest first.
    """

    name: str
    family: str
    setting: dict[str, Any]
    labels: Int[np.ndarray, " text"]
    n_classes: int
    strengths: tuple[float, ...]

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Scored]:
        """Learn from the training rows with each strength; yield the scores of all texts."""
        raise NotImplementedError

    def final(self, train: Rows, strength: float) -> tuple[Fitted | None, tuple[str, ...]]:
        """Learn from the training rows; return the classifier and the names of its columns, if it has any."""
        return None, ()


@dataclass(frozen=True)
class Outcome:
    """Predictions of nested cross-validation.

    Attributes:
        predicted: Class of each text, by the fit that has not seen its fold.
        scores: How strongly each class was predicted, ``[text, class]``.
        chosen: Strength that was chosen in each outer fold.
        validation: Macro F1 in the inner folds with the chosen strengths, mean over outer folds: no test fold was
            looked at, so it may be used to choose among recipes.
    """

    predicted: Int[np.ndarray, " text"]
    scores: Float[np.ndarray, "text c"]
    chosen: tuple[float, ...]
    validation: float


def nested(recipe: Recipe, labels: PerText, folds: Folds, n_classes: int) -> Outcome:
    """Run a recipe through nested cross-validation.

    The inner folds of an outer fold are all the other folds, each in turn. A fit without folds i and j serves both
    as inner fit of i (scored on j) and of j (scored on i). The strength with the best macro F1, the figure that is
    reported, over all inner folds is chosen; the simplest of equal ones.
    """
    among = recipe.strengths
    inner = np.zeros((folds.n_folds, len(among), len(labels)), np.int64)
    for i in range(folds.n_folds):
        for j in range(i):
            rows_i, rows_j = folds.test(i), folds.test(j)
            for number, scores in enumerate(recipe.each(folds.train(i, j), among)):
                inner[i, number, rows_j] = scores[rows_j].argmax(1)
                inner[j, number, rows_i] = scores[rows_i].argmax(1)
    chosen, best, predicted = [], [], np.zeros(len(labels), np.int64)
    all_scores = np.zeros((len(labels), n_classes))
    for i in range(folds.n_folds):
        train, test = folds.train(i), folds.test(i)
        reached = [f1_of(labels[train], inner[i, number, train], n_classes) for number in range(len(among))]
        number = int(np.argmax(reached))
        chosen.append(among[number])
        best.append(reached[number])
        all_scores[test] = next(iter(recipe.each(train, (among[number],))))[test]
        predicted[test] = all_scores[test].argmax(1)
    return Outcome(predicted, all_scores, tuple(chosen), float(np.mean(best)))


def validate(recipe: Recipe, labels: PerText, folds: Folds, n_classes: int) -> tuple[float, PerText, Scored]:
    """Score a recipe on the inner folds of fold 0, which stays untouched.

    The strength is chosen by macro F1 on the first inner fold alone, which saves half of the fits of a grid.

    Returns:
        The strength, and the predictions and scores that it gives each text outside fold 0, by fits that have not seen
        it (0 inside).
    """
    among = recipe.strengths
    predicted, scored = np.zeros(len(labels), np.int64), np.zeros((len(labels), n_classes))
    for j in range(1, folds.n_folds):
        rows = folds.test(j)
        each = [scores[rows] for scores in recipe.each(folds.train(0, j), among)]
        best = int(np.argmax([f1_of(labels[rows], scores.argmax(1), n_classes) for scores in each]))
        among = (among[best],)
        predicted[rows], scored[rows] = each[best].argmax(1), each[best]
    return among[0], predicted, scored


def usual(chosen: tuple[float, ...], among: tuple[float, ...]) -> float:
    """Return the strength that was chosen most often, the simplest of equal ones."""
    return max(among, key=lambda strength: (chosen.count(strength), -among.index(strength)))
