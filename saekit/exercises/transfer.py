"""Exercises of the notebook on transfer; see `exercise` for their form."""

import numpy as np
from jaxtyping import Bool, Float, Int

from saekit.exercises.exercise import Exercise, seeded


def may_train(
    group: Int[np.ndarray, " sentence"], test: Bool[np.ndarray, " sentence"]
) -> Bool[np.ndarray, " sentence"]:
    """Return which sentences may be trained on: those whose group has no sentence in the test part."""
    return ~np.isin(group, group[test])


def transfer_gap(f1: Float[np.ndarray, "trained tested"]) -> Float[np.ndarray, " tested"]:
    """Return for each tested language what is lost, on average over the other languages, by training there instead."""
    native = np.diag(f1)
    elsewhere = (f1.sum(axis=0) - native) / (len(f1) - 1)
    return native - elsewhere


def _over_rows(f1):
    return transfer_gap(f1.T)


def length_normalised(
    log_probs: Float[np.ndarray, "question choice"], n_tokens: Int[np.ndarray, "question choice"]
) -> Int[np.ndarray, " question"]:
    """Return which choice has the highest log-probability a token."""
    return (log_probs / n_tokens).argmax(axis=1)


def choice_confidence(log_probs: Float[np.ndarray, "question choice"]) -> Float[np.ndarray, " question"]:
    """Return the probability of the model's own choice, if one of the choices has to come."""
    shares = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
    return (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)


def _answers(r):
    return np.log(r.random((6, 4)) * 0.2), r.integers(1, 5, (6, 4))


EXERCISES = {
    "may_train": Exercise(
        solve=may_train,
        cases=lambda: [
            *((r.integers(0, 8, 14), r.random(14) < share) for r, share in seeded(0.2, 0.3, 0.1)),
            (np.array([3, 3, 5, 1]), np.zeros(4, bool)),
        ],
        hints=(
            "A sentence outside the test part may still be the translation of one that is in it.",
            "Which groups does the test part touch? `group[test]` has them.",
            "np.isin(group, group[test]) marks all sentences of those groups; you want the others.",
        ),
        mistakes=(
            (lambda g, t: ~t, "this leaves only the test sentences out, and keeps what shares a translation with them"),
            (lambda g, t: np.isin(g, g[t]), "this is the part that must not be trained on: turn it round"),
            (lambda g, t: np.isin(g, g[t]) & ~t, "these are the leaks: outside the test part, but in a group with it"),
            (lambda g, t: ~np.isin(g, g[~t]), "this takes the groups that are wholly in the test part"),
        ),
        minutes=5,
    ),
    "transfer_gap": Exercise(
        solve=transfer_gap,
        cases=lambda: [(r.random((n, n)),) for r, n in seeded(3, 4, 5)],
        hints=(
            "Rows are trained on, columns tested on: all figures of one column are about the same test sentences.",
            "In each column: the entry on the diagonal, less the mean of the others.",
            "The sum of a column less its diagonal entry, divided by the number of languages less 1, is that mean.",
        ),
        mistakes=(
            (_over_rows, "this compares test languages that differ in difficulty; stay within a column"),
            (lambda m: np.diag(m) - m.mean(0), "the mean has the diagonal in it; leave the language itself out"),
            (lambda m: -transfer_gap(m), "the sign is turned: a loss is positive"),
            (lambda m: transfer_gap(m).mean(), "one number for each tested language, not their mean"),
            (
                lambda m: np.diag(m) - np.where(np.eye(len(m), dtype=bool), -1, m).max(0),
                "this compares with the best other language; take their mean",
            ),
        ),
        minutes=6,
        difficulty=2,
    ),
    "length_normalised": Exercise(
        solve=length_normalised,
        cases=lambda: [_answers(r) for r, _ in seeded(1, 2, 3)],
        hints=(
            "A sum of log-probabilities falls with every token, so a long answer starts behind.",
            "Divide by the number of tokens before you compare.",
        ),
        mistakes=(
            (lambda p, n: p.argmax(1), "this ranks by the sum, which favours short answers"),
            (lambda p, n: (p * n).argmax(1), "this multiplies by the length, which punishes long answers twice"),
            (lambda p, n: (p / n).argmin(1), "this takes the least likely choice"),
            (lambda p, n: (p / n).max(1), "this is the log-probability a token, not which choice has it"),
            (lambda p, n: (np.exp(p) / n).argmax(1), "divide the log-probability, not the probability"),
        ),
        minutes=4,
    ),
    "choice_confidence": Exercise(
        solve=choice_confidence,
        cases=lambda: [(_answers(r)[0],) for r, _ in seeded(1, 2)] + [(np.array([[-900.0, -901.0], [-3.0, -3.0]]),)],
        hints=(
            "Turn log-probabilities into shares that add up to 1 over the choices.",
            "That is a softmax over each row; take its largest entry.",
            "exp(-900) is 0 on a computer: subtract each row's maximum first.",
        ),
        mistakes=(
            (lambda p: np.exp(p).max(1), "the choices' probabilities do not add up to 1 yet"),
            (lambda p: (np.exp(p) / np.exp(p).sum()).max(1), "this divides by the sum over all questions"),
            (
                lambda p: np.nan_to_num(np.exp(p).max(1) / np.exp(p).sum(1)),
                "exp(-900) is 0, and 0 / 0 no number: subtract the maximum",
            ),
            (lambda p: 1 - choice_confidence(p), "this is how unsure the model is"),
            (
                lambda p: np.diff(np.sort(np.exp(p - p.max(1, keepdims=True)), 1)[:, -2:]).ravel(),
                "this is a lead over the second choice, not a share of all",
            ),
        ),
        minutes=6,
        difficulty=2,
    ),
}
