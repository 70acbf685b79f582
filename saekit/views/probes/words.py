"""Numbers and sentences of the probes view. A difference is claimed only where its interval excludes 0."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saekit.views._shared.contexts import short_hook

if TYPE_CHECKING:
    from saekit.probes import Classified, Estimate, Grid

FIGURE_NAMES = {"macro_f1": "macro F1", "auroc": "AUROC", "accuracy": "accuracy"}
HOW = "Probes(grid, features, model=model, sae=sae)"


def two(value: float) -> str:
    """Write two decimals, with a real minus; three where less than 1 would read 1.00; a dash for what is no number.

    >>> [two(v) for v in (0.125, -0.5, -0.001, math.nan, 0.9961, 0.9999, 1)]
    ['0.13', '−0.50', '0.00', '–', '0.996', '0.999', '1.00']
    """
    if not math.isfinite(value):
        return "–"
    if 0.995 <= value < 1:
        return f"{math.floor(1000 * value) / 1000:.3f}"
    away = value + math.copysign(1e-12, value)  # ties go away from zero
    return f"{away:.2f}".replace("-0.00", "0.00").replace("-", "−")


def interval_words(found: "Estimate", *, sign: bool = False) -> str:
    """Write a value with its interval, ``0.93 [0.91, 0.95]``; with ``sign`` a plus before what is above 0."""
    value, low, high = (f"+{two(v)}" if sign and v > 0 else two(v) for v in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def site_label(name: str) -> str:
    """Return a site's name in few letters: the layer and the width of an SAE that has no name of its own."""
    hook, slash, width = name.rpartition("/")
    if slash and width.isdigit():
        return f"{short_hook(hook)} · {int(width):,}"
    return name


def setting_words(setting: Mapping[str, Any]) -> str:
    """Name a cell by its settings, the site in few letters."""
    return ", ".join(
        [site_label(setting["sae"]), *(str(setting[axis]) for axis in ("pooling", "binarise", "classifier"))]
    )


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


def standing_words(behind: "Estimate", *, best: bool) -> str:
    """Say how a cell stands to the best one.

    Args:
        behind: Macro F1 of the best cell minus that of this one.
        best: Whether this is the best one.
    """
    if best:
        return "Best in validation by macro F1: chosen as the best of many, so its figure there flatters it."
    gap = f"best cell minus this one: {interval_words(behind, sign=True)} macro F1"
    if behind.low > 0:
        return f"Worse than the best cell ({gap})."
    if behind.high < 0:
        return f"Better than the best cell ({gap})."
    return f"These texts cannot tell it from the best cell ({gap}, which holds 0)."


def over_baseline_words(gap: "Estimate", name: str) -> str:
    """Say how a cell stands to the best baseline in validation, whose name it is; ``gap`` is this cell minus it."""
    words = f"this cell minus it: {interval_words(gap, sign=True)} macro F1"
    if gap.low > 0 or gap.high < 0:
        return f"{'Better' if gap.value > 0 else 'Worse'} than {name}, the best baseline ({words})."
    return f"No verdict against {name}, the best baseline ({words}, which holds 0)."


def result_words(found: "Classified", chance: float | None) -> str:
    """Say the class of a text, with its probability where the classifier has one."""
    if chance is not None:
        return f"{found.label}, probability {two(chance)}"
    first, second = sorted(found.scores.tolist(), reverse=True)[:2]
    return f"{found.label}, by {two(first - second)} in score: this classifier gives no probability"
