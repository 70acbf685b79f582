"""Trained here, tested there: other domains, other languages, whatever comes with the same labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Float, Int

from saekit._base.progress import Progress, Stop, tracked
from saekit.data import LabelledItems, linked
from saekit.errors import ProbeError
from saekit.probes.classifiers import Classifier
from saekit.probes.features import Hook, TextFeatures, as_extracted, check_made_with
from saekit.probes.pooling import Binarising, Pooling
from saekit.probes.recipes import HiddenPCA, Settings, with_baselines
from saekit.probes.result import Saved
from saekit.probes.score import Estimate, estimate, f1_of, f1_resampled, resamples
from saekit.probes.validation import Folds, Recipe, find_duplicates, in_both, make_folds, nested, same_keys, usual

Table = tuple[tuple[Estimate, ...], ...]  # [trained on][tested on]


@dataclass(frozen=True, eq=False)
class Transfer(Saved, kind="transfer", holds=(Estimate,)):
    """Macro F1 for every pair of sets.

    Attributes:
        names: Names of the sets.
        macro_f1: Table ``[trained on][tested on]`` by name of probe or baseline; on the diagonal nested
            cross-validation.
        lost: Tables of the same form: macro F1 of training on the tested set itself minus that of training elsewhere,
            on the same texts: what it costs to have no labels there. 0 on the diagonal.
        ahead: Tables of the same form: macro F1 of the features minus that of the baseline, trained and tested on the
            same texts. For the baselines only.
        shared: Number of texts ``[trained on][tested on]`` that are in both: each is a leak; 0 on the diagonal, and
            everywhere if groups kept them apart.
    """

    names: tuple[str, ...]
    macro_f1: dict[str, Table]
    lost: dict[str, Table]
    ahead: dict[str, Table]
    shared: tuple[tuple[int, ...], ...]

    def gap(self, name: str, to: str, *, of: str | None = None) -> float:
        """Return how much is lost on ``to`` by training on ``name`` and not on ``to`` itself."""
        table = next(iter(self.macro_f1.values())) if of is None else self.macro_f1[of]
        i, j = self.names.index(name), self.names.index(to)
        return table[j][j].value - table[i][j].value

    def __repr__(self) -> str:
        lines = []
        for probe, table in self.macro_f1.items():
            lines.append(f"{probe} (rows: trained on; columns: tested on {', '.join(self.names)})")
            lines += [f"  {n:12} " + "  ".join(map(str, row)) for n, row in zip(self.names, table, strict=True)]
        both = zip(product(self.names, self.names), sum(self.shared, ()), strict=True)
        if pairs := [f"{shared} of {b!r} are also in {a!r}" for (a, b), shared in both if shared]:
            lines.append(f"texts in two sets: {'; '.join(pairs)}")
        return "\n".join(lines)


def transfer(
    sets: Mapping[str, TextFeatures],
    *,
    groups: Sequence[int] | np.ndarray | None = None,
    sae: str | None = None,
    pooling: str | Pooling = "max",
    binarise: str | Binarising = "none",
    classifier: str | Classifier = "logistic",
    baselines: Sequence[str | HiddenPCA] = ("bag-of-words", "hidden-mean"),
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
    progress: Progress = False,
    stop: Stop = None,
) -> Transfer:
    """Train on each set and test on every other; on itself, by nested cross-validation.

    The strength of a classifier is chosen within the set that it is trained on.

    Args:
        sets: Extractions by name, all of the same model and SAEs, with the same classes. Languages, domains, or a
            training set and one from elsewhere.
        groups: Group of each text, for sets whose texts belong together, such as translations; in the order of the
            data that was given, the same for all sets (``group`` of `load_parallel`). All sets are then cut into
            the same folds, and a test text is never predicted by a fit that has seen one of its group.
        sae: Name of the SAE in the extractions; the first one if None.
        pooling: Pooling of the features; see `probe`.
        binarise: Binarising of the features; see `probe`; learned on the training set.
        classifier: Classifier of the probe and of the baselines; see `probe`.
        baselines: Names of baselines, see `baselines`; their vocabulary is the training set's.
        folds: Number of folds of the diagonal; with groups, of all.
        balanced: Whether texts are weighed so that every class counts the same.
        seed: Seed of folds and resamples.
        progress: Show a progress bar; or a function that is given (done, total) after each probe.
        stop: Function that is asked between probes; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        ProbeError: Fewer than two sets, other classes, other SAEs, or groups that are not one for each text.
    """
    names = tuple(sets)
    if len(names) < 2:
        raise ProbeError(f"transfer needs at least two sets, not {len(names)}")
    extracted = list(sets.values())
    joined, part = join(extracted)
    n_classes, labels = len(joined.data.label_names), joined.data.labels
    settings = Settings(pooling, binarise, classifier, balanced, seed)
    recipes = [with_baselines(each, each.sae(sae), baselines, settings) for each in (joined, *extracted)]
    if groups is None:
        together, group = None, find_duplicates(joined).group
        dealt = [make_folds(features, folds, seed=seed) for features in extracted]
    else:
        together = make_folds(_one_text_a_group(joined, extracted, groups), folds, seed=seed)
        group = together.duplicates.group
        dealt = [replace(together, fold=together.fold[part == i]) for i in range(len(names))]
    weights = [resamples(group[part == i], seed=seed) for i in range(len(names))]
    predicted: dict[str, list[np.ndarray]] = {recipe.name: [] for recipe in recipes[0]}
    pairs = [(i, *both) for i in range(len(names)) for both in zip(recipes[0], recipes[i + 1], strict=True)]
    for i, wide, alone in tracked(pairs, progress, "probe", stop=stop):
        outcome = nested(alone, extracted[i].data.labels, dealt[i], n_classes)
        everywhere = _elsewhere(wide, part == i, together, outcome.chosen)
        everywhere[part == i] = outcome.predicted
        predicted[wide.name].append(everywhere)
    shared = [[0 if a is b or groups is not None else in_both(a, b) for b in extracted] for a in extracted]
    return Transfer(names, *_tables(predicted, labels, part, weights, n_classes), tuple(map(tuple, shared)))


def _elsewhere(
    recipe: Recipe, here: np.ndarray, together: Folds | None, chosen: tuple[float, ...]
) -> Int[np.ndarray, " text"]:
    """Predict all texts of the other sets from one set; with common folds, each by a fit without its own fold.

    Args:
        recipe: Recipe on all sets, one after another.
        here: Whether each text is of the set that is trained on.
        together: Folds of all sets; None if texts of different sets do not belong together.
        chosen: Strength for each fold.
    """
    if together is None:
        fits = [(here, ~here, usual(chosen, recipe.strengths))]
    else:
        fits = [(here & (together.fold != f), ~here & (together.fold == f), by) for f, by in enumerate(chosen)]
    predicted = np.zeros(len(here), np.int64)
    for train, tested, strength in fits:
        scores = next(iter(recipe.each(np.flatnonzero(train), (strength,))))
        predicted[tested] = scores[tested].argmax(1)
    return predicted


def _one_text_a_group(
    joined: TextFeatures, sets: Sequence[TextFeatures], groups: Sequence[int] | np.ndarray
) -> LabelledItems:
    """Return the data with the first text of each group in the place of all its texts.

    To whatever keeps duplicates together they are duplicates then. Texts that are the same, as far as they are read, in
    another language or in another group, join their groups.
    """
    of_text = np.concatenate([as_extracted(features, "groups", np.asarray(groups)) for features in sets]).tolist()
    texts = joined.data.texts
    component = linked([(("group", g), *keys) for g, keys in zip(of_text, same_keys(joined), strict=True)])
    first = np.unique(component, return_index=True)[1]
    return replace(joined.data, items=tuple(texts[first[c]] for c in component))


def _tables(
    predicted: dict[str, list[np.ndarray]],
    labels: np.ndarray,
    part: np.ndarray,
    weights: list[np.ndarray],
    n_classes: int,
) -> tuple[dict[str, Table], dict[str, Table], dict[str, Table]]:
    """Return macro F1, what is lost by training elsewhere, and how far the features are ahead; see `Transfer`."""

    def tested(row: np.ndarray, j: int) -> np.ndarray:
        """Return macro F1 on the texts of set j, and in every resample of them."""
        truth, said = labels[part == j], row[part == j]
        drawn = f1_resampled(truth, said, n_classes, weights[j])
        return np.append(f1_of(truth, said, n_classes), drawn)

    sets = range(len(weights))  # figures by probe: [trained on, tested on, figure and its resamples]
    figures = {name: np.array([[tested(row, j) for j in sets] for row in rows]) for name, rows in predicted.items()}
    first, *others = figures
    macro_f1 = {name: _table(f) for name, f in figures.items()}
    lost = {name: _table(np.diagonal(f).T[None] - f) for name, f in figures.items()}
    ahead = {name: _table(figures[first] - figures[name]) for name in others}
    return macro_f1, lost, ahead


def _table(figures: Float[np.ndarray, "trained tested sample"]) -> Table:
    return tuple(tuple(estimate(cell[0], cell[1:]) for cell in row) for row in figures)


def join(sets: Sequence[TextFeatures]) -> tuple[TextFeatures, np.ndarray]:
    """Return several extractions of the same model and SAEs as one, and which each text came from.

    Raises ProbeError if they differ in model, context, classes or SAEs.
    """
    from scipy.sparse import vstack

    first = sets[0]
    alike: dict[str, Callable[[TextFeatures], object]] = {
        "model": lambda each: each.model_name,
        "classes": lambda each: each.data.label_names,
        "SAEs": lambda each: {name: (sae.d_sae, sae.hook.name) for name, sae in each.saes.items()},
    }
    for other, (what, of) in product(sets[1:], alike.items()):
        if of(first) != of(other):
            names = first.data.name, other.data.name
            raise ProbeError(f"sets must share their {what}: {names[0]!r} has {of(first)}, {names[1]!r} {of(other)}")
    for other in sets[1:]:
        check_made_with(f"the set {first.data.name!r}", first.made_with, other.made_with)
    hooks = {}
    for name in first.hooks:
        every = [s.hooks[name] for s in sets]
        states = None if any(h.states is None for h in every) else np.concatenate([h.states for h in every])
        left_out = {key: sum(h.excluded.get(key, 0) for h in every) for key in every[0].excluded}
        stacked = (np.concatenate([getattr(h, what) for h in every]) for what in ("position", "last", "mean"))
        hooks[name] = Hook(name, _end_to_end([h.starts for h in every]), *stacked, states, left_out)
    saes = {
        name: replace(sae, hook=hooks[sae.hook.name], events=vstack([s.saes[name].events for s in sets], format="csr"))
        for name, sae in first.saes.items()
    }
    data = replace(
        first.data,
        name=" + ".join(s.data.name for s in sets),
        items=sum((s.data.items for s in sets), ()),
        groups=sum((s.data.groups for s in sets), ()),
        labels=np.concatenate([s.data.labels for s in sets]),
    )
    sizes = [len(s) for s in sets]
    joined = TextFeatures(
        data=data,
        index=np.concatenate([s.index for s in sets]) + np.repeat(np.cumsum(sizes) - sizes, sizes),
        ids=np.concatenate([s.ids for s in sets]),
        id_starts=_end_to_end([s.id_starts for s in sets]),
        hooks=hooks,
        saes=saes,
        cut=np.concatenate([s.cut for s in sets]),
        context_size=max(s.context_size for s in sets),
        model_name=first.model_name,
        model_identity=first.model_identity,
    )
    return joined, np.repeat(np.arange(len(sets)), sizes)


def _end_to_end(starts: Sequence[np.ndarray]) -> np.ndarray:
    """Return where texts start whose sets follow one another."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(s) for s in starts]))])
