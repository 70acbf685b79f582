"""The probes view in Python: what it refuses, what it computes and when, Stop, what is read back. No browser."""

import csv
import io
import threading
from functools import wraps
from importlib import import_module

import ipywidgets
import numpy as np
import pytest
import traitlets

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.errors import ProbeError
from saekit.views.probes import Probes
from saekit.views.top_activations import TopActivations
from tests import tiny
from tests.views.probes_parts import D_SAE, HOSTILE, OPTIONS, extraction, fake_index, labelled, random_sae

data = import_module("saekit.views.probes.state")

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def features(model):
    return extraction(model)


@pytest.fixture(scope="module")
def grid(features):
    return probes.grid(features, **OPTIONS, progress=False)


@pytest.fixture
def view(model, grid, features):
    made = Probes(grid, features, model=model, sae={"s": random_sae()}, index=fake_index())
    assert made.wait(300)
    return made


# --- what is refused ---------------------------------------------------------------------------------------------


def test_parts_that_do_not_belong_together_are_refused_at_once(model, grid, features):
    sae, foreign = {"s": random_sae()}, fake_index(tiny.topk_sae(32, 96, seed=2))
    other = extraction(model, labelled(60))
    for call, message in [
        (lambda: Probes("grid"), "expected a Grid or TextFeatures, got str"),
        (lambda: Probes(grid, grid), "features must be what sk.extract_features returns, got Grid"),
        (lambda: Probes(features, features), "got features twice"),
        (lambda: Probes(grid, other), "made from other texts"),
        (lambda: Probes(grid, features, poolings=("max",)), "poolings: options of the search, but the grid"),
        (lambda: Probes(features, pooling="max"), "no option 'pooling' of the search: expected saes, poolings"),
        (lambda: Probes(features, poolings=("maximum",)), "no pooling 'maximum': expected 'max'"),
        (lambda: Probes(extraction(model, labelled_texts(["a cat", "a dog"] * 9, ["x"] * 18))), "of one class"),
        (lambda: Probes(grid, features, model=model), "only one of model= and sae="),
        (lambda: Probes(grid, features, sae=sae), "only one of model= and sae="),
        (lambda: Probes(grid, features, model=model, sae={"t": random_sae()}), "none of the sites: s. Pass SAEs by"),
        (lambda: Probes(grid, features, model=model, sae={"s": tiny.topk_sae(32, 64)}), "site 's' has 96 features"),
        (lambda: Probes(grid, features, model=model, sae=sae, index=foreign), "which is of none of the sites s"),
        (lambda: Probes(grid, cell="best"), "no cell 'best': expected a name like 's, max, none, difference'"),
    ]:  # fmt: skip
        with pytest.raises(ProbeError, match=message.replace("(", r"\(")):
            call()
    with pytest.raises(traitlets.TraitError):
        Probes(grid, figure="f2")


def test_traits_say_what_they_may_be(view):
    with pytest.raises(traitlets.TraitError, match="no cell 'nothing': expected a name like"):
        view.value = "nothing"
    for feature in (-1, D_SAE):
        with pytest.raises(traitlets.TraitError, match="feature must be a whole number from 0 to 95"):
            view.feature = feature


def test_an_sae_is_known_by_hook_point_and_width_where_it_has_no_name(model, grid, features):
    view = Probes(grid, features, model=model, sae=random_sae(), text=TEXT)
    assert view.wait(300)
    assert view.classified is not None


# --- what comes out ----------------------------------------------------------------------------------------------


def test_the_view_begins_with_the_best_cell_and_says_what_the_grid_says(view, grid):
    assert view.value == grid.best_cell.name
    assert view.cell is grid.best_cell and view.grid is grid and view.verdict == grid.verdict
    assert view._facts["tested"].startswith("On the test part, 20 texts")
    assert f"{len(grid.as_good) - 1} of the 7 other cells" in view._facts["choice"]
    assert [row["as_good"] for row in view._cells] == [i in grid.as_good for i in range(10)]
    assert view._cells[0]["behind"] == data.bounds(grid.behind_best(0))


def test_every_figure_is_that_of_the_grid(view, grid):
    from saekit.probes import cell_figures

    assert set(view._figures) == {"macro_f1", "accuracy"}
    view.figure = "auroc"
    assert view.wait(300)
    for figure, shown in view._figures.items():
        assert shown == [data.bounds(found) for found in cell_figures(grid, figure)]


