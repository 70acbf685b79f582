"""One cell of a grid: its figures in validation, and the classifier behind it, fitted for reading and use."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from saekit.errors import ProbeError
from saekit.probes.classifiers import Fitted
from saekit.probes.features import TextFeatures, subset
from saekit.probes.grid_result import Grid
from saekit.probes.pooling import fit_binariser, pool
from saekit.probes.recipes import baseline_recipe, sae_recipe
from saekit.probes.result import ProbeResult, digest_of, keys_of
from saekit.probes.score import Estimate, auroc_resampled, estimate, resamples

FIGURES = ("macro_f1", "auroc", "accuracy")


def cell_figures(grid: Grid, figure: str) -> tuple[Estimate, ...]:
    """Return a figure of every cell, then of every baseline, in validation, with its 95 % interval.

    Args:
        grid: From `grid`.
        figure: ``"macro_f1"``, ``"accuracy"``, or ``"auroc"``, within each fold and then averaged; a moment's work for
            each cell. All are means over repeats.

    Raises:
        ProbeError: No such figure.
    """
    if figure not in FIGURES:
        raise ProbeError(f"no figure {figure!r}: expected {', '.join(FIGURES)}")
    if figure == "macro_f1":
        return tuple(cell.macro_f1 for cell in (*grid.cells, *grid.baselines))
    rows = np.flatnonzero(grid.fold != 0)
    labels, weights = grid.labels[rows], resamples(grid.group[rows], seed=grid.seed)
    if figure == "accuracy":
        right = np.stack([each.predicted[:, rows] == labels for each in grid.rounds]).mean(0, dtype=np.float32)
        drawn = (weights @ right.T) / weights.sum(1, keepdims=True)
        return tuple(estimate(hits.mean(dtype=np.float64), d) for hits, d in zip(right, drawn.T, strict=True))
    ones = np.ones((1, len(rows)), np.float32)

    def area(number: int, times: np.ndarray) -> np.ndarray:
        each = [auroc_resampled(labels, r.scores[number, rows], r.fold[rows], times) for r in grid.rounds]
        return np.mean(each, axis=0)

    return tuple(estimate(area(i, ones)[0], area(i, weights)) for i in range(len(grid.scores)))


def number_of(grid: Grid, name: str) -> int:
    """Return the number of a cell or baseline by its name; baselines come after the cells. Raises ProbeError."""
    names = [cell.name for cell in (*grid.cells, *grid.baselines)]
    if name not in names:
        raise ProbeError(
            f"no cell {name!r}: expected a name like {names[0]!r}"
            + (f", or a baseline: {', '.join(names[len(grid.cells) :])}" if grid.baselines else "")
        )
    return names.index(name)


def check_grid(grid: Grid, features: TextFeatures) -> None:
    """Raise ProbeError unless a grid was made from these texts and has no other SAEs."""
    if grid.digest != digest_of(features.data):
        raise ProbeError(
            f"the grid was made from other texts ({grid.data_name!r}, {len(grid.labels):,}) than these features "
            f"({features.data.name!r}, {len(features):,}): pass the extraction that the grid was made from"
        )
    if missing := [name for name in grid.axes["sae"] if name not in features.saes]:
        raise ProbeError(f"the grid has an SAE {missing[0]!r}, these features have {', '.join(features.saes)}")


def training_part(grid: Grid, features: TextFeatures, number: int) -> TextFeatures:
    """Return the texts outside the test part, with the features that a cell reads."""
    setting = (*grid.cells, *grid.baselines)[number].setting
    saes = [features.sae(name) for name in grid.axes["sae"]]
    at = features.sae(setting["sae"]) if "sae" in setting else saes[0]
    if "hook" in setting:
        at = next(sae for sae in saes if sae.hook.name == setting["hook"])
    alone = replace(features, saes={at.name: at}, hooks={at.hook.name: at.hook})
    return subset(alone, np.flatnonzero(grid.fold != 0))


def fit_cell(grid: Grid, part: TextFeatures, number: int) -> ProbeResult:
    """Fit a cell, or a baseline, on all texts outside the test part.

    Its predictions and scores are those that the grid has of these texts in the first repeat, by fits that had not
    seen them.

    Args:
        grid: From `grid`.
        part: From `training_part`.
        number: Of the cell; baselines come after the cells.
    """
    cell, sae = (*grid.cells, *grid.baselines)[number], part.sae()
    rows, everything, threshold, read = np.flatnonzero(grid.fold != 0), np.arange(len(part)), None, {}
    options: dict[str, Any] = {"balanced": grid.balanced, "seed": grid.seed}
    if "sae" in cell.setting:
        setting: dict[str, Any] = {key: cell.setting[key] for key in ("pooling", "binarise", "classifier")}
        pooled = pool(sae, setting["pooling"])
        recipe = sae_recipe(part, sae, pooled=pooled, **setting, **options)
        threshold = fit_binariser(setting["binarise"], pooled, everything).threshold
        read = {"context_size": str(part.context_size)}
    else:
        recipe = baseline_recipe(part, sae, cell.setting.get("baseline", cell.name), **options)
    fitted, columns = recipe.final(everything, cell.strength)
    return ProbeResult(
        name=cell.name, family=recipe.family, setting=recipe.setting | read, data_name=grid.data_name,
        label_names=grid.label_names, labels=grid.labels[rows], predicted=grid.predicted[number][rows],
        scores=grid.scores[number][rows], fold=grid.fold[rows] - 1, group=grid.group[rows],
        keys=keys_of(part.data), chosen=(cell.strength,), validation=cell.macro_f1.value, fitted=fitted,
        columns=columns, notes=(), seed=grid.seed, threshold=threshold,
    )  # fmt: skip


def probabilities(fitted: Fitted, scores: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"] | None:
    """Return the probability that a classifier itself gives each class, or None where it gives scores alone.

    As scikit-learn defines them: softmax for logistic regression (of two classes, whose scores are each other's
    negative, the logistic function), each class against the rest and then normalised with L1, the shares in the leaf
    for a tree. Ridge and the difference of means have none. Whether they are calibrated, nobody has checked.
    """
    if fitted.kind == "tree":
        return scores
    if not re.fullmatch(r"logistic(-l1)?|sparse-\d+", fitted.kind):
        return None
    if len(scores) == 2:
        scores = scores / 2
    elif fitted.kind == "logistic-l1":
        scores = -np.logaddexp(0, -scores)
    shifted = np.exp(scores - scores.max())
    return shifted / shifted.sum()


def contribution_words(setting: dict[str, str]) -> str:
    """Say in how far the parts that tokens have in a decision are exact, for this setting of a probe."""
    if setting["classifier"] == "tree":
        return "A tree adds nothing up, so no token has a part of its own: the features on the way to the leaf decide."
    pooling = setting["pooling"]
    if setting["binarise"] != "none" and not pooling == "last":
        return (
            "The parts add up to the score, but a feature is only on or off for the whole text: its weight is laid on "
            "the tokens that turn it on, by convention."
        )
    if pooling == "max" or pooling.startswith("first-"):
        return (
            "The parts add up to the score. A maximum is one token's alone: without that token the next strongest "
            "would take its place, so the parts say what counted, not what would happen without it."
        )
    return "Exact: the score is the intercept plus the parts of the tokens."
