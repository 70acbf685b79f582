"""Many probes from one extraction: every choice scored in validation, one of them chosen, and only that one tested."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from saekit._base.progress import Progress, Stop, progress_of
from saekit.errors import ProbeError
from saekit.probes.classifiers import CLASSIFIERS, Classifier
from saekit.probes.features import SAEFeatures, TextFeatures
from saekit.probes.grid_result import AXES, Cell, Grid, Round
from saekit.probes.pooling import BINARISINGS, POOLINGS, Binarising, Pooling, Quantile, pool
from saekit.probes.recipes import CONTROLS, HiddenPCA, Settings, baseline_recipe, reads_hidden, sae_recipe
from saekit.probes.result import digest_of
from saekit.probes.score import (
    Comparison,
    Drawn,
    Scores,
    compare_predictions,
    estimate,
    f1_of,
    f1_resampled,
    resamples,
    score,
)
from saekit.probes.validation import Folds, Recipe, deal_rest, make_folds, validate


def grid(
    features: TextFeatures,
    *,
    saes: Sequence[str] | None = None,
    poolings: Sequence[str | Pooling] = ("max", "mean", "sum", "last"),
    binarisings: Sequence[str | Binarising] = ("none", "above-zero", Quantile(0.5)),
    classifiers: Sequence[str | Classifier] = ("logistic", "difference"),
    baselines: Sequence[str | HiddenPCA] = ("majority", "bag-of-words", "tfidf-word", "hidden-last", "hidden-mean"),
    folds: int = 5,
    repeats: int = 1,
    balanced: bool = False,
    seed: int = 0,
    progress: Progress = True,
    stop: Stop = None,
) -> Grid:
    """Score every combination of layer, width, pooling, binarising and classifier, and test the best one once.

    One fold is the test part. All choices are made by macro F1 in cross-validation on the other folds (the strength of
    a classifier on the first of them); only the chosen cell and the chosen baseline are scored on the test part.

    Args:
        features: Extraction with as many SAEs (layers, widths) as there are to compare.
        saes: Names of the SAEs to compare; all that are no controls if None.
        poolings: Poolings to compare; see `pool`.
        binarisings: Binarisings to compare; see `learn_thresholds`.
        classifiers: Classifiers to compare; see `probe`.
        baselines: Names of baselines; see `baselines`. Those that read hidden states are scored at every hook point of
            the SAEs and named after it where there are several, ``"hidden-mean at blocks.18"``; ``"random"`` and
            ``"permuted"`` beside every SAE for which they were extracted. The verdict is thus on the best layer of
            either kind, both chosen in validation.
        folds: Number of parts, one of which is the test part; at least 4.
        repeats: Number of times that everything is scored, each with the texts outside the test part dealt out anew,
            to see the spread.
        balanced: Whether texts are weighed so that every class counts the same.
        seed: Seed of folds and resamples.
        progress: Show a progress bar; or a function that is given (cells done, number of cells) after each cell.
        stop: Function that is asked between cells; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        ProbeError: No such setting, or one given twice; labels or texts that cannot be dealt out to the folds.
    """
    axes = grid_axes(features, saes, poolings, binarisings, classifiers)
    if repeats < 1 or folds < 4:
        raise ProbeError(f"a grid needs at least 1 repeat and 4 folds (one is the test part), not {repeats}, {folds}")
    first = make_folds(features, folds, seed=seed)
    dealt = [first, *(deal_rest(first, features, seed=seed + repeat) for repeat in range(1, repeats))]
    group = first.duplicates.group
    weights = resamples(group[first.train(0)], seed=seed)
    at = [features.sae(name) for name in axes["sae"]]
    wanted = list(_baselines(features, at, baselines, Settings(balanced=balanced, seed=seed)))
    lines: list[_Scored] = []
    cells: list[_Scored] = []
    with progress_of(progress, len(wanted) + int(np.prod([len(v) for v in axes.values()])), "cell", stop=stop) as step:
        for name, setting, recipe in wanted:
            lines.append(_validated(recipe, name, setting, features, dealt, weights))
            step()
        for setting, recipe in _cells(features, axes, balanced, seed):
            known = next((one for one in cells if _same(one.cell.setting, setting)), None)
            if known is None:
                cells.append(_validated(recipe, recipe.name, setting, features, dealt, weights))
            else:
                cells.append(replace(known, cell=replace(known.cell, name=recipe.name, setting=setting)))
            step()
    # Of equal ones the first by hook point and name is chosen, in whatever order the SAEs were given.
    order = sorted(range(len(cells)), key=lambda i: _place(features.sae(cells[i].cell.setting["sae"])))
    best = max(order, key=lambda i: cells[i].cell.macro_f1.value)
    best_line = max(range(len(lines)), key=lambda i: lines[i].cell.macro_f1.value) if lines else None
    test, difference = _tested(features, first, cells[best], None if best_line is None else lines[best_line], seed)
    data = features.data
    return Grid(
        cells=tuple(c.cell for c in cells),
        baselines=tuple(c.cell for c in lines),
        axes=axes,
        best=best,
        best_baseline=best_line,
        test=test,
        test_difference=difference,
        rounds=_rounds([*cells, *lines], dealt),
        labels=data.labels,
        group=group,
        seed=seed,
        digest=digest_of(data),
        data_name=data.name,
        label_names=data.label_names,
        balanced=balanced,
        made_with=features.made_with,
    )


@dataclass(frozen=True)
class _Scored:
    """A cell, what it predicts in validation in each repeat, and how to fit it again."""

    cell: Cell
    predicted: list[Int[np.ndarray, " text"]]
    scores: list[Float[np.ndarray, "text c"]]
    recipe: Recipe


def grid_axes(
    features: TextFeatures,
    saes: Sequence[str] | None,
    poolings: Sequence[str | Pooling],
    binarisings: Sequence[str | Binarising],
    classifiers: Sequence[str | Classifier],
) -> dict[str, tuple[Any, ...]]:
    """Return the levels of each choice. What is wrong with a setting shows here, not after an hour (ProbeError)."""
    names = [n for n, s in features.saes.items() if not s.control] if saes is None else list(saes)
    axes = dict(zip(AXES, map(tuple, (names, poolings, binarisings, classifiers)), strict=True))
    if empty := [axis for axis, levels in axes.items() if not levels or len(set(levels)) < len(levels)]:
        raise ProbeError(f"{empty[0]}: expected at least one level, and each once")
    checks: dict[str, Callable[[Any], object]]
    checks = {"sae": features.sae, "pooling": POOLINGS.of, "binarise": BINARISINGS.of, "classifier": CLASSIFIERS.of}
    for axis, levels in axes.items():
        for level in levels:
            checks[axis](level)
    return axes


def _cells(
    features: TextFeatures, axes: dict[str, tuple[Any, ...]], balanced: bool, seed: int
) -> Iterator[tuple[dict[str, Any], Recipe]]:
    """Yield the setting and the recipe of every cell; each SAE is pooled once for all cells that share a pooling."""
    for sae, pooling in product(axes["sae"], axes["pooling"]):
        at = features.sae(sae)
        pooled = pool(at, pooling)
        for binarise, classifier in product(axes["binarise"], axes["classifier"]):
            settings = Settings(pooling, binarise, classifier, balanced, seed)
            recipe = sae_recipe(features, at, settings, pooled=pooled)
            yield dict(zip(AXES, (sae, pooling, binarise, classifier), strict=True)), recipe


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two settings are one: what is above zero does not depend on max, mean or sum."""
    if one["binarise"] != "above-zero" or not all(POOLINGS.of(each["pooling"]).keeps_support for each in (one, other)):
        return False
    return all(one[axis] == other[axis] for axis in ("sae", "binarise", "classifier"))


