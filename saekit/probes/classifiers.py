"""Classifiers from scikit-learn, each turned into plain arrays that predict, can be read, and are safe to save."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CLASSIFIERS = "'logistic', 'logistic-l1', 'ridge', 'difference', 'tree' or 'sparse-K' (K from 1 to 512)"
_STRENGTHS: dict[str, tuple[float, ...]] = {
    "logistic": (0.03, 0.3, 3.0, 30.0),  # C: 1 / regularisation
    "logistic-l1": (0.3, 3.0, 30.0),
    "ridge": (1000.0, 100.0, 10.0, 1.0),  # alpha: regularisation
    "difference": (0.0,),
    "tree": (3.0, 5.0, 7.0, 9.0),  # depth
    "sparse": (0.3, 3.0, 30.0),  # C on the chosen columns
}
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Fitted:
    """A classifier as plain arrays.

    Attributes:
        kind: Name of the classifier.
        weights: ``[class, column]`` in units of the inputs as they are: a text's score is ``weights @ x + intercept``
            and the largest score wins. With two classes the rows are each other's negative. None for a tree.
        intercept: ``[class]``; None for a tree.
        tree: ``left``, ``right`` (children, -1 at a leaf), ``column``, ``threshold`` by node and ``share`` ``[node,
            class]``; {} for a linear classifier.
        converged: Whether the optimiser got there.
    """

    kind: str
    weights: Float[np.ndarray, "c column"] | None
    intercept: Float[np.ndarray, " c"] | None
    tree: dict[str, np.ndarray]
    converged: bool = True

    def scores(self, inputs: "csr_array | Float[np.ndarray, 'text column']") -> Float[np.ndarray, "text c"]:
        """Return the score of each class for each text."""
        if self.weights is not None:
            return np.asarray(inputs @ self.weights.T + self.intercept)
        used, where = np.unique(self.tree["column"], return_inverse=True)
        used = np.maximum(used, 0)  # leaves have no column
        chosen: Any = inputs[:, used]
        dense = np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, np.float32)
        node = np.zeros(len(dense), np.int64)
        while (inner := self.tree["left"][node] >= 0).any():
            down = dense[np.arange(len(dense)), where[node]] <= self.tree["threshold"][node]
            node = np.where(inner, np.where(down, self.tree["left"][node], self.tree["right"][node]), node)
        return self.tree["share"][node]


def strengths(classifier: str) -> tuple[float, ...]:
    """Return the settings among which inner cross-validation chooses, the simplest first.

    Raises ProbeError for an unknown classifier.
    """
    match = re.fullmatch(r"sparse-([1-9]\d*)", classifier)
    if match is not None and int(match[1]) <= 512:
        return _STRENGTHS["sparse"]
    if classifier not in _STRENGTHS or classifier == "sparse":
        raise ProbeError(f"no classifier {classifier!r}: expected {CLASSIFIERS}")
    return _STRENGTHS[classifier]


def fit(
    classifier: str, inputs: "csr_array | Float[np.ndarray, 'text column']", labels: Int[np.ndarray, " text"],
    n_classes: int, among: tuple[float, ...], *, balanced: bool = False, seed: int = 0,
) -> Iterator[Fitted]:  # fmt: skip
    """Fit a classifier once for each strength.

    Columns are brought to a common scale first, by what these texts alone say: divided by their largest value where
    the inputs are sparse, else to mean 0 and standard deviation 1. The weights are given in units of the inputs.

    Args:
        classifier: Its name.
        inputs: One row a text.
        labels: Their classes.
        n_classes: How many there are, should one be missing here.
        among: The strengths.
        balanced: Weigh texts so that all classes count the same.
        seed: For ties between columns of a tree.
    """
    present = np.unique(labels)
    if len(present) < 2:
        yield from (_constant(classifier, inputs.shape[1], present, n_classes) for _ in among)
        return
    if classifier == "tree":
        yield from (_tree(inputs, labels, n_classes, int(depth), balanced, seed) for depth in among)
        return
    scaled, shift, scale = _scaled(inputs)
    chosen = np.arange(inputs.shape[1])
    if classifier.startswith("sparse-"):
        chosen = best_columns(inputs, labels, int(classifier.split("-")[1]))
        scaled, shift, scale = scaled[:, chosen], shift[chosen], scale[chosen]
    start = None
    for strength in among:
        weights, intercept, converged, start = _linear(
            classifier, scaled, labels, present, strength, balanced, seed, start
        )
        full = np.zeros((n_classes, inputs.shape[1]))
        full[np.ix_(present, chosen)] = weights * scale
        shifted = np.full(n_classes, -1e9)  # a class that is not here is never predicted
        shifted[present] = intercept - (weights * scale) @ shift
        yield Fitted(classifier, full, shifted, {}, converged)


def best_columns(
    inputs: "csr_array | Float[np.ndarray, 'text column']", labels: Int[np.ndarray, " text"], k: int
) -> Int[np.ndarray, " k"]:
    """Return the k columns whose mean in one class is farthest from that in the others (Gao et al. 2024, 4.2).

    With more than two classes the farthest of all classes counts. Ties go to the lower column.
    """
    far = np.abs(mean_differences(inputs, labels)).max(0)
    return np.sort(np.argsort(-far, kind="stable")[:k])


def mean_differences(
    inputs: "csr_array | Float[np.ndarray, 'text column']", labels: Int[np.ndarray, " text"]
) -> Float[np.ndarray, "c column"]:
    """Return for each class that is there its mean minus that of all other texts."""
    sums = np.stack([np.asarray(inputs[labels == c].sum(0), np.float64).ravel() for c in np.unique(labels)])
    count = np.array([(labels == c).sum() for c in np.unique(labels)])[:, None]
    return sums / count - (sums.sum(0) - sums) / (len(labels) - count)


def _scaled(inputs) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return inputs on a common scale, and what was subtracted and multiplied."""
    if hasattr(inputs, "tocsr"):
        highest = np.abs(inputs).max(axis=0).toarray().ravel()
        scale = np.where(highest > 0, 1 / np.where(highest > 0, highest, 1), 0).astype(np.float64)
        data = inputs.data * scale[inputs.indices]
        return type(inputs)((data, inputs.indices, inputs.indptr), shape=inputs.shape), np.zeros(len(scale)), scale
    mean, deviation = inputs.mean(0, dtype=np.float64), inputs.std(0, dtype=np.float64)
    scale = np.where(deviation > 1e-8, 1 / np.where(deviation > 1e-8, deviation, 1), 0)
    return (inputs - mean) * scale, mean, scale


