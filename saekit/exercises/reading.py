"""Exercises of the notebook on reading features; see `exercise` for their form."""

import numpy as np
from jaxtyping import Bool, Float, Int

from saekit.exercises.exercise import Exercise, seeded

EXERCISES: dict[str, Exercise] = {}


def feature_direction(first: Float[np.ndarray, "d_model"], second: Float[np.ndarray, "d_model"]) -> float:
    """Return the cosine between two decoder rows of any length other than 0."""
    return first @ second / (np.linalg.norm(first) * np.linalg.norm(second))


EXERCISES["feature_direction"] = Exercise(
    solve=feature_direction,
    cases=lambda: [(scale * r.standard_normal(6), r.standard_normal(6)) for r, scale in seeded(0.5, 1, 4)],
    hints=(
        "A cosine compares directions: doubling either row must not change it.",
        "Divide the dot product by the lengths of both rows; np.linalg.norm(row) is a length.",
    ),
    mistakes=(
        (lambda a, b: a @ b, "this is the dot product: it grows with the length of the rows"),
        (lambda a, b: a @ b / np.linalg.norm(a), "only the first row's length is divided out"),
        (lambda a, b: a @ b / np.linalg.norm(b), "only the second row's length is divided out"),
        (lambda a, b: a @ b / ((a @ a) * (b @ b)), "this divides by squared lengths; take their roots"),
        (lambda a, b: abs(feature_direction(a, b)), "the sign is lost: opposite directions have cosine -1"),
        (lambda a, b: 1 - feature_direction(a, b), "this is the cosine distance, 1 minus the cosine"),
    ),
    minutes=3,
)


def density(activations: Float[np.ndarray, "sequence pos"], keep: Bool[np.ndarray, "sequence pos"]) -> float:
    """Return the share of kept tokens on which a feature is active (above 0); at least one token is kept."""
    return (activations[keep] > 0).mean()


EXERCISES["density"] = Exercise(
    solve=density,
    cases=lambda: [(r.standard_normal((4, 7)).clip(0), r.random((4, 7)) < share) for r, share in seeded(0.4, 0.6, 0.8)],
    hints=(
        "Which tokens may count at all? Only those should stand in the denominator.",
        "activations[keep] holds the kept tokens' activations in one row; ask how many of them exceed 0.",
    ),
    mistakes=(
        (lambda a, keep: (a > 0).mean(), "this averages over all positions, the masked ones too"),
        (lambda a, keep: ((a > 0) & keep).mean(), "masked tokens still stand in the denominator"),
        (lambda a, keep: (a[~keep] > 0).mean(), "the mask is read the wrong way round: True means kept"),
        (lambda a, keep: a[keep].mean(), "this is the mean activation; how strong does not matter, only whether"),
        (lambda a, keep: (a[keep] > 0).sum(), "this is a count; divide it by the number of kept tokens"),
        (lambda a, keep: (a[keep] >= 0).mean(), "an activation of exactly 0 is not active: use > and not >="),
        (
            lambda a, keep: (((a > 0) & keep).sum(1) / keep.sum(1)).mean(),
            "this averages the sequences' shares: a sequence with few kept tokens counts too much",
        ),
    ),
    minutes=4,
)


def top_k_one_per_sequence(values: Float[np.ndarray, "sequence pos"], k: int) -> Int[np.ndarray, "k 2"]:
    """Return (sequence, pos) of the k strongest tokens, best first, at most one a sequence (k <= sequences).

    Of equal values the lower sequence comes first, and within a sequence the earlier position.
    """
    best = values.argmax(axis=1)
    order = np.argsort(-values.max(axis=1), kind="stable")[:k]
    return np.stack([order, best[order]], axis=1)


def _by_last_tie(values, k):
    order = np.argsort(values.max(axis=1), kind="stable")[::-1][:k]
    return np.stack([order, values.argmax(axis=1)[order]], axis=1)


def _all_positions(values, k):
    return np.stack(np.unravel_index(np.argsort(-values, axis=None, kind="stable")[:k], values.shape), axis=1)


def _in_sequence_order(values, k):
    return np.array(sorted(top_k_one_per_sequence(values, k).tolist()))


