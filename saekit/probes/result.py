"""What a probe returns, and how results lie on disk: arrays as arrays, the rest as JSON. Never pickle."""

import hashlib
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int, UInt64

from saekit._base.identity import Identity
from saekit._base.store import Format
from saekit._base.table import Column, Shown, Table
from saekit.data import LabelledItems
from saekit.errors import ProbeError
from saekit.probes.classifiers import CLASSIFIERS, Fitted
from saekit.probes.pooling import BINARISINGS, POOLINGS
from saekit.probes.score import Comparison, Estimate, Scores, compare_predictions, score


class Saved:
    """A result that can be written to one file and read back as it was.

    Each subclass is a dataclass; it says what it is called in messages, and names the classes of the objects that it
    may hold: ``class Curve(Saved, kind="curve", holds=(Estimate,))``. No others are made when a file is read.
    """

    _format: ClassVar[Format]
    _holds: ClassVar[dict[str, type]]

    def __init_subclass__(cls, *, kind: str, holds: tuple[type, ...], **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._format = Format(kind, 1, ProbeError, remedy="compute it again, and save it")
        cls._holds = {each.__name__: each for each in holds}

    def save(self, path: Path | str) -> None:
        """Write one safetensors file; it is complete or absent, whatever interrupts."""
        arrays: dict[str, np.ndarray] = {}
        held = {name: self._plain(value, name, arrays) for name, value in _inside(self).items()}
        self._format.save_file(path, {"held": held}, arrays)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` has written. Raises ProbeError if the file is missing, damaged, or holds something else."""
        stored = cls._format.load(path)
        try:
            return cls(**{name: cls._restored(value, stored.arrays) for name, value in stored.about["held"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise ProbeError(f"{path} is no {cls._format.kind} that this saekit can read ({problem!r})") from problem

    def _plain(self, value: Any, place: str, arrays: dict[str, np.ndarray]) -> Any:
        """Return a value as JSON knows it: what is no list, number, text or None is ``{kind: content}``."""
        if isinstance(value, np.ndarray):
            arrays[place] = value
            return {"array": place}
        if isinstance(value, list | tuple):
            items = [self._plain(item, f"{place}.{i}", arrays) for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict):
            return {"dict": {key: self._plain(item, f"{place}.{key}", arrays) for key, item in value.items()}}
        if type(value) is self._holds.get(name := type(value).__name__):
            return {name: self._plain(_inside(value), place, arrays)["dict"]}
        value = value.item() if isinstance(value, np.generic) else value
        if value is not None and not isinstance(value, str | int | float):
            raise ProbeError(f"a {self._format.kind} with a {name} cannot be saved: it could not be read back")
        return value

    @classmethod
    def _restored(cls, value: Any, arrays: dict[str, np.ndarray]) -> Any:
        if isinstance(value, list):
            return [cls._restored(item, arrays) for item in value]
        if not isinstance(value, dict):
            return value
        ((kind, inside),) = value.items()
        if kind == "array":
            return arrays[inside]
        if kind == "tuple":
            return tuple(cls._restored(item, arrays) for item in inside)
        restored = {key: cls._restored(item, arrays) for key, item in inside.items()}
        return restored if kind == "dict" else cls._holds[kind](**restored)


def _inside(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


_CHOICES = (*POOLINGS.classes, *BINARISINGS.classes, *CLASSIFIERS.classes)


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeResult(
    Saved, kind="probe", holds=(Fitted, Identity, *POOLINGS.classes, *BINARISINGS.classes, *CLASSIFIERS.classes)
):
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
        made_with: What decides the numbers of the model and of the SAE that it was made with; see `TextFeatures`.
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
    made_with: dict[str, Identity] = field(default_factory=dict)

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


def described(data: LabelledItems) -> dict[str, Any]:
    """Return what a `ProbeResult` says of its texts: their names and labels, and a hash of each with its label."""
    rows = zip(data.keys, data.labels.tolist(), strict=True)
    each = (hashlib.sha256(f"{label} ".encode() + text.encode("utf-8", "surrogatepass")) for text, label in rows)
    keys = np.frombuffer(b"".join(one.digest()[:8] for one in each), "<u8")
    return {"data_name": data.name, "label_names": data.label_names, "labels": data.labels, "keys": keys}


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
        rows: list[tuple] = [(self.probe, self.probe.name, None)]
        for other, gap in zip(self.baselines, self.differences, strict=True):
            rows.append((other, other.name + (" (best in validation)" if other is self.best else ""), gap))
        return Table(tuple(rows), _COLUMNS, caption=self.probe.data_name, note=note)
