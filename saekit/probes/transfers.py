"""Trained here, tested there: other domains, other languages, whatever comes with the same labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saekit.data import LabelledTexts, linked
from saekit.errors import ProbeError
from saekit.probes.features import Hook, TextFeatures, as_extracted
from saekit.probes.nested import nested, usual
from saekit.probes.progress import Progress, Reporting
from saekit.probes.recipes import baseline_recipe, sae_recipe
from saekit.probes.score import Estimate, estimate, f1_of, f1_resampled, resamples
from saekit.probes.split import find_duplicates, in_both, make_folds, same_keys
from saekit.probes.store import read_result, write_plain

Table = tuple[tuple[Estimate, ...], ...]  # [trained on][tested on]


@dataclass(frozen=True, eq=False)
class Transfer:
    """Macro F1 for every pair of sets.

    Attributes:
        names: Of the sets.
        macro_f1: By probe or baseline, ``[trained on][tested on]``; on the diagonal nested cross-validation.
        lost: In the same form, macro F1 of training on the tested set itself minus that of training elsewhere, on the
            same texts: what it costs to have no labels there. 0 on the diagonal.
        ahead: In the same form, macro F1 of the features minus that of the baseline, trained and tested on the same
            texts. For the baselines only.
        shared: ``[trained on][tested on]`` texts that are in both: each is a leak; 0 on the diagonal, and everywhere
            if groups kept them apart.
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

    def save(self, path: Path | str) -> None:
        """Save as one file."""
        write_plain(path, "transfer", self)

    def __repr__(self) -> str:
        lines = []
        for probe, table in self.macro_f1.items():
            lines.append(f"{probe} (rows: trained on; columns: tested on {', '.join(self.names)})")
            lines += [f"  {n:12} " + "  ".join(map(str, row)) for n, row in zip(self.names, table, strict=True)]
        pairs = [
            f"{self.shared[i][j]} of {b!r} are also in {a!r}"
            for i, a in enumerate(self.names) for j, b in enumerate(self.names) if self.shared[i][j]
        ]  # fmt: skip
        return "\n".join([*lines, *([f"texts in two sets: {'; '.join(pairs)}"] if pairs else [])])


def load_transfer(path: Path | str) -> Transfer:
    """Load what `Transfer.save` has saved. Raises ProbeError if the file is not that."""
    about, _ = read_result(path, "transfer")
    table = lambda rows: tuple(tuple(Estimate(*point) for point in row) for row in rows)  # noqa: E731
    tables = lambda what: {name: table(rows) for name, rows in about[what].items()}  # noqa: E731
    names, shared = tuple(about["names"]), tuple(map(tuple, about["shared"]))
    return Transfer(names, tables("macro_f1"), tables("lost"), tables("ahead"), shared)


def transfer(
    sets: Mapping[str, TextFeatures],
    *,
    groups: Sequence[int] | np.ndarray | None = None,
    sae: str | None = None,
    pooling: str = "max",
    binarise: str = "none",
    classifier: str = "logistic",
    baselines: Sequence[str] = ("bag-of-words", "hidden-mean"),
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
    progress: bool | Progress = False,
) -> Transfer:
    """Train on each set and test on every other; on itself, by nested cross-validation.

    The strength of a classifier is chosen within the set that it is trained on.

    Args:
        sets: Extractions by name, all of the same model and SAEs, with the same classes. Languages, domains, or a
            training set and one from elsewhere.
        groups: For sets whose texts belong together, such as translations: the group of each text, in the order of
            the data that was given, the same for all sets (``group`` of `load_parallel`). All sets are then cut into
            the same folds, and a test text is never predicted by a fit that has seen one of its group.
        sae: Name of the SAE.
        pooling: As in `probe`.
        binarise: As in `probe`; learned on the training set.
        classifier: As in `probe`.
        baselines: As in `baselines`; their vocabulary is the training set's.
        folds: Of the diagonal; with groups, of all.
        balanced: Weigh texts so that every class counts the same.
        seed: Of folds and resamples.
        progress: Show a progress bar, or a function that is given (done, number).

    Raises:
        ProbeError: Fewer than two sets, other classes, other SAEs, or groups that are not one for each text.
    """
    names = tuple(sets)
    if len(names) < 2:
        raise ProbeError(f"transfer needs at least two sets, not {len(names)}")
    extracted = list(sets.values())
    joined, part = join(extracted)
    n_classes, labels = len(joined.data.label_names), joined.data.labels
    options: dict[str, Any] = {"classifier": classifier, "balanced": balanced, "seed": seed}

    def recipes(features: TextFeatures) -> list:
        at = features.sae(sae)
        made = [sae_recipe(features, at, pooling=pooling, binarise=binarise, **options)]
        return made + [
            baseline_recipe(features, at, b, pooling=pooling, binarise=binarise, **options) for b in baselines
        ]

    if groups is None:
        dealt = [make_folds(features, folds, seed=seed) for features in extracted]
    else:
        together = make_folds(_one_text_a_group(joined, extracted, groups), folds, seed=seed)
        dealt = [replace(together, fold=together.fold[part == i]) for i in range(len(names))]
    group = find_duplicates(joined).group if groups is None else together.duplicates.group
    weights = [resamples(group[part == i], seed=seed) for i in range(len(names))]

    def elsewhere(recipe, i: int, chosen: tuple[float, ...]) -> np.ndarray:
        """Predict all texts of the other sets from set i."""
        if groups is None:
            fits = [(part == i, part != i, usual(chosen, recipe.strengths))]
        else:
            fits = [
                ((part == i) & (together.fold != f), (part != i) & (together.fold == f), strength)
                for f, strength in enumerate(chosen)
            ]
        predicted = np.zeros(len(labels), np.int64)
        for train, tested, strength in fits:
            scores = next(iter(recipe.each(np.flatnonzero(train), (strength,))))
            predicted[tested] = scores[tested].argmax(1)
        return predicted

    everywhere = recipes(joined)
    predicted: dict[str, list[np.ndarray]] = {recipe.name: [] for recipe in everywhere}
    with Reporting(progress, len(names) * len(everywhere), "probe") as report:
        for i, features in enumerate(extracted):
            for number, (alone, wide) in enumerate(zip(recipes(features), everywhere, strict=True)):
                outcome = nested(alone, features.data.labels, dealt[i], n_classes)
                found = elsewhere(wide, i, outcome.chosen)
                found[part == i] = outcome.predicted
                predicted[wide.name].append(found)
                report(i * len(everywhere) + number + 1)
    apart = lambda a, b: a is b or groups is not None  # noqa: E731
    shared = tuple(tuple(0 if apart(a, b) else in_both(a, b) for b in extracted) for a in extracted)
    return Transfer(names, *_tables(predicted, labels, part, weights, n_classes), shared)


