"""A checker must accept every right answer, name the mistakes learners really make, and never raise."""

import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit import exercises
from saekit.exercises import EXERCISES, Exercise, check, hint, solution

KNOWN = [(name, number) for name, exercise in EXERCISES.items() for number in range(len(exercise.mistakes))]


def raising(error):
    def answer(*_):
        raise error

    return answer


def top_k_with_a_loop(values, k):
    seen, found = set(), []
    for flat in np.argsort(-values, axis=None, kind="stable"):
        sequence, pos = divmod(int(flat), values.shape[1])
        if sequence not in seen:
            seen.add(sequence)
            found.append((sequence, pos))
    return found[:k]


def density_in_place(activations, keep):
    activations[~keep] = 0
    return np.count_nonzero(activations) / np.count_nonzero(keep)


def topk_with_torch(hidden, k):
    hidden = torch.tensor(hidden)
    values, chosen = hidden.topk(k, dim=1)
    return torch.zeros_like(hidden).scatter(1, chosen, values.relu())


def triples(ids):
    return list(zip(ids, ids[1:], ids[2:], strict=False))


def interference_with_loops(W):
    columns = list(W.T)
    others = lambda i: (c for j, c in enumerate(columns) if j != i)  # noqa: E731
    return [sum((c @ o) ** 2 for o in others(i)) / (c @ c) for i, c in enumerate(columns)]


def integrated_with_a_loop(slope, clean, baseline, steps):
    total = np.zeros_like(clean)
    for step in range(steps):
        share = (2 * step + 1) / (2 * steps)  # from the clean end this time: the middles are the same points
        total += slope(clean - share * (clean - baseline)) / steps
    return total * (clean - baseline)


def macro_f1_from_rates(confusion):
    found = []
    for c in range(len(confusion)):
        precision, recall = confusion[c, c] / confusion[:, c].sum(), confusion[c, c] / confusion[c].sum()
        found.append(2 * precision * recall / (precision + recall))
    return np.mean(found)


def strongest_columns_with_a_loop(columns, labels, train, k):
    apart = {}
    for j in range(columns.shape[1]):
        one, other = ([columns[i, j] for i in train if labels[i] == c] for c in (0, 1))
        apart[j] = abs(sum(one) / len(one) - sum(other) / len(other))
    return sorted(apart, key=apart.get, reverse=True)[:k]


