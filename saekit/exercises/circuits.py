"""Exercises of the notebook on circuits: from patched runs to shares, exchanged features and their fidelity."""

import numpy as np
from jaxtyping import Float, Int

from saekit.exercises.exercise import Exercise, seeded


def restored(patched: Float[np.ndarray, "layer pos"], clean: float, corrupted: float) -> Float[np.ndarray, "layer pos"]:
    """Return the share of the gap that each patch closes: 0 leaves the corrupted run, 1 restores the clean one."""
    return (patched - corrupted) / (clean - corrupted)


EXERCISES: dict[str, Exercise] = {
    "restored": Exercise(
        solve=restored,
        cases=lambda: [(r.standard_normal((3, 2)), 2.0 + shift, shift - 1.5) for r, shift in seeded(0.0, 1.0, -4.0)],
        hints=(
            "Check the two ends first: which value must the corrupted run get, and which the clean one?",
            "Measure from the corrupted run, in units of the gap: (patched - corrupted) / gap.",
        ),
        mistakes=(
            (lambda p, c, x: p / c, "this compares with the clean run only: the corrupted one does not get 0"),
            (lambda p, c, x: (p - c) / (x - c), "upside down: 0 belongs to the corrupted run and 1 to the clean one"),
            (lambda p, c, x: p - x, "the distance from the corrupted run, in logits; divide by the gap"),
            (lambda p, c, x: (p - x) / c, "the right distance over the wrong gap: that is clean minus corrupted"),
        ),
        minutes=3,
    )
}


def exchange_features(
    state: Float[np.ndarray, "d_model"],
    features: Float[np.ndarray, "feature"],
    others: Float[np.ndarray, "feature"],
    decoder: Float[np.ndarray, "feature d_model"],
    chosen: Int[np.ndarray, "some"],
) -> Float[np.ndarray, "d_model"]:
    """Return the state with some features set to another run's values and everything else as it was.

    ``features`` are this run's, ``others`` the other run's. What the SAE fails to reconstruct stays in the state.
    """
    return state + (others - features)[chosen] @ decoder[chosen]


def _without_error(state, features, others, decoder, chosen):
    mixed = features.copy()
    mixed[chosen] = others[chosen]
    return mixed @ decoder


EXERCISES["exchange_features"] = Exercise(
    solve=exchange_features,
    cases=lambda: [
        (*r.standard_normal((1, 5)), *np.abs(r.standard_normal((2, 8))), r.standard_normal((8, 5)), np.array(chosen))
        for r, chosen in seeded([0], [2, 5], [1, 3, 7])
    ],
    hints=(
        "Do not rebuild the state from its features: what the SAE missed would be lost. Move the state instead.",
        "Each chosen feature moves it along its decoder row, by the other run's value minus this run's.",
    ),
    mistakes=(
        (_without_error, "this rebuilds the state from features: the reconstruction error is gone"),
        (
            lambda s, f, o, d, c: s + (f - o)[c] @ d[c],
            "the wrong way: the change is the other run's value minus this run's",
        ),
        (lambda s, f, o, d, c: s + o[c] @ d[c], "the other run's features are added, but this run's are still there"),
        (lambda s, f, o, d, c: s + (o - f) @ d, "all features are exchanged, not the chosen ones"),
    ),
    minutes=6,
    difficulty=2,
)


def kl_to_target(patched: Float[np.ndarray, "vocab"], target: Float[np.ndarray, "vocab"]) -> float:
    """Return how far a patched run's prediction is from the target run's, in nats: the sum of p log(p / q).

    p is the softmax of the patched run's logits, q that of the target run's (Cunningham et al. 2023, section 4).
    """
    p, q = _log_softmax(patched), _log_softmax(target)
    return float((np.exp(p) * (p - q)).sum())


def _log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


EXERCISES["kl_to_target"] = Exercise(
    solve=kl_to_target,
    cases=lambda: [(scale * r.standard_normal(9), r.standard_normal(9)) for r, scale in seeded(1.0, 3.0, 0.2)],
    hints=(
        "Turn both rows of logits into log-probabilities first: logits minus the log of the sum of their exponentials.",
        "Average log p - log q over tokens drawn from the patched run: weights are p, not q.",
    ),
    mistakes=(
        (lambda p, q: kl_to_target(q, p), "the other direction: the weights are the patched run's probabilities"),
        (lambda p, q: kl_to_target(p, q) / np.log(2), "this is in bits; nats take the natural logarithm"),
        (
            lambda p, q: float((np.exp(_log_softmax(p)) * (p - q)).sum()),
            "the logits are compared, not the log-probabilities: each row lacks its own normaliser",
        ),
        (
            lambda p, q: float((_log_softmax(p) - _log_softmax(q)).sum()),
            "every token counts the same here; weight each by its probability p",
        ),
    ),
    minutes=8,
    difficulty=2,
)


def faithfulness(circuit: float, nothing: float, model: float) -> float:
    """Return which share of a behaviour a circuit keeps, from three mean logit differences.

    ``circuit``: only the circuit's features kept; ``nothing``: all features ablated; ``model``: nothing ablated.
    """
    return (circuit - nothing) / (model - nothing)


EXERCISES["faithfulness"] = Exercise(
    solve=faithfulness,
    cases=lambda: [(2.0, 0.5, 4.0), (-0.5, -1.0, 3.0), (5.0, 0.2, 4.0)],
    hints=(
        "With everything ablated the model may still prefer one answer. That is not the circuit's merit.",
        "Subtract what is left with nothing kept, above and below the fraction line.",
    ),
    mistakes=(
        (lambda c, n, m: c / m, "what remains with nothing kept is counted as the circuit's work"),
        (lambda c, n, m: (m - c) / (m - n), "this is the share that is lost, not the one that is kept"),
        (lambda c, n, m: c - n, "in logits; divide by what the whole model adds to nothing"),
        (lambda c, n, m: (c - n) / m, "the right numerator; what is left with nothing kept is in the denominator too"),
    ),
    minutes=3,
)