EXERCISES["top_k_one_per_sequence"] = Exercise(
    solve=top_k_one_per_sequence,
    cases=lambda: [
        *((r.standard_normal((6, 5)), k) for r, k in seeded(2, 4, 6)),
        *((r.integers(0, 4, (8, 5)).astype(float), k) for r, k in seeded(3, 5)),  # many ties
    ],
    hints=(
        "First let each sequence name its strongest token; then rank the sequences.",
        "values.argmax(axis=1) gives each sequence's position, values.max(axis=1) what to rank by.",
        "np.argsort(-strongest, kind='stable') puts the best first and leaves ties in sequence order.",
    ),
    mistakes=(
        (_all_positions, "this ranks all positions: one sequence can take several places"),
        (_in_sequence_order, "the right tokens, in order of sequence; put the best first"),
        (lambda v, k: top_k_one_per_sequence(v, k)[::-1], "the right tokens, weakest first; put the best first"),
        (lambda v, k: top_k_one_per_sequence(v, k)[:, ::-1], "the columns are swapped: (sequence, pos) is asked"),
        (_by_last_tie, "of equal values the higher sequence comes first here: reversing a sort reverses its ties"),
        (lambda v, k: top_k_one_per_sequence(-v, k), "this finds the weakest tokens"),
    ),
    minutes=10,
    difficulty=3,
)


def interval_of(values: Float[np.ndarray, "n"], maximum: float, n_intervals: int) -> Int[np.ndarray, "n"]:
    """Return in which of n_intervals equal-width intervals of (0, maximum] values lie, 0 the weakest.

    An upper edge belongs to the interval below it: value == maximum gives n_intervals - 1.
    """
    return np.ceil(values * n_intervals / maximum).astype(int) - 1


def _by_rank(values, maximum, n):
    return np.argsort(np.argsort(values)) * n // len(values)


