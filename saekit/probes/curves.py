"""How a probe fares when there are few labels, wrong ones, or few of one class: always on the same untouched test."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saekit.errors import ProbeError
from saekit.probes.features import TextFeatures
from saekit.probes.progress import Progress, Reporting
from saekit.probes.recipes import baseline_recipe, sae_recipe
from saekit.probes.score import Estimate, estimate, f1_of, f1_resampled, resamples
from saekit.probes.split import make_folds
from saekit.probes.store import read_result, write_plain

_PARTS = 3  # in which the training texts of a point are cut to choose the strength


@dataclass(frozen=True, eq=False)
class Curve:
    """Macro F1 of a probe and its baselines at several points.

    Attributes:
        over: "size" (training texts), "noise" (share of training labels that are wrong) or "imbalance" (share of
            the rarest class among the training texts).
        at: The points.
        macro_f1: By name of probe or baseline, an interval for each point: mean over draws, resampled over test texts.
        spread: By name, the standard deviation over draws at each point.
        n_test: Test texts, the same for all.
    """

    over: str
    at: tuple[float, ...]
    macro_f1: dict[str, tuple[Estimate, ...]]
    spread: dict[str, tuple[float, ...]]
    n_test: int

    def save(self, path: Path | str) -> None:
        """Save as one file."""
        write_plain(path, "curve", self)

    def __repr__(self) -> str:
        lines = [f"{self.over} {', '.join(f'{x:g}' for x in self.at)} ({self.n_test:,} test texts)"]
        lines += [f"{name}: {', '.join(f'{i.value:.3f}' for i in row)}" for name, row in self.macro_f1.items()]
        return "\n".join(lines)


def load_curve(path: Path | str) -> Curve:
    """Load what `Curve.save` has saved. Raises ProbeError if the file is not that."""
    about, _ = read_result(path, "curve")
    return Curve(
        about["over"], tuple(about["at"]),
        {name: tuple(Estimate(*point) for point in row) for name, row in about["macro_f1"].items()},
        {name: tuple(row) for name, row in about["spread"].items()}, about["n_test"],
    )  # fmt: skip


def curve(
    features: TextFeatures,
    over: str,
    at: Sequence[float],
    *,
    sae: str | None = None,
    pooling: str = "max",
    binarise: str = "none",
    classifier: str = "logistic",
    baselines: Sequence[str] = ("bag-of-words", "hidden-mean"),
    draws: int = 5,
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
    progress: bool | Progress = False,
) -> Curve:
    """Train on ever more texts, ever worse labels or ever fewer texts of one class; test on one untouched fold.

    Args:
        features: What `extract_features` found.
        over: ``"size"``: number of training texts. ``"noise"``: share of training labels that are replaced by another
            class. ``"imbalance"``: share of the rarest class among the training texts.
        at: The points, for example ``(10, 30, 100, 300)`` texts.
        sae: Name of the SAE.
        pooling: As in `probe`.
        binarise: As in `probe`.
        classifier: As in `probe`.
        baselines: As in `baselines`; they get the same training texts.
        draws: How often training texts are drawn at each point.
        folds: The test part is one of so many.
        balanced: Weigh texts so that every class counts the same.
        seed: Of everything.
        progress: Show a progress bar, or a function that is given (done, number).

    Raises:
        ProbeError: No such curve, or a point that these texts cannot reach.
    """
    where = features.sae(sae)
    options: dict[str, Any] = {"classifier": classifier, "balanced": balanced, "seed": seed}
    dealt = make_folds(features, folds, seed=seed)
    train, test = dealt.train(0), dealt.test(0)
    points = {"size": _sized, "noise": _noisy, "imbalance": _imbalanced}
    if over not in points:
        raise ProbeError(f"no curve over {over!r}: expected 'size', 'noise' or 'imbalance'")
    if draws < 1 or not len(at):
        raise ProbeError(f"expected at least one point and one draw, not {len(at)} and {draws}")
    recipes: list[Any] = [sae_recipe(features, where, pooling=pooling, binarise=binarise, **options)]
    recipes += [
        baseline_recipe(features, where, name, pooling=pooling, binarise=binarise, **options) for name in baselines
    ]
    labels, n_classes = features.data.labels, len(features.data.label_names)
    weights = resamples(dealt.duplicates.group[test], seed=seed)
    value, drawn = np.zeros((len(recipes), len(at), draws)), np.zeros((len(recipes), len(at), draws, len(weights)))
    with Reporting(progress, len(at) * draws, "draw") as report:
        for i, point in enumerate(at):
            for draw in range(draws):
                generator = np.random.default_rng([seed, draw])
                rows, given = points[over](train, labels, float(point), generator)
                for number, recipe in enumerate(recipes):
                    scores = _learned(replace(recipe, labels=given), rows, given, n_classes, seed)
                    predicted = scores[test].argmax(1)
                    value[number, i, draw] = f1_of(labels[test], predicted, n_classes)
                    drawn[number, i, draw] = f1_resampled(labels[test], predicted, n_classes, weights)
                report(i * draws + draw + 1)
    names = [recipe.name for recipe in recipes]
    return Curve(
        over, tuple(map(float, at)),
        {n: tuple(estimate(v.mean(), d.mean(0)) for v, d in zip(value[i], drawn[i], strict=True))
         for i, n in enumerate(names)},
        {n: tuple(float(v.std(ddof=1)) if draws > 1 else float("nan") for v in value[i]) for i, n in enumerate(names)},
        len(test),
    )  # fmt: skip


def _learned(recipe: Any, rows: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
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
        best = int(np.argmax([f1_of(labels[rows], said, n_classes) for said in predicted]))
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
