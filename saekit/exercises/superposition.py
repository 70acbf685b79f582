"""Exercises of the notebook on superposition; see `exercise` for their form."""

import numpy as np
from jaxtyping import Float

from saekit.exercises.exercise import Exercise, seeded


def interference(W: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " n"]:
    """Return, for every column W_i, the sum over the other columns j of (unit W_i . W_j) squared; no column is 0."""
    overlap = (W / np.linalg.norm(W, axis=0)).T @ W
    return (overlap**2).sum(axis=1) - np.diag(overlap) ** 2


def feature_dimensionality(W: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " n"]:
    """Return |W_i|^2 / sum over all columns j (i too) of (unit W_i . W_j)^2, for every column i; no column is 0."""
    overlap = (W / np.linalg.norm(W, axis=0)).T @ W
    return np.linalg.norm(W, axis=0) ** 2 / (overlap**2).sum(axis=1)


def phase_boundary() -> float:
    """Return the density above 0 at which a dimension of one's own, p/3 - p^2/4, costs as much as a pair, p^2/3."""
    return 4 / 7


def _unit(W):
    return W / np.linalg.norm(W, axis=0)


def _matrices():
    return [(scale * r.standard_normal((m, n)),) for r, (scale, m, n) in seeded((1.0, 2, 5), (0.5, 3, 4), (2.0, 4, 9))]


EXERCISES = {
    "interference": Exercise(
        solve=interference,
        cases=_matrices,
        hints=(
            "One matrix product holds all dot products; only its left side has to be of length 1.",
            "overlap = (W / np.linalg.norm(W, axis=0)).T @ W; square it, and sum each row without its own entry.",
            "np.diag(overlap) are the entries to leave out.",
        ),
        mistakes=(
            (lambda W: ((_unit(W).T @ W) ** 2).sum(1), "the feature itself is in the sum: leave out j = i"),
            (
                lambda W: ((_unit(W).T @ _unit(W)) ** 2).sum(1) - 1,
                "both sides are of length 1: how strongly the others are stored matters too",
            ),
            (lambda W: ((W.T @ W) ** 2).sum(1) - np.diag(W.T @ W) ** 2, "W_i itself has to be of length 1"),
            (
                lambda W: (_unit(W).T @ W).sum(1) - np.diag(_unit(W).T @ W),
                "without the square, overlaps of opposite sign cancel",
            ),
            (
                lambda W: ((_unit(W).T @ W) ** 2).sum(0) - np.diag(_unit(W).T @ W) ** 2,
                "summed over the wrong axis: this is how much feature i disturbs the others",
            ),
        ),
        minutes=6,
        difficulty=2,
    ),
    "feature_dimensionality": Exercise(
        solve=feature_dimensionality,
        cases=_matrices,
        hints=(
            "If no other feature overlaps, the answer is 1: numerator and denominator are then the same.",
            "The denominator is interference plus the feature's own share, |W_i|^2.",
        ),
        mistakes=(
            (
                lambda W: np.linalg.norm(W, axis=0) ** 2 / interference(W),
                "the feature itself is missing from the denominator: the sum is over all j",
            ),
            (lambda W: np.linalg.norm(W, axis=0) / ((_unit(W).T @ W) ** 2).sum(1), "the length has to be squared"),
            (lambda W: 1 / ((_unit(W).T @ W) ** 2).sum(1), "the numerator is |W_i|^2, not 1"),
            (
                lambda W: np.full(W.shape[1], len(W) / (W**2).sum()),
                "this is D*, one number for all features; asked is one a feature",
            ),
        ),
        minutes=5,
    ),
    "phase_boundary": Exercise(
        solve=phase_boundary,
        cases=lambda: [()],
        hints=("Set p/3 - p^2/4 equal to p^2/3 and divide by p.", "1/3 = p (1/3 + 1/4)."),
        mistakes=(
            (lambda: 4.0, "a sign is lost: p^2/4 moves to the other side with a plus"),
            (lambda: 0.0, "p = 0 is a solution too, but asked is the density above 0"),
            (lambda: 7 / 4, "this is upside down: 1/3 divided by 7/12, not the other way round"),
            (lambda: 3 / 7, "this is 1 minus the answer: density, not sparsity"),
        ),
        minutes=3,
    ),
}
