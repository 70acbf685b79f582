"""Exercises of the notebook on probes; see `exercise` for their form."""

import numpy as np
from jaxtyping import Bool, Float, Int

from saekit.exercises.exercise import Exercise, seeded


def pool_max(
    activations: Float[np.ndarray, "text pos feature"], keep: Bool[np.ndarray, "text pos"]
) -> Float[np.ndarray, "text feature"]:
    """Return each text's largest activation of each feature, over the tokens that count (activations are >= 0).

    A text without such a token is all 0.
    """
    return np.where(keep[:, :, None], activations, 0).max(axis=1)


def macro_f1(confusion: Int[np.ndarray, "true predicted"]) -> float:
    """Return the mean of the classes' F1 (every class occurs).

    The F1 of a class: twice its hits, divided by how often it is true plus how often it is predicted.
    """
    return (2 * np.diag(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1))).mean()


def _accuracy(confusion):
    return np.trace(confusion) / confusion.sum()


def _recall(confusion):
    return np.diag(confusion) / confusion.sum(axis=1)


def leaked(
    group: Int[np.ndarray, " text"], train: Int[np.ndarray, " n_train"], test: Int[np.ndarray, " n_test"]
) -> float:
    """Return the share of the test texts that have a duplicate (a text of the same group) in the training part.

    ``train`` and ``test`` hold row numbers of texts.
    """
    return np.isin(group[test], group[train]).mean()


def strongest_columns(
    columns: Float[np.ndarray, "text column"],
    labels: Int[np.ndarray, " text"],
    train: Int[np.ndarray, " row"],
    k: int,
) -> Int[np.ndarray, " k"]:
    """Return the k columns whose means in the two classes (0 and 1) lie farthest apart, the farthest first.

    ``train`` holds the row numbers of the training part: nothing else may be looked at.
    """
    known, truth = columns[train], labels[train]
    return np.argsort(-np.abs(known[truth == 1].mean(axis=0) - known[truth == 0].mean(axis=0)), kind="stable")[:k]


def _signed_columns(columns, labels, train, k):
    known, truth = columns[train], labels[train]
    return np.argsort(known[truth == 0].mean(axis=0) - known[truth == 1].mean(axis=0), kind="stable")[:k]


def paired_interval(
    first: Bool[np.ndarray, " text"], second: Bool[np.ndarray, " text"], drawn: Int[np.ndarray, "sample text"]
) -> Float[np.ndarray, "2"]:
    """Return the 95 % interval of the difference of two classifiers' accuracies, first minus second.

    ``first`` and ``second`` say which texts each gets right; every row of ``drawn`` is a resample: numbers of texts.
    The ends are the 2.5 % and the 97.5 % quantile of the difference over the resamples.
    """
    difference = first[drawn].mean(axis=1) - second[drawn].mean(axis=1)
    return np.quantile(difference, [0.025, 0.975])


def _unpaired(first, second, drawn):
    low, high = (np.quantile(right[drawn].mean(axis=1), [0.025, 0.975]) for right in (first, second))
    return np.array([low[0] - high[1], low[1] - high[0]])


def _paired_cases():
    for r, rate in seeded(0.6, 0.75, 0.9):
        first = r.random(60) < rate
        yield first, first ^ (r.random(60) < 0.15), r.integers(0, 60, (400, 60))


