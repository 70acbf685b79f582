"""Features as classifiers: from texts to a verdict, with the baselines that a verdict needs.

    features = extract_features(model, sae, load_labelled("sms-spam").sample(1000))
    found = probe(features)
    compare(found, baselines(features)).verdict

The framework is that of Gallifant et al. 2025 (arXiv 2502.11367); the rules are stricter: whatever is fitted is
fitted on training texts alone, settings are chosen by the figure that is reported, duplicates never part, every
figure has an interval, and nothing depends on the order of the texts.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from saekit.errors import ProbeError
from saekit.probes.features import TextFeatures, cut_words
from saekit.probes.nested import Recipe, nested, usual
from saekit.probes.pooling import fit_binariser, pool
from saekit.probes.progress import Progress, Reporting
from saekit.probes.recipes import BASELINES, baseline_recipe, own_recipe, sae_recipe
from saekit.probes.result import ProbeResult, ProbeTable, keys_of
from saekit.probes.split import Folds, make_folds

_NEARLY_ALL = 0.95  # share of columns that are constant above which there is little left to learn from


def probe(
    features: TextFeatures,
    sae: str | None = None,
    *,
    pooling: str = "max",
    binarise: str = "none",
    classifier: str = "logistic",
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
) -> ProbeResult:
    """Learn to classify texts from the features of one SAE, scored by nested cross-validation.

    Args:
        features: What `extract_features` found.
        sae: Name of the SAE; the first one if None.
        pooling: From tokens to texts: ``"max"``, ``"mean"``, ``"sum"``, ``"last"``, ``"top-N"``, ``"first-K"``.
        binarise: ``"none"``, ``"above-zero"``, ``"threshold-T"`` or ``"quantile-Q"``, learned in each training part.
        classifier: ``"logistic"`` (L2), ``"logistic-l1"``, ``"ridge"``, ``"difference"`` (of means), ``"tree"``, or
            ``"sparse-K"``: logistic on the K features whose class means are farthest apart.
        folds: Outer folds; the others of each are its inner folds.
        balanced: Weigh texts so that every class counts the same.
        seed: Of the folds and the resamples behind the intervals.

    Raises:
        ProbeError: No such SAE or setting; no labels, one class, or a class with fewer texts than folds.

    Warns:
        UserWarning: Nearly all columns are constant: the threshold does not suit the scale.
    """
    pooled = pool(features.sae(sae), pooling)
    recipe = sae_recipe(
        features, features.sae(sae), pooling=pooling, binarise=binarise, classifier=classifier, balanced=balanced,
        seed=seed, pooled=pooled,
    )  # fmt: skip
    dealt = make_folds(features, folds, seed=seed)
    found = _run(recipe, features, dealt, _constant_note(recipe, dealt))
    setting = found.setting | {"context_size": str(features.context_size)}  # with which it reads other texts
    return replace(
        found, setting=setting, threshold=fit_binariser(binarise, pooled, np.arange(len(features))).threshold
    )


def baselines(
    features: TextFeatures,
    sae: str | None = None,
    *,
    names: Sequence[str] | None = None,
    pooling: str = "max",
    binarise: str = "none",
    classifier: str = "logistic",
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
    progress: bool | Progress = False,
) -> tuple[ProbeResult, ...]:
    """Run what a probe on SAE features has to beat, on the same texts in the same folds.

    Args:
        features: What `extract_features` found.
        sae: The SAE beside which they stand: its hook point is where hidden states are read.
        names: Among ``"majority"``, ``"length"``, ``"bag-of-words"``, ``"tfidf-word"``, ``"tfidf-char"``,
            ``"hidden-last"``, ``"hidden-mean"``, ``"pca-K"``, ``"attention"`` (if `extract_features` kept the
            states), and ``"random"`` and ``"permuted"`` (if it made these controls). All that can be run if
            None, with pca-32.
        pooling: Of the controls; as in the probe.
        binarise: Of the controls; as in the probe.
        classifier: Of all of them, but majority and attention, which are their own.
        folds: As in `probe`.
        balanced: As in `probe`.
        seed: As in `probe`.
        progress: Show a progress bar, or a function that is given (done, number).
    """
    at = features.sae(sae)
    made = [each.control for each in features.saes.values() if each.of == at.name]
    if names is None:
        names = [*BASELINES, *(["attention"] if at.hook.states is not None else []), *made]
    dealt = make_folds(features, folds, seed=seed)
    recipes = [
        baseline_recipe(features, at, name, pooling=pooling, binarise=binarise, classifier=classifier,
                        balanced=balanced, seed=seed)
        for name in names
    ]  # fmt: skip
    results = []
    with Reporting(progress, len(recipes), "baseline") as report:
        for recipe in recipes:
            results.append(_run(recipe, features, dealt))
            report(len(results))
    return tuple(results)


def probe_columns(
    features: TextFeatures,
    name: str,
    columns: np.ndarray,
    *,
    classifier: str = "logistic",
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
) -> ProbeResult:
    """Probe columns of your own, ``[text]`` or ``[text, column]`` in the order of the data that was extracted.

    For a `subset`, too, they are those of all texts.

    For example a model's confidence in its answers, as a baseline for predicting which are right.
    """
    recipe = own_recipe(features, name, columns, classifier=classifier, balanced=balanced, seed=seed)
    return _run(recipe, features, make_folds(features, folds, seed=seed))


def compare(found: ProbeResult, others: Iterable[ProbeResult]) -> ProbeTable:
    """Set a probe beside others; the verdict is on the baseline that is best in validation.

    Raises ProbeError if they were not scored on the same texts in the same folds.
    """
    table = ProbeTable(found, tuple(others))
    if not table.baselines:
        raise ProbeError("nothing to compare with: pass at least one baseline")
    _ = table.differences
    return table


def _run(recipe: Recipe, features: TextFeatures, folds: Folds, *notes: str) -> ProbeResult:
    data = features.data
    outcome = nested(recipe, data.labels, folds, len(data.label_names))
    everything = np.arange(len(data))
    fitted, columns = recipe.final(everything, usual(outcome.chosen, recipe.strengths))
    said = [note for note in notes if note]
    if folds.duplicates.n_texts:
        said.append(f"duplicates, kept in one fold: {folds.duplicates}")
    if cut := cut_words(features):
        said.append(f"{cut} texts were cut at {features.context_size} tokens")
    if features.empty:
        said.append(f"{features.empty:,} texts have no token that counts: all their columns are 0")
    if fitted is not None and not fitted.converged:
        said.append("the optimiser stopped before it had converged")
    return ProbeResult(
        name=recipe.name, family=recipe.family, setting=recipe.setting, data_name=data.name,
        label_names=data.label_names, labels=data.labels, predicted=outcome.predicted, scores=outcome.scores,
        fold=folds.fold, group=folds.duplicates.group, keys=keys_of(data), chosen=outcome.chosen,
        validation=outcome.validation, fitted=fitted, columns=columns, notes=tuple(said), seed=folds.seed,
    )  # fmt: skip


def _constant_note(recipe, folds: Folds) -> str:
    """Say, and warn, if nearly all columns have one value in a training part."""
    columns, _ = recipe.prepare(rows := folds.train(0))
    part = columns[rows]
    highest, lowest = part.max(axis=0).toarray().ravel(), part.min(axis=0).toarray().ravel()
    share = float((highest == lowest).mean())
    if share <= _NEARLY_ALL:
        return ""
    note = f"{share:.1%} of the columns are constant on the training part"
    if recipe.setting["binarise"].startswith("threshold"):
        warnings.warn(f"{recipe.name}: {note}; the threshold does not suit the scale of the activations", stacklevel=3)
    return note