def _one_text_a_group(
    joined: TextFeatures, sets: Sequence[TextFeatures], groups: Sequence[int] | np.ndarray
) -> LabelledTexts:
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
    predicted: dict[str, list[np.ndarray]], labels: np.ndarray, part: np.ndarray, weights: list[np.ndarray],
    n_classes: int,
) -> tuple[dict[str, Table], dict[str, Table], dict[str, Table]]:  # fmt: skip
    """Return macro F1, what is lost by training elsewhere, and how far the features are ahead; see `Transfer`."""
    figures = {}  # by probe: [trained on][tested on] (value, its resamples)
    for name, rows in predicted.items():
        figures[name] = [[] for _ in rows]
        for i, found in enumerate(rows):
            for j, drawn in enumerate(weights):
                mine = labels[part == j], found[part == j], n_classes
                figures[name][i].append((f1_of(*mine), f1_resampled(*mine, drawn)))
    places = range(len(weights))

    def table(of) -> Table:
        return tuple(tuple(estimate(*of(i, j)) for j in places) for i in places)

    minus = lambda one, other: (one[0] - other[0], one[1] - other[1])  # noqa: E731
    first, *others = figures
    macro_f1 = {name: table(lambda i, j, f=f: f[i][j]) for name, f in figures.items()}
    lost = {name: table(lambda i, j, f=f: minus(f[j][j], f[i][j])) for name, f in figures.items()}
    ahead = {name: table(lambda i, j, f=figures[name]: minus(figures[first][i][j], f[i][j])) for name in others}
    return macro_f1, lost, ahead


def join(sets: Sequence[TextFeatures]) -> tuple[TextFeatures, np.ndarray]:
    """Return several extractions of the same model and SAEs as one, and which each text came from.

    Raises ProbeError if they differ in model, context, classes or SAEs.
    """
    from scipy.sparse import vstack

    first = sets[0]
    for other in sets[1:]:
        for what, one, two in (
            ("model", first.model_name, other.model_name),
            ("classes", first.data.label_names, other.data.label_names),
            ("SAEs", {n: (s.d_sae, s.hook.name) for n, s in first.saes.items()},
             {n: (s.d_sae, s.hook.name) for n, s in other.saes.items()}),
        ):  # fmt: skip
            if one != two:
                raise ProbeError(
                    f"sets must share their {what}: {first.data.name!r} has {one}, {other.data.name!r} {two}"
                )
    end_to_end = lambda starts: np.concatenate([[0], np.cumsum(np.concatenate([np.diff(s) for s in starts]))])  # noqa: E731
    hooks = {}
    for name in first.hooks:
        all_of = [s.hooks[name] for s in sets]
        states = None if any(h.states is None for h in all_of) else np.concatenate([h.states for h in all_of])
        left_out = {key: sum(h.excluded.get(key, 0) for h in all_of) for key in all_of[0].excluded}
        stacked = (np.concatenate([getattr(h, what) for h in all_of]) for what in ("position", "last", "mean"))
        hooks[name] = Hook(name, end_to_end([h.starts for h in all_of]), *stacked, states, left_out)
    saes = {
        name: replace(sae, hook=hooks[sae.hook.name], events=vstack([s.saes[name].events for s in sets], format="csr"))
        for name, sae in first.saes.items()
    }
    data = replace(
        first.data, name=" + ".join(s.data.name for s in sets), items=sum((s.data.texts for s in sets), ()),
        labels=np.concatenate([s.data.labels for s in sets]),
    )  # fmt: skip
    shifts = np.cumsum([0, *(len(s) for s in sets)])
    joined = TextFeatures(
        data=data, index=np.concatenate([s.index + shift for s, shift in zip(sets, shifts, strict=False)]),
        ids=np.concatenate([s.ids for s in sets]), id_starts=end_to_end([s.id_starts for s in sets]), hooks=hooks,
        saes=saes, truncated=sum(s.truncated for s in sets), empty=sum(s.empty for s in sets),
        context_size=max(s.context_size for s in sets), model_name=first.model_name,
    )  # fmt: skip
    return joined, np.repeat(np.arange(len(sets)), [len(s) for s in sets])
