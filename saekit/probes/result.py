"""What a probe returns: predictions of unseen texts, scores with intervals, and the classifier fitted on all."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

from saekit._base.table import Column, Shown, Table
from saekit.data import LabelledItems
from saekit.errors import ProbeError
from saekit.probes.classifiers import CLASSIFIERS, Fitted
from saekit.probes.pooling import BINARISINGS, POOLINGS
from saekit.probes.saved import Saved
from saekit.probes.score import Comparison, Estimate, Scores, compare_predictions, score


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeResult(Saved, kind="probe", holds=(Fitted, *POOLINGS.classes, *BINARISINGS.classes, *CLASSIFIERS.classes)):
    """A probe, scored by nested cross-validation, and fitted once more on all texts for reading and use.

    Attributes:
        name: What it reads and how.
        family: "sae", "control", "hidden", "text", "own" or "none".
        setting: ``sae``, ``pooling``, ``binarise``, ``classifier``, ``hook`` and ``context_size``, as far as they
            apply, in the form in which they were given.
        data_name: Name of the data set.
        label_names: Names of the classes.
        labels: True class of each text, in the extraction's order.
        predicted: Class of each text, by the fit that has not seen it.
        scores: How strongly each class was predicted, ``[text, class]``.
        fold: Outer fold of each text.
        group: Texts of one group are duplicates; none is in two folds.
        keys: A hash of each text with its label: results on the same texts in the same folds can be compared.
        chosen: Strength of regularisation (or depth) chosen in each outer fold.
        validation: Macro F1 in the inner folds.
        fitted: The classifier fitted on all texts; None where there is nothing to read.
        columns: Names of its columns; () for features, which go by number.
        notes: What is worth knowing: duplicates, constant columns, cut and empty texts.
        seed: Seed of folds and resamples.
        threshold: Value above which each feature is 1, ``[feature]``, learned from all texts; None if values are left
            as they are.
    """

    name: str
    family: str
    setting: dict[str, Any]
    data_name: str
    label_names: tuple[str, ...]
    labels: Int[np.ndarray, " text"]
    predicted: Int[np.ndarray, " text"]
    scores: Float[np.ndarray, "text c"]
    fold: Int[np.ndarray, " text"]
    group: Int[np.ndarray, " text"]
    keys: UInt64[np.ndarray, " text"]
    chosen: tuple[float, ...]
    validation: float
    fitted: Fitted | None
    columns: tuple[str, ...]
    notes: tuple[str, ...]
    seed: int
    threshold: Float[np.ndarray, " feature"] | None = None

    @cached_property
    def summary(self) -> Scores:
        """Scores of the predictions, with 95 % intervals."""
        return score(self.labels, self.predicted, self.scores, fold=self.fold, group=self.group, seed=self.seed)

    @property
    def macro_f1(self) -> Estimate:
        """Macro F1 with its 95 % interval."""
        return self.summary.macro_f1

    @property
    def auroc(self) -> Estimate:
        """AUROC with its 95 % interval."""
        return self.summary.auroc

    def minus(self, other: "ProbeResult") -> Comparison:
        """Compare with another probe on the same texts in the same folds, in whatever order it has read them.

        Raises:
            ProbeError: Other texts, labels or folds.
        """
        rows = _paired(self, other)
        mine, others = (self.name, self.predicted, self.scores), (other.name, other.predicted[rows], other.scores[rows])
        return compare_predictions(self.labels, mine, others, fold=self.fold, group=self.group, seed=self.seed)

    def __repr__(self) -> str:
        return "\n  ".join([f"{self.name} on {self.data_name!r}: {self.summary}", *self.notes])


def _paired(one: ProbeResult, other: ProbeResult) -> Int[np.ndarray, " text"]:
    """Return the row of ``other`` for each of ``one``: texts are ordered by their length in a model's own tokens."""
    mine, others = np.argsort(one.keys, kind="stable"), np.argsort(other.keys, kind="stable")
    if np.array_equal(one.keys[mine], other.keys[others]):
        rows = np.empty_like(others)
        rows[mine] = others
        if np.array_equal(one.fold, other.fold[rows]):
            return rows
    raise ProbeError(
        f"{one.name} and {other.name} were not scored on the same texts in the same folds: a paired comparison needs "
        f"the same labelled texts, folds= and seed= for both"
    )


def keys_of(data: LabelledItems) -> UInt64[np.ndarray, " text"]:
    """Return a hash of each text with its label."""
    rows = zip(data.keys, data.labels.tolist(), strict=True)
    each = (hashlib.sha256(f"{label} ".encode() + text.encode("utf-8", "surrogatepass")) for text, label in rows)
    return np.frombuffer(b"".join(made.digest()[:8] for made in each), "<u8")


def digest_of(data: LabelledItems) -> str:
    """Return a SHA-256 over texts and labels."""
    digest = hashlib.sha256()
    for text, label in zip(data.keys, data.labels.tolist(), strict=True):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(raw)} {label} ".encode() + raw)
    return digest.hexdigest()


_COLUMNS = (
    Column("", lambda row: row[1]),
    Column("macro F1 [95 %]", lambda row: str(row[0].macro_f1)),
    Column("AUROC [95 %]", lambda row: str(row[0].auroc)),
    Column("probe minus it", lambda row: row[2] and str(row[2].macro_f1)),
    Column("p (McNemar)", lambda row: row[2] and f"{row[2].p_value:.2g}"),
)


@dataclass(frozen=True, eq=False, repr=False)
class ProbeTable(Shown):
    """A probe beside its baselines, on the same texts in the same folds; renders as a table in Jupyter.

    Attributes:
        probe: The probe.
        baselines: The others, as they came.
    """

    probe: ProbeResult
    baselines: tuple[ProbeResult, ...]

    @cached_property
    def differences(self) -> tuple[Comparison, ...]:
        """Probe minus baseline, for each."""
        return tuple(self.probe.minus(other) for other in self.baselines)

    @property
    def best(self) -> ProbeResult:
        """The baseline with the best macro F1 in the inner folds: the test folds have no say in it."""
        return max(self.baselines, key=lambda result: result.validation)

    @property
    def verdict(self) -> str | None:
        """One sentence on probe against ``best``, or None where the interval of their difference holds 0."""
        return next(d.verdict for d, b in zip(self.differences, self.baselines, strict=True) if b is self.best)

    def _table(self) -> Table:
        note = self.verdict or f"no verdict: the interval of the difference to {self.best.name} holds 0"
        rows = [(self.probe, self.probe.name, None), *(
            (other, other.name + (" (best in validation)" if other is self.best else ""), gap)
            for other, gap in zip(self.baselines, self.differences, strict=True)
        )]  # fmt: skip
        return Table(tuple(rows), _COLUMNS, caption=self.probe.data_name, note=note)
