"""What the probes view sends to the browser, as plain data: the cells with their figures, one cell, one text."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit.views._shared.contexts import context_rows, short_hook
from saekit.views._shared.words import number, pack

if TYPE_CHECKING:
    from saekit.index import FeatureIndex
    from saekit.probes import Classified, Estimate, Grid, ProbeResult, TextFeatures

STRONGEST = 8  # features of a class, words of a class, features behind one decision
FIGURE_NAMES = {"macro_f1": "macro F1", "auroc": "AUROC", "accuracy": "accuracy"}
CONTEXTS = 4  # of a feature, from the labelled texts


def bounds(found: "Estimate") -> list[float | None]:
    """Return ``[value, low, high]`` as JSON can hold them."""
    return [number(found.value), number(found.low), number(found.high)]


def site_label(name: str) -> str:
    """Return a site's name in few letters: the layer and the width of an SAE that has no name of its own."""
    hook, slash, width = name.rpartition("/")
    if slash and width.isdigit():
        return f"{short_hook(hook)} · {int(width):,}"
    return name


def grid_state(grid: "Grid") -> dict[str, Any]:
    """Return what the browser is sent of a grid: facts, cells and the figures that cost little; a second's work."""
    from saekit.probes import cell_figures

    figures = {figure: [bounds(found) for found in cell_figures(grid, figure)] for figure in ("macro_f1", "accuracy")}
    return {"facts": grid_facts(grid), "cells": cell_rows(grid), "figures": figures}


def grid_facts(grid: "Grid") -> dict[str, Any]:
    """Return what is the same whatever is selected."""
    return {
        "data": grid.data_name,
        "classes": list(grid.label_names),
        "axes": {axis: [str(level) for level in levels] for axis, levels in grid.axes.items()},
        "sites": [site_label(name) for name in grid.axes["sae"]],
        "best": grid.best,
        "best_baseline": None if grid.best_baseline is None else len(grid.cells) + grid.best_baseline,
        "n_cells": len(grid.cells),
        "repeats": len(grid.rounds),
        "n_validation": int((grid.fold != 0).sum()),
        "n_test": grid.test.n,
        "choice": choice_words(grid),
        "tested": test_words(grid),
        "verdict": verdict_words(grid),
    }


def cell_rows(grid: "Grid") -> list[dict[str, Any]]:
    """Return the cells, then the baselines: name, settings as numbers of their levels, and the gap to the best."""
    levels = {axis: [str(level) for level in levels] for axis, levels in grid.axes.items()}
    as_good = set(grid.as_good)
    rows = []
    for i, cell in enumerate((*grid.cells, *grid.baselines)):
        rows.append(
            {
                "name": cell.name,
                "label": setting_words(cell.setting) if i < len(grid.cells) else cell.name,
                "at": [levels[axis].index(str(cell.setting[axis])) for axis in levels] if i < len(grid.cells) else None,
                "behind": bounds(grid.behind_best(i)),
                "as_good": i in as_good,
                "spread": number(cell.spread),
            }
        )
    return rows


def choice_words(grid: "Grid") -> str:
    """Say which cell is best in validation, and how many others these texts cannot tell from it."""
    best, others = grid.best_cell, len(grid.cells) - 1
    said = f"Best in validation: {setting_words(best.setting)}, macro F1 {interval_words(best.macro_f1)}."
    same = len(grid.as_good) - 1
    if not others:
        return said
    if not same:
        return f"{said} All {others} others are worse: the intervals of their differences lie above 0."
    many = f"{same} of the {others} other cells" if others > 1 else "the other cell"
    return f"{said} These texts cannot tell it from {many}: the interval of the difference holds 0."


def test_words(grid: "Grid") -> str:
    """Say how the chosen cell did on the test part."""
    return (
        f"On the test part, {grid.test.n:,} texts that nothing before has seen: macro F1 "
        f"{interval_words(grid.test.macro_f1)}, AUROC {interval_words(grid.test.auroc)}, accuracy "
        f"{two(grid.test.accuracy)}."
    )


def verdict_words(grid: "Grid") -> str:
    """Say whether the chosen cell beats the chosen baseline on the test part, or that there is no verdict."""
    if (gap := grid.test_difference) is None:
        return "No verdict: there is no baseline to compare with."
    if gap.verdict is None:
        return (
            f"No verdict against {gap.other}, the best baseline: the interval of the difference, "
            f"{interval_words(gap.macro_f1, sign=True)} macro F1, holds 0."
        )
    found = gap.macro_f1
    word = "better" if found.value > 0 else "worse"
    low, high = sorted((abs(found.low), abs(found.high)))
    end = two(low) if low >= 0.005 else f"{low:.1g}"  # it excludes 0, so it is not to read 0.00
    by = f"{two(abs(found.value))} macro F1 [{end}, {two(high)}]"
    return f"Verdict: {word} than {gap.other}, the best baseline, by {by}."


