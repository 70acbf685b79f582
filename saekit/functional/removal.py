"""Do a few features hold one concept, and that one only? Take them out and see which probes fail.

Two measures after SAEBench (Karvonen et al. 2025), on probes of the mean-pooled residual stream. As pooling is linear,
taking a feature out of every token takes its mean activation times its decoder row out of the text; the part that the
SAE does not rebuild stays. A feature that is taken out is put to its mean over the training texts: put to 0 it would
also shift every probe's score. Written from the description of the measures.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from saekit.errors import ProbeError
from saekit.probes import SAEFeatures, Saved, TextFeatures, as_extracted, fit, make_folds, pool
from saekit.saes import decoder_rows

if TYPE_CHECKING:
    from sae_lens import SAE

SIZES = (2, 5, 10, 20, 50, 100, 500)
_STRENGTH = (1.0,)


@dataclass(frozen=True)
class Removal(Saved, kind="removal", holds=()):
    """What `spurious_correlation_removal` and `targeted_probe_perturbation` return.

    Attributes:
        measure: "SCR" or "TPP".
        sizes: Numbers of features taken out.
        score: Value of the measure at each size.
        control: Value with as many active features drawn at random.
        detail: Accuracies behind it: for SCR ``base``, ``oracle`` and ``ablated`` (a list by size); for TPP
            ``accuracy`` (by class) and ``drop`` (``[size][class ablated][class tested]``).
        features: Numbers of the features taken out at the largest size, the first to go first; for TPP by class.
        n_test: Number of texts that were scored.
    """

    measure: str
    sizes: tuple[int, ...]
    score: tuple[float, ...]
    control: tuple[float, ...]
    detail: dict[str, Any]
    features: tuple[Any, ...]
    n_test: int

    def __repr__(self) -> str:
        rows = zip(self.sizes, self.score, self.control, strict=True)
        scores = "; ".join(f"{n} features {s:.3f} (random {c:.3f})" for n, s, c in rows)
        return f"{self.measure} on {self.n_test:,} texts: {scores}"


def spurious_correlation_removal(
    sae: "SAE[Any]",
    features: TextFeatures,
    spurious: np.ndarray,
    *,
    name: str | None = None,
    sizes: tuple[int, ...] = SIZES,
    folds: int = 5,
    seed: int = 0,
) -> Removal:
    """Spurious correlation removal: take out what a biased probe should not have learned (SCR).

    A probe for the labels is trained on texts in which a second property always goes with them. The features that
    carry most of that property, by a probe of its own, are taken out of the test texts, in which the two are
    unrelated. The score is how much of the accuracy comes back that a probe trained without the bias has:
    (ablated - base) / (oracle - base).

    Args:
        sae: SAE whose features are taken out.
        features: Extraction of texts of two classes.
        spurious: 0 or 1 for each text, in the order of the data that was extracted.
        name: Name of the SAE in the extraction; the first one if None.
        sizes: Numbers of features that are taken out.
        folds: Number of parts, one of which is the test part.
        seed: Seed of the folds and of the features drawn at random.

    Raises:
        ProbeError: Not two classes, or too few texts of one combination of label and property.
    """
    at, directions = _checked(sae, features, name)
    labels = features.data.labels
    present = np.unique(labels)
    spurious = as_extracted(features, "spurious", np.asarray(spurious))
    if not np.isin(spurious, (0, 1)).all():
        raise ProbeError("spurious: expected 0 or 1 for each text")
    if len(present) != 2:
        raise ProbeError(f"spurious correlation removal needs two classes, not {len(present)}")
    target, spurious = (labels == present[1]).astype(np.int64), spurious.astype(np.int64)
    dealt = make_folds(features, folds, seed=seed)
    generator = np.random.default_rng(seed)
    train, test = (_evened(rows, 2 * target + spurious, 4, generator) for rows in (dealt.train(0), dealt.test(0)))
    biased = dealt.train(0)
    biased = biased[target[biased] == spurious[biased]]
    states, means = at.hook.mean, pool(at, "mean")
    probe = _learned(states[biased], target[biased])
    oracle = _accuracy(_learned(states[train], target[train]), states[test], target[test])
    base = _accuracy(probe, states[test], target[test])
    order = _ranked(means[train], directions, _learned(states[train], spurious[train]), spurious[train])
    shuffled = generator.permutation(np.unique(means[train].indices))
    ablated, at_random = (
        [_accuracy(probe, _without(states, means, directions, chosen[:n], train)[test], target[test]) for n in sizes]
        for chosen in (order, shuffled)
    )
    detail = {"base": base, "oracle": oracle, "ablated": ablated, "random": at_random}
    gap = oracle - base if oracle != base else float("nan")
    score, control = (tuple((accuracy - base) / gap for accuracy in row) for row in (ablated, at_random))
    return Removal("SCR", tuple(sizes), score, control, detail, tuple(order[: max(sizes)].tolist()), len(test))


def targeted_probe_perturbation(
    sae: "SAE[Any]",
    features: TextFeatures,
    *,
    name: str | None = None,
    sizes: tuple[int, ...] = SIZES,
    folds: int = 5,
    seed: int = 0,
) -> Removal:
    """Targeted probe perturbation: take out one class's features and see whether only its probe fails (TPP).

    For each class a probe tells it from the rest. The features that carry most of it are taken out of the test texts.
    The score is the mean loss of accuracy of the class's own probe minus that of the other classes' probes.

    Args:
        sae: SAE whose features are taken out.
        features: Extraction of texts of three classes or more. With two, one class's probe is the other's turned
            round: what breaks one breaks both, and the measure is 0 whatever is taken out.
        name: Name of the SAE in the extraction; the first one if None.
        sizes: Numbers of features that are taken out.
        folds: Number of parts, one of which is the test part.
        seed: Seed of the folds and of the features drawn at random.

    Raises:
        ProbeError: Fewer than three classes, or too few texts of one.
    """
    at, directions = _checked(sae, features, name)
    labels = features.data.labels
    classes = np.unique(labels)
    if len(classes) < 3:
        raise ProbeError(f"targeted probe perturbation needs at least three classes, not {len(classes)}")
    dealt = make_folds(features, folds, seed=seed)
    generator = np.random.default_rng(seed)
    states, means = at.hook.mean, pool(at, "mean")
    probes, tests, orders = [], [], []
    for c in classes:
        mine = (labels == c).astype(np.int64)
        rows = _evened(dealt.train(0), mine, 2, generator)
        probes.append(_learned(states[rows], mine[rows]))
        tests.append(_evened(dealt.test(0), mine, 2, generator))
        orders.append(_ranked(means[rows], directions, probes[-1], mine[rows]))
    truth = [(labels == c).astype(np.int64) for c in classes]
    before = [_accuracy(p, states[t], y[t]) for p, t, y in zip(probes, tests, truth, strict=True)]
    shuffled = [generator.permutation(np.unique(means.indices)) for _ in classes]

    def drops(chosen: list[np.ndarray], n: int) -> np.ndarray:
        table = np.zeros((len(classes), len(classes)))
        for i, order in enumerate(chosen):
            changed = _without(states, means, directions, order[:n], dealt.train(0))
            for j, (p, t, y) in enumerate(zip(probes, tests, truth, strict=True)):
                table[i, j] = before[j] - _accuracy(p, changed[t], y[t])
        return table

    others = ~np.eye(len(classes), dtype=bool)
    tables = [[drops(chosen, n) for n in sizes] for chosen in (orders, shuffled)]
    score, control = (tuple(float(np.diag(t).mean() - t[others].mean()) for t in each) for each in tables)
    detail = {"accuracy": before, "drop": [table.tolist() for table in tables[0]]}
    taken = tuple(tuple(order[: max(sizes)].tolist()) for order in orders)
    return Removal("TPP", tuple(sizes), score, control, detail, taken, len(np.unique(np.concatenate(tests))))


def _checked(
    sae: "SAE[Any]", features: TextFeatures, name: str | None
) -> tuple[SAEFeatures, Float[np.ndarray, "feature d_model"]]:
    at = features.sae(name)
    if sae.cfg.normalize_activations != "none":
        raise ProbeError(
            f"the SAE rescales each input ({sae.cfg.normalize_activations!r}): what a feature adds to pooled states is "
            f"then no fixed direction. Expected an SAE without that"
        )
    directions = decoder_rows(sae).cpu().numpy()
    if directions.shape != (at.d_sae, at.hook.mean.shape[1]):
        raise ProbeError(f"{at.name} has {at.d_sae} features of {at.hook.mean.shape[1]} dimensions, not this SAE's")
    return at, directions


def _evened(
    rows: Int[np.ndarray, " row"], kind: np.ndarray, n_kinds: int, generator: np.random.Generator
) -> np.ndarray:
    """Leave out rows until there are as many of each kind."""
    fewest = int(np.bincount(kind[rows], minlength=n_kinds).min())
    if fewest < 2:
        raise ProbeError("too few texts: one combination of classes has fewer than 2 in the training or the test part")
    return np.sort(np.concatenate([generator.permutation(rows[kind[rows] == k])[:fewest] for k in range(n_kinds)]))


def _learned(states: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return direction and offset of a logistic probe of two classes."""
    fitted = next(fit("logistic", states, labels, 2, _STRENGTH))
    assert fitted.weights is not None and fitted.intercept is not None
    return fitted.weights[1] - fitted.weights[0], float(fitted.intercept[1] - fitted.intercept[0])


def _accuracy(probe: tuple[np.ndarray, float], states: np.ndarray, labels: np.ndarray) -> float:
    return float(((states @ probe[0] + probe[1] > 0) == labels).mean())


def _ranked(means: Any, directions: np.ndarray, probe: tuple[np.ndarray, float], labels: np.ndarray) -> np.ndarray:
    """Order features by how much their difference between the classes moves the probe."""
    difference = np.asarray(means[labels == 1].mean(axis=0) - means[labels == 0].mean(axis=0)).ravel()
    return np.argsort(-difference * (directions @ probe[0]), kind="stable")


def _without(
    states: np.ndarray, means: Any, directions: np.ndarray, chosen: np.ndarray, train: np.ndarray
) -> np.ndarray:
    """Return the pooled states with some features put to their mean over the training texts."""
    usual = np.asarray(means[train][:, chosen].mean(axis=0)).ravel()
    return states - (means[:, chosen].toarray() - usual) @ directions[chosen]