OTHER_RIGHT_ANSWERS = {
    "interference": interference_with_loops,
    "feature_dimensionality": lambda W: (W**2).sum(0) / (np.array(interference_with_loops(W)) + (W**2).sum(0)),
    "phase_boundary": 0.571428571,
    "mmcs": lambda a, b: np.mean([max(x @ y / np.sqrt((x @ x) * (y @ y)) for x in a) for y in b]),
    "fvu": lambda x, y: np.mean((x - y) ** 2) / np.var(x, axis=0).mean(),
    "topk_activation": topk_with_torch,
    "absorption_rate": lambda f, p, c: sum(v == 0 for v, a, b in zip(f, p, c, strict=True) if a and b) / (p & c).sum(),
    "logit_direction": lambda x, w, u, e: [
        wi * ui / (np.mean(np.square(x)) + e) ** 0.5 for wi, ui in zip(w, u, strict=True)
    ],
    "feature_contributions": lambda a, W, v: [ai * sum(row * v) for ai, row in zip(a, W, strict=True)],
    "first_order_effect": lambda x, y, g: [(xi - yi) * gi for xi, yi, gi in zip(x, y, g, strict=True)],
    "integrated_effect": integrated_with_a_loop,
    "matched_control": lambda e, o: [np.sqrt((a @ a) / (b @ b)) * b for a, b in zip(e, o, strict=True)],
    "pool_max": lambda a, keep: [
        [max([0, *row[k, j]]) for j in range(a.shape[2])] for row, k in zip(a, keep, strict=True)
    ],
    "macro_f1": macro_f1_from_rates,
    "leaked": lambda g, train, test: sum(g[i] in {*g[train]} for i in test) / len(test),
    "strongest_columns": strongest_columns_with_a_loop,
    "paired_interval": lambda a, b, d: np.percentile((a.astype(int) - b)[d].mean(1), (2.5, 97.5)),
    "restored": lambda p, c, x: 1 - (c - p) / (c - x),
    "exchange_features": lambda s, f, o, d, c: s - sum((f[i] - o[i]) * d[i] for i in c),
    "kl_to_target": lambda p, q: torch.nn.functional.kl_div(
        torch.tensor(q).log_softmax(0), torch.tensor(p).log_softmax(0), reduction="sum", log_target=True
    ),
    "faithfulness": lambda c, n, m: 1 - (m - c) / (m - n),
    "feature_direction": lambda a, b: torch.cosine_similarity(torch.tensor(a), torch.tensor(b), dim=0),
    "density": density_in_place,
    "top_k_one_per_sequence": top_k_with_a_loop,
    "interval_of": lambda v, m, n: np.searchsorted(np.linspace(0, m, n + 1), v) - 1,
    "logit_effect": lambda d, w, u: (d * w).astype("float32") @ (u - u.mean(1, keepdims=True)),
    "jaccard": lambda a, b: len({*np.flatnonzero(a)} & {*np.flatnonzero(b)}) / max(np.count_nonzero(a | b), 1),
    "hypothesis_score": lambda f, h: [h[f].mean() if f.any() else 0, f[h].mean() if h.any() else 0],
    "add_direction": lambda x, d, a: x + a * (np.arange(len(x)) > 0)[:, None] * d,
    "repetition": lambda ids: np.mean([a in triples(ids)[:n] for n, a in enumerate(triples(ids))] or [0]),
    "steering_score": lambda parts: 0 if 0 in parts else 1 / np.mean([1 / part for part in parts]),
    "may_train": lambda g, t: [all(not other or a != b for b, other in zip(g, t, strict=True)) for a in g],
    "transfer_gap": lambda m: [m[j, j] - np.delete(m[:, j], j).mean() for j in range(len(m))],
    "length_normalised": lambda p, n: [
        max(range(len(a)), key=lambda c: a[c] / b[c]) for a, b in zip(p, n, strict=True)
    ],
    "choice_confidence": lambda p: torch.tensor(p).softmax(1).max(1).values,
    "clamp_feature": lambda x, f, d, c: torch.tensor(x) - torch.outer(torch.tensor(f), torch.tensor(d)) + c * d,
    "matched_edit": lambda x, d, s: np.array([s * np.sqrt((row @ row) / (d @ d)) * d for row in x]),
}

