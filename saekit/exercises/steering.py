"""Exercises of the notebook on steering; see `exercise` for their form."""

import numpy as np
from jaxtyping import Float, Int

from saekit.exercises.exercise import Exercise, seeded


def add_direction(
    resid: Float[np.ndarray, "pos d_model"], direction: Float[np.ndarray, "d_model"], amount: float
) -> Float[np.ndarray, "pos d_model"]:
    """Return the states with ``amount`` times the direction added at every position but the first."""
    steered = resid.copy()
    steered[1:] += amount * direction
    return steered


def _unit(direction):
    return direction / np.linalg.norm(direction)


def repetition(ids: Int[np.ndarray, " token"]) -> float:
    """Return the share of a text's runs of three tokens that have occurred in it before; 0 if there is no run."""
    runs = [tuple(ids[start : start + 3]) for start in range(len(ids) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _runs(ids, n):
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


def _repeated(runs):
    return 1 - len(set(runs)) / max(len(runs), 1)


def steering_score(parts: Float[np.ndarray, " part"]) -> float:
    """Return the harmonic mean of numbers from 0 to 1: 0 as soon as one of them is 0."""
    return len(parts) / (1 / parts).sum() if parts.min() > 0 else 0.0


def clamp_feature(
    resid: Float[np.ndarray, "pos d_model"],
    activations: Float[np.ndarray, " pos"],
    decoder_row: Float[np.ndarray, "d_model"],
    c: float,
) -> Float[np.ndarray, "pos d_model"]:
    """Return the states in which the feature contributes c times its decoder row; all else stays as it is."""
    return resid + (c - activations)[:, None] * decoder_row


def matched_edit(
    resid: Float[np.ndarray, "pos d_model"], direction: Float[np.ndarray, "d_model"], share: float
) -> Float[np.ndarray, "pos d_model"]:
    """Return edits along the direction that are ``share`` times as long as the state at each position."""
    lengths = np.linalg.norm(resid, axis=1, keepdims=True)
    return share * lengths * direction / np.linalg.norm(direction)


EXERCISES = {
    "add_direction": Exercise(
        solve=add_direction,
        cases=lambda: [
            (r.standard_normal((5, 4)), 2 * r.standard_normal(4), amount) for r, amount in seeded(1.5, -0.7, 30.0)
        ],
        hints=(
            "Start from a copy: resid.copy() leaves the caller's array alone.",
            "resid[1:] is everything but position 0, and a vector [d_model] is added to each of its rows.",
        ),
        mistakes=(
            (lambda x, d, a: x + a * d, "position 0 is the beginning-of-text marker: leave it as it is"),
            (
                lambda x, d, a: add_direction(x, _unit(d), a),
                "the direction is to be added as it is, not at length 1: it carries its own length",
            ),
            (lambda x, d, a: add_direction(x, d, 1.0), "the amount is missing"),
            (lambda x, d, a: add_direction(x, d, a) - x, "this is the edit; asked is the state after it"),
            (
                lambda x, d, a: np.concatenate([x[:-1], x[-1:] + a * d]),
                "this steers the last position only; asked is every one but the first",
            ),
        ),
        minutes=5,
    ),
    "repetition": Exercise(
        solve=repetition,
        cases=lambda: [
            *((r.integers(0, n, size=20),) for r, n in seeded(2, 3, 4)),
            (np.array([5, 6, 7, 8]),),
            (np.array([1, 1]),),
        ],
        hints=(
            "A text of n tokens has n - 2 runs of three; write them down as tuples.",
            "A set keeps each run once. What is missing from it has occurred before.",
        ),
        mistakes=(
            (lambda ids: _repeated(_runs(ids, 1)), "these are single tokens; asked are runs of three"),
            (lambda ids: _repeated(_runs(ids, 2)), "these are runs of two; asked are runs of three"),
            (
                lambda ids: 1 - repetition(ids),
                "this is the share of runs that are new; asked is the share of the others",
            ),
            (
                lambda ids: _repeated([tuple(ids[s : s + 3]) for s in range(0, len(ids) - 2, 3)]),
                "these runs stand side by side; a run starts at every token",
            ),
            (
                lambda ids: _repeated([tuple(ids[s : s + 3]) for s in range(len(ids))]),
                "the last two are no runs of three: they stop at the end of the text",
            ),
        ),
        minutes=5,
        difficulty=2,
    ),
    "steering_score": Exercise(
        solve=steering_score,
        cases=lambda: [*((r.uniform(0.1, 1, size=n),) for r, n in seeded(2, 3, 5)), (np.array([1.0, 0.0, 0.8]),)],
        hints=(
            "Harmonic: the reciprocal of the mean of the reciprocals.",
            "Look at the smallest part first: where it is 0 there is no reciprocal, and the answer is 0.",
        ),
        mistakes=(
            (lambda p: p.mean(), "this is the arithmetic mean: gibberish full of the concept would score a half"),
            (lambda p: np.prod(p), "this is the product: with more parts it falls even if all stay as good"),
            (lambda p: np.prod(p) ** (1 / len(p)), "this is the geometric mean; asked is the harmonic one"),
            (lambda p: p.min(), "this is the weakest part alone: getting better at the others must count too"),
            (
                lambda p: len(p[p > 0]) / (1 / p[p > 0]).sum(),
                "a part that is 0 is left out here; it has to bring the whole score to 0",
            ),
        ),
        minutes=5,
    ),
    "clamp_feature": Exercise(
        solve=clamp_feature,
        cases=lambda: [
            (r.standard_normal((6, 4)), r.standard_normal(6).clip(0), r.standard_normal(4), c)
            for r, c in seeded(2.0, 0.5, 0.0)
        ],
        hints=(
            "How much of the decoder row is in the state already, and how much should be?",
            "c - activations is one number a position; [:, None] turns it into a column that multiplies the row.",
        ),
        mistakes=(
            (lambda x, f, d, c: x + c * d, "this adds c on top of what is there; clamped, the feature is c"),
            (
                lambda x, f, d, c: c * np.ones_like(f)[:, None] * d,
                "the rest of the state is gone: what the feature does not explain must stay",
            ),
            (
                lambda x, f, d, c: x + (f - c)[:, None] * d,
                "the sign is the wrong way round: where the feature is off, c has to be added",
            ),
            (
                lambda x, f, d, c: x + np.where(f > 0, c - f, 0)[:, None] * d,
                "this changes only positions where the feature is on; clamped, it is c at all of them",
            ),
            (lambda x, f, d, c: x - f[:, None] * d, "this is ablation, which is clamping to 0"),
        ),
        minutes=5,
    ),
    "matched_edit": Exercise(
        solve=matched_edit,
        cases=lambda: [
            (5 * r.standard_normal((4, 6)), 3 * r.standard_normal(6), share) for r, share in seeded(0.2, 0.35, 1.5)
        ],
        hints=(
            "Two lengths are needed: the direction's own, which must not matter, and the state's at each position.",
            "np.linalg.norm(resid, axis=1, keepdims=True) is a column: one length a position.",
        ),
        mistakes=(
            (
                lambda x, d, s: s * np.linalg.norm(x, axis=1, keepdims=True) * d,
                "a longer direction gives a longer edit: divide by its length first",
            ),
            (
                lambda x, d, s: np.tile(s * _unit(d), (len(x), 1)),
                "all edits have the same length; each has to follow the state at its position",
            ),
            (
                lambda x, d, s: np.tile(s * np.linalg.norm(x) * _unit(d), (len(x), 1)),
                "this is the length of all states together; take it position by position with axis=1",
            ),
            (lambda x, d, s: x + matched_edit(x, d, s), "this is the state after the edit; asked is the edit itself"),
            (
                lambda x, d, s: s * np.linalg.norm(x, axis=1, keepdims=True) ** 2 * _unit(d),
                "the state's length comes in squared",
            ),
        ),
        minutes=5,
        difficulty=2,
    ),
}