EXERCISES["interval_of"] = Exercise(
    solve=interval_of,
    cases=lambda: [
        (np.array([0.5, 2.0, 2.5, 4.0, 7.0, 8.0]), 8.0, 4),  # on edges, which binary fractions hit exactly
        (np.array([1.0, 3.0, 6.0, 12.0, 16.0]), 16.0, 8),
        *((10 * r.random(9) + 0.01, 12.0, n) for r, n in seeded(3, 5)),
    ],
    hints=(
        "How wide is one interval? Count in that unit.",
        "values / width lies in (0, n_intervals]: which way must you round for an upper edge to stay below?",
        "np.ceil keeps whole numbers as they are; then count from 0.",
    ),
    mistakes=(
        (lambda v, m, n: (v * n // m).astype(int), "an upper edge goes to the interval above, the maximum outside"),
        (lambda v, m, n: (v * n // m).clip(max=n - 1), "an inner edge goes to the interval above it, not below"),
        (lambda v, m, n: np.ceil(v * n / m), "this counts from 1; the weakest interval is 0"),
        (lambda v, m, n: n - np.ceil(v * n / m), "this counts from the strongest down; the weakest is 0"),
        (lambda v, m, n: interval_of(v, v.max(), n), "this takes the largest of these values for the maximum"),
        (_by_rank, "these intervals hold equally many values; they should be equally wide"),
    ),
    minutes=6,
    difficulty=2,
)


def logit_effect(
    row: Float[np.ndarray, "d_model"],
    norm_weight: Float[np.ndarray, "d_model"],
    unembedding: Float[np.ndarray, "d_model d_vocab"],
) -> Float[np.ndarray, "d_vocab"]:
    """Return a decoder row's logits through the final norm's weight, minus their mean over the vocabulary."""
    logits = (row * norm_weight) @ unembedding
    return logits - logits.mean()


EXERCISES["logit_effect"] = Exercise(
    solve=logit_effect,
    cases=lambda: [
        (r.standard_normal(5), r.random(5) + 0.5, r.standard_normal((5, size)) + 0.3) for r, size in seeded(7, 9)
    ],
    hints=(
        "Follow the row to the logits: what comes between the residual stream and the unembedding?",
        "Scale the row by the norm's weight, one number a dimension, then multiply by the unembedding.",
        "Adding a constant to all logits changes no probability, so subtract the mean over the vocabulary.",
    ),
    mistakes=(
        (lambda d, w, u: (d * w) @ u, "the mean over the vocabulary is still in the logits"),
        (lambda d, w, u: logit_effect(d, np.ones_like(w), u), "the norm's weight is missing"),
        (lambda d, w, u: d @ u, "the norm's weight is missing, and the logits' mean is not subtracted"),
        (lambda d, w, u: logit_effect(d, 1 / w, u), "this divides by the norm's weight; it multiplies"),
        (lambda d, w, u: (d * w - (d * w).mean()) @ u, "this centres the row; centre the logits"),
        (lambda d, w, u: logit_effect(d, w, u) / ((d * w) @ u).std(), "this also divides by the standard deviation"),
    ),
    minutes=6,
    difficulty=2,
)


def jaccard(first: Bool[np.ndarray, "n"], second: Bool[np.ndarray, "n"]) -> float:
    """Return the tokens in both sets over the tokens in either; 0 if both sets are empty."""
    either = (first | second).sum()
    return (first & second).sum() / either if either else 0.0


EXERCISES["jaccard"] = Exercise(
    solve=jaccard,
    cases=lambda: [
        *((r.random(20) < 0.4, r.random(20) < share) for r, share in seeded(0.3, 0.5, 0.7)),
        (np.zeros(5, bool), np.zeros(5, bool)),
    ],
    hints=(
        "Tokens in neither set say nothing about the overlap: leave them out.",
        "On boolean arrays & is 'in both' and | is 'in either'; .sum() counts.",
    ),
    mistakes=(
        (lambda a, b: (a & b).mean(), "this divides by all tokens; divide by those in either set"),
        (lambda a, b: (a == b).mean(), "this counts agreement, and so the tokens in neither set too"),
        (lambda a, b: 2 * (a & b).sum() / max(a.sum() + b.sum(), 1), "this counts the overlap twice (Dice)"),
        (lambda a, b: (a & b).sum() / max(a.sum(), 1), "this divides by the first set only"),
        (lambda a, b: (a & b).sum() / max(b.sum(), 1), "this divides by the second set only"),
        (lambda a, b: 1 - jaccard(a, b), "this is the Jaccard distance, 1 minus what is asked"),
        (lambda a, b: jaccard(a, b) if (a | b).any() else 1, "two empty sets give 0 here, not 1"),
    ),
    minutes=4,
)


def hypothesis_score(fires: Bool[np.ndarray, "n"], holds: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "2"]:
    """Return (precision, recall) of a statement about when a feature fires.

    Precision: of the tokens that fire, the share on which the statement holds. Recall: of the tokens on
    which it holds, the share that fires. Each is 0 where its denominator is 0.
    """
    both = (fires & holds).sum()
    return np.array([both / max(fires.sum(), 1), both / max(holds.sum(), 1)])


EXERCISES["hypothesis_score"] = Exercise(
    solve=hypothesis_score,
    cases=lambda: [
        *((r.random(24) < 0.4, r.random(24) < share) for r, share in seeded(0.2, 0.5, 0.7)),
        (np.zeros(4, bool), np.array([True, False, True, False])),
        (np.array([True, False, True, False]), np.zeros(4, bool)),
    ],
    hints=(
        "Both numbers have the same numerator: tokens that fire and on which the statement holds.",
        "Precision divides by the firing tokens, recall by the tokens on which the statement holds.",
        "With max(count, 1) as denominator, 0 / 0 becomes 0.",
    ),
    mistakes=(
        (lambda f, h: hypothesis_score(f, h)[::-1], "precision and recall are swapped"),
        (lambda f, h: np.full(2, (f & h).mean()), "both divide by all tokens; each has a denominator of its own"),
        (lambda f, h: np.full(2, hypothesis_score(f, h)[0]), "both are the precision; recall divides by holds"),
        (lambda f, h: np.full(2, hypothesis_score(f, h)[1]), "both are the recall; precision divides by fires"),
        (lambda f, h: hypothesis_score(f, ~h), "this scores the opposite of the statement"),
        (lambda f, h: hypothesis_score(f, h) + ~np.array([f.any(), h.any()]), "0 / 0 counts as 0 here, not as 1"),
    ),
    minutes=6,
    difficulty=2,
)
