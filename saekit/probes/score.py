"""How good predictions are, with intervals, and whether one set of predictions is better than another.

Intervals are bootstrap percentiles over texts, duplicates drawn together (Efron and Tibshirani 1993, chapter 13).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from saekit._base.threads import one_blas_thread

PerText = Int[np.ndarray, " text"]  # a whole number for each text: its class, fold or group
Scored = Float[np.ndarray, "text c"]  # how strongly each class was predicted
Drawn = Float[np.ndarray, "sample text"]  # how often each text is in each resample
RESAMPLES = 1000
_CHUNK = 100  # resamples that are weighted at once
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: The number itself.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def __repr__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Scores:
    """How good predictions are.

    Attributes:
        macro_f1: Mean F1 over the classes that are there or are predicted.
        auroc: Area under the ROC curve, computed within each fold and then averaged: scores of different folds come
            from different fits. With more than two classes the mean over classes, each against the rest.
        accuracy: Share of the predictions that are right.
        confusion: Counts ``[true, predicted]``.
        precision: Precision of each class; NaN for one that is never predicted.
        recall: Recall of each class; NaN for one that is not there.
        f1: F1 of each class; NaN for one that is neither.
        n: Number of texts.
    """

    macro_f1: Estimate
    auroc: Estimate
    accuracy: float
    confusion: Int[np.ndarray, "c c"]
    precision: Float[np.ndarray, " c"]
    recall: Float[np.ndarray, " c"]
    f1: Float[np.ndarray, " c"]
    n: int

    def __repr__(self) -> str:
        return f"macro F1 {self.macro_f1}, AUROC {self.auroc}, {self.n:,} texts"


def macro_f1(confusion: Float[np.ndarray, "*b c c"] | Int[np.ndarray, "*b c c"]) -> Float[np.ndarray, "*b"]:
    """Return macro F1 of confusion counts ``[true, predicted]``; classes that do not occur are left out."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    either = confusion.sum(-1) + confusion.sum(-2)
    there = either > 0
    f1 = np.where(there, 2 * hit / np.where(there, either, 1), 0)
    return np.asarray(f1.sum(-1) / np.maximum(there.sum(-1), 1))


def confusion_of(labels: PerText, predicted: PerText, n_classes: int) -> Int[np.ndarray, "c c"]:
    """Return ``[true, predicted]`` counts."""
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def f1_of(labels: PerText, predicted: PerText, n_classes: int) -> float:
    """Return macro F1."""
    return float(macro_f1(confusion_of(labels, predicted, n_classes)))


def resamples(group: PerText, *, seed: int, number: int = RESAMPLES) -> Drawn:
    """Return how often each text is drawn in each resample: whole groups of duplicates at a time."""
    _, dense = np.unique(group, return_inverse=True)
    n_groups = int(dense.max(initial=-1)) + 1
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=number)
    return drawn[:, dense].astype(np.float32)


@one_blas_thread()
def f1_resampled(labels: PerText, predicted: PerText, n_classes: int, weights: Drawn) -> Float[np.ndarray, " sample"]:
    """Return macro F1 of each resample."""
    cell = np.zeros((len(labels), n_classes**2), np.float32)
    cell[np.arange(len(labels)), labels * n_classes + predicted] = 1
    return macro_f1((weights @ cell).reshape(-1, n_classes, n_classes))


