"""One probe, its baselines and the verdict between them, all on the same texts in the same folds."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from saekit._base.progress import Progress, Stop, tracked
from saekit.errors import ProbeError
from saekit.probes.classifiers import Classifier
from saekit.probes.features import TextFeatures
from saekit.probes.pooling import Binarising, Pooling, Threshold, learn_thresholds, pool
from saekit.probes.recipes import BASELINES, ColumnRecipe, HiddenPCA, Settings, baseline_recipe, own_recipe, sae_recipe
from saekit.probes.result import ProbeResult, ProbeTable, described
from saekit.probes.validation import Folds, Recipe, make_folds, nested, usual

_NEARLY_ALL = 0.95  # share of columns that are constant above which there is little left to learn from


def probe(
    features: TextFeatures,
    sae: str | None = None,
    *,
    pooling: str | Pooling = "max",
    binarise: str | Binarising = "none",
    classifier: str | Classifier = "logistic",
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
) -> ProbeResult:
    """Learn to classify texts from the features of one SAE, scored by nested cross-validation.

    Args:
        features: Extraction of labelled texts.
        sae: Name of the SAE in the extraction; the first one if None.
        pooling: Way from tokens to texts: ``"max"``, ``"mean"``, ``"sum"``, ``"last"``, ``TopN(n)`` or ``FirstK(k)``;
            see `pool`.
        binarise: What makes 0 or 1: ``"none"``, ``"above-zero"``, ``Threshold(value)`` or ``Quantile(q)``, learned in
            each training part; see `learn_thresholds`.
        classifier: ``"logistic"`` (L2), ``"logistic-l1"``, ``"ridge"``, ``"difference"`` (of means), ``"tree"``, or
            ``SparseLogistic(k)``: logistic on the k features whose class means are farthest apart.
        folds: Number of outer folds; the others of each are its inner folds.
        balanced: Whether texts are weighed so that every class counts the same.
        seed: Seed of the folds and of the resamples behind the intervals.

    Raises:
        ProbeError: No such SAE or setting; no labels, one class, or a class with fewer texts than folds.

    Warns:
        UserWarning: Nearly all columns are constant: the threshold does not suit the scale.
    """
    at, settings = features.sae(sae), Settings(pooling, binarise, classifier, balanced, seed)
    pooled = pool(at, pooling)
    recipe = sae_recipe(features, at, settings, pooled=pooled)
    dealt = make_folds(features, folds, seed=seed)
    result = _run(recipe, features, dealt, _constant_note(recipe, dealt))
    setting = result.setting | {"context_size": features.context_size}  # with which it reads other texts
    return replace(result, setting=setting, threshold=learn_thresholds(binarise, pooled, np.arange(len(features))))


def baselines(
    features: TextFeatures,
    sae: str | None = None,
    *,
    names: Sequence[str | HiddenPCA] | None = None,
    pooling: str | Pooling = "max",
    binarise: str | Binarising = "none",
    classifier: str | Classifier = "logistic",
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
    progress: Progress = False,
    stop: Stop = None,
) -> tuple[ProbeResult, ...]:
    """Run what a probe on SAE features has to beat, on the same texts in the same folds.

    Args:
        features: Extraction of labelled texts.
        sae: Name of the SAE beside which they stand: its hook point is where hidden states are read.
        names: Baselines among ``"majority"``, ``"length"``, ``"bag-of-words"``, ``"tfidf-word"``, ``"tfidf-char"``,
            ``"hidden-last"``, ``"hidden-mean"``, ``HiddenPCA(k)``, ``"attention"`` (if `extract_features` kept the
            states), and ``"random"`` and ``"permuted"`` (if it made these controls). All that can be run if
            None, with ``HiddenPCA(32)``.
        pooling: Pooling of the controls; the probe's own for a fair comparison.
        binarise: Binarising of the controls.
        classifier: Classifier of all of them, but majority and attention, which are their own.
        folds: Number of outer folds.
        balanced: Whether texts are weighed so that every class counts the same.
        seed: Seed of the folds and of the resamples behind the intervals.
        progress: Show a progress bar; or a function that is given (done, total) after each baseline.
        stop: Function that is asked between baselines; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        ProbeError: No such SAE, setting or baseline, or one for which the extraction has kept too little.
    """
    at = features.sae(sae)
    controls = [each.control for each in features.saes.values() if each.of == at.name]
    if names is None:
        names = [*BASELINES, *(["attention"] if at.hook.states is not None else []), *controls]
    settings, dealt = Settings(pooling, binarise, classifier, balanced, seed), make_folds(features, folds, seed=seed)
    recipes = [baseline_recipe(features, at, name, settings) for name in names]
    return tuple(_run(recipe, features, dealt) for recipe in tracked(recipes, progress, "baseline", stop=stop))


def probe_columns(
    features: TextFeatures,
    name: str,
    columns: np.ndarray,
    *,
    classifier: str | Classifier = "logistic",
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
) -> ProbeResult:
    """Probe columns of your own, for example a model's confidence in its answers, on the same texts and folds.

    Args:
        features: Extraction of labelled texts, or a `subset` of one.
        name: Name of the probe.
        columns: Finite numbers ``[text]`` or ``[text, column]`` in the order of the data that was extracted; of all its
            texts, also for a subset.
        classifier: Classifier; see `probe`.
        folds: Number of outer folds.
        balanced: Whether texts are weighed so that every class counts the same.
        seed: Seed of the folds and of the resamples behind the intervals.

    Raises:
        ProbeError: Not one row per text, numbers that are not finite, or no such classifier.
    """
    recipe = own_recipe(features, name, columns, Settings(classifier=classifier, balanced=balanced, seed=seed))
    return _run(recipe, features, make_folds(features, folds, seed=seed))


def compare(probe: ProbeResult, others: Iterable[ProbeResult]) -> ProbeTable:
    """Set a probe beside others; the verdict is on the baseline that is best in validation.

    Raises ProbeError if they were not scored on the same texts in the same folds.
    """
    table = ProbeTable(probe, tuple(others))
    if not table.baselines:
        raise ProbeError("nothing to compare with: pass at least one baseline")
    _ = table.differences
    return table


def _run(recipe: Recipe, features: TextFeatures, folds: Folds, *notes: str) -> ProbeResult:
    data = features.data
    outcome = nested(recipe, data.labels, folds, len(data.label_names))
    fitted, columns = recipe.final(np.arange(len(data)), usual(outcome.chosen, recipe.strengths))
    notes = tuple(note for note in notes if note)
    if folds.duplicates.n_texts:
        notes += (f"duplicates, kept in one fold: {folds.duplicates}",)
    if features.truncated:
        notes += (f"{features.truncated:,} texts were cut at {features.context_size} tokens",)
    if features.empty:
        notes += (f"{features.empty:,} texts have no token that counts: all their columns are 0",)
    if fitted is not None and not fitted.converged:
        notes += ("the optimiser stopped before it had converged",)
    read = ("model", f"SAE {recipe.setting.get('sae')}")
    return ProbeResult(
        name=recipe.name,
        family=recipe.family,
        setting=recipe.setting,
        **described(data),
        **vars(outcome),
        fold=folds.fold,
        group=folds.duplicates.group,
        fitted=fitted,
        columns=columns,
        notes=notes,
        seed=folds.seed,
        made_with={name: one for name, one in features.made_with.items() if name in read},
    )


def _constant_note(recipe: ColumnRecipe, folds: Folds) -> str:
    """Say, and warn, if nearly all columns have one value in a training part."""
    columns, _ = recipe.prepare(rows := folds.train(0))
    part = columns[rows]
    highest, lowest = part.max(axis=0).toarray().ravel(), part.min(axis=0).toarray().ravel()
    share = float((highest == lowest).mean())
    if share <= _NEARLY_ALL:
        return ""
    note = f"{share:.1%} of the columns are constant on the training part"
    if isinstance(recipe.setting["binarise"], Threshold):
        warnings.warn(f"{recipe.name}: {note}; the threshold does not suit the scale of the activations", stacklevel=3)
    return note