BY_HAND = [
    ("interference", (np.array([[1.0, -2.0, 0.0], [0.0, 0.0, 3.0]]),), [4, 1, 0]),
    ("feature_dimensionality", (np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 3.0]]),), [0.5, 0.5, 1]),
    ("phase_boundary", (), 4 / 7),
    ("mmcs", (np.array([[2.0, 0.0], [0.0, -1.0]]), np.array([[1.0, 0.0], [0.0, 3.0]])), 0.5),
    ("fvu", (np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])), 0.5),
    ("topk_activation", (np.array([[1.0, 3.0, -2.0], [-1.0, -3.0, -2.0]]), 2), [[1, 3, 0], [0, 0, 0]]),
    ("absorption_rate", (np.array([0.0, 2.0, 0.0]), np.array([True] * 3), np.array([True, True, False])), 0.5),
    ("logit_direction", (np.array([1.0, 5.0]), np.array([2.0, 1.0]), np.array([3.0, -4.0]), 12.0), [1.2, -0.8]),
    (
        "feature_contributions",
        (np.array([0.0, 2.0]), np.array([[1.0, 1.0], [3.0, -1.0]]), np.array([1.0, 2.0])),
        [0, 2],
    ),
    ("first_order_effect", (np.array([2.0, 0.0]), np.array([0.5, 1.0]), np.array([2.0, 3.0])), [3, -3]),
    ("integrated_effect", (lambda x: 2 * x, np.array([3.0]), np.array([1.0]), 4), [8]),  # of x²: 9 - 1
    ("matched_control", (np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 2.0], [1.0, 1.0]])), [[0, 5], [0, 0]]),
    ("pool_max", (np.array([[[5.0, 1.0], [2.0, 3.0]]]), np.array([[False, True]])), [[2, 3]]),
    ("macro_f1", (np.array([[3, 1], [0, 4]]),), (6 / 7 + 8 / 9) / 2),
    ("leaked", (np.array([0, 1, 0, 2]), np.array([0, 1]), np.array([2, 3])), 0.5),
    (
        "strongest_columns",
        (np.array([[1.0, 0, 4], [0, 3, 4], [9, 9, 9]]), np.array([0, 1, 1]), np.array([0, 1]), 2),
        [1, 0],
    ),
    ("paired_interval", (np.array([True, True]), np.array([False, True]), np.array([[0, 0], [1, 1]])), [0.025, 0.975]),
    ("feature_direction", (np.array([3.0, 0.0]), np.array([-1.0, 0.0])), -1),
    ("density", (np.array([[1.0, 0.0, 2.0]]), np.array([[False, True, True]])), 0.5),
    ("top_k_one_per_sequence", (np.array([[5.0, 5.0], [1.0, 2.0], [0.0, 5.0]]), 2), [[0, 0], [2, 1]]),
    ("interval_of", (np.array([0.1, 2.0, 2.1, 10.0]), 10.0, 5), [0, 0, 1, 4]),
    ("logit_effect", (np.array([1.0]), np.array([2.0]), np.array([[1.0, 3.0]])), [-2, 2]),
    ("jaccard", (np.array([True, True, False]), np.array([True, False, False])), 0.5),
    ("add_direction", (np.array([[1.0, 1.0], [1.0, 0.0]]), np.array([0.0, 2.0]), 3.0), [[1, 1], [1, 6]]),
    ("repetition", (np.array([1, 2, 3, 1, 2, 3]),), 0.25),
    ("steering_score", (np.array([1.0, 0.5]),), 2 / 3),
    ("clamp_feature", (np.array([[1.0], [1.0]]), np.array([0.0, 3.0]), np.array([2.0]), 1.0), [[3], [-3]]),
    ("may_train", (np.array([0, 1, 0, 2]), np.array([True, False, False, False])), [False, True, False, True]),
    ("transfer_gap", (np.array([[0.9, 0.5], [0.6, 0.8]]),), [0.3, 0.3]),
    ("length_normalised", (np.array([[-4.0, -3.0]]), np.array([[2, 1]])), [0]),
    ("choice_confidence", (np.log([[0.3, 0.1]]),), [0.75]),
    ("matched_edit", (np.array([[3.0, 4.0]]), np.array([0.0, -7.0]), 0.2), [[0, -1]]),
    (
        "hypothesis_score",
        (np.array([True, True, False, False]), np.array([True, False, False, False])),
        [0.5, 1],
    ),
]


@pytest.mark.parametrize(("name", "arguments", "want"), BY_HAND)
def test_reference_by_hand(name, arguments, want):
    np.testing.assert_allclose(EXERCISES[name].solve(*arguments), want)


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_pass(name):
    for answer in (EXERCISES[name].solve, OTHER_RIGHT_ANSWERS[name]):
        verdict = check(name, answer)
        assert verdict, verdict
        assert re.search(r"\d cases? passed", repr(verdict))


@pytest.mark.parametrize(("name", "number"), KNOWN)
def test_mistake_is_rejected_and_named(name, number):
    wrong, message = EXERCISES[name].mistakes[number]
    verdict = check(name, wrong)
    assert not verdict
    assert verdict.message == f"{name}: {message}"


@pytest.mark.parametrize("name", EXERCISES)
def test_messages_differ_and_do_not_give_the_reference(name):
    exercise = EXERCISES[name]
    messages = [message for _, message in exercise.mistakes]
    assert len(set(messages)) == len(messages) >= 4
    assert len(exercise.hints) >= 2
    assert 1 <= exercise.difficulty <= 3
    assert exercise.minutes > 0
    assert inspect.getdoc(exercise.solve)


def test_a_mistake_is_named_through_0_over_0_too():
    assert "(Dice)" in check("jaccard", lambda a, b: 2 * (a & b).sum() / (a.sum() + b.sum())).message
    nan = check("jaccard", lambda a, b: (a & b).sum() / (a | b).sum())
    assert not nan
    assert "case 4 of 4: the answer has NaN" in nan.message


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