def _baselines(
    features: TextFeatures, saes: Sequence[SAEFeatures], names: Sequence[str | HiddenPCA], settings: Settings
) -> Iterator[tuple[str, dict[str, Any], Recipe]]:
    """Yield name, setting and recipe of the baselines beside some SAEs, the same in whatever order the SAEs come.

    A cell may come from any layer, so a baseline that reads the model's own activations stands at every hook point
    of the SAEs, and a control beside every SAE that has one.
    """
    saes = sorted(saes, key=_place)
    at = {sae.hook.name: sae for sae in reversed(saes)}
    called = _short(sorted(at, key=_natural))
    for name in names:
        if name in CONTROLS:
            for sae in [sae for sae in saes if f"{sae.name} ({name})" in features.saes] or saes[:1]:
                recipe = baseline_recipe(features, sae, name, settings)
                yield recipe.name, recipe.setting, recipe
        elif reads_hidden(name):
            for hook, short in called.items():
                recipe = baseline_recipe(features, at[hook], name, settings)
                yield f"{name} at {short}" if len(at) > 1 else str(name), {"baseline": name, "hook": hook}, recipe
        else:
            yield str(name), {}, baseline_recipe(features, saes[0], name, settings)


def _place(sae: SAEFeatures) -> tuple:
    """Return where an SAE comes in an order that is its own: by hook point, then by name."""
    return _natural(sae.hook.name), _natural(sae.name)


