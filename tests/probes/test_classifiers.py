"""Classifiers as plain arrays: they say what scikit-learn says; nothing outside the training part moves them."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from saekit.errors import ProbeError
from saekit.probes import CLASSIFIERS, SparseLogistic, best_columns, fit, mean_differences

ALL = ("logistic", "logistic-l1", "ridge", "difference", "tree", SparseLogistic(3))


def made_up(n: int = 150, d: int = 40, classes: int = 2, seed: int = 0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    rows = (generator.random((n, d)) < 0.3) * generator.gamma(2, 3, (n, d))
    rows[:, -1] = 0
    for c in range(classes):
        rows[labels == c, c] += 4
    return csr_array(rows), labels


def one(classifier, inputs, labels, classes, strength, **options):
    return next(fit(classifier, inputs, labels, classes, (strength,), **options))


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_scikit_learns_in_the_inputs_own_units(classes):
    inputs, labels = made_up(classes=classes)
    got = one("logistic", inputs, labels, classes, 1.0)
    scaler = MaxAbsScaler().fit(inputs)
    want = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(scaler.transform(inputs), labels)
    expected = want.decision_function(scaler.transform(inputs))
    scores = got.scores(inputs)
    if classes == 2:
        np.testing.assert_allclose(scores[:, 1], expected, atol=5e-3)
        np.testing.assert_allclose(scores[:, 0], -expected, atol=5e-3)
    else:
        np.testing.assert_allclose(scores, expected, atol=5e-3)
    np.testing.assert_array_equal(scores.argmax(1), want.predict(scaler.transform(inputs)))


def test_dense_inputs_are_standardised():
    inputs, labels = made_up()
    dense = inputs.toarray() + 100
    got = one("logistic", dense, labels, 2, 1.0)
    scaler = StandardScaler().fit(dense)
    want = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(scaler.transform(dense), labels)
    np.testing.assert_allclose(got.scores(dense)[:, 1], want.decision_function(scaler.transform(dense)), atol=1e-2)


@pytest.mark.parametrize("classes", [2, 3])
def test_difference_of_means_is_the_nearest_centroid(classes):
    inputs, labels = made_up(classes=classes)
    inputs = inputs[:, :-1]  # scikit-learn warns about columns that are 0
    scaled = MaxAbsScaler().fit_transform(inputs)
    want = NearestCentroid().fit(scaled.toarray(), labels).predict(scaled.toarray())
    np.testing.assert_array_equal(one("difference", inputs, labels, classes, 0.0).scores(inputs).argmax(1), want)


@pytest.mark.parametrize("depth", [1, 3, 9])
def test_a_tree_predicts_what_scikit_learns_tree_predicts(depth):
    inputs, labels = made_up(classes=3)
    got = one("tree", inputs, labels, 3, depth, seed=4)
    want = DecisionTreeClassifier(max_depth=depth, min_samples_leaf=2, random_state=4).fit(inputs.tocsc(), labels)
    np.testing.assert_allclose(got.scores(inputs), want.predict_proba(inputs))
    other, _ = made_up(classes=3, seed=9)
    np.testing.assert_allclose(got.scores(other), want.predict_proba(other))


def test_sparse_probes_choose_the_planted_columns_and_leave_the_rest():
    inputs, labels = made_up(classes=3)
    assert best_columns(inputs, labels, 3).tolist() == [0, 1, 2]
    fitted = one(SparseLogistic(3), inputs, labels, 3, 1.0)
    assert np.flatnonzero(np.abs(fitted.weights).sum(0)).tolist() == [0, 1, 2]
    assert (fitted.weights.argmax(0)[:3] == [0, 1, 2]).all(), "each speaks for its class"
    dense = inputs.toarray()
    want = [dense[labels == c].mean(0) - dense[labels != c].mean(0) for c in range(3)]
    np.testing.assert_allclose(mean_differences(inputs, labels), want)


def test_l1_leaves_fewer_columns_than_l2():
    inputs, labels = made_up()
    used = {name: (np.abs(one(name, inputs, labels, 2, 0.1).weights[1]) > 1e-9).sum() for name in ALL[:2]}
    assert used["logistic-l1"] < used["logistic"] / 2


@pytest.mark.parametrize("classifier", ALL)
def test_every_classifier_takes_what_is_hard(classifier):
    """More features than samples, all-zero features, one class only, a class that is missing."""
    inputs, labels = made_up(n=20, d=300)
    for strength in CLASSIFIERS.of(classifier).strengths:
        fitted = one(classifier, inputs, labels, 2, strength)
        assert np.isfinite(fitted.scores(inputs)).all()
    if fitted.weights is not None:
        assert not fitted.weights[:, -1].any(), "a feature that is never active has no say"
    zero = csr_array((20, 5))
    assert np.isfinite(one(classifier, zero, labels, 2, CLASSIFIERS.of(classifier).strengths[0]).scores(zero)).all()
    alone = one(classifier, inputs, np.ones(20, int), 3, CLASSIFIERS.of(classifier).strengths[0])
    assert (alone.scores(inputs).argmax(1) == 1).all()
    missing = one(classifier, inputs, labels * 2, 3, CLASSIFIERS.of(classifier).strengths[0])
    assert 1 not in missing.scores(inputs).argmax(1)


def test_strengths_in_one_go_are_the_strengths_one_by_one():
    inputs, labels = made_up()
    for classifier in ALL:
        among = CLASSIFIERS.of(classifier).strengths
        for strength, fitted in zip(among, fit(classifier, inputs, labels, 2, among), strict=True):
            alone = one(classifier, inputs, labels, 2, strength)
            np.testing.assert_allclose(fitted.scores(inputs), alone.scores(inputs), rtol=0.02, atol=0.1)


def test_balanced_weights_lift_the_rare_class():
    inputs, labels = made_up(n=400, classes=2)
    rare = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:8]])
    said = [
        (one("logistic", inputs[rare], labels[rare], 2, 0.01, balanced=b).scores(inputs).argmax(1) == 1).mean()
        for b in (False, True)
    ]
    assert said[1] > said[0] + 0.1


def test_unknown_classifiers_are_refused():
    for name in ("svm", "sparse", "sparse-3", "sparse-x", "Logistic", SparseLogistic, 3):
        with pytest.raises(ProbeError, match="expected 'logistic'"):
            CLASSIFIERS.of(name)
    for k in (0, 513, 2.0, True):
        with pytest.raises(ProbeError, match="k of SparseLogistic must be a whole number from 1 to 512"):
            SparseLogistic(k)