def _linear(classifier, inputs, labels, present, strength, balanced, seed, start):
    """Return weights ``[class, column]``, intercept, whether it converged, and where to start the next fit."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, RidgeClassifier

    if classifier == "difference":
        mean = np.stack([np.asarray(inputs[labels == c].mean(0)).ravel() for c in present])
        weights, intercept = mean, -0.5 * (mean**2).sum(1)
        if len(present) == 2:
            half = (weights[1] - weights[0]) / 2, (intercept[1] - intercept[0]) / 2
            weights, intercept = np.stack([-half[0], half[0]]), np.array([-half[1], half[1]])
        return weights, intercept, True, None
    weight = "balanced" if balanced else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if classifier == "ridge":
            made = RidgeClassifier(alpha=strength, class_weight=weight, solver="lsqr", tol=1e-4).fit(inputs, labels)
        elif classifier == "logistic-l1":
            made = _one_by_one(inputs, labels, present, strength, weight, seed)
        else:
            made = LogisticRegression(
                C=strength, class_weight=weight, max_iter=_MOST_STEPS, warm_start=start is not None
            )
            if start is not None:
                made.coef_, made.intercept_, made.classes_ = start
            made.fit(inputs, labels)
            start = (made.coef_.copy(), made.intercept_.copy(), made.classes_)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    weights, intercept = np.atleast_2d(made.coef_), np.atleast_1d(made.intercept_)
    if len(present) == 2 and len(weights) == 1:
        weights, intercept = np.concatenate([-weights, weights]), np.concatenate([-intercept, intercept])
    return weights, intercept, converged, start


@dataclass
class _Plain:
    coef_: np.ndarray
    intercept_: np.ndarray


def _one_by_one(inputs, labels, present, strength, weight, seed) -> _Plain:
    """Fit L1-regularised logistic regression, each class against the rest; one fit for two classes."""
    from sklearn.linear_model import LogisticRegression

    found = []
    for c in present[1:] if len(present) == 2 else present:
        made = LogisticRegression(
            C=strength, l1_ratio=1, solver="liblinear", class_weight=weight, max_iter=_MOST_STEPS, random_state=seed
        ).fit(inputs, labels == c)
        found.append((made.coef_[0], made.intercept_[0]))
    return _Plain(np.stack([w for w, _ in found]), np.array([b for _, b in found]))


def _tree(inputs, labels, n_classes: int, depth: int, balanced: bool, seed: int) -> Fitted:
    from sklearn.tree import DecisionTreeClassifier

    inputs = inputs.tocsc() if hasattr(inputs, "tocsc") else inputs
    made = DecisionTreeClassifier(
        max_depth=depth, min_samples_leaf=2, class_weight="balanced" if balanced else None, random_state=seed
    ).fit(inputs, labels)
    nodes = made.tree_
    share = np.zeros((nodes.node_count, n_classes))
    value = nodes.value[:, 0, :]
    share[:, made.classes_] = value / value.sum(1, keepdims=True)
    arrays = {"left": nodes.children_left, "right": nodes.children_right, "column": nodes.feature}
    arrays |= {"threshold": nodes.threshold, "share": share}
    return Fitted("tree", None, None, {name: np.array(array) for name, array in arrays.items()})


def _constant(classifier: str, width: int, present: Int[np.ndarray, " c"], n_classes: int) -> Fitted:
    intercept = np.full(n_classes, -1e9)
    intercept[present] = 0
    return Fitted(classifier, np.zeros((n_classes, width)), intercept, {})