def test_verdicts_are_given_only_where_the_interval_excludes_zero(grid):
    from dataclasses import replace

    from saekit.probes import Estimate

    gap = grid.test_difference
    draw = replace(grid, test_difference=replace(gap, macro_f1=Estimate(0.01, -0.02, 0.04), verdict=None))
    assert data.verdict_words(draw).startswith("No verdict against bag-of-words")
    assert "+0.01 [−0.02, +0.04]" in data.verdict_words(draw)
    better = replace(grid, test_difference=replace(gap, macro_f1=Estimate(0.03, 0.01, 0.05), verdict="it is better"))
    assert data.verdict_words(better) == (
        "Verdict: better than bag-of-words, the best baseline, by 0.03 macro F1 [0.01, 0.05]."
    )
    close = replace(grid, test_difference=replace(gap, macro_f1=Estimate(0.03, 0.0031, 0.05), verdict="it is better"))
    assert "[0.003, 0.05]" in data.verdict_words(close), "an interval that excludes 0 does not read as if it held it"
    worse = replace(grid, test_difference=replace(gap, macro_f1=Estimate(-0.03, -0.05, -0.01), verdict="it is worse"))
    assert "worse than bag-of-words, the best baseline, by 0.03 macro F1 [0.01, 0.05]" in data.verdict_words(worse)
    assert data.verdict_words(replace(grid, test_difference=None)).startswith("No verdict: there is no baseline")


def test_an_opened_cell_has_its_confusions_and_features(view, grid, features):
    from sklearn.metrics import confusion_matrix

    number = 3
    view.value = grid.cells[number].name
    rows = grid.fold != 0
    np.testing.assert_array_equal(
        view._opened["confusion"], confusion_matrix(grid.labels[rows], grid.rounds[0].predicted[number][rows])
    )
    assert view.wait(300)
    weights = view.probe.fitted.weights
    for c, listed in enumerate(view._opened["features"]):
        assert len(listed) == data.STRONGEST
        for feature, _, weight, _, _ in listed:
            assert weight == pytest.approx(weights[c, feature])
            assert view._contexts[f"s/{feature}"]["source"] == "index"
    view.value = "bag-of-words"
    assert view.wait(300)
    assert view._opened["features"] is None
    assert any("cat" in word for word, _ in view._opened["words"][0])
    view.value = "majority"
    assert view.wait(300)
    assert view._opened["words"] is None and view.probe.fitted is None


def test_over_repeats_the_view_says_what_the_grid_says(features):
    grid = probes.grid(features, **OPTIONS, repeats=3, progress=False)
    view = Probes(grid, features)
    assert view.wait(300) and view._facts["repeats"] == 3
    rows = grid.fold != 0
    for i, row in enumerate(view._cells):
        value = view._figures["macro_f1"][i][0]
        assert row["behind"][0] == pytest.approx(grid.best_cell.macro_f1.value - value)
        right = np.trace(data.opened_cell(i, grid)["confusion"]) / (3 * rows.sum())
        assert right == pytest.approx(view._figures["accuracy"][i][0]), "every text is counted in every repeat"
    shown = view._repr_html_()
    assert "mean over 3 repeats" in shown and "each counted once in each of 3 repeats" in shown
    assert "repeats" not in Probes(probes.grid(features, **OPTIONS, progress=False))._repr_html_()


def test_contexts_come_from_the_labelled_texts_where_there_is_no_index(model, grid, features):
    view = Probes(grid, features, model=model, sae={"s": random_sae()})
    assert view.wait(300)
    feature = view._opened["features"][0][0][0]
    found = view._contexts[f"s/{feature}"]
    assert found["source"] == "texts"
    by_hand = probes.contexts(features, feature, k=1, model=model)
    assert found["rows"][0][0] <= by_hand[0].activation + 1e-6
    assert {row[4] for row in found["rows"]} <= {"plain", HOSTILE}


def test_a_text_is_classified_as_in_the_analysis(view, model):
    view.text = TEXT
    assert view.wait(300)
    found = probes.classify(model, random_sae(), view.probe, TEXT)
    assert view.classified.label == found.label == view._result["label"]
    np.testing.assert_allclose(view.classified.contributions, found.contributions, atol=1e-5)
    assert sum(view._result["probabilities"]) == pytest.approx(1)
    first = view.classified
    view.value = view.grid.cells[0].name
    assert view.wait(300)
    assert view.classified is not first and view._result["cell"] == view.value
    assert view._result["probabilities"] is None, "the difference of means gives scores"
    view.text = " "
    assert view._result == {} and view.classified is None


