"""Scores, intervals and folds, against scikit-learn and closed forms."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score

from saekit.data.labelled import labelled_texts
from saekit.errors import ProbeError
from saekit.probes import (
    Estimate,
    auroc_resampled,
    compare_predictions,
    estimate,
    f1_of,
    f1_resampled,
    find_duplicates,
    in_both,
    make_folds,
    resamples,
    score,
    verdict_of,
)


def guesses(n: int, classes: int, right: float, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    predicted = np.where(generator.random(n) < right, labels, generator.integers(0, classes, n))
    scores = generator.normal(size=(n, classes)).round(1)
    scores[np.arange(n), predicted] += 3
    return labels, predicted, scores


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_scores_are_scikit_learns(classes):
    labels, predicted, scores = guesses(300, classes, 0.5)
    got = score(labels, predicted, scores, fold=np.zeros(300, int), group=np.arange(300), seed=0)
    assert got.macro_f1.value == pytest.approx(f1_score(labels, predicted, average="macro"))
    want = [
        roc_auc_score(labels == c, scores[:, c] if classes > 2 else scores[:, 1] - scores[:, 0])
        for c in (range(classes) if classes > 2 else [1])
    ]
    assert got.auroc.value == pytest.approx(np.mean(want), abs=1e-6)
    p, r, f, _ = precision_recall_fscore_support(labels, predicted)
    np.testing.assert_allclose([got.precision, got.recall, got.f1], [p, r, f])
    assert got.accuracy == pytest.approx((labels == predicted).mean())
    assert got.confusion.sum() == 300


def test_macro_f1_is_never_that_of_one_class():
    """Fault 9: one script reported binary F1 beside macro F1. A class that is never predicted counts 0."""
    labels = np.array([0] * 90 + [1] * 10)
    assert f1_of(labels, np.zeros(100, int), 2) == pytest.approx((2 * 90 / 190) / 2)
    assert f1_of(labels, np.zeros(100, int), 2) == pytest.approx(
        f1_score(labels, np.zeros(100, int), average="macro", zero_division=0)
    )


def test_a_resample_is_scored_like_the_texts_it_repeats():
    labels, predicted, scores = guesses(60, 3, 0.6)
    weights = resamples(np.arange(60), seed=1, number=5)
    assert (weights.sum(1) == 60).all()
    f1, area = f1_resampled(labels, predicted, 3, weights), auroc_resampled(labels, scores, np.zeros(60, int), weights)
    for w, f, a in zip(weights.astype(int), f1, area, strict=True):
        rows = np.repeat(np.arange(60), w)
        assert f == pytest.approx(f1_score(labels[rows], predicted[rows], average="macro"), abs=1e-6)
        want = np.mean([roc_auc_score(labels[rows] == c, scores[rows, c]) for c in range(3)])
        assert a == pytest.approx(want, abs=1e-6)


def test_auroc_is_taken_within_folds():
    """Scores of two fits may stand on two scales; a shift between folds must not count."""
    labels, _, scores = guesses(200, 2, 0.7)
    scores = np.round(scores * 8) / 8  # so that adding loses no digit
    fold = np.arange(200) % 2
    shifted = scores + np.stack([0 * fold, 64 * fold], 1)
    ones = np.ones((1, 200), np.float32)
    want = np.mean([roc_auc_score(labels[fold == f], (scores[:, 1] - scores[:, 0])[fold == f]) for f in (0, 1)])
    for s in (scores, shifted):
        assert auroc_resampled(labels, s, fold, ones)[0] == pytest.approx(want, abs=1e-6)


def test_intervals_cover_the_truth_and_narrow_with_texts():
    """Fault 10: test sets of 118 texts, no interval. 95 % of intervals must hold the true figure."""
    inside, widths = 0, {}
    truth = f1_of(*guesses(400_000, 2, 0.6, seed=99)[:2], 2)
    for n in (100, 400):
        found = []
        for seed in range(100):
            labels, predicted, _ = guesses(n, 2, 0.6, seed=seed)
            drawn = f1_resampled(labels, predicted, 2, resamples(np.arange(n), seed=seed))
            got = estimate(f1_of(labels, predicted, 2), drawn)
            found.append(got.high - got.low)
            inside += got.low <= truth <= got.high
        widths[n] = np.mean(found)
    assert 0.90 <= inside / 200 <= 0.99
    assert widths[100] / widths[400] == pytest.approx(2, rel=0.1)


def test_duplicates_widen_the_interval():
    labels, predicted, scores = guesses(100, 2, 0.6)
    copies = [np.repeat(a, 9, 0) for a in (labels, predicted, scores)]
    alone = score(labels, predicted, scores, fold=np.zeros(100, int), group=np.arange(100), seed=0).macro_f1
    fold = np.zeros(900, int)
    tied = score(*copies, fold=fold, group=np.repeat(np.arange(100), 9), seed=0).macro_f1
    loose = score(*copies, fold=fold, group=np.arange(900), seed=0).macro_f1
    assert tied.high - tied.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert loose.high - loose.low < 0.5 * (alone.high - alone.low)


def test_a_verdict_is_given_only_where_the_interval_excludes_zero():
    assert verdict_of("a", "b", Estimate(0.1, 0.02, 0.2)) == "a is better than b by 0.100 macro F1"
    assert verdict_of("a", "b", Estimate(-0.1, -0.2, -0.02)) == "a is worse than b by 0.100 macro F1"
    for given in (Estimate(0.1, -0.001, 0.2), Estimate(0, 0, 0), Estimate(0.1, float("nan"), float("nan"))):
        assert verdict_of("a", "b", given) is None


def test_a_paired_comparison_sees_what_two_intervals_do_not():
    labels, predicted, scores = guesses(400, 2, 0.6)
    better = predicted.copy()
    wrong = np.flatnonzero(predicted != labels)[:30]
    better[wrong] = labels[wrong]
    fold, group = np.zeros(400, int), np.arange(400)
    alone = [score(labels, p, scores, fold=fold, group=group, seed=0).macro_f1 for p in (predicted, better)]
    assert alone[0].high > alone[1].low, "taken alone they overlap"
    found = compare_predictions(
        labels, ("new", better, scores), ("old", predicted, scores), fold=fold, group=group, seed=0
    )
    assert found.macro_f1.low > 0
    assert found.verdict.startswith("new is better than old")
    assert (found.only_first, found.only_second) == (30, 0)
    assert found.p_value == pytest.approx(2 * 0.5**30)
    same = compare_predictions(labels, ("a", better, scores), ("b", better, scores), fold=fold, group=group, seed=0)
    assert (same.macro_f1.value, same.p_value, same.verdict) == (0, 1, None)


def test_two_equal_guessers_hardly_ever_get_a_verdict():
    given = 0
    for seed in range(40):
        labels, one, scores = guesses(200, 2, 0.6, seed=seed)
        fresh = np.random.default_rng(3000 + seed)
        other = np.where(fresh.random(200) < 0.6, labels, fresh.integers(0, 2, 200))
        found = compare_predictions(
            labels, ("a", one, scores), ("b", other, scores), fold=np.zeros(200, int), group=np.arange(200), seed=0
        )
        given += found.verdict is not None
    assert given <= 7, "about 5 % of them, by chance"


TEXTS = [f"{'spam' if i % 4 == 0 else 'ham'} message about {chr(97 + i % 26) * (i // 26 + 1)}" for i in range(100)]


def test_folds_hold_each_text_once_and_each_class_evenly():
    data = labelled_texts(TEXTS, [i % 4 == 0 for i in range(100)])
    folds = make_folds(data, 5, seed=0)
    assert sorted(np.concatenate([folds.test(f) for f in range(5)])) == list(range(100))
    for f in range(5):
        assert np.bincount(data.labels[folds.test(f)]).tolist() == [15, 5]
        assert not set(folds.test(f)) & set(folds.train(f))
    assert (make_folds(data, 5, seed=0).fold == folds.fold).all()
    assert (make_folds(data, 5, seed=1).fold != folds.fold).any()


def test_folds_do_not_depend_on_the_order_of_the_texts():
    """Fault 6: the seed fixed nothing, because samples came in the order in which threads finished."""
    data = labelled_texts(TEXTS, [i % 4 == 0 for i in range(100)])
    order = np.random.default_rng(0).permutation(100)
    assert (make_folds(data[order], 5).fold == make_folds(data, 5).fold[order]).all()


def test_duplicates_never_part_and_are_reported():
    texts = [*TEXTS, *[t.upper() + "!!" for t in TEXTS[:10]], "Call 0800 1234", "call  0800-99", "CALL 07 5"]
    data = labelled_texts(
        texts, [i % 4 == 0 for i in range(100)] + [i % 4 == 0 for i in range(10)] + [True, True, False]
    )
    found = find_duplicates(data)
    assert (found.n_groups, found.n_texts, found.n_conflicting) == (11, 23, 1)
    assert found.largest[1] == 3
    assert "23 texts in 11 groups" in repr(found)
    for seed in range(5):
        fold = make_folds(data, 5, seed=seed).fold
        assert all(len(set(fold[found.group == g])) == 1 for g in set(found.group))
    assert find_duplicates(labelled_texts(TEXTS, [0] * 100)).n_texts == 0
    assert in_both(data[:100], data[100:]) == 10
    assert in_both(data[100:], data[:100]) == 10


def test_texts_that_cannot_be_dealt_out_are_refused():
    with pytest.raises(ProbeError, match=r"all 3 texts are of one class \(0\)"):
        make_folds(labelled_texts(["a", "b", "c"], [0, 0, 0]))
    with pytest.raises(ProbeError, match="class '1' has 1 different texts, fewer than 5 folds"):
        make_folds(labelled_texts(TEXTS, [0] * 99 + [1]))
    with pytest.raises(ProbeError, match="class 'y' has 1 different texts"):
        make_folds(labelled_texts([*TEXTS, *["same"] * 9], ["x"] * 100 + ["y"] * 9))
    with pytest.raises(ProbeError, match="at least 3 folds"):
        make_folds(labelled_texts(TEXTS, [0, 1] * 50), 2)
