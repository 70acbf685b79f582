"""What a search over probes returns: every cell and baseline in validation, and the chosen ones on the test part."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError
from saekit.probes.score import Comparison, Estimate, Scores, estimate, f1_resampled, resamples
from saekit.probes.store import read_result, write_result

AXES = ("sae", "pooling", "binarise", "classifier")


@dataclass(frozen=True)
class Cell:
    """One choice of SAE, pooling, binarising and classifier, or one baseline.

    Attributes:
        name: Of the baseline, with its layer if there are several; of a cell its four settings.
        setting: SAE, pooling, binarise, classifier, also of a control; ``baseline`` and ``hook`` of a baseline on
            hidden states; {} of other baselines.
        macro_f1: In validation, on the texts outside the test part; the mean over repeats, with the interval of that
            mean.
        spread: Standard deviation of macro F1 over repeats (other folds); NaN for one.
        strength: Chosen in the first repeat.
    """

    name: str
    setting: dict[str, str]
    macro_f1: Estimate
    spread: float
    strength: float


class Round(NamedTuple):
    """What one repeat predicts in validation.

    Attributes:
        predicted: ``[cell or baseline, text]``; -1 in the test part.
        scores: ``[cell or baseline, text, class]``: how strongly each class was predicted; 0 in the test part.
        fold: In which the text was left out of the fit; 0 is the test part, the same in every repeat.
    """

    predicted: Int[np.ndarray, "cell text"]
    scores: Float[np.ndarray, "cell text c"]
    fold: Int[np.ndarray, " text"]


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
        rounds: The predictions of every repeat. Each figure in validation, and each difference, is the mean over them.
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
    rounds: tuple[Round, ...]
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

    @property
    def predicted(self) -> Int[np.ndarray, "cell text"]:
        """Predictions of the first repeat; see `Round`."""
        return self.rounds[0].predicted

    @property
    def scores(self) -> Float[np.ndarray, "cell text c"]:
        """Scores of the first repeat; see `Round`."""
        return self.rounds[0].scores

    @property
    def fold(self) -> Int[np.ndarray, " text"]:
        """Folds of the first repeat; see `Round`."""
        return self.rounds[0].fold

    @cached_property
    def _resampled(self) -> Float[np.ndarray, "cell sample"]:
        rows = np.flatnonzero(self.fold != 0)
        weights = resamples(self.group[rows], seed=self.seed)
        f1 = lambda said: f1_resampled(self.labels[rows], said[rows], len(self.label_names), weights)  # noqa: E731
        return np.mean([[f1(said) for said in each.predicted] for each in self.rounds], axis=0)

    def difference(self, one: int, other: int) -> Estimate:
        """Return macro F1 of one cell minus that of another in validation; if it holds 0, they may be equal.

        Cells go by number, baselines after them: the first is ``len(cells)``.
        """
        value = [(*self.cells, *self.baselines)[i].macro_f1.value for i in (one, other)]
        return estimate(value[0] - value[1], self._resampled[one] - self._resampled[other])

    def behind_best(self, cell: int) -> Estimate:
        """Return macro F1 of the best cell minus that of another; see `difference`."""
        return self.difference(self.best, cell)

    @cached_property
    def as_good(self) -> tuple[int, ...]:
        """Cells that validation cannot tell from the best, the best among them."""
        return tuple(i for i in range(len(self.cells)) if i == self.best or self.behind_best(i).low <= 0)

    def effect(self, axis: str) -> dict[str, Estimate]:
        """Return for each level of a choice how far its mean macro F1 is from the mean over all levels.

        A level whose interval holds 0 makes no difference that these texts could show.
        """
        if axis not in self.axes:
            raise ProbeError(f"no axis {axis!r}: expected {', '.join(self.axes)}")
        drawn, value = self._resampled, np.array([cell.macro_f1.value for cell in self.cells])
        of = {level: [i for i, c in enumerate(self.cells) if c.setting[axis] == level] for level in self.axes[axis]}
        middle = np.mean([value[i].mean() for i in of.values()])
        middle_drawn = np.mean([drawn[i].mean(0) for i in of.values()], axis=0)
        return {
            level: estimate(value[i].mean() - middle, drawn[i].mean(0) - middle_drawn)
            for level, i in of.items()
        }  # fmt: skip

    def save(self, path: Path | str) -> None:
        """Save as one safetensors file."""
        rows = lambda cells: [[c.name, c.setting, _listed(c.macro_f1), c.spread, c.strength] for c in cells]  # noqa: E731
        about: dict[str, Any]
        about = {"cells": rows(self.cells), "baselines": rows(self.baselines), "axes": self.axes, "best": self.best}
        about |= {"best_baseline": self.best_baseline, "seed": self.seed, "digest": self.digest}
        about |= {"data_name": self.data_name, "label_names": self.label_names, "n_test": self.test.n}
        about |= {"balanced": self.balanced}
        about |= {"test": [_listed(self.test.macro_f1), _listed(self.test.auroc), self.test.accuracy]}
        if (d := self.test_difference) is not None:
            about["difference"] = [d.name, d.other, _listed(d.macro_f1), _listed(d.auroc), d.p_value, d.only_first,
                                   d.only_second, d.verdict]  # fmt: skip
        arrays = {name: np.stack([getattr(each, name) for each in self.rounds]) for name in Round._fields}
        arrays |= {"labels": self.labels, "group": self.group}
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
    cells = lambda rows: tuple(Cell(n, s, Estimate(*f), spread, strength) for n, s, f, spread, strength in rows)  # noqa: E731
    f1, auroc, accuracy = about["test"]
    parts = {name: arrays[name] for name in ("confusion", "precision", "recall", "f1")}
    test = Scores(Estimate(*f1), Estimate(*auroc), accuracy, **parts, n=about["n_test"])
    difference = None
    if d := about.get("difference"):
        difference = Comparison(d[0], d[1], Estimate(*d[2]), Estimate(*d[3]), *d[4:])
    rounds = tuple(map(Round, *(arrays[name] for name in Round._fields)))
    return Grid(
        cells(about["cells"]), cells(about["baselines"]), {k: tuple(v) for k, v in about["axes"].items()},
        about["best"], about["best_baseline"], test, difference, rounds, arrays["labels"], arrays["group"],
        about["seed"], about["digest"], about["data_name"], tuple(about["label_names"]), about["balanced"],
    )  # fmt: skip


def _listed(found: Estimate) -> list[float]:
    return [found.value, found.low, found.high]