def setting_words(setting: Mapping[str, Any]) -> str:
    """Name a cell by its settings, the site in few letters."""
    return ", ".join(
        [site_label(setting["sae"]), *(str(setting[axis]) for axis in ("pooling", "binarise", "classifier"))]
    )


def interval_words(found: "Estimate | Sequence[float | None]", *, sign: bool = False) -> str:
    """Write a value with its interval: ``0.93 [0.91, 0.95]``."""
    value, low, high = found if isinstance(found, Sequence) else (found.value, found.low, found.high)
    write = (lambda v: f"+{two(v)}" if v is not None and v > 0 else two(v)) if sign else two
    return f"{write(value)} [{write(low)}, {write(high)}]"


def two(value: float | None) -> str:
    """Write two decimals, with a real minus; three where less than 1 would read 1.00; a dash for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0.995 <= value < 1:
        return f"{math.floor(1000 * value) / 1000:.3f}"
    away = value + math.copysign(1e-12, value)  # ties go away from zero, as in the browser
    return f"{away:.2f}".replace("-0.00", "0.00").replace("-", "−")


def opened_cell(
    number_: int, grid: "Grid", result: "ProbeResult | None" = None, part: "TextFeatures | None" = None
) -> dict[str, Any]:
    """Return a cell's confusion matrix in validation and, of a fitted one, the columns that weigh most by class.

    The matrix is the sum over repeats, so that its diagonal is the accuracy that is shown.
    """
    from saekit.probes import confusion_of

    rows = np.flatnonzero(grid.fold != 0)
    each = [confusion_of(grid.labels[rows], r.predicted[number_][rows], len(grid.label_names)) for r in grid.rounds]
    matrix = np.sum(each, axis=0)
    made: dict[str, Any] = {"number": number_, "confusion": matrix.tolist(), "features": None, "words": None}
    if number_ < len(grid.cells) and grid.best_baseline is not None:
        made["over_baseline"] = bounds(grid.difference(number_, len(grid.cells) + grid.best_baseline))
    if result is None or result.fitted is None or part is None:
        return made
    if "pooling" in result.setting:
        from saekit.probes import top_features

        made["features"] = [
            [[w.column, number(w.effect), number(w.weight), number(w.share_in_class), number(w.share_in_others)]
             for w in top_features(result, part, k=STRONGEST)[label]]
            for label in grid.label_names
        ]  # fmt: skip
    elif result.columns and result.fitted.weights is not None:
        from saekit.probes import top_words

        made["words"] = [[list(pair) for pair in top_words(result, k=STRONGEST)[c]] for c in grid.label_names]
    return made


def feature_contexts(
    feature: int, index: "FeatureIndex | None", part: "TextFeatures", site: str, model: Any
) -> dict[str, Any]:
    """Return where a feature fires: in the index where there is one, else in the labelled texts."""
    if index is not None:
        return {"source": "index", **context_rows(index, feature)}
    from saekit.probes import contexts

    found = contexts(part, feature, sae=site, k=CONTEXTS, model=model)
    rows = [[number(c.activation), c.before, c.token, c.after, c.label] for c in found]
    return {"source": "texts", "dead": not rows, "rows": rows}


def classified_row(found: "Classified", result: "ProbeResult", name: str, told: str) -> dict[str, Any]:
    """Return a classified text: probabilities or scores, the part of every token for every class, features."""
    from saekit.probes import contribution_words, probabilities

    assert result.fitted is not None
    chances = probabilities(result.setting["classifier"], found.scores)
    intercept = result.fitted.intercept
    return {
        "text": found.text,
        "cell": name,
        "label": found.label,
        "class": result.label_names.index(found.label),
        "scores": [number(v) for v in found.scores],
        "probabilities": None if chances is None else [number(v) for v in chances],
        "tokens": list(found.tokens),
        "parts": pack(found.contributions.ravel()),
        "features": [[f, number(v), number(c)] for f, v, c in found.features[:STRONGEST]],
        "exact": contribution_words(result.setting),
        "intercepts": None if intercept is None else [number(v) for v in intercept],
        "told": told,
    }
