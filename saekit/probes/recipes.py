"""What a probe can read: SAE features, hidden states, words, or nothing. Each learns from its training rows alone."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError
from saekit.probes.attention import AttentionRecipe
from saekit.probes.classifiers import Fitted, fit, strengths
from saekit.probes.features import SAEFeatures, TextFeatures, as_extracted
from saekit.probes.pooling import check_binarise, check_pooling, fit_binariser, pool

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Rows = Int[np.ndarray, " row"]
BASELINES = ("majority", "length", "bag-of-words", "tfidf-word", "tfidf-char", "hidden-last", "hidden-mean", "pca-32")


@dataclass
class ColumnRecipe:
    """A classifier on columns that are made for all texts by what the training rows say.

    ``prepare`` takes the training rows and returns the columns of all texts, with their names (() for features,
    which go by number).
    """

    name: str
    family: str
    setting: dict[str, str]
    prepare: "Callable[[Rows], tuple[Any, tuple[str, ...]]]"
    labels: Int[np.ndarray, " text"]
    n_classes: int
    classifier: str = "logistic"
    balanced: bool = False
    seed: int = 0

    @property
    def strengths(self) -> tuple[float, ...]:
        """Settings of the classifier, the simplest first."""
        return strengths(self.classifier)

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Float[np.ndarray, "text c"]]:
        """Learn with each strength; yield the scores of all texts."""
        columns, _ = self.prepare(train)
        for fitted in self._fits(columns, train, strengths):
            yield fitted.scores(columns)

    def final(self, train: Rows, strength: float) -> tuple[Fitted | None, tuple[str, ...]]:
        """Return the classifier learned from the training rows, and the names of its columns."""
        columns, names = self.prepare(train)
        return next(self._fits(columns, train, (strength,))), names

    def _fits(self, columns: Any, train: Rows, strengths: tuple[float, ...]) -> Iterator[Fitted]:
        return fit(
            self.classifier, columns[train], self.labels[train], self.n_classes, strengths,
            balanced=self.balanced, seed=self.seed,
        )  # fmt: skip


@dataclass
class MajorityRecipe:
    """The most frequent class of the training rows, whatever the text."""

    labels: Int[np.ndarray, " text"]
    n_classes: int
    name: str = "majority"
    family: str = "none"
    setting: dict[str, str] = field(default_factory=dict)
    strengths: tuple[float, ...] = (0.0,)

    def each(self, train: Rows, strengths: tuple[float, ...]) -> Iterator[Float[np.ndarray, "text c"]]:
        """Yield the share of each class among the training rows, for every text."""
        share = np.bincount(self.labels[train], minlength=self.n_classes) / len(train)
        for _ in strengths:
            yield np.tile(share, (len(self.labels), 1))

    def final(self, train: Rows, strength: float) -> tuple[Fitted | None, tuple[str, ...]]:
        """Return no classifier."""
        return None, ()


def sae_recipe(
    features: TextFeatures, sae: SAEFeatures, *, pooling: str, binarise: str, classifier: str, balanced: bool = False,
    seed: int = 0, pooled: "csr_array | None" = None,
) -> ColumnRecipe:  # fmt: skip
    """Return the recipe of a probe on SAE features; ``pooled`` saves pooling again."""
    check_pooling(pooling)
    pooled = pool(sae, pooling) if pooled is None else pooled
    check_binarise(binarise)  # an unknown one is refused at once
    strengths(classifier)

    def prepare(train: Rows):
        return fit_binariser(binarise, pooled, train)(pooled), ()

    name = f"{sae.name}, {pooling}, {binarise}, {classifier}"
    setting = {"sae": sae.name, "pooling": pooling, "binarise": binarise, "classifier": classifier}
    return _recipe(name, "control" if sae.control else "sae", setting, prepare, features, classifier, balanced, seed)


def hidden_recipe(
    features: TextFeatures, hook_name: str, how: str, *, classifier: str = "logistic", balanced: bool = False,
    seed: int = 0,
) -> ColumnRecipe:  # fmt: skip
    """Return the recipe of a probe on hidden states: ``"last"``, ``"mean"``, or ``"pca-K"`` (of the mean)."""
    hook = features.hooks[hook_name]
    states = hook.last if how == "last" else hook.mean

    def prepare(train: Rows):
        if not how.startswith("pca-"):
            return states, ()
        centre = states[train].mean(0, dtype=np.float64)
        _, _, axes = np.linalg.svd(states[train] - centre, full_matrices=False)
        return (states - centre) @ axes[: int(how[4:])].T, ()

    name = f"hidden-{how}" if not how.startswith("pca-") else how
    setting = {"hook": hook_name, "classifier": classifier}
    return _recipe(name, "hidden", setting, prepare, features, classifier, balanced, seed)


def text_recipe(
    features: TextFeatures, how: str, *, classifier: str = "logistic", balanced: bool = False, seed: int = 0
) -> ColumnRecipe:
    """Return the recipe of a probe on words: ``"bag-of-words"``, ``"tfidf-word"``, ``"tfidf-char"``, ``"length"``.

    Words and pieces are counted once; which of them there are, and how rare, is learned from the training rows, as
    scikit-learn's vectorisers fitted on those texts would.
    """
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import CountVectorizer

    texts = features.data.texts
    if how == "length":
        tokens = np.diff(features.id_starts)
        table = np.log1p(np.stack([tokens, [len(t) for t in texts], [len(t.split()) for t in texts]], 1))
        names = ("log tokens", "log characters", "log words")
        return _recipe(how, "text", {"classifier": classifier}, lambda train: (table, names), features, classifier,
                       balanced, seed)  # fmt: skip
    words = {"token_pattern": r"(?u)\b\w+\b"}  # scikit-learn's own drops words of one letter
    options = {"bag-of-words": words, "tfidf-word": {**words, "ngram_range": (1, 2)}}
    options["tfidf-char"] = {"analyzer": "char_wb", "ngram_range": (2, 4)}
    counter = CountVectorizer(**options[how])
    try:
        counts = csr_array(counter.fit_transform(texts).astype(np.float64))
    except ValueError as error:
        raise ProbeError(f"{how}: no text holds a word") from error
    vocabulary = np.array(counter.get_feature_names_out())

    def prepare(train: Rows):
        holding = np.bincount(counts[train].indices, minlength=counts.shape[1])
        known = np.flatnonzero(holding)
        table = counts[:, known]
        if how == "bag-of-words":
            return table, tuple(vocabulary[known])
        rarity = np.log((1 + len(train)) / (1 + holding[known])) + 1
        table = table.multiply(rarity).tocsr()
        length = np.sqrt(table.multiply(table).sum(1)).ravel()
        table.data /= np.repeat(np.maximum(length, 1e-300), np.diff(table.indptr))
        return table, tuple(vocabulary[known])

    return _recipe(how, "text", {"classifier": classifier}, prepare, features, classifier, balanced, seed)


def own_recipe(
    features: TextFeatures, name: str, columns: np.ndarray, names: tuple[str, ...] = (), *,
    classifier: str = "logistic", balanced: bool = False, seed: int = 0,
) -> ColumnRecipe:  # fmt: skip
    """Return the recipe of a probe on columns of the user's own, in the order of the data that was extracted.

    For example a model's confidence in its answer, to see whether features say more than that.
    """
    columns = np.asarray(columns, np.float64).reshape(len(columns), -1)
    table = as_extracted(features, name, columns)
    if not np.isfinite(columns).all():
        raise ProbeError(f"{name}: not all values are finite numbers")
    return _recipe(name, "own", {"classifier": classifier}, lambda train: (table, names), features, classifier,
                   balanced, seed)  # fmt: skip


def baseline_recipe(
    features: TextFeatures, sae: SAEFeatures, name: str, *, pooling: str = "max", binarise: str = "none",
    classifier: str = "logistic", balanced: bool = False, seed: int = 0,
) -> "ColumnRecipe | MajorityRecipe | AttentionRecipe":  # fmt: skip
    """Return a baseline by name, beside an SAE.

    Raises ProbeError for one that does not exist, or for which the extraction has kept too little.
    """
    options: dict[str, Any] = {"classifier": classifier, "balanced": balanced, "seed": seed}
    if name == "majority":
        return MajorityRecipe(features.data.labels, len(features.data.label_names))
    if name == "attention":
        return AttentionRecipe(sae.hook, features.data.labels, len(features.data.label_names), balanced, seed)
    if name.startswith(("hidden-", "pca-")):
        return hidden_recipe(features, sae.hook.name, name.removeprefix("hidden-"), **options)
    if name in ("random", "permuted"):
        if f"{sae.name} ({name})" not in features.saes:
            raise ProbeError(f"no {name} control of {sae.name} was extracted: extract with controls=({name!r},)")
        control = features.sae(f"{sae.name} ({name})")
        return sae_recipe(features, control, pooling=pooling, binarise=binarise, **options)
    if name not in BASELINES:
        raise ProbeError(f"no baseline {name!r}: expected {', '.join(BASELINES)}, attention, random or permuted")
    return text_recipe(features, name, **options)


def _recipe(name, family, setting, prepare, features, classifier, balanced, seed) -> ColumnRecipe:
    data = features.data
    strengths(classifier)
    if match := re.search(r"hidden-(?!last|mean)|pca-(?![1-9]\d*$)", name) if family == "hidden" else None:
        raise ProbeError(f"no hidden-state baseline {match.string!r}: expected 'last', 'mean' or 'pca-K'")
    return ColumnRecipe(name, family, setting, prepare, data.labels, len(data.label_names), classifier, balanced, seed)