def _natural(name: str) -> list[str | int]:
    """Return a key that puts blocks.9 before blocks.18."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _short(hooks: Sequence[str]) -> dict[str, str]:
    """Return the layer of each hook point, blocks.18, or its whole name if there are two of one layer."""
    layers = [match[0] if (match := re.match(r"blocks\.\d+", hook)) else hook for hook in hooks]
    return dict(zip(hooks, layers if len(set(layers)) == len(hooks) else hooks, strict=True))


def _validated(
    recipe: Recipe,
    name: str,
    setting: dict[str, Any],
    features: TextFeatures,
    dealt: Sequence[Folds],
    weights: Drawn,
) -> _Scored:
    labels, n_classes = features.data.labels, len(features.data.label_names)
    each = [validate(recipe, labels, folds, n_classes) for folds in dealt]
    rows, test = dealt[0].train(0), dealt[0].fold == 0
    f1 = [f1_of(labels[rows], predicted[rows], n_classes) for _, predicted, _ in each]
    drawn = [f1_resampled(labels[rows], predicted[rows], n_classes, weights) for _, predicted, _ in each]
    spread = float(np.std(f1, ddof=1)) if len(f1) > 1 else float("nan")
    cell = Cell(name, setting, estimate(float(np.mean(f1)), np.mean(drawn, axis=0)), spread, each[0][0])
    predicted = [np.where(test, -1, predicted) for _, predicted, _ in each]
    return _Scored(cell, predicted, [scores.astype(np.float32) for *_, scores in each], recipe)


def _rounds(rows: Sequence[_Scored], dealt: Sequence[Folds]) -> tuple[Round, ...]:
    return tuple(
        Round(np.stack([row.predicted[i] for row in rows]), np.stack([row.scores[i] for row in rows]), folds.fold)
        for i, folds in enumerate(dealt)
    )


def _tested(
    features: TextFeatures, folds: Folds, best: _Scored, line: _Scored | None, seed: int
) -> tuple[Scores, Comparison | None]:
    """Score the chosen cell on the test part, and compare it there with the chosen baseline."""
    train, test = folds.train(0), folds.test(0)
    labels, group = features.data.labels[test], folds.duplicates.group[test]
    fold = np.zeros(len(test), np.int64)
    both = []
    for chosen in (best, *([line] if line is not None else [])):
        scores = next(iter(chosen.recipe.each(train, (chosen.cell.strength,))))[test]
        both.append((chosen.cell.name, scores.argmax(1), scores))
    scored = score(labels, both[0][1], both[0][2], fold=fold, group=group, seed=seed)
    if line is None:
        return scored, None
    return scored, compare_predictions(labels, *both, fold=fold, group=group, seed=seed)
