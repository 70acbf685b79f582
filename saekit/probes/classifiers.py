"""Classifiers from scikit-learn, each turned into plain arrays that predict, can be read, and are safe to save.

A new classifier is a subclass of `Classifier` (of `Linear`, if a weighted sum decides), named in `CLASSIFIERS`; where
it has parameters, the room exports its class too.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from saekit._base.checks import whole
from saekit._base.threads import one_blas_thread
from saekit.errors import ProbeError
from saekit.probes.choices import Choices

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_MOST_STEPS = 1000
_NEVER = -1e9  # score of a class that is not among the training texts


@dataclass(frozen=True, eq=False)
class Fitted:
    """A classifier as plain arrays.

    Attributes:
        weights: ``[class, column]`` in units of the inputs as they are: a text's score is ``weights @ x + intercept``
            and the largest score wins. With two classes the rows are each other's negative. None for a tree.
        intercept: ``[class]``; None for a tree.
        tree: ``left``, ``right`` (children, -1 at a leaf), ``column``, ``threshold`` by node and ``share`` ``[node,
            class]``; {} for a linear classifier.
        converged: Whether the optimiser got there.
    """

    weights: Float[np.ndarray, "c column"] | None = None
    intercept: Float[np.ndarray, " c"] | None = None
    tree: dict[str, np.ndarray] = field(default_factory=dict)
    converged: bool = True

    @one_blas_thread()
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


class Classifier:
    """A way to learn classes from columns.

    Attributes:
        strengths: Settings among which inner cross-validation chooses, the simplest first.
    """

    strengths: ClassVar[tuple[float, ...]] = (0.0,)

    def fit(self, inputs, labels, n_classes, among, *, balanced=False, seed=0) -> Iterator[Fitted]:
        """Fit once for each strength, where there are at least two classes; arguments like those of `fit`."""
        raise NotImplementedError

    def probabilities(self, scores: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"] | None:
        """Return the probability of each class by the classifier's own model; None where it has none."""
        return None


class Linear(Classifier):
    """A classifier whose score is a weighted sum of columns, learned by an estimator of scikit-learn."""

    _parameter: ClassVar[str] = "C"  # of the estimator, for the strength

    def _estimator(self, balanced: str | None, seed: int) -> Any:
        raise NotImplementedError

    def _columns(self, inputs, labels) -> Int[np.ndarray, " column"]:
        """Return the columns to learn from: a penalty leaves the weight of one without an entry at 0 by itself."""
        some = hasattr(inputs, "tocsr") and inputs.nnz
        return np.unique(inputs.indices) if some else np.arange(inputs.shape[1])

    def fit(self, inputs, labels, n_classes, among, *, balanced=False, seed=0) -> Iterator[Fitted]:
        """Fit on columns of a common scale; the weights are given in units of the inputs."""
        present, chosen = np.unique(labels), self._columns(inputs, labels)
        scaled, shift, scale = _scaled(inputs)
        if len(chosen) < inputs.shape[1]:
            scaled, shift, scale = scaled[:, chosen], shift[chosen], scale[chosen]
        estimator = self._estimator("balanced" if balanced else None, seed)
        for strength in among:
            estimator.set_params(**{self._parameter: strength})
            weights, intercept, converged = _learned(estimator, scaled, labels)
            full, shifted = np.zeros((n_classes, inputs.shape[1])), np.full(n_classes, _NEVER)
            full[np.ix_(present, chosen)] = weights / scale
            shifted[present] = intercept - (weights / scale) @ shift
            yield Fitted(full, shifted, converged=converged)


