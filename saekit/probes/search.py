"""Many probes from one extraction: every choice scored in validation, one of them chosen, and only that one tested."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError
from saekit.probes.classifiers import strengths
from saekit.probes.features import TextFeatures
from saekit.probes.grid_lines import grid_lines, place
from saekit.probes.grid_result import AXES, Cell, Grid, Round
from saekit.probes.nested import Recipe, validate
from saekit.probes.pooling import check_binarise, check_pooling, pool
from saekit.probes.progress import Progress, Reporting
from saekit.probes.recipes import sae_recipe
from saekit.probes.result import digest_of
from saekit.probes.score import Comparison, Scores, compare_predictions, estimate, f1_of, f1_resampled, resamples, score
from saekit.probes.split import Folds, deal_rest, make_folds

_SAME_SUPPORT = ("max", "mean", "sum")  # above zero, these three are one


def grid(
    features: TextFeatures,
    *,
    saes: Sequence[str] | None = None,
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
        saes: Which of them; all that are no controls if None.
        poolings: As in `pool`.
        binarisings: As in `fit_binariser`.
        classifiers: As in `probe`.
        baselines: As in `baselines`. Those that read hidden states are scored at every hook point of the SAEs and
            named after it where there are several, ``"hidden-mean at blocks.18"``; ``"random"`` and ``"permuted"``
            beside every SAE for which they were extracted. The verdict is thus on the best layer of either kind, both
            chosen in validation.
        folds: How many parts.
        repeats: Score everything again with the texts outside the test part dealt out anew, to see the spread.
        balanced: Weigh texts so that every class counts the same.
        seed: Of folds and resamples.
        progress: Show a progress bar, or a function that is given (cells done, number of cells). What it raises ends
            the search.
    """
    axes = grid_axes(features, saes, poolings, binarisings, classifiers)
    names = axes["sae"]
    if repeats < 1 or folds < 4:
        raise ProbeError(f"a grid needs at least 1 repeat and 4 folds (one is the test part), not {repeats}, {folds}")
    data = features.data
    options: dict[str, Any] = {"balanced": balanced, "seed": seed}
    dealt = [_dealt(features, folds, seed, repeat) for repeat in range(repeats)]
    weights = resamples(dealt[0].duplicates.group[dealt[0].train(0)], seed=seed)
    wanted = grid_lines(features, [features.sae(name) for name in names], baselines, **options)
    lines: list[_Found] = []
    cells: list[_Found] = []
    with Reporting(progress, len(wanted) + int(np.prod([len(v) for v in axes.values()])), "cell") as report:
        for line in wanted:
            lines.append(_validated(line.recipe, line.name, line.setting, features, dealt, weights))
            report(len(lines))
        for sae, pooling in product(names, poolings):
            pooled = pool(features.sae(sae), pooling)
            for binarise, classifier in product(binarisings, classifiers):
                setting = dict(zip(AXES, (sae, pooling, binarise, classifier), strict=True))
                recipe = sae_recipe(features, features.sae(sae), pooling=pooling, binarise=binarise,
                                    classifier=classifier, pooled=pooled, **options)  # fmt: skip
                known = next((f for f in cells if _same(f.cell.setting, setting)), None)
                if known is None:
                    cells.append(_validated(recipe, recipe.name, setting, features, dealt, weights))
                else:
                    cell = replace(known.cell, name=recipe.name, setting=setting)
                    cells.append(known._replace(cell=cell))
                report(len(lines) + len(cells))
    reached = lambda rows: lambda i: rows[i].cell.macro_f1.value  # noqa: E731
    order = sorted(range(len(cells)), key=lambda i: place(features.sae(cells[i].cell.setting["sae"])))
    best = max(order, key=reached(cells))  # of equal ones the first in an order that is not that of the argument
    best_line = max(range(len(lines)), key=reached(lines)) if lines else None
    test, difference = _tested(features, dealt[0], cells[best], None if best_line is None else lines[best_line], seed)
    return Grid(
        tuple(c.cell for c in cells), tuple(c.cell for c in lines), axes, best, best_line, test, difference,
        _rounds([*cells, *lines], dealt), data.labels, dealt[0].duplicates.group, seed, digest_of(data), data.name,
        data.label_names, balanced,
    )  # fmt: skip


class _Found(NamedTuple):
    """A cell, what it predicts in validation in each repeat, and how to fit it again."""

    cell: Cell
    predicted: list[Int[np.ndarray, " text"]]
    scores: list[Float[np.ndarray, "text c"]]
    recipe: Recipe


def grid_axes(
    features: TextFeatures, saes: Sequence[str] | None, poolings: Sequence[str], binarisings: Sequence[str],
    classifiers: Sequence[str],
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """Return the levels of each choice. What is wrong with a setting shows here, not after an hour (ProbeError)."""
    names = [n for n, s in features.saes.items() if not s.control] if saes is None else list(saes)
    axes = dict(zip(AXES, map(tuple, (names, poolings, binarisings, classifiers)), strict=True))
    if empty := [axis for axis, levels in axes.items() if not levels or len(set(levels)) < len(levels)]:
        raise ProbeError(f"{empty[0]}: expected at least one level, and each once")
    for name, checks in zip(AXES, (features.sae, check_pooling, check_binarise, strengths), strict=True):
        for level in axes[name]:
            checks(level)
    return axes


def _same(one: dict[str, str], other: dict[str, str]) -> bool:
    """Return whether two settings are one: what is above zero does not depend on max, mean or sum."""
    if one["binarise"] != "above-zero" or {one["pooling"], other["pooling"]} - set(_SAME_SUPPORT):
        return False
    return all(one[axis] == other[axis] for axis in ("sae", "binarise", "classifier"))


def _dealt(features: TextFeatures, n_folds: int, seed: int, repeat: int) -> Folds:
    """Return the folds of one repeat: the test fold 0 is always the same, the others are dealt out anew."""
    first = make_folds(features, n_folds, seed=seed)
    return first if repeat == 0 else deal_rest(first, features, seed=seed + repeat)


def _validated(recipe, name, setting, features, dealt, weights) -> _Found:
    labels, n_classes, f1, drawn = features.data.labels, len(features.data.label_names), [], []
    made = [validate(recipe, labels, folds, n_classes) for folds in dealt]
    rows, test = dealt[0].train(0), dealt[0].fold == 0
    for _, predicted, _ in made:
        f1.append(f1_of(labels[rows], predicted[rows], n_classes))
        drawn.append(f1_resampled(labels[rows], predicted[rows], n_classes, weights))
    spread = float(np.std(f1, ddof=1)) if len(f1) > 1 else float("nan")
    cell = Cell(name, setting, estimate(float(np.mean(f1)), np.mean(drawn, axis=0)), spread, made[0][0])
    predicted = [np.where(test, -1, predicted) for _, predicted, _ in made]
    return _Found(cell, predicted, [scores.astype(np.float32) for *_, scores in made], recipe)


def _rounds(found: Sequence[_Found], dealt: Sequence[Folds]) -> tuple[Round, ...]:
    stack = lambda of, i: np.stack([getattr(row, of)[i] for row in found])  # noqa: E731
    return tuple(Round(stack("predicted", i), stack("scores", i), folds.fold) for i, folds in enumerate(dealt))


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
