"""Exercises of the notebook on training SAEs; see `exercise` for their form."""

import numpy as np
from jaxtyping import Bool, Float

from saekit.exercises.exercise import Exercise, seeded


def mmcs(learned: Float[np.ndarray, "latent d"], true: Float[np.ndarray, "feature d"]) -> float:
    """Return, averaged over the true features, the highest cosine that any learned row has with it.

    Rows may have any length other than 0; a learned row that points the other way is no match.
    """
    true, learned = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (true, learned))
    return (true @ learned.T).max(axis=1).mean()


def _cosines(learned, true):
    true, learned = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (true, learned))
    return true @ learned.T


def fvu(x: Float[np.ndarray, "sample d"], x_hat: Float[np.ndarray, "sample d"]) -> float:
    """Return the fraction of variance unexplained: squared error over squared distance from the mean activation."""
    return ((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()


def topk_activation(hidden: Float[np.ndarray, "token d_sae"], k: int) -> Float[np.ndarray, "token d_sae"]:
    """Return a TopK SAE's features: each token keeps its k largest pre-activations, after relu; the rest is 0."""
    chosen = np.argsort(-hidden, axis=1, kind="stable")[:, :k]
    kept = np.zeros_like(hidden)
    np.put_along_axis(kept, chosen, np.take_along_axis(hidden, chosen, axis=1).clip(0), axis=1)
    return kept


def _k_of_the_batch(hidden, k):
    flat = np.sort(hidden, axis=None)[::-1]
    return np.where(hidden >= flat[k * len(hidden) - 1], hidden, 0).clip(0)


def _without_relu(hidden, k):
    return np.where(hidden >= np.sort(hidden, axis=1)[:, [-k]], hidden, 0)


def absorption_rate(
    latent: Float[np.ndarray, " sample"], parent: Bool[np.ndarray, " sample"], child: Bool[np.ndarray, " sample"]
) -> float:
    """Return the share of samples with both features on which the parent's latent is silent (at least one has both)."""
    return (latent[parent & child] <= 0).mean()


EXERCISES = {
    "mmcs": Exercise(
        solve=mmcs,
        cases=lambda: [(r.standard_normal((n, 5)) * 3, r.standard_normal((7, 5))) for r, n in seeded(4, 9, 12)],
        hints=(
            "Which of the two may go unmatched? Every true feature looks for its best latent, not the other way round.",
            "Divide every row by its length; the product of the two matrices then holds all cosines.",
            "The maximum over the learned rows, then the mean over the true ones.",
        ),
        mistakes=(
            (
                lambda a, b: mmcs(b, a),
                "this averages over the learned rows: a latent too many would count against the SAE",
            ),
            (lambda a, b: (b @ a.T).max(1).mean(), "these are dot products: long rows win"),
            (
                lambda a, b: np.abs(_cosines(a, b)).max(1).mean(),
                "opposite directions count as a match here; keep the sign",
            ),
            (
                lambda a, b: _cosines(a, b).mean(),
                "this averages all cosines: take each true feature's best match first",
            ),
            (lambda a, b: _cosines(a, b).max(), "this is the best match of all; average over the true features"),
        ),
        minutes=5,
    ),
    "fvu": Exercise(
        solve=fvu,
        cases=lambda: [
            (x := 3 * r.standard_normal((40, 4)) + shift, x + 0.5 * r.standard_normal((40, 4)))
            for r, shift in seeded(0.0, 10.0, -4.0)
        ],
        hints=(
            "What would 1 mean? As bad as always answering with the mean activation.",
            "The denominator is the squared distance from x.mean(axis=0), summed over samples and dimensions.",
        ),
        mistakes=(
            (
                lambda x, y: ((x - y) ** 2).sum() / (x**2).sum(),
                "the denominator is about zero: a large mean hides the error",
            ),
            (lambda x, y: 1 - fvu(x, y), "this is the share explained; FVU is what is left"),
            (lambda x, y: ((x - y) ** 2).mean(), "this is the mean squared error: it changes with the scale of x"),
            (
                lambda x, y: (((x - y) ** 2).sum(1) / ((x - x.mean(0)) ** 2).sum(1)).mean(),
                "this averages the samples' ratios: samples near the mean blow it up; divide the sums",
            ),
            (
                lambda x, y: ((x - y) ** 2).sum() / ((x - x.mean()) ** 2).sum(),
                "x.mean() is one number for all dimensions; take the mean of each with axis=0",
            ),
            (lambda x, y: np.sqrt(fvu(x, y)), "no root: variance is squared already"),
        ),
        minutes=5,
    ),
    "topk_activation": Exercise(
        solve=topk_activation,
        cases=lambda: [
            (r.standard_normal((6, 8)) - shift, k)
            for (r, shift), k in zip(seeded(0.0, 0.5, 1.5), (1, 3, 5), strict=True)
        ],
        hints=(
            "Work row by row: every token has a budget of its own.",
            "np.argsort(-hidden, axis=1)[:, :k] says where the k largest stand.",
            "Of the k largest, those below 0 are cut off as well: .clip(0).",
        ),
        mistakes=(
            (_k_of_the_batch, "this shares one budget among all tokens: that is BatchTopK"),
            (_without_relu, "negative values survive: cut them off after choosing"),
            (lambda h, k: h.clip(0), "nothing is left out: only the k largest of each token stay"),
            (
                lambda h, k: (topk_activation(h, k) > 0).astype(float),
                "these are zeros and ones: the values themselves must stay",
            ),
        ),
        minutes=8,
        difficulty=2,
    ),
    "absorption_rate": Exercise(
        solve=absorption_rate,
        cases=lambda: [
            (r.standard_normal(60).clip(0), r.random(60) < share, r.random(60) < 0.5)
            for r, share in seeded(0.4, 0.6, 0.8)
        ],
        hints=(
            "Which samples could show absorption at all? Only those stand in the denominator.",
            "latent[parent & child] holds the latent's activations there; ask how many are 0.",
        ),
        mistakes=(
            (
                lambda f, p, c: (f[p] <= 0).mean(),
                "samples without the child are no case of absorption: they do not belong here",
            ),
            (lambda f, p, c: (f[p & c] > 0).mean(), "this is the share on which it fires; asked is where it is silent"),
            (
                lambda f, p, c: ((f <= 0) & p & c).mean(),
                "all samples stand in the denominator; only those with both belong there",
            ),
            (
                lambda f, p, c: (f[c] <= 0).mean(),
                "children without the parent do not exist in the data, but the formula must ask for both",
            ),
        ),
        minutes=4,
    ),
}
