"""How a probe fares when there are few labels, wrong ones, or few of one class: always on the same untouched test."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from saekit._base.progress import Progress, Stop, progress_of
from saekit.errors import ProbeError
from saekit.probes.classifiers import Classifier
from saekit.probes.features import TextFeatures
from saekit.probes.pooling import Binarising, Pooling
from saekit.probes.recipes import HiddenPCA, Settings, with_baselines
from saekit.probes.result import Saved
from saekit.probes.score import Estimate, PerText, estimate, f1_of, f1_resampled, resamples
from saekit.probes.validation import Recipe, Rows, make_folds

_PARTS = 3  # in which the training texts of a point are cut to choose the strength


@dataclass(frozen=True, eq=False)
class Curve(Saved, kind="curve", holds=(Estimate,)):
    """Macro F1 of a probe and its baselines at several points.

    Attributes:
        over: "size" (training texts), "noise" (share of training labels that are wrong) or "imbalance" (share of
            the rarest class among the training texts).
        at: Points of the curve.
        macro_f1: Figure at each point by name of probe or baseline: mean over draws, its interval resampled over test
            texts.
        spread: Standard deviation over draws at each point, by name.
        n_test: Number of test texts, the same for all.
    """

    over: str
    at: tuple[float, ...]
    macro_f1: dict[str, tuple[Estimate, ...]]
    spread: dict[str, tuple[float, ...]]
    n_test: int

    def __repr__(self) -> str:
        lines = [f"{self.over} {', '.join(f'{x:g}' for x in self.at)} ({self.n_test:,} test texts)"]
        lines += [f"{name}: {', '.join(f'{i.value:.3f}' for i in row)}" for name, row in self.macro_f1.items()]
        return "\n".join(lines)


def curve(
    features: TextFeatures,
    over: str,
    at: Sequence[float],
    *,
    sae: str | None = None,
    pooling: str | Pooling = "max",
    binarise: str | Binarising = "none",
    classifier: str | Classifier = "logistic",
    baselines: Sequence[str | HiddenPCA] = ("bag-of-words", "hidden-mean"),
    draws: int = 5,
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
    progress: Progress = False,
    stop: Stop = None,
) -> Curve:
    """Train on ever more texts, ever worse labels or ever fewer texts of one class; test on one untouched fold.

    Args:
        features: Extraction of labelled texts.
        over: What changes. ``"size"``: number of training texts. ``"noise"``: share of training labels that are
            replaced by another class. ``"imbalance"``: share of the rarest class among the training texts.
        at: Points of the curve, for example ``(10, 30, 100, 300)`` texts.
        sae: Name of the SAE in the extraction; the first one if None.
        pooling: Pooling of the features; see `probe`.
        binarise: Binarising of the features; see `probe`.
        classifier: Classifier of the probe and of the baselines; see `probe`.
        baselines: Names of baselines, see `baselines`; they get the same training texts.
        draws: Number of times that training texts are drawn at each point.
        folds: Number of parts, one of which is the test part.
        balanced: Whether texts are weighed so that every class counts the same.
        seed: Seed of the folds, the draws and the resamples.
        progress: Show a progress bar; or a function that is given (done, total) after each draw.
        stop: Function that is asked between draws; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        ProbeError: No such curve, or a point that these texts cannot reach.
    """
    dealt = make_folds(features, folds, seed=seed)
    train, test = dealt.train(0), dealt.test(0)
    if draws < 1 or not len(at):
        raise ProbeError(f"expected at least one point and one draw, not {len(at)} and {draws}")
    settings = Settings(pooling, binarise, classifier, balanced, seed)
    recipes = with_baselines(features, features.sae(sae), baselines, settings)
    labels, n_classes = features.data.labels, len(features.data.label_names)
    weights = resamples(dealt.duplicates.group[test], seed=seed)
    value, drawn = np.zeros((len(recipes), len(at), draws)), np.zeros((len(recipes), len(at), draws, len(weights)))
    with progress_of(progress, len(at) * draws, "draw", stop=stop) as step:
        for i, point in enumerate(at):
            for draw in range(draws):
                generator = np.random.default_rng([seed, draw])
                rows, given = training_texts(over, float(point), train, labels, generator)
                for number, recipe in enumerate(recipes):
                    scores = _learned(replace(recipe, labels=given), rows, given, n_classes, seed)
                    predicted = scores[test].argmax(1)
                    value[number, i, draw] = f1_of(labels[test], predicted, n_classes)
                    drawn[number, i, draw] = f1_resampled(labels[test], predicted, n_classes, weights)
                step()
    names = [recipe.name for recipe in recipes]
    f1 = [tuple(map(estimate, values.mean(1), samples.mean(1))) for values, samples in zip(value, drawn, strict=True)]
    spread = [tuple(float(v.std(ddof=1)) if draws > 1 else float("nan") for v in row) for row in value]
    by_name = dict(zip(names, f1, strict=True)), dict(zip(names, spread, strict=True))
    return Curve(over, tuple(map(float, at)), *by_name, n_test=len(test))


def training_texts(
    over: str,
    point: float,
    train: Rows,
    labels: PerText,
    generator: np.random.Generator,
) -> tuple[Int[np.ndarray, " drawn"], PerText]:
    """Draw the training texts of one point of a curve.

    Args:
        over: What changes along the curve; see `curve`.
        point: Where on the curve: a number of texts, or a share.
        train: Numbers of the texts that may be trained on.
        labels: Class of each text.
        generator: Source of the draw.

    Returns:
        Numbers of the texts that are trained on, and the labels of all texts, some of them wrong if that was asked for.

    Raises:
        ProbeError: No such curve, or a point that these texts cannot reach.
    """
    draws = {"size": _sized, "noise": _noisy, "imbalance": _imbalanced}
    if over not in draws:
        raise ProbeError(f"no curve over {over!r}: expected 'size', 'noise' or 'imbalance'")
    return draws[over](train, labels, point, generator)


def _learned(recipe: Recipe, rows: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """Choose a strength on the training rows alone, by their (possibly wrong) labels, and learn with it."""
    among = recipe.strengths
    best = 0
    if len(among) > 1 and np.bincount(labels[rows])[np.unique(labels[rows])].min() >= _PARTS:
        part = np.zeros(len(rows), np.int64)
        order = np.random.default_rng(seed).permutation(len(rows))
        for c in np.unique(labels[rows]):
            members = order[labels[rows][order] == c]
            part[members] = np.arange(len(members)) % _PARTS
        predicted = np.zeros((len(among), len(rows)), np.int64)
        for p in range(_PARTS):
            for number, scores in enumerate(recipe.each(rows[part != p], among)):
                predicted[number, part == p] = scores[rows[part == p]].argmax(1)
        best = int(np.argmax([f1_of(labels[rows], row, n_classes) for row in predicted]))
    return next(iter(recipe.each(rows, (among[best],))))


def _sized(train: np.ndarray, labels: np.ndarray, size: float, generator: np.random.Generator):
    """Draw so many training texts, each class by its share, at least one of each."""
    classes = np.unique(labels[train])
    if not len(classes) <= size <= len(train) or size != int(size):
        raise ProbeError(f"cannot draw {size:g} training texts: there are {len(train):,}, of {len(classes)} classes")
    order = generator.permutation(train)
    first = np.array([order[labels[order] == c][0] for c in classes])
    rest = order[~np.isin(order, first)][: int(size) - len(first)]
    return np.sort(np.concatenate([first, rest])), labels


def _noisy(train: np.ndarray, labels: np.ndarray, share: float, generator: np.random.Generator):
    """Replace a share of the training labels by another class."""
    if not 0 <= share < 1:
        raise ProbeError(f"the share of wrong labels must be from 0 to below 1, not {share:g}")
    wrong = generator.permutation(train)[: round(share * len(train))]
    classes = np.unique(labels[train])
    given = labels.copy()
    at = np.searchsorted(classes, labels[wrong])
    given[wrong] = classes[(at + generator.integers(1, len(classes), len(wrong))) % len(classes)]
    return train, given


def _imbalanced(train: np.ndarray, labels: np.ndarray, share: float, generator: np.random.Generator):
    """Leave out texts, so that the rarest class has a given share; the number of texts is the same at every share."""
    counts = np.bincount(labels[train])
    rarest = int(np.argmin(np.where(counts > 0, counts, counts.max() + 1)))
    rare, others = train[labels[train] == rarest], train[labels[train] != rarest]
    size = min(len(others), 2 * len(rare))  # what can be had at shares up to one half
    n_rare = round(share * size)
    if not 0 < share <= 0.5 or n_rare < 1:
        raise ProbeError(f"the share of the rarest class must be above 1/{size} and at most 0.5, not {share:g}")
    chosen = generator.permutation(rare)[:n_rare], generator.permutation(others)[: size - n_rare]
    return np.sort(np.concatenate(chosen)), labels