class Logistic(Linear):
    """Logistic regression with a penalty on squares; each strength goes on from the fit before."""

    strengths = (0.03, 0.3, 3.0, 30.0)  # C: 1 / regularisation

    def _estimator(self, balanced: str | None, seed: int) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(class_weight=balanced, max_iter=_MOST_STEPS, warm_start=True)

    def probabilities(self, scores: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
        """Return the softmax; of two classes, whose scores are each other's negative, the logistic function."""
        halved = scores / 2 if len(scores) == 2 else scores
        shifted = np.exp(halved - halved.max())
        return shifted / shifted.sum()


@dataclass(frozen=True)
class SparseLogistic(Logistic):
    """Logistic regression on the k columns whose class means are farthest apart; "sparse-k" in print.

    Attributes:
        k: Number of columns, 1 to 512.
    """

    strengths: ClassVar[tuple[float, ...]] = (0.3, 3.0, 30.0)
    k: int

    def __post_init__(self) -> None:
        whole("k of SparseLogistic", self.k, at_least=1, at_most=512, error=ProbeError)

    def __str__(self) -> str:
        return f"sparse-{self.k}"

    def _columns(self, inputs, labels) -> Int[np.ndarray, " column"]:
        return best_columns(inputs, labels, self.k)


class LogisticL1(Logistic):
    """Logistic regression with a penalty on absolute values, each class against the rest."""

    strengths, _parameter = (0.3, 3.0, 30.0), "estimator__C"

    def _estimator(self, balanced: str | None, seed: int) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        options = {"class_weight": balanced, "max_iter": _MOST_STEPS, "random_state": seed}
        return OneVsRestClassifier(LogisticRegression(l1_ratio=1, solver="liblinear", **options))

    def probabilities(self, scores: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
        """Return each class's own probability against the rest, normalised."""
        return super().probabilities(scores if len(scores) == 2 else -np.logaddexp(0, -scores))


class Ridge(Linear):
    """Least squares with a penalty on squares."""

    strengths, _parameter = (1000.0, 100.0, 10.0, 1.0), "alpha"

    def _estimator(self, balanced: str | None, seed: int) -> Any:
        from sklearn.linear_model import RidgeClassifier

        return RidgeClassifier(class_weight=balanced, solver="lsqr", tol=1e-4)


class Difference(Linear):
    """Difference of means: the class whose mean is nearest. It has no strength."""

    def _estimator(self, balanced: str | None, seed: int) -> Any:
        return _Means()


class _Means:
    """Weights and intercept of the nearest mean; scikit-learn's NearestCentroid refuses columns that are all 0."""

    def set_params(self, C: float) -> None:
        pass

    def fit(self, inputs, labels) -> None:
        mean = np.stack([np.asarray(inputs[labels == c].mean(0)).ravel() for c in np.unique(labels)])
        self.coef_, self.intercept_ = mean, -0.5 * (mean**2).sum(1)
        if len(mean) == 2:
            self.coef_, self.intercept_ = (mean[1:] - mean[:1]) / 2, np.diff(self.intercept_) / 2


class Tree(Classifier):
    """A decision tree; strengths are depths."""

    strengths = (3.0, 5.0, 7.0, 9.0)

    def fit(self, inputs, labels, n_classes, among, *, balanced=False, seed=0) -> Iterator[Fitted]:
        """Fit a tree of each depth; the scale of the inputs does not matter."""
        from sklearn.tree import DecisionTreeClassifier

        inputs = inputs.tocsc() if hasattr(inputs, "tocsc") else inputs
        options = {"min_samples_leaf": 2, "class_weight": "balanced" if balanced else None, "random_state": seed}
        for depth in among:
            estimator = DecisionTreeClassifier(max_depth=int(depth), **options).fit(inputs, labels)
            nodes = estimator.tree_
            value, share = nodes.value[:, 0, :], np.zeros((nodes.node_count, n_classes))
            share[:, estimator.classes_] = value / value.sum(1, keepdims=True)
            arrays = {"left": nodes.children_left, "right": nodes.children_right, "column": nodes.feature}
            arrays |= {"threshold": nodes.threshold, "share": share}
            yield Fitted(tree={name: np.array(array) for name, array in arrays.items()})

    def probabilities(self, scores: Float[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
        """Return the scores: they are the shares in the leaf."""
        return scores


CLASSIFIERS = Choices(
    "classifier",
    Classifier,
    {"logistic": Logistic(), "logistic-l1": LogisticL1(), "ridge": Ridge(), "difference": Difference(), "tree": Tree()},
    (SparseLogistic,),
)


def fit(
    classifier: "str | Classifier",
    inputs: "csr_array | Float[np.ndarray, 'text column']",
    labels: Int[np.ndarray, " text"],
    n_classes: int,
    among: tuple[float, ...],
    *,
    balanced: bool = False,
    seed: int = 0,
) -> Iterator[Fitted]:
    """Fit a classifier once for each strength.

    Columns are brought to a common scale first, by what these texts alone say: divided by their largest value where
    the inputs are sparse, else to mean 0 and standard deviation 1. The weights are given in units of the inputs.

    Args:
        classifier: Name of the classifier, or the object: ``"ridge"``, ``SparseLogistic(16)``.
        inputs: Columns, one row per text.
        labels: Class of each text.
        n_classes: Number of classes, should one be missing here.
        among: Strengths; those of a classifier are its ``strengths``.
        balanced: Whether texts are weighed so that all classes count the same.
        seed: Seed of the choice between equal columns of a tree.

    Raises:
        ProbeError: No such classifier.
    """
    learner, present = CLASSIFIERS.of(classifier), np.unique(labels)
    if len(present) < 2:
        only = Fitted(np.zeros((n_classes, inputs.shape[1])), np.where(np.isin(range(n_classes), present), 0.0, _NEVER))
        yield from (only for _ in among)
        return
    yield from learner.fit(inputs, labels, n_classes, among, balanced=balanced, seed=seed)


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


def _scaled(inputs: Any) -> tuple[Any, Float[np.ndarray, " column"], Float[np.ndarray, " column"]]:
    """Return inputs on a common scale, what was subtracted from each column, and what it was divided by."""
    from sklearn.preprocessing import MaxAbsScaler, StandardScaler

    scaler: Any = MaxAbsScaler() if hasattr(inputs, "tocsr") else StandardScaler()
    scaled = scaler.fit_transform(inputs.astype(np.float64))
    return scaled, getattr(scaler, "mean_", np.zeros(inputs.shape[1])), scaler.scale_


@one_blas_thread()
def _learned(estimator: Any, inputs: Any, labels: Int[np.ndarray, " text"]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Fit an estimator; return its weights ``[class, column]``, intercepts, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(inputs, labels)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    parts = getattr(estimator, "estimators_", [estimator])  # those of one against the rest
    weights = np.vstack([p.coef_ for p in parts])
    intercept = np.concatenate([np.atleast_1d(p.intercept_) for p in parts])
    if len(weights) == 1:  # two classes: the score of the second
        weights, intercept = np.vstack([-weights, weights]), np.hstack([-intercept, intercept])
    return weights, intercept, converged