EXERCISES = {
    "pool_max": Exercise(
        solve=pool_max,
        cases=lambda: [
            (r.standard_normal((5, 6, 4)).clip(0) + shift, r.random((5, 6)) < share)
            for (r, share), shift in zip(seeded(0.2, 0.5, 0.8), (0.0, 0.5, 1.0), strict=True)
        ],
        hints=(
            "What may a token that does not count contribute? Nothing: make it 0 before anything else.",
            "keep[:, :, None] has the shape to be multiplied with the activations.",
            "Then the maximum over axis 1, the positions.",
        ),
        mistakes=(
            (lambda a, keep: a.max(1), "BOS and padding take part: the mask is not used"),
            (lambda a, keep: (a * ~keep[:, :, None]).max(1), "the mask is read the wrong way round: True means kept"),
            (lambda a, keep: (a * keep[:, :, None]).mean(1), "this is a mean, and over the masked positions too"),
            (lambda a, keep: (a * keep[:, :, None]).sum(1), "this is the sum over the tokens; asked is the largest"),
            (lambda a, keep: (a * keep[:, :, None]).max(2), "this is the maximum over features; axis 1 are positions"),
        ),
        minutes=5,
    ),
    "macro_f1": Exercise(
        solve=macro_f1,
        cases=lambda: [(r.integers(1, 40, (n, n)) + 20 * np.eye(n, dtype=int),) for r, n in seeded(2, 3, 5)],
        hints=(
            "First one F1 for each class, then their mean: each class counts the same, however rare.",
            "np.diag(confusion) are the hits; sum(axis=1) how often a class is true, sum(axis=0) how often predicted.",
        ),
        mistakes=(
            (_accuracy, "this is accuracy: with nine texts in ten of one class, always saying that class scores 0.9"),
            (lambda c: _recall(c).mean(), "this is the mean recall: false alarms cost nothing"),
            (lambda c: _recall(c.T).mean(), "this is the mean precision: what is missed costs nothing"),
            (lambda c: macro_f1(c) / 2, "the factor 2 is missing: a perfect classifier would score 0.5"),
            (
                lambda c: 2 * c[1, 1] / (c[1].sum() + c[:, 1].sum()),
                "this is the F1 of class 1 alone; take the mean over all classes",
            ),
        ),
        minutes=6,
    ),
    "leaked": Exercise(
        solve=leaked,
        cases=lambda: [
            (r.integers(0, n, 40), (order := r.permutation(40))[:30], order[30:]) for r, n in seeded(15, 40, 90)
        ],
        hints=(
            "group[train] are the groups that training has seen.",
            "np.isin(a, b) asks for each of a whether it occurs in b.",
        ),
        mistakes=(
            (
                lambda g, train, test: np.isin(g[train], g[test]).mean(),
                "this is the share of the training texts; asked is the share of the test texts",
            ),
            (lambda g, train, test: np.isin(g[test], g[train]).sum(), "this is a count; divide by the test texts"),
            (
                lambda g, train, test: np.isin(np.unique(g[test]), g[train]).mean(),
                "this counts groups: three copies in the test part are three texts that profit",
            ),
            (
                lambda g, train, test: np.isin(test, train).mean(),
                "row numbers are never shared; compare the groups of the rows",
            ),
        ),
        minutes=4,
    ),
    "strongest_columns": Exercise(
        solve=strongest_columns,
        cases=lambda: [
            (r.standard_normal((30, 12)) * np.arange(1, 13), r.permutation(30) % 2, np.sort(r.permutation(30)[:20]), k)
            for r, k in seeded(3, 5, 8)
        ],
        hints=(
            "Two means for each column: over the training rows of class 1, and over those of class 0.",
            "Take columns[train] and labels[train] first, and never touch the others again.",
            "np.argsort(-np.abs(difference))[:k] gives the farthest first.",
        ),
        mistakes=(
            (
                lambda c, y, train, k: strongest_columns(c, y, np.arange(len(y)), k),
                "the test part takes part in the choice: this is the leak",
            ),
            (_signed_columns, "only columns of class 1 are found; those of class 0 tell as much: take np.abs"),
            (
                lambda c, y, train, k: strongest_columns(c, y, train, c.shape[1])[-k:],
                "these are the k nearest; sort by the negative difference",
            ),
            (
                lambda c, y, train, k: np.sort(strongest_columns(c, y, train, k)),
                "the right columns, but in the order of their numbers; the farthest comes first",
            ),
        ),
        minutes=8,
        difficulty=2,
    ),
    "paired_interval": Exercise(
        solve=paired_interval,
        cases=lambda: list(_paired_cases()),
        hints=(
            "Both classifiers must be scored on the same resample: a hard text is then hard for both.",
            "first[drawn] is [sample, text]: its mean over axis 1 are the accuracies of the first.",
            "Subtract, then np.quantile(difference, [0.025, 0.975]).",
        ),
        mistakes=(
            (
                _unpaired,
                "these are two intervals, subtracted: they ignore that both saw the same texts, and are far too wide",
            ),
            (lambda a, b, d: paired_interval(b, a, d), "second minus first: the sign is turned round"),
            (
                lambda a, b, d: np.quantile(a[d].mean(1) - b[d].mean(1), [0.05, 0.95]),
                "5 % at either end make a 90 % interval; take 2.5 %",
            ),
            (
                lambda a, b, d: (a.mean() - b.mean()) + np.array([-1.96, 1.96]) * (a[d].mean(1) - b[d].mean(1)).std(),
                "this assumes a bell curve; asked are the quantiles of the resamples themselves",
            ),
        ),
        minutes=8,
        difficulty=2,
    ),
}
