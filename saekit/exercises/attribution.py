"""Exercises of the notebook on logit attribution; see `exercise` for their form."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from saekit.exercises.exercise import Exercise, seeded


def logit_direction(
    residual: Float[np.ndarray, "d_model"],
    weight: Float[np.ndarray, "d_model"],
    unembedding: Float[np.ndarray, "d_model"],
    epsilon: float,
) -> Float[np.ndarray, "d_model"]:
    """Return the vector v for which v · residual is the logit, through an RMSNorm with its scale frozen.

    The norm divides by the root of (mean square + epsilon) and multiplies by its weight.
    """
    return weight * unembedding / np.sqrt((residual**2).mean() + epsilon)


def feature_contributions(
    activations: Float[np.ndarray, "feature"],
    W_dec: Float[np.ndarray, "feature d_model"],
    direction: Float[np.ndarray, "d_model"],
) -> Float[np.ndarray, "feature"]:
    """Return what each feature adds to the logit, if ``direction`` is the v of `logit_direction`."""
    return activations * (W_dec @ direction)


def first_order_effect(
    clean: Float[np.ndarray, "feature"],
    baseline: Float[np.ndarray, "feature"],
    gradient: Float[np.ndarray, "feature"],
) -> Float[np.ndarray, "feature"]:
    """Return the estimated effect of each feature: positive if its clean value is in favour of the answer.

    ``gradient`` is that of the reading at the clean values; the effect is clean reading minus the one at the baseline.
    """
    return (clean - baseline) * gradient


def integrated_effect(
    slope: Callable[[Float[np.ndarray, "feature"]], Float[np.ndarray, "feature"]],
    clean: Float[np.ndarray, "feature"],
    baseline: Float[np.ndarray, "feature"],
    steps: int,
) -> Float[np.ndarray, "feature"]:
    """Return integrated gradients: the first-order effect with the gradient averaged on the line between the two.

    ``slope(features)`` is the gradient there. The line is cut into ``steps`` equal parts, each read at its middle.
    """
    middles = (np.arange(steps) + 0.5) / steps
    return (clean - baseline) * np.mean([slope(baseline + t * (clean - baseline)) for t in middles], axis=0)


def matched_control(
    edit: Float[np.ndarray, "pos d_model"], other: Float[np.ndarray, "pos d_model"]
) -> Float[np.ndarray, "pos d_model"]:
    """Return ``other`` scaled so that at every position it is as long as ``edit`` (no row of ``other`` is zero)."""
    return other / np.linalg.norm(other, axis=1, keepdims=True) * np.linalg.norm(edit, axis=1, keepdims=True)


def _slope_of(matrix):
    """Return the gradient of sum(log(cosh(matrix @ x))): it saturates, as attention does."""
    return lambda x: matrix.T @ np.tanh(matrix @ x)


def _averaged(slope, clean, baseline, shares):
    return (clean - baseline) * np.mean([slope(baseline + t * (clean - baseline)) for t in shares], axis=0)


EXERCISES = {
    "logit_direction": Exercise(
        solve=logit_direction,
        cases=lambda: [
            (scale * r.standard_normal(6) + 1, r.standard_normal(6) + 2, r.standard_normal(6), 0.01)
            for r, scale in seeded(0.3, 3.0, 20.0)
        ],
        hints=(
            "logit = unembedding · (weight * residual / scale). Which parts do not depend on the residual, once the "
            "scale is frozen?",
            "Move weight and scale over to the unembedding: a dot product does not mind which side is multiplied.",
            "The scale is np.sqrt((residual**2).mean() + epsilon).",
        ),
        mistakes=(
            (lambda x, w, u, e: u, "this is the unembedding itself: the norm stands between it and the residual"),
            (lambda x, w, u, e: w * u, "the scale is missing: every contribution is too large by the same factor"),
            (
                lambda x, w, u, e: u / np.sqrt((x**2).mean() + e),
                "the norm's weight is missing: it differs from dimension to dimension",
            ),
            (
                lambda x, w, u, e: w * u / np.sqrt((x**2).sum() + e),
                "this divides by the length; RMS is the root of the mean square",
            ),
            (lambda x, w, u, e: w * u / ((x**2).mean() + e), "the root is missing: this divides by the mean square"),
            (
                lambda x, w, u, e: w * u / np.sqrt(x.var() + e),
                "this is LayerNorm's scale, about the mean; RMSNorm subtracts no mean",
            ),
            (
                lambda x, w, u, e: w * u * x / np.sqrt((x**2).mean() + e),
                "this has the residual in it already: v is what the residual is multiplied with",
            ),
        ),
        minutes=8,
        difficulty=2,
    ),
    "feature_contributions": Exercise(
        solve=feature_contributions,
        cases=lambda: [
            (r.standard_normal(n).clip(0), 2 * r.standard_normal((n, 5)), r.standard_normal(5))
            for r, n in seeded(4, 7, 9)
        ],
        hints=(
            "A feature writes activation times decoder row. What is the dot product of that with v?",
            "W_dec @ direction gives one number a feature; a silent feature must end up with 0.",
        ),
        mistakes=(
            (lambda a, W, v: W @ v, "these are contributions for an activation of 1: multiply by the activations"),
            (lambda a, W, v: (a > 0) * (W @ v), "this says only whether a feature fires, not how strongly"),
            (lambda a, W, v: a * (W @ v) / np.linalg.norm(W, axis=1), "no cosines: a longer decoder row writes more"),
            (lambda a, W, v: np.abs(a * (W @ v)), "the sign is lost: features can speak against the answer"),
            (lambda a, W, v: (a @ W) @ v, "this is their sum; asked is one number a feature"),
            (lambda a, W, v: a @ W, "this is what all features write together, before it is read along v"),
        ),
        minutes=4,
    ),
    "first_order_effect": Exercise(
        solve=first_order_effect,
        cases=lambda: [
            (r.standard_normal(n).clip(0), r.standard_normal(n).clip(0), r.standard_normal(n))
            for r, n in seeded(5, 8, 11)
        ],
        hints=(
            "On a straight line, difference in height = slope times difference in place.",
            "The effect is clean minus baseline, in this order; so is the difference of the features.",
        ),
        mistakes=(
            (lambda x, y, g: x * g, "this compares with zero; the baseline is given"),
            (lambda x, y, g: (y - x) * g, "the sign is turned round: clean minus baseline"),
            (lambda x, y, g: y * g, "this is the baseline's own share only"),
            (lambda x, y, g: (x - y) @ g, "this is the sum of all effects; asked is one number a feature"),
            (lambda x, y, g: np.abs((x - y) * g), "the sign is lost: a feature may speak for the foil"),
            (lambda x, y, g: x - y, "this is the edit; how much the reading minds it is the gradient's part"),
        ),
        minutes=3,
    ),
    "integrated_effect": Exercise(
        solve=integrated_effect,
        cases=lambda: [
            (_slope_of(r.standard_normal((4, 4))), 3 * r.standard_normal(4), r.standard_normal(4), steps)
            for r, steps in seeded(3, 6, 10)
        ],
        hints=(
            "It is the first-order effect with another gradient: not that of one end but the mean over the line.",
            "A point of the line is baseline + t * (clean - baseline), with t from 0 to 1.",
            "The middles of the parts are t = (np.arange(steps) + 0.5) / steps.",
        ),
        mistakes=(
            (lambda s, x, y, n: (x - y) * s(x), "this is the gradient at the clean end: the estimate we started from"),
            (lambda s, x, y, n: (x - y) * s(y), "this is the gradient at the baseline's end only"),
            (lambda s, x, y, n: (x - y) * s((x + y) / 2), "one point in the middle of the line: read it at every step"),
            (
                lambda s, x, y, n: integrated_effect(s, x, y, n) * n,
                "the gradients are added up: take their mean over the steps",
            ),
            (
                lambda s, x, y, n: integrated_effect(s, x, y, n) / (x - y),
                "this is the mean gradient; times the difference of the features, it is their effect",
            ),
            (
                lambda s, x, y, n: _averaged(s, x, y, np.linspace(0, 1, n)),
                "this reads the two ends of the line as often as its inside: take the middle of each part",
            ),
            (
                lambda s, x, y, n: _averaged(s, x, y, np.arange(n) / n),
                "this reads each part at its beginning; take its middle",
            ),
            (lambda s, x, y, n: -integrated_effect(s, x, y, n), "the sign is turned round: clean minus baseline"),
        ),
        minutes=10,
        difficulty=2,
    ),
    "matched_control": Exercise(
        solve=matched_control,
        cases=lambda: [
            (r.standard_normal((n, 4)) * r.integers(0, 3, (n, 1)), 2 * r.standard_normal((n, 4)))
            for r, n in seeded(4, 6, 9)
        ],
        hints=(
            "Two questions a position: how long is the edit there, and which way does the other one point?",
            "np.linalg.norm(edit, axis=1, keepdims=True) holds the lengths as a column.",
            "Divide the other by its own lengths, then multiply by the edit's.",
        ),
        mistakes=(
            (lambda e, o: o, "nothing is matched yet: this control is as long as it happens to be"),
            (
                lambda e, o: o * np.linalg.norm(e) / np.linalg.norm(o),
                "only the whole length is matched: the control also pushes where the edit does nothing",
            ),
            (lambda e, o: o / np.linalg.norm(o, axis=1, keepdims=True), "every row has length 1: not the edit's"),
            (lambda e, o: o * np.linalg.norm(e, axis=1, keepdims=True), "divide by the other's own lengths first"),
            (
                lambda e, o: (o / np.linalg.norm(o, axis=0)) * np.linalg.norm(e, axis=0),
                "these are lengths of columns: each position is a row, axis=1",
            ),
        ),
        minutes=5,
    ),
}
