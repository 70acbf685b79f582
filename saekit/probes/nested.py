"""Nested cross-validation: every text is predicted by a fit that has not seen it, with settings chosen without it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from saekit.probes.classifiers import Fitted
from saekit.probes.score import f1_of
from saekit.probes.split import Folds

Rows = Int[np.ndarray, " row"]


class Recipe(Protocol):
    """Something that learns from some of the texts and scores all of them.

    Whatever it fits (scalers, thresholds, vocabularies, columns), it fits on the rows that it is given.
    """

    name: str
    family: str  # "sae", "control", "hidden", "text" or "none"
    setting: dict[str, str]

    @property
    def strengths(self) -> tuple[float, ...]:
        """Settings to choose among, the simplest first."""
        ...

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Float[np.ndarray, "text c"]]:
        """Learn from the training rows with each strength; yield the scores of all texts."""
        ...

    def final(self, train: Rows, strength: float) -> tuple[Fitted | None, tuple[str, ...]]:
        """Learn from the training rows; return the classifier and the names of its columns, if it has any."""
        ...


@dataclass(frozen=True)
class Outcome:
    """Predictions of nested cross-validation.

    Attributes:
        predicted: Class of each text, by the fit that has not seen its fold.
        scores: ``[text, class]``.
        chosen: Strength by outer fold.
        validation: Macro F1 in the inner folds with the chosen strengths, mean over outer folds: no test fold was
            looked at, so it may be used to choose among recipes.
    """

    predicted: Int[np.ndarray, " text"]
    scores: Float[np.ndarray, "text c"]
    chosen: tuple[float, ...]
    validation: float


def nested(recipe: Recipe, labels: Int[np.ndarray, " text"], folds: Folds, n_classes: int) -> Outcome:
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


def validate(
    recipe: Recipe, labels: Int[np.ndarray, " text"], folds: Folds, n_classes: int, test_fold: int = 0
) -> tuple[float, Int[np.ndarray, " text"], Float[np.ndarray, "text c"]]:
    """Score a recipe on the inner folds of one outer fold, which stays untouched.

    The strength is chosen by macro F1 on the first inner fold alone, which saves half of the fits of a grid.

    Returns:
        The strength, and the predictions and scores that it gives each text outside the test fold, by fits that have
        not seen it (0 inside).
    """
    among = recipe.strengths
    predicted, scored = np.zeros(len(labels), np.int64), np.zeros((len(labels), n_classes))
    for j in (fold for fold in range(folds.n_folds) if fold != test_fold):
        rows = folds.test(j)
        found = [scores[rows] for scores in recipe.each(folds.train(test_fold, j), among)]
        best = int(np.argmax([f1_of(labels[rows], scores.argmax(1), n_classes) for scores in found]))
        among = (among[best],)
        predicted[rows], scored[rows] = found[best].argmax(1), found[best]
    return among[0], predicted, scored


def usual(chosen: tuple[float, ...], among: tuple[float, ...]) -> float:
    """Return the strength that was chosen most often, the simplest of equal ones."""
    return max(among, key=lambda strength: (chosen.count(strength), -among.index(strength)))
