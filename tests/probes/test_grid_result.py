"""One cell of a grid: its figures and its fit are those that scikit-learn and a probe by hand give."""

import numpy as np
import pytest
from scipy.special import expit

from saekit import probes
from saekit.errors import ProbeError
from saekit.probes import FirstK, TopN, fit, pool
from tests.planted_texts import planted
from tests.probes.test_search import OPTIONS


@pytest.fixture(scope="module", params=[2, 3])
def made(request):
    features = planted(180, classes=request.param, signal=0.8)
    return features, probes.grid(features, **OPTIONS)


def test_figures_are_those_of_scikit_learn(made):
    from sklearn.metrics import accuracy_score, roc_auc_score

    _, grid = made
    rows = np.flatnonzero(grid.fold != 0)
    assert (grid.rounds[0].predicted[:, grid.fold == 0] == -1).all() and (grid.rounds[0].predicted[:, rows] >= 0).all()
    for number, (accuracy, auroc) in enumerate(
        zip(probes.cell_figures(grid, "accuracy"), probes.cell_figures(grid, "auroc"), strict=True)
    ):
        truth, said = grid.labels[rows], grid.rounds[0].predicted[number][rows]
        assert accuracy.value == pytest.approx(accuracy_score(truth, said))
        assert accuracy.low <= accuracy.value <= accuracy.high
        areas = []
        for fold in range(1, 5):
            part = np.flatnonzero(grid.fold == fold)
            scores = grid.rounds[0].scores[number][part].astype(np.float64)
            if scores.shape[1] == 2:
                areas.append(roc_auc_score(grid.labels[part], scores[:, 1] - scores[:, 0]))
            else:
                areas += [roc_auc_score(grid.labels[part] == c, scores[:, c]) for c in range(scores.shape[1])]
        assert auroc.value == pytest.approx(np.mean(areas), abs=1e-6)
    with pytest.raises(ProbeError, match="no figure 'f2': expected macro_f1"):
        probes.cell_figures(grid, "f2")


def test_over_repeats_figures_are_means():
    from sklearn.metrics import roc_auc_score

    grid = probes.grid(planted(120, signal=0.5), **{**OPTIONS, "baselines": ()}, repeats=3)
    rows = np.flatnonzero(grid.fold != 0)
    for number in range(len(grid.cells)):
        right = [(r.predicted[number] == grid.labels)[rows].mean() for r in grid.rounds]
        assert probes.cell_figures(grid, "accuracy")[number].value == pytest.approx(np.mean(right))
        areas = []
        for r in grid.rounds:
            margin = r.scores[number, :, 1].astype(np.float64) - r.scores[number, :, 0]
            areas += [roc_auc_score(grid.labels[r.fold == f], margin[r.fold == f]) for f in range(1, 5)]
        assert probes.cell_figures(grid, "auroc")[number].value == pytest.approx(np.mean(areas), abs=1e-6)


def test_differences_have_the_sign_of_the_figures(made):
    _, grid = made
    line = len(grid.cells)
    gap = grid.difference(0, line)
    assert gap.value == pytest.approx(grid.cells[0].macro_f1.value - grid.baselines[0].macro_f1.value)
    back = grid.difference(line, 0)
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))


def test_a_cell_is_fitted_without_the_test_part(made):
    features, grid = made
    number = next(i for i, c in enumerate(grid.cells) if c.setting["classifier"] == "difference")
    part = probes.training_part(grid, features, number)
    assert len(part) == (grid.fold != 0).sum()
    result = probes.fit_cell(grid, part, number)
    setting = grid.cells[number].setting
    inputs = pool(features.sae(), setting["pooling"])[grid.fold != 0]
    if setting["binarise"] == "above-zero":
        inputs = (inputs > 0).astype(np.float32)
    by_hand = next(fit("difference", inputs, grid.labels[grid.fold != 0], len(grid.label_names), (0.0,)))
    np.testing.assert_allclose(result.fitted.weights, by_hand.weights, atol=1e-9)
    assert result.summary.macro_f1.value == pytest.approx(grid.cells[number].macro_f1.value)
    assert set(probes.top_features(result, part)) == set(grid.label_names)


def test_a_baseline_is_opened_with_its_words(made):
    features, grid = made
    number = probes.number_of(grid, "bag-of-words")
    result = probes.fit_cell(grid, probes.training_part(grid, features, number), number)
    strongest = {label: max(rows, key=lambda row: row[1])[0] for label, rows in probes.top_words(result).items()}
    assert strongest["0"] == "aaa" and strongest["1"] == "bbb"
    with pytest.raises(
        ProbeError, match="no cell 'nothing': expected a name like 'planted, max, none, difference', or"
    ):
        probes.number_of(grid, "nothing")


def test_a_grid_of_other_texts_is_refused(made):
    features, grid = made
    probes.check_grid(grid, features)
    with pytest.raises(ProbeError, match=r"made from other texts \('planted', 180\) than these features"):
        probes.check_grid(grid, planted(180, classes=len(grid.label_names), signal=0.8, seed=1))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("classifier", ["logistic", "logistic-l1", "tree"])
def test_probabilities_are_those_of_scikit_learn(classes, classifier):
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.tree import DecisionTreeClassifier

    generator = np.random.default_rng(0)
    labels = np.arange(90) % classes
    x = generator.normal(size=(90, 5)) + 0.8 * labels[:, None]
    strength = {"tree": 3.0}.get(classifier, 0.3)
    fitted = next(fit(classifier, x, labels, classes, (strength,)))
    scaled = (x - x.mean(0)) / x.std(0)
    if classifier == "logistic":
        theirs = LogisticRegression(C=strength, tol=1e-6, max_iter=1000).fit(scaled, labels)
    elif classifier == "tree":
        scaled, theirs = x, DecisionTreeClassifier(max_depth=3, min_samples_leaf=2, random_state=0).fit(x, labels)
    else:
        one = LogisticRegression(C=strength, l1_ratio=1, solver="liblinear", random_state=0)
        theirs = (one if classes == 2 else OneVsRestClassifier(one)).fit(scaled, labels)
    for row, expected in zip(fitted.scores(x), theirs.predict_proba(scaled), strict=True):
        np.testing.assert_allclose(probes.probabilities(classifier, row), expected, atol=2e-3)
    if classes == 2 and classifier == "logistic":
        z = fitted.scores(x)[0, 1]
        assert probes.probabilities(classifier, fitted.scores(x)[0])[1] == pytest.approx(expit(z))


def test_scores_without_probabilities_say_so():
    x = np.random.default_rng(0).normal(size=(20, 3))
    for classifier in ("ridge", "difference"):
        fitted = next(fit(classifier, x, np.arange(20) % 2, 2, (1.0,)))
        assert probes.probabilities(classifier, fitted.scores(x)[0]) is None


def test_what_tokens_add_is_called_exact_only_where_it_is():
    words = lambda **changed: probes.contribution_words(  # noqa: E731
        {"pooling": "sum", "binarise": "none", "classifier": "logistic"} | changed
    )
    assert words().startswith("Exact") and words(pooling=TopN(5)).startswith("Exact")
    assert "one token's alone" in words(pooling="max") and "one token's alone" in words(pooling=FirstK(8))
    assert "on or off" in words(binarise="above-zero")
    assert "adds nothing up" in words(classifier="tree")