def auroc_resampled(labels: PerText, scores: Scored, fold: PerText, weights: Drawn) -> Float[np.ndarray, " sample"]:
    """Return the mean AUROC over folds and classes of each resample; NaN where no fold has two classes."""
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(fold):
        rows = np.flatnonzero(fold == number)
        for c in classes:
            margin = scores[rows, 1] - scores[rows, 0] if scores.shape[1] == 2 else scores[rows, c]
            area = _auroc(labels[rows] == c, margin, weights[:, rows])
            good = ~np.isnan(area)
            total[good] += area[good]
            count[good] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _auroc(positive: np.ndarray, score: Float[np.ndarray, " text"], weights: Drawn) -> Float[np.ndarray, " sample"]:
    """Return the share of pairs that are in the right order, ties counted half (Mann and Whitney 1947)."""
    _, rank = np.unique(score, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    result = np.empty(len(weights))
    for begin in range(0, len(weights), _CHUNK):
        part = weights[begin : begin + _CHUNK][:, order].astype(np.float64)
        up = np.add.reduceat(part * positive[order], starts, axis=1)
        down = np.add.reduceat(part * ~positive[order], starts, axis=1)
        below = np.cumsum(down, axis=1) - down / 2
        pairs = up.sum(1) * down.sum(1)
        ordered = (up * below).sum(1)
        result[begin : begin + _CHUNK] = np.where(pairs > 0, ordered / np.where(pairs > 0, pairs, 1), np.nan)
    return result


def estimate(value: float, drawn: Float[np.ndarray, " sample"]) -> Estimate:
    """Return a value with the percentiles of its resamples."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Estimate(float(value), float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def score(labels: PerText, predicted: PerText, scores: Scored, *, fold: PerText, group: PerText, seed: int) -> Scores:
    """Score predictions.

    Args:
        labels: True class of each text.
        predicted: Predicted class of each text, by a fit that has not seen it.
        scores: Strength with which each class was predicted, ``[text, class]``.
        fold: Number of the fit that predicted each text.
        group: Number of each text's group; texts of one group are drawn together.
        seed: Seed of the resamples.
    """
    n_classes = scores.shape[1]
    confusion = confusion_of(labels, predicted, n_classes)
    hit, true, called = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    weights = resamples(group, seed=seed)
    ones = np.ones((1, len(labels)), np.float32)
    auroc = auroc_resampled(labels, scores, fold, ones)[0]
    return Scores(
        macro_f1=estimate(float(macro_f1(confusion)), f1_resampled(labels, predicted, n_classes, weights)),
        auroc=estimate(auroc, auroc_resampled(labels, scores, fold, weights)),
        accuracy=float(hit.sum() / max(len(labels), 1)),
        confusion=confusion,
        precision=_share(hit, called),
        recall=_share(hit, true),
        f1=_share(2 * hit, true + called),
        n=len(labels),
    )


def _share(part: np.ndarray, of: np.ndarray) -> Float[np.ndarray, " c"]:
    return np.where(of > 0, part / np.maximum(of, 1), np.nan)


@dataclass(frozen=True)
class Comparison:
    """One probe beside another on the same texts.

    Attributes:
        name: Name of the first probe.
        other: Name of the second.
        macro_f1: Difference of macro F1, first minus second.
        auroc: Difference of AUROC.
        p_value: Probability of a difference in errors at least as large if both were equally good: McNemar's exact
            test on the texts where one is right and the other wrong.
        only_first: Number of texts on which only the first is right.
        only_second: Number of texts on which only the second is.
        verdict: One sentence, or None where the interval of the macro F1 difference holds 0: then these texts do not
            tell them apart.
    """

    name: str
    other: str
    macro_f1: Estimate
    auroc: Estimate
    p_value: float
    only_first: int
    only_second: int
    verdict: str | None

    def __repr__(self) -> str:
        verdict = self.verdict or "the interval holds 0: no verdict"
        return f"{self.name} - {self.other}: macro F1 {self.macro_f1}, p {self.p_value:.2g}; {verdict}"


def compare_predictions(
    labels: PerText,
    first: tuple[str, np.ndarray, np.ndarray],
    second: tuple[str, np.ndarray, np.ndarray],
    *,
    fold: PerText,
    group: PerText,
    seed: int,
) -> Comparison:
    """Compare two sets of ``(name, predicted, scores)`` on the same texts, with the same resamples for both."""
    from scipy.stats import binomtest

    (name, predicted, scores), (other, predicted_2, scores_2) = first, second
    both = np.ones((1, len(labels)), np.float32), resamples(group, seed=seed)
    f1 = [f1_resampled(labels, p, scores.shape[1], w) for w in both for p in (predicted, predicted_2)]
    area = [auroc_resampled(labels, s, fold, w) for w in both for s in (scores, scores_2)]
    macro_f1, auroc = (estimate(one[0][0] - one[1][0], one[2] - one[3]) for one in (f1, area))
    right, right_2 = predicted == labels, predicted_2 == labels
    only, only_2 = int((right & ~right_2).sum()), int((right_2 & ~right).sum())
    p_value = float(binomtest(only, only + only_2).pvalue) if only + only_2 else 1.0
    return Comparison(name, other, macro_f1, auroc, p_value, only, only_2, verdict_of(name, other, macro_f1))


def verdict_of(name: str, other: str, difference: Estimate) -> str | None:
    """Say in words which is better, or nothing where the interval of the difference holds 0."""
    if difference.low > 0:
        return f"{name} is better than {other} by {difference.value:.3f} macro F1"
    if difference.high < 0:
        return f"{name} is worse than {other} by {-difference.value:.3f} macro F1"
    return None