def test_texts_that_cannot_be_classified_are_told_why(view, grid, model, features):
    view.text = TEXT
    view.value = "majority"
    assert view.wait(300)
    assert view.classified is None and view._result == {}
    assert "A baseline reads no features" in view.error
    view.value = grid.best_cell.name
    assert view.wait(300) and view.error == "" and view.classified is not None
    alone = Probes(grid, text=TEXT)
    assert "needs the features, the model and its SAE" in alone.error
    view.value = None
    assert view._result == {} and view.cell is None and view.probe is None
    view.value = grid.best_cell.name
    view.text = "cat " * 600
    assert view.wait(300)
    assert "longer than what the probe was trained on, 128 tokens: only its first 127 are used" in view.error
    assert len(view.classified.tokens) == 127 and view.classified.truncated
    view.text = f"a cat{' ' * 2000}dog"
    assert view.wait(300)
    assert "only the first 2,000 are used" in view.error or view.classified.truncated


def test_a_text_is_read_as_far_as_the_texts_of_the_grid(model):
    """The box read up to 1,024 tokens, whatever the extraction had."""
    features = probes.extract_features(model, {"s": random_sae()}, labelled(), context_size=8, progress=False)
    options = {**OPTIONS, "poolings": ("max",), "binarisings": ("none",)}
    view = Probes(probes.grid(features, **options, progress=False), features, model=model, sae={"s": random_sae()})
    view.text = features.data.texts[-1]
    assert view.wait(300)
    assert len(view.classified.tokens) == 7 and "8 tokens: only its first 7 are used" in view.error
    np.testing.assert_allclose(view.classified.scores, probes.predict(view.probe, features)[-1], atol=1e-2)


def test_a_feature_is_linked_to_another_view(view):
    top = TopActivations(fake_index(), feature=12)
    link = ipywidgets.link((top, "value"), (view, "feature"))
    assert view.feature == 12
    view.feature = 40
    assert top.value == 40
    assert view.wait(300)
    assert "s/40" in view._contexts
    link.unlink()


def test_the_csv_has_every_cell_and_baseline(view, grid):
    rows = list(csv.DictReader(io.StringIO(view.to_csv())))
    assert [row["name"] for row in rows] == [c.name for c in (*grid.cells, *grid.baselines)]
    assert float(rows[2]["macro_f1_low"]) == grid.cells[2].macro_f1.low
    assert {k: rows[0][k] for k in grid.axes} == grid.cells[0].setting
    assert rows[-1]["kind"] == "baseline" and rows[-1]["sae"] == ""


# --- the search --------------------------------------------------------------------------------------------------


def test_the_grid_is_computed_in_the_background(model, grid, features):
    view = Probes(features, model=model, sae={"s": random_sae()}, text=TEXT, **OPTIONS)
    assert view.grid is None or view.grid is not grid
    assert view.wait(300)
    assert view.error == "" and repr(view.grid) == repr(grid)
    assert view.classified is not None, "a text that was given before the grid is classified after it"
    assert view._progress == [] and not view.busy


def test_stop_ends_the_search_and_compute_begins_again(features, monkeypatch):
    gate, begun = threading.Event(), threading.Event()
    real = probes.grid

    @wraps(real)
    def slow(features, *, progress, **options):
        begun.set()
        while not gate.wait(0.005):
            progress(1, 10)
        return real(features, progress=progress, **options)

    monkeypatch.setattr(probes, "grid", slow)
    view = Probes(features, **OPTIONS)
    assert begun.wait(300)
    assert repr(view) == "Probes('cats & <others>': computing)"
    assert "not computed yet" in view._repr_html_(), "showing the view does not wait for a search"
    view.set_state({"_stops": 1})
    assert view.wait(300)
    assert view.grid is None and not view.busy and view._progress == []
    assert repr(view).endswith("not computed)")
    with pytest.raises(traitlets.TraitError, match="there is no grid yet"):
        view.value = "majority"
    gate.set()
    view.set_state({"_starts": 1})
    assert view.wait(300)
    assert view.grid is not None


def test_a_cell_that_is_not_there_does_not_cost_the_search(features):
    view = Probes(features, cell="the best", **OPTIONS)
    assert view.wait(300)
    assert view.error.startswith("no cell 'the best': expected a name like")
    assert view.value == view.grid.best_cell.name


def test_a_search_that_fails_says_why(features, monkeypatch):
    @wraps(probes.grid)
    def fails(*args, **kwargs):
        raise ProbeError("class 'rare' has 1 different texts, fewer than 5 folds")

    monkeypatch.setattr(probes, "grid", fails)
    view = Probes(features, **OPTIONS)
    assert view.wait(300)
    assert view.error.startswith("class 'rare' has 1") and view._progress == []
