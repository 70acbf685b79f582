"""What a probe returns: predictions of unseen texts, scores with intervals, and the classifier fitted on all."""

import hashlib
import html
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

from saekit.data import LabelledTexts
from saekit.errors import ProbeError
from saekit.probes.classifiers import Fitted
from saekit.probes.score import Comparison, Estimate, Scores, compare_predictions, score
from saekit.probes.store import read_result, write_result

_OF_EACH_TEXT = ("labels", "predicted", "scores", "fold", "group", "keys")


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """A probe, scored by nested cross-validation, and fitted once more on all texts for reading and use.

    Attributes:
        name: What it reads and how.
        family: "sae", "control", "hidden", "text", "own" or "none".
        setting: SAE, pooling, binarising, classifier, as far as they apply.
        data_name: Of the data set.
        label_names: Classes.
        labels: The truth, in the extraction's order of texts.
        predicted: Class of each text, by the fit that has not seen it.
        scores: How strongly each class was predicted, ``[text, class]``.
        fold: Outer fold of each text.
        group: Texts of one group are duplicates; none is in two folds.
        keys: A hash of each text with its label: results on the same texts in the same folds can be compared.
        chosen: Strength of regularisation (or depth) chosen in each outer fold.
        validation: Macro F1 in the inner folds.
        fitted: The classifier fitted on all texts; None where there is nothing to read.
        columns: Names of its columns; () for features, which go by number.
        threshold: Above which a feature is 1, ``[feature]``, learned from all texts; None if values are left as is.
        notes: What is worth knowing: duplicates, constant columns, cut and empty texts.
        seed: Of folds and resamples.
    """

    name: str
    family: str
    setting: dict[str, str]
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

    def save(self, path: Path | str) -> None:
        """Save as one safetensors file."""
        about: dict[str, Any]
        about = {"name": self.name, "family": self.family, "setting": self.setting, "data_name": self.data_name}
        about |= {"label_names": self.label_names, "chosen": self.chosen, "notes": self.notes}
        about |= {"validation": self.validation, "columns": self.columns, "seed": self.seed}
        arrays = {name: getattr(self, name) for name in _OF_EACH_TEXT}
        if self.fitted is not None:
            about["classifier"] = {"kind": self.fitted.kind, "converged": self.fitted.converged}
            for name, array in {**asdict(self.fitted), **self.fitted.tree}.items():
                if isinstance(array, np.ndarray):
                    arrays[f"fitted.{name}"] = array
        if self.threshold is not None:
            arrays["threshold"] = self.threshold
        write_result(path, "probe", about, arrays)

    def __repr__(self) -> str:
        said = f"{self.name} on {self.data_name!r}: {self.summary}"
        return "\n  ".join([said, *self.notes])


def load_probe(path: Path | str) -> ProbeResult:
    """Load what `ProbeResult.save` has saved. Raises ProbeError if the file is not that."""
    about, arrays = read_result(path, "probe")
    fitted = None
    if "classifier" in about:
        parts = {name.removeprefix("fitted."): a for name, a in arrays.items() if name.startswith("fitted.")}
        weights, intercept = parts.pop("weights", None), parts.pop("intercept", None)
        kind, converged = about["classifier"]["kind"], about["classifier"]["converged"]
        fitted = Fitted(kind, weights, intercept, parts, converged)
    lists = {name: tuple(about[name]) for name in ("label_names", "chosen", "columns", "notes")}
    plain = {name: about[name] for name in ("name", "family", "setting", "data_name", "validation", "seed")}
    own = {name: arrays[name] for name in _OF_EACH_TEXT}
    return ProbeResult(**plain, **lists, **own, fitted=fitted, threshold=arrays.get("threshold"))


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


def keys_of(data: LabelledTexts) -> UInt64[np.ndarray, " text"]:
    """Return a hash of each text with its label."""
    rows = zip(data.texts, data.labels.tolist(), strict=True)
    each = (hashlib.sha256(f"{label} ".encode() + text.encode("utf-8", "surrogatepass")) for text, label in rows)
    return np.frombuffer(b"".join(made.digest()[:8] for made in each), "<u8")


def digest_of(data: LabelledTexts) -> str:
    """Return a SHA-256 over texts and labels."""
    digest = hashlib.sha256()
    for text, label in zip(data.texts, data.labels.tolist(), strict=True):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(raw)} {label} ".encode() + raw)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ProbeTable:
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

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        number = lambda i: f"{i.value:.3f} [{i.low:.3f}, {i.high:.3f}]"  # noqa: E731
        rows = [(self.probe.name, number(self.probe.macro_f1), number(self.probe.auroc), "", "")]
        for other, gap in zip(self.baselines, self.differences, strict=True):
            name = other.name + (" (best in validation)" if other is self.best else "")
            rows.append((name, number(other.macro_f1), number(other.auroc), number(gap.macro_f1), f"{gap.p_value:.2g}"))
        return rows

    def _said(self) -> str:
        return self.verdict or f"no verdict: the interval of the difference to {self.best.name} holds 0"

    def __repr__(self) -> str:
        head = ("", "macro F1", "AUROC", "probe minus it", "p")
        rows = [head, *self._rows()]
        wide = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self._said()])

    def _repr_html_(self) -> str:
        cells = lambda tag, items: "".join(f"<{tag}>{html.escape(i)}</{tag}>" for i in items)  # noqa: E731
        head = cells("th", ("", "macro F1 [95 %]", "AUROC [95 %]", "probe minus it", "p (McNemar)"))
        body = "".join(f"<tr>{cells('td', row)}</tr>" for row in self._rows())
        caption = f"<caption>{html.escape(self.probe.data_name)}: {html.escape(self._said())}</caption>"
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
