"""What a search over probes returns: every cell and baseline in validation, and the chosen ones on the test part.

One cell can be opened: its figures in validation, and the classifier behind it, fitted for reading and use.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from saekit._base.identity import Identity
from saekit.errors import ProbeError
from saekit.probes.classifiers import CLASSIFIERS
from saekit.probes.features import TextFeatures, check_made_with, subset
from saekit.probes.pooling import BINARISINGS, POOLINGS, learn_thresholds, pool
from saekit.probes.recipes import HiddenPCA, Settings, baseline_recipe, sae_recipe
from saekit.probes.result import ProbeResult, Saved, described, digest_of
from saekit.probes.score import (
    Comparison,
    Estimate,
    PerText,
    Scores,
    auroc_resampled,
    estimate,
    f1_resampled,
    resamples,
)
from saekit.probes.validation import Rows

AXES = ("sae", "pooling", "binarise", "classifier")
FIGURES = ("macro_f1", "auroc", "accuracy")
_CHOICES = (*POOLINGS.classes, *BINARISINGS.classes, *CLASSIFIERS.classes)


@dataclass(frozen=True)
class Cell:
    """One choice of SAE, pooling, binarising and classifier, or one baseline.

    Attributes:
        name: Name of the baseline, with its layer if there are several; of a cell its four settings.
        setting: ``sae``, ``pooling``, ``binarise`` and ``classifier`` as they were given, also of a control;
            ``baseline`` and ``hook`` of a baseline on hidden states; {} of other baselines.
        macro_f1: Macro F1 in validation, on the texts outside the test part; the mean over repeats, with the interval
            of that mean.
        spread: Standard deviation of macro F1 over repeats (other folds); NaN for one.
        strength: Strength of the classifier that was chosen in the first repeat.
    """

    name: str
    setting: dict[str, Any]
    macro_f1: Estimate
    spread: float
    strength: float


@dataclass(frozen=True, eq=False)
class Round:
    """What one repeat predicts in validation.

    Attributes:
        predicted: Class by ``[cell or baseline, text]``; -1 in the test part.
        scores: ``[cell or baseline, text, class]``: how strongly each class was predicted; 0 in the test part.
        fold: Fold in which each text was left out of the fit; 0 is the test part, the same in every repeat.
    """

    predicted: Int[np.ndarray, "cell text"]
    scores: Float[np.ndarray, "cell text c"]
    fold: Int[np.ndarray, " text"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid(Saved, kind="grid", holds=(Cell, Round, Identity, Scores, Comparison, Estimate, HiddenPCA, *_CHOICES)):
    """What `grid` returns.

    Attributes:
        cells: Every choice, in the order of `axes`.
        baselines: What the cells have to beat, scored in the same way.
        axes: Levels of each choice, as they were given.
        best: Number of the cell with the best macro F1 in validation.
        best_baseline: Number of the baseline with the best; None without baselines.
        test: How good the best cell is on the test part, which nothing before has seen.
        test_difference: Best cell minus best baseline there; None without baselines.
        rounds: Predictions of every repeat. Each figure in validation, and each difference, is the mean over them.
        labels: True class of each text.
        group: Number of the group of duplicates that each text belongs to.
        seed: Seed of folds and resamples.
        digest: SHA-256 of texts and labels.
        data_name: Name of the data set.
        label_names: Names of the classes.
        balanced: Whether texts were weighed so that every class counts the same.
        made_with: What decides the numbers of the model and of the SAEs; see `TextFeatures`.
    """

    cells: tuple[Cell, ...]
    baselines: tuple[Cell, ...]
    axes: dict[str, tuple[Any, ...]]
    best: int
    best_baseline: int | None
    test: Scores
    test_difference: Comparison | None
    rounds: tuple[Round, ...]
    labels: Int[np.ndarray, " text"]
    group: Int[np.ndarray, " text"]
    seed: int
    digest: str
    data_name: str
    label_names: tuple[str, ...]
    balanced: bool = False
    made_with: dict[str, Identity] = field(default_factory=dict)

    @property
    def lines(self) -> tuple[Cell, ...]:
        """Cells, then baselines: the rows of `Round`, in the numbering of `difference`."""
        return (*self.cells, *self.baselines)

    @property
    def best_cell(self) -> Cell:
        """The cell that validation chose."""
        return self.cells[self.best]

    @property
    def verdict(self) -> str | None:
        """Best cell against best baseline on the test part, or None where the interval holds 0."""
        return None if self.test_difference is None else self.test_difference.verdict

    @property
    def fold(self) -> PerText:
        """Folds of the first repeat; see `Round`."""
        return self.rounds[0].fold

    @property
    def validation_rows(self) -> Rows:
        """Numbers of the texts outside the test part."""
        return np.flatnonzero(self.fold != 0)

    @cached_property
    def resampled(self) -> Float[np.ndarray, "cell sample"]:
        """Macro F1 in validation of every cell and baseline in each resample of the texts, the mean over repeats."""
        rows, n_classes = self.validation_rows, len(self.label_names)
        labels, weights = self.labels[rows], resamples(self.group[rows], seed=self.seed)
        each = [[f1_resampled(labels, row[rows], n_classes, weights) for row in r.predicted] for r in self.rounds]
        return np.mean(each, axis=0)

    def difference(self, one: int, other: int) -> Estimate:
        """Return macro F1 of one cell minus that of another in validation; if it holds 0, they may be equal.

        Cells go by number, baselines after them: the first is ``len(cells)``.
        """
        value = [self.lines[i].macro_f1.value for i in (one, other)]
        return estimate(value[0] - value[1], self.resampled[one] - self.resampled[other])

    def behind_best(self, cell: int) -> Estimate:
        """Return macro F1 of the best cell minus that of another; see `difference`."""
        return self.difference(self.best, cell)

    @cached_property
    def as_good(self) -> tuple[int, ...]:
        """Cells that validation cannot tell from the best, the best among them."""
        return tuple(i for i in range(len(self.cells)) if i == self.best or self.behind_best(i).low <= 0)

    def effect(self, axis: str) -> dict[Any, Estimate]:
        """Return for each level of a choice how far its mean macro F1 is from the mean over all levels.

        A level whose interval holds 0 makes no difference that these texts could show.

        Args:
            axis: ``"sae"``, ``"pooling"``, ``"binarise"`` or ``"classifier"``.

        Raises:
            ProbeError: No such choice.
        """
        if axis not in self.axes:
            raise ProbeError(f"no axis {axis!r}: expected {', '.join(self.axes)}")
        drawn, value = self.resampled, np.array([cell.macro_f1.value for cell in self.cells])
        of = {level: [i for i, c in enumerate(self.cells) if c.setting[axis] == level] for level in self.axes[axis]}
        middle = np.mean([value[i].mean() for i in of.values()])
        middle_drawn = np.mean([drawn[i].mean(0) for i in of.values()], axis=0)
        return {level: estimate(value[i].mean() - middle, drawn[i].mean(0) - middle_drawn) for level, i in of.items()}

    def __repr__(self) -> str:
        verdict = self.verdict or "no verdict against the best baseline"
        return (
            f"Grid({self.data_name!r}, {len(self.cells)} cells; best in validation: {self.best_cell.name} "
            f"({self.best_cell.macro_f1}), {len(self.as_good)} cells are as good; test: {self.test}; {verdict})"
        )


def cell_figures(grid: Grid, figure: str) -> tuple[Estimate, ...]:
    """Return a figure of every cell, then of every baseline, in validation, with its 95 % interval.

    Args:
        grid: Result of a search.
        figure: ``"macro_f1"``, ``"accuracy"``, or ``"auroc"``, within each fold and then averaged; a moment's work for
            each cell. All are means over repeats.

    Raises:
        ProbeError: No such figure.
    """
    if figure not in FIGURES:
        raise ProbeError(f"no figure {figure!r}: expected {', '.join(FIGURES)}")
    if figure == "macro_f1":
        return tuple(cell.macro_f1 for cell in grid.lines)
    rows = grid.validation_rows
    labels, weights = grid.labels[rows], resamples(grid.group[rows], seed=grid.seed)
    if figure == "accuracy":
        right = np.stack([each.predicted[:, rows] == labels for each in grid.rounds]).mean(0, dtype=np.float32)
        drawn = (weights @ right.T) / weights.sum(1, keepdims=True)
        return tuple(estimate(hits.mean(dtype=np.float64), d) for hits, d in zip(right, drawn.T, strict=True))
    ones = np.ones((1, len(rows)), np.float32)

    def area(number: int, times: np.ndarray) -> np.ndarray:
        each = [auroc_resampled(labels, r.scores[number, rows], r.fold[rows], times) for r in grid.rounds]
        return np.mean(each, axis=0)

    return tuple(estimate(area(i, ones)[0], area(i, weights)) for i in range(len(grid.lines)))


def number_of(grid: Grid, name: str) -> int:
    """Return the number of a cell or baseline by its name; baselines come after the cells. Raises ProbeError."""
    names = [cell.name for cell in grid.lines]
    if name not in names:
        raise ProbeError(
            f"no cell {name!r}: expected a name like {names[0]!r}"
            + (f", or a baseline: {', '.join(names[len(grid.cells) :])}" if grid.baselines else "")
        )
    return names.index(name)


def check_grid(grid: Grid, features: TextFeatures) -> None:
    """Raise ProbeError unless a grid was made from these texts, by this model and SAEs, and has no other SAEs."""
    if grid.digest != digest_of(features.data):
        raise ProbeError(
            f"the grid was made from other texts ({grid.data_name!r}, {len(grid.labels):,}) than these features "
            f"({features.data.name!r}, {len(features):,}): pass the extraction that the grid was made from"
        )
    check_made_with("the grid", grid.made_with, features.made_with)
    if missing := [name for name in grid.axes["sae"] if name not in features.saes]:
        raise ProbeError(f"the grid has an SAE {missing[0]!r}, these features have {', '.join(features.saes)}")


def training_part(grid: Grid, features: TextFeatures, number: int) -> TextFeatures:
    """Return the texts outside the test part, with the features that a cell reads."""
    setting = grid.lines[number].setting
    saes = [features.sae(name) for name in grid.axes["sae"]]
    at = features.sae(setting["sae"]) if "sae" in setting else saes[0]
    if "hook" in setting:
        at = next(sae for sae in saes if sae.hook.name == setting["hook"])
    alone = replace(features, saes={at.name: at}, hooks={at.hook.name: at.hook})
    return subset(alone, grid.validation_rows)


def fit_cell(grid: Grid, part: TextFeatures, number: int) -> ProbeResult:
    """Fit a cell, or a baseline, on all texts outside the test part.

    Its predictions and scores are those that the grid has of these texts in the first repeat, by fits that had not
    seen them.

    Args:
        grid: Result of a search.
        part: Texts and features from `training_part`.
        number: Number of the cell; baselines come after the cells.
    """
    cell, sae, rows = grid.lines[number], part.sae(), grid.validation_rows
    everything, thresholds, read = np.arange(len(part)), None, {}
    if "sae" in cell.setting:
        settings = Settings(*(cell.setting[axis] for axis in AXES[1:]), grid.balanced, grid.seed)
        pooled = pool(sae, settings.pooling)
        recipe = sae_recipe(part, sae, settings, pooled=pooled)
        thresholds = learn_thresholds(settings.binarise, pooled, everything)
        read = {"context_size": part.context_size}
    else:
        settings = Settings(balanced=grid.balanced, seed=grid.seed)
        recipe = baseline_recipe(part, sae, cell.setting.get("baseline", cell.name), settings)
    fitted, columns = recipe.final(everything, cell.strength)
    return ProbeResult(
        name=cell.name,
        family=recipe.family,
        setting=recipe.setting | read,
        **described(part.data),
        predicted=grid.rounds[0].predicted[number][rows],
        scores=grid.rounds[0].scores[number][rows],
        fold=grid.fold[rows] - 1,
        group=grid.group[rows],
        chosen=(cell.strength,),
        validation=cell.macro_f1.value,
        fitted=fitted,
        columns=columns,
        notes=(),
        seed=grid.seed,
        threshold=thresholds,
        made_with=part.made_with,
    )
