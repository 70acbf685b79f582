"""Many probes from one extraction: every choice scored in validation, one of them chosen, and only that one tested."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saekit._probes_classify import strengths
from saekit._probes_features import TextFeatures
from saekit._probes_nested import Recipe, validate
from saekit._probes_pool import check_binarise, check_pooling, pool
from saekit._probes_progress import Progress, Reporting
from saekit._probes_recipes import baseline_recipe, sae_recipe
from saekit._probes_result import digest_of
from saekit._probes_score import (
    Comparison,
    Interval,
    Scores,
    compare_predictions,
    f1_of,
    f1_resampled,
    interval,
    resamples,
    score,
)  # fmt: skip
from saekit._probes_split import Folds, deal_rest, make_folds
from saekit._probes_store import read_result, write_result
from saekit.errors import ProbeError

AXES = ("site", "pooling", "binarise", "classifier")
_SAME_SUPPORT = ("max", "mean", "sum")  # above zero, these three are one


@dataclass(frozen=True)
class Cell:
    """One choice of site, pooling, binarising and classifier, or one baseline.

    Attributes:
        name: Of the baseline; of a cell its four settings.
        setting: Site, pooling, binarise, classifier; {} for a baseline.
        macro_f1: In validation, on the texts outside the test part; the mean over repeats with the interval of the
            first.
        spread: Standard deviation of macro F1 over repeats (other folds); NaN for one.
        strength: Chosen in the first repeat.
    """

    name: str
    setting: dict[str, str]
    macro_f1: Interval
    spread: float
    strength: float


@dataclass(frozen=True, eq=False)
class Grid:
    """What `grid` returns.

    Attributes:
        cells: Every choice, in the order of `axes`.
        baselines: What they have to beat, scored in the same way.
        axes: The levels of each choice.
        best: Number of the cell with the best macro F1 in validation.
        best_baseline: Number of the baseline with the best.
        test: How good the best cell is on the test part, which nothing before has seen.
        test_difference: Best cell minus best baseline there; None without baselines.
        predicted: ``[cell or baseline, text]`` in validation, first repeat; -1 in the test part.
        scores: ``[cell or baseline, text, class]``: how strongly each class was predicted there; 0 in the test part.
        fold: In which the text was left out of the fit, first repeat; 0 is the test part.
        labels: The truth.
        group: Duplicates.
        seed: Of folds and resamples.
        digest: Of texts and labels.
        data_name: Of the data set.
        label_names: Classes.
        balanced: Whether texts were weighed so that every class counts the same.
    """

    cells: tuple[Cell, ...]
    baselines: tuple[Cell, ...]
    axes: dict[str, tuple[str, ...]]
    best: int
    best_baseline: int | None
    test: Scores
    test_difference: Comparison | None
    predicted: Int[np.ndarray, "cell text"]
    scores: Float[np.ndarray, "cell text c"]
    fold: Int[np.ndarray, " text"]
    labels: Int[np.ndarray, " text"]
    group: Int[np.ndarray, " text"]
    seed: int
    digest: str
    data_name: str
    label_names: tuple[str, ...]
    balanced: bool = False

    @property
    def best_cell(self) -> Cell:
        """The cell that validation chose."""
        return self.cells[self.best]

    @property
    def verdict(self) -> str | None:
        """Best cell against best baseline on the test part, or None where the interval holds 0."""
        return None if self.test_difference is None else self.test_difference.verdict

    @cached_property
    def _resampled(self) -> tuple[Int[np.ndarray, " row"], np.ndarray]:
        rows = np.flatnonzero(self.predicted[0] >= 0)
        weights = resamples(self.group[rows], seed=self.seed)
        f1 = [f1_resampled(self.labels[rows], row[rows], len(self.label_names), weights) for row in self.predicted]
        return rows, np.stack(f1)

    def difference(self, one: int, other: int) -> Interval:
        """Return macro F1 of one cell minus that of another in validation; if it holds 0, they may be equal.

        Cells go by number, baselines after them: the first is ``len(cells)``.
        """
        rows, drawn = self._resampled
        value = [f1_of(self.labels[rows], self.predicted[i][rows], len(self.label_names)) for i in (one, other)]
        return interval(value[0] - value[1], drawn[one] - drawn[other])

    def behind_best(self, cell: int) -> Interval:
        """Return macro F1 of the best cell minus that of another; see `difference`."""
        return self.difference(self.best, cell)

    @cached_property
    def as_good(self) -> tuple[int, ...]:
        """Cells that validation cannot tell from the best, the best among them."""
        return tuple(i for i in range(len(self.cells)) if i == self.best or self.behind_best(i).low <= 0)

    def effect(self, axis: str) -> dict[str, Interval]:
        """Return for each level of a choice how far its mean macro F1 is from the mean over all levels.

        A level whose interval holds 0 makes no difference that these texts could show.
        """
        if axis not in self.axes:
            raise ProbeError(f"no axis {axis!r}: expected {', '.join(self.axes)}")
        rows, drawn = self._resampled
        n_classes = len(self.label_names)
        value = np.array([f1_of(self.labels[rows], row[rows], n_classes) for row in self.predicted[: len(self.cells)]])
        of = {level: [i for i, c in enumerate(self.cells) if c.setting[axis] == level] for level in self.axes[axis]}
        middle = np.mean([value[i].mean() for i in of.values()])
        middle_drawn = np.mean([drawn[i].mean(0) for i in of.values()], axis=0)
        return {
            level: interval(value[i].mean() - middle, drawn[i].mean(0) - middle_drawn)
            for level, i in of.items()
        }  # fmt: skip

    def save(self, path: Path | str) -> None:
        """Save as one safetensors file."""
        rows = lambda cells: [[c.name, c.setting, _listed(c.macro_f1), c.spread, c.strength] for c in cells]  # noqa: E731
        about = {"cells": rows(self.cells), "baselines": rows(self.baselines), "axes": self.axes, "best": self.best}
        about |= {"best_baseline": self.best_baseline, "seed": self.seed, "digest": self.digest}
        about |= {"data_name": self.data_name, "label_names": self.label_names, "n_test": self.test.n}
        about |= {"balanced": self.balanced}
        about |= {"test": [_listed(self.test.macro_f1), _listed(self.test.auroc), self.test.accuracy]}
        if (d := self.test_difference) is not None:
            about["difference"] = [d.name, d.other, _listed(d.macro_f1), _listed(d.auroc), d.p_value, d.only_first,
                                   d.only_second, d.verdict]  # fmt: skip
        arrays = {name: getattr(self, name) for name in ("predicted", "scores", "fold", "labels", "group")}
        arrays |= {name: getattr(self.test, name) for name in ("confusion", "precision", "recall", "f1")}
        write_result(path, "grid", about, arrays)

    def __repr__(self) -> str:
        said = self.verdict or "no verdict against the best baseline"
        return (
            f"Grid({self.data_name!r}, {len(self.cells)} cells; best in validation: {self.best_cell.name} "
            f"({self.best_cell.macro_f1}), {len(self.as_good)} cells are as good; test: {self.test}; {said})"
        )


def load_grid(path: Path | str) -> Grid:
    """Load what `Grid.save` has saved. Raises ProbeError if the file is not that."""
    about, arrays = read_result(path, "grid")
    cells = lambda rows: tuple(Cell(n, s, Interval(*f), spread, strength) for n, s, f, spread, strength in rows)  # noqa: E731
    f1, auroc, accuracy = about["test"]
    parts = {name: arrays[name] for name in ("confusion", "precision", "recall", "f1")}
    test = Scores(Interval(*f1), Interval(*auroc), accuracy, **parts, n=about["n_test"])
    difference = None
    if d := about.get("difference"):
        difference = Comparison(d[0], d[1], Interval(*d[2]), Interval(*d[3]), *d[4:])
    return Grid(
        cells(about["cells"]), cells(about["baselines"]), {k: tuple(v) for k, v in about["axes"].items()},
        about["best"], about["best_baseline"], test, difference, arrays["predicted"], arrays["scores"],
        arrays["fold"], arrays["labels"], arrays["group"], about["seed"], about["digest"], about["data_name"],
        tuple(about["label_names"]), about["balanced"],
    )  # fmt: skip


def grid(
    features: TextFeatures,
    *,
    sites: Sequence[str] | None = None,
    poolings: Sequence[str] = ("max", "mean", "sum", "last"),
    binarisings: Sequence[str] = ("none", "above-zero", "quantile-0.5"),
    classifiers: Sequence[str] = ("logistic", "difference"),
    baselines: Sequence[str] = ("majority", "bag-of-words", "tfidf-word", "hidden-last", "hidden-mean"),
    folds: int = 5,
    repeats: int = 1,
    balanced: bool = False,
    seed: int = 0,
    progress: bool | Progress = True,
) -> Grid:
    """Score every combination of layer, width, pooling, binarising and classifier, and test the best one once.

    One fold is the test part. All choices are made by macro F1 in cross-validation on the other folds (the strength of
    a classifier on the first of them); only the chosen cell and the chosen baseline are scored on the test part.

    Args:
        features: One extraction, with as many SAEs (layers, widths) as there are to compare.
        sites: Which of them; all that are no controls if None.
        poolings: As in `pool`.
        binarisings: As in `fit_binariser`.
        classifiers: As in `probe`.
        baselines: As in `baselines`; hidden states are those of the first site.
        folds: How many parts.
        repeats: Score everything again with the texts outside the test part dealt out anew, to see the spread.
        balanced: Weigh texts so that every class counts the same.
        seed: Of folds and resamples.
        progress: Show a progress bar, or a function that is given (cells done, number of cells). What it raises ends
            the search.
    """
    axes = grid_axes(features, sites, poolings, binarisings, classifiers)
    names = axes["site"]
    if repeats < 1 or folds < 4:
        raise ProbeError(f"a grid needs at least 1 repeat and 4 folds (one is the test part), not {repeats}, {folds}")
    data, options = features.data, {"balanced": balanced, "seed": seed}
    dealt = [_dealt(features, folds, seed, repeat) for repeat in range(repeats)]
    weights = resamples(dealt[0].duplicates.group[dealt[0].train(0)], seed=seed)
    found: list[_Found] = []
    recipes = [baseline_recipe(features, features.site(names[0]), name, **options) for name in baselines]
    with Reporting(progress, len(recipes) + int(np.prod([len(v) for v in axes.values()])), "cell") as report:
        for recipe in recipes:
            found.append(_validated(recipe, recipe.name, {}, features, dealt, weights))
            report(len(found))
        for site, pooling in product(names, poolings):
            pooled = pool(features.site(site), pooling)
            for binarise, classifier in product(binarisings, classifiers):
                setting = dict(zip(AXES, (site, pooling, binarise, classifier), strict=True))
                recipe = sae_recipe(features, features.site(site), pooling=pooling, binarise=binarise,
                                    classifier=classifier, pooled=pooled, **options)  # fmt: skip
                known = next((f for f in found if _same(f.cell.setting, setting)), None)
                if known is None:
                    found.append(_validated(recipe, recipe.name, setting, features, dealt, weights))
                else:
                    cell = replace(known.cell, name=recipe.name, setting=setting)
                    found.append(known._replace(cell=cell))
                report(len(found))
    lines, cells = found[: len(recipes)], found[len(recipes) :]
    highest = lambda rows: int(np.argmax([row.cell.macro_f1.value for row in rows]))  # noqa: E731
    best, best_line = highest(cells), highest(lines) if lines else None
    test, difference = _tested(features, dealt[0], cells[best], None if best_line is None else lines[best_line], seed)
    return Grid(
        tuple(c.cell for c in cells), tuple(c.cell for c in lines), axes, best, best_line, test, difference,
        np.stack([c.predicted for c in [*cells, *lines]]), np.stack([c.scores for c in [*cells, *lines]]),
        dealt[0].fold, data.labels, dealt[0].duplicates.group, seed, digest_of(data), data.name, data.label_names,
        balanced,
    )  # fmt: skip


class _Found(NamedTuple):
    """A cell, what it predicts in validation, and how to fit it again."""

    cell: Cell
    predicted: Int[np.ndarray, " text"]
    scores: Float[np.ndarray, "text c"]
    recipe: Recipe


def grid_axes(
    features: TextFeatures, sites: Sequence[str] | None, poolings: Sequence[str], binarisings: Sequence[str],
    classifiers: Sequence[str],
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """Return the levels of each choice. What is wrong with a setting shows here, not after an hour (ProbeError)."""
    names = [n for n, s in features.sites.items() if not s.control] if sites is None else list(sites)
    axes = dict(zip(AXES, map(tuple, (names, poolings, binarisings, classifiers)), strict=True))
    if empty := [axis for axis, levels in axes.items() if not levels or len(set(levels)) < len(levels)]:
        raise ProbeError(f"{empty[0]}: expected at least one level, and each once")
    for name, checks in zip(AXES, (features.site, check_pooling, check_binarise, strengths), strict=True):
        for level in axes[name]:
            checks(level)
    return axes


def _same(one: dict[str, str], other: dict[str, str]) -> bool:
    """Return whether two settings are one: what is above zero does not depend on max, mean or sum."""
    if not one or one["binarise"] != "above-zero" or {one["pooling"], other["pooling"]} - set(_SAME_SUPPORT):
        return False
    return all(one[axis] == other[axis] for axis in ("site", "binarise", "classifier"))


def _dealt(features: TextFeatures, n_folds: int, seed: int, repeat: int) -> Folds:
    """Return the folds of one repeat: the test fold 0 is always the same, the others are dealt out anew."""
    first = make_folds(features, n_folds, seed=seed)
    return first if repeat == 0 else deal_rest(first, features, seed=seed + repeat)


def _validated(recipe, name, setting, features, dealt, weights) -> _Found:
    labels, n_classes, figures = features.data.labels, len(features.data.label_names), []
    for number, folds in enumerate(dealt):
        strength, predicted, scores = validate(recipe, labels, folds, n_classes)
        rows = folds.train(0)
        figures.append(f1_of(labels[rows], predicted[rows], n_classes))
        if number == 0:
            first = strength, np.where(folds.fold == 0, -1, predicted), scores.astype(np.float32)
            drawn = f1_resampled(labels[rows], predicted[rows], n_classes, weights)
    mean = float(np.mean(figures))
    drawn = drawn - figures[0] + mean
    spread = float(np.std(figures, ddof=1)) if len(figures) > 1 else float("nan")
    return _Found(Cell(name, setting, interval(mean, drawn), spread, first[0]), *first[1:], recipe)


def _tested(features, folds: Folds, best, line, seed: int) -> tuple[Scores, Comparison | None]:
    train, test = folds.train(0), folds.test(0)
    labels, group = features.data.labels[test], folds.duplicates.group[test]
    fold = np.zeros(len(test), np.int64)
    made = []
    for found in (best, *([line] if line is not None else [])):
        scores = next(iter(found.recipe.each(train, (found.cell.strength,))))[test]
        made.append((found.cell.name, scores.argmax(1), scores))
    scored = score(labels, made[0][1], made[0][2], fold=fold, group=group, seed=seed)
    if line is None:
        return scored, None
    return scored, compare_predictions(labels, *made, fold=fold, group=group, seed=seed)


def _listed(found: Interval) -> list[float]:
    return [found.value, found.low, found.high]
