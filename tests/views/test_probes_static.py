"""The probes view without a kernel: static HTML, repr, mime bundle, exported page."""

import html
import html.parser
import re

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.probes import Estimate
from saekit.views.probes import Probes
from saekit.views.probes.heat import scale_of, shade
from saekit.views.probes.state import confusion, largest_confusions
from saekit.views.probes.words import choice_words, two, verdict_words
from tests.probes.test_extract import made_up_texts
from tests.probes.test_search_layers import two_layers
from tests.views.panels import elements, text as text_of
from tests.views.probes_parts import OPTIONS, extraction, fake_index, random_sae


@pytest.fixture(scope="module")
def view(model):
    features = extraction(model)
    grid = probes.grid(features, **OPTIONS, progress=False)
    made = Probes(grid, features, model=model, sae={"s": random_sae()}, index=fake_index(), text="a <b>cat</b> & café")
    made.feature = 7
    assert made.wait(300)
    return made


def test_the_repr_and_the_bundle_say_what_is_shown(view):
    assert repr(view) == f"Probes('cats & <others>': 8 cells beside 2 baselines, selected {view.value!r})"
    bundle, _ = view._repr_mimebundle_()
    assert bundle["text/plain"] == repr(view)
    assert bundle["text/html"] == view._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_static_html_is_small_safe_and_without_script(view):
    shown = view._repr_html_()
    tags, words = [], []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)
    parser.handle_data = words.append
    parser.feed(shown)
    assert not {"script", "style", "img", "a", "b"} & set(tags)
    assert not re.search(r"https?:|#[0-9a-f]{3,6}\b", shown)
    assert len(shown.encode()) < 40_000
    assert shown.count('data-saekit="picture"') == 2, "cells and baselines"
    labels = re.findall(r'<svg [^>]*aria-label="([^"]*)"', shown)
    said = f"Heat map of 8 cells by macro F1. {choice_words(view.grid)}"
    assert list(map(html.unescape, labels)) == [said, "2 baselines by macro F1"]
    text = "".join(words)
    assert verdict_words(view.grid) in text and choice_words(view.grid) in text
    for cell in view.grid.lines:
        assert two(cell.macro_f1.value) in text and f"{two(cell.macro_f1.low)}–{two(cell.macro_f1.high)}" in text
    page = view.to_html()
    assert "<img" not in page and page.count("<script") == 1


def test_the_scale_never_makes_a_result_of_noise():
    nan = float("nan")
    wide = [Estimate(0.90, 0.85, 0.95), Estimate(0.91, 0.86, 0.96), Estimate(0.5, 0.4, 0.6)]
    scale = scale_of(wide, 2)
    assert scale == pytest.approx((0.81, 0.91)), "an interval's width, not the width of the noise"
    assert shade(0.5, scale) == shade(nan, scale) == 0, "a baseline below the scale has no colour"
    apart = [Estimate(0.6, 0.55, 0.65), Estimate(0.9, 0.85, 0.95), Estimate(0.95, 0.9, 1.0)]
    assert scale_of(apart, 2) == (0.6, 0.95), "baselines are in the same scale"
    assert scale_of([Estimate(0.7, nan, nan)], 1) == pytest.approx((0.2, 0.7))
    assert scale_of([Estimate(nan, nan, nan)], 1) == scale_of([], 0) == (0.0, 1.0)
    assert [two(v) for v in (0.125, -0.5, -0.001, nan)] == ["0.13", "−0.50", "0.00", "–"]
    assert [two(v) for v in (0.9961, 0.9999, 1.0)] == ["0.996", "0.999", "1.00"]


def test_many_classes_are_shown_as_their_largest_confusions(model):
    texts = made_up_texts(150, seed=3)
    data = labelled_texts(texts, [f"class {i % 15:02}" for i in range(150)], name="many")
    features = extraction(model, data)
    options = {**OPTIONS, "poolings": ("max",), "binarisings": ("none",), "classifiers": ("difference",)}
    view = Probes(features, **options, model=model, sae={"s": random_sae()})
    assert view.wait(300), view.error
    shown = view._repr_html_()
    assert "taken for" in shown and len(shown.encode()) < 60_000
    matrix = confusion(view.grid, view.grid.best)
    entries = largest_confusions(matrix)
    assert [n for _, _, n in entries] == sorted((n for _, _, n in entries), reverse=True)
    true, predicted, most = entries[0]
    assert true != predicted and matrix[true, predicted] == most == (matrix - np.diag(np.diag(matrix))).max()
    grid, rows = view.grid, view.grid.validation_rows
    by_hand = confusion_matrix(grid.labels[rows], grid.rounds[0].predicted[grid.best][rows], labels=range(15))
    np.testing.assert_array_equal(matrix, by_hand)
    listed = elements(elements(view.state()["cell"], "table", "confusion")[0], "tbody")[0][2:]
    wrong = sorted(((-n, t, p) for (t, p), n in np.ndenumerate(by_hand) if n and t != p))[:12]
    names = grid.label_names
    assert [[text_of(cell) for cell in row[2:]] for row in listed] == [
        [f"{names[t]} taken for {names[p]}", str(-n)] for n, t, p in wrong
    ]
    small = np.array([[5, 1, 0], [3, 5, 2], [0, 0, 1]])
    assert largest_confusions(small) == [(1, 0, 3), (1, 2, 2), (0, 1, 1)]


def test_the_layer_of_a_baseline_is_named_wherever_the_baseline_is():
    features = two_layers(("low", "high", "high (random)"), ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_post"))
    options = {"poolings": ("max",), "binarisings": ("none",), "classifiers": ("logistic",), "progress": False}
    grid = probes.grid(features, **options, baselines=("hidden-mean", "random"))
    best = "hidden-mean at blocks.3.hook_resid_post"
    assert grid.test_difference.other == best
    view = Probes(grid, features, cell="high (random), max, none, logistic")
    assert view.wait(300) and view.error == ""
    assert elements(view.state()["cell"], "button", "feature"), "a control is opened like a cell"
    shown = view._repr_html_()
    assert f"{best}, the best baseline" in verdict_words(grid) and verdict_words(grid) in shown
    for line in grid.baselines:
        assert f">{line.name}<title>" in shown, "in full, or two points of a layer would read the same"
    assert f"baseline,{best},,,," in view.to_csv()
    view.value = best
    assert view.wait(300) and view.error == "" and view.probe.name == best
    number = probes.number_of(grid, best)
    part = probes.training_part(grid, features, number)
    assert list(part.hooks) == ["blocks.3.hook_resid_post"]
    np.testing.assert_array_equal(view.probe.fitted.weights, probes.fit_cell(grid, part, number).fitted.weights)