FAULTS = [
    ("density", lambda a, keep: (a > 0).mean(1), "case 1 of 3: expected shape (), got (4,)"),
    ("density", lambda a, keep: 2.0, "got 2"),
    ("density", lambda a, keep: "half", "expected numbers, got values of type <U4"),
    ("density", lambda a, keep: {"share": 1}, "expected numbers, got values of type object"),
    ("density", lambda a, keep: [[1], [1, 2]], "raised ValueError"),
    ("density", lambda a, keep: a.oops, "case 1 of 3 raised AttributeError: 'numpy.ndarray' object has no"),
    ("density", lambda a: 0, "raised TypeError"),
    ("density", raising(KeyError("two\nlines")), "raised KeyError"),
    ("density", raising(ValueError("first\n  second")), "raised ValueError: first second"),
    ("density", raising(ValueError(f"at {object()}")), "at <object object at 0x...>"),
    ("density", raising(ValueError("x" * 1000)), "xxx..."),
    ("density", raising(ValueError()), "(no message)"),
    ("density", raising(Unprintable()), "raised Unprintable: (no message)"),
    ("density", raising(SystemExit(1)), "raised SystemExit"),
    (
        "density",
        lambda a, keep: 1.0 if keep.mean() > 0.5 else None,
        "returned nothing; is there a path without a return?",
    ),
    ("density", 0.5, "expected a function, got float"),
    ("logit_effect", lambda d, w, u: np.zeros(u.shape[1]), "right shape, wrong values (7 of 7 numbers)"),
    ("interval_of", lambda v, m, n: v.tolist(), "right shape, wrong values"),
    ("density", None, "not attempted yet"),
    ("density", ..., "not attempted yet"),
    ("density", lambda a, keep: None, "not attempted yet"),
    ("density", lambda a, keep: ..., "not attempted yet"),
    ("density", raising(NotImplementedError()), "not attempted yet"),
    ("densty", None, f"no exercise is called 'densty'; of {len(EXERCISES)} there are: density"),
    (["density"], None, "there are: feature_direction"),
    (None, None, "there are: feature_direction"),
]


@pytest.mark.parametrize(("name", "answer", "says"), FAULTS)
def test_fault_gives_one_line_the_same_twice(name, answer, says):
    verdict = check(name, answer)
    assert not verdict
    assert says in repr(verdict)
    assert len(repr(verdict).splitlines()) == 1
    assert len(repr(verdict)) < 250
    assert repr(verdict) == repr(check(name, answer))


@pytest.mark.parametrize("name", EXERCISES)
def test_every_verdict_is_one_line_the_same_twice(name):
    exercise = EXERCISES[name]
    for answer in (exercise.solve, *(wrong for wrong, _ in exercise.mistakes)):
        assert len(repr(check(name, answer)).splitlines()) == 1
        assert repr(check(name, answer)) == repr(check(name, answer))


def test_plain_value(monkeypatch):
    def layers():
        """Return the number of layers."""
        return 30

    exercise = Exercise(layers, lambda: [()], ("Look.", "Count."), ((lambda: 29, "this counts from 0"),))
    monkeypatch.setitem(EXERCISES, "layers", exercise)
    assert repr(check("layers", 30)) == "✓ layers: 1 case passed"
    assert check("layers", lambda: 30)
    assert repr(check("layers", 29)) == "✗ layers: this counts from 0"
    assert "expected 30, got 7" in check("layers", 7).message
    assert "not attempted yet" in check("layers", ...).message


def test_a_mistake_equal_to_the_reference_does_not_reject_it(monkeypatch):
    exercise = EXERCISES["density"]
    monkeypatch.setitem(EXERCISES, "same", replace(exercise, mistakes=((exercise.solve, "never said"),)))
    assert check("same", exercise.solve)


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_are_graded(name):
    hints = EXERCISES[name].hints
    for level, text in enumerate(hints, start=1):
        assert repr(hint(name, level)).startswith(f"Hint {level} of {len(hints)}: {text}")
    assert f"hint({name!r}, 2)" in repr(hint(name))
    assert f"solution({name!r})" in repr(hint(name, len(hints)))
    assert hint(name, 99) == hint(name, len(hints))
    assert hint(name, 0) == hint(name, "one") == hint(name, 1)


@pytest.mark.parametrize("name", EXERCISES)
def test_solution_is_the_source(name):
    shown = repr(solution(name))
    assert shown.startswith(f"def {name}(")
    assert shown == inspect.getsource(EXERCISES[name].solve).rstrip()


@pytest.mark.parametrize("ask", [hint, solution])
def test_unknown_name_lists_the_nearest_names(ask):
    for name, near in (("densty", "density"), ("xyz", "feature_direction"), (3, "feature_direction, density")):
        assert f"there are: {near}" in repr(ask(name))


def test_checks_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002  (the legacy state is what a notebook might have seeded)
    for name, exercise in EXERCISES.items():
        exercises.check(name, exercise.solve)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
