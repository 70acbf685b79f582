"""The probes view in Python: what it refuses, what it computes and when, Stop, what is read back. No browser."""

import csv
import io
import re
import threading
from dataclasses import replace
from functools import wraps

import ipywidgets
import numpy as np
import pytest
import traitlets

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.errors import ProbeError, Stopped
from saekit.views._shared.words import percent, sig, signed
from saekit.views.probes import Probes
from saekit.views.probes.state import STRONGEST
from saekit.views.probes.words import (
    interval_words,
    over_baseline_words,
    result_words,
    standing_words,
    two,
    verdict_words,
)
from saekit.views.top_activations import TopActivations
from tests import tiny
from tests.views.panels import elements, text
from tests.views.probes_parts import (
    D_SAE,
    HOSTILE,
    OPTIONS,
    context_of,
    contexts_of_index,
    extraction,
    fake_index,
    first_in_index,
    labelled,
    random_sae,
)

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


def confusion_in(view):
    """The numbers of the confusion matrix that is shown."""
    shown = elements(elements(view.state()["cell"], look="confusion")[0], look="shaded")
    return np.array([int(text(cell).replace(",", "")) for cell in shown])


def rows_in(panel):
    """Rows of the tables of a panel that list features or words, as texts; amounts without the bar before them."""

    def shown(cell):
        return text(cell).strip() if elements(cell, look="amount") else text(cell)

    tables = elements(panel, "table", "rows")
    return [[[shown(cell) for cell in row[2:]] for row in elements(one, "tbody")[0][2:]] for one in tables]


def contexts_in(panel):
    """Value, text and class of every context of a panel."""
    return [
        (text(elements(item, look="context-value")[0]), text(elements(item, look="context")[0]), text(item[-1]))
        for item in elements(panel, "li")
    ]


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
    verdict, choice, tested = map(text, elements(view.state()["said"], "p"))
    assert verdict == verdict_words(grid)
    assert tested.startswith("On the test part, 20 texts")
    assert f"{len(grid.as_good) - 1} of the 7 other cells" in choice
    cells = elements(view.state()["maps"], "g", "heat")
    marks = dict.fromkeys(grid.as_good, "≈") | {grid.best: "★"}
    assert [text(cell).count("≈") for cell in cells] == [marks.get(i) == "≈" for i in range(10)]
    assert [i for i, cell in enumerate(cells) if "★" in text(cell)] == [grid.best]
    for i, cell in enumerate(cells):
        assert cell[1]["data-told"] == standing_words(grid.behind_best(i), best=grid.best == i)


def test_a_cell_says_how_it_stands_to_the_best_one_and_to_the_best_baseline(view, grid, features):
    best = max(grid.baselines, key=lambda line: line.macro_f1.value)
    for i, line in enumerate(grid.lines):
        view.value = line.name
        said = [text(words) for words in elements(view.state()["cell"], "p") if "class" not in words[1]]
        over = over_baseline_words(grid.difference(i, grid.lines.index(best)), best.name)
        standing = standing_words(grid.behind_best(i), best=i == grid.best)
        assert said == [standing, *([over] if i < len(grid.cells) else [])], "a baseline is compared with no baseline"
    small = {**OPTIONS, "poolings": ("max",), "classifiers": ("difference",), "baselines": ()}
    alone = Probes(probes.grid(features, **small, progress=False))
    assert "baseline" not in text(alone.state()["cell"]) and len(elements(alone.state()["maps"], "svg")) == 1


def test_verdicts_are_given_only_where_the_interval_excludes_zero(grid):
    from saekit.probes import Estimate

    gap = grid.test_difference
    draw = replace(grid, test_difference=replace(gap, macro_f1=Estimate(0.01, -0.02, 0.04), verdict=None))
    assert verdict_words(draw).startswith("No verdict against bag-of-words")
    assert "+0.01 [−0.02, +0.04]" in verdict_words(draw)
    better = replace(grid, test_difference=replace(gap, macro_f1=Estimate(0.03, 0.01, 0.05), verdict="it is better"))
    assert verdict_words(better) == (
        "Verdict: better than bag-of-words, the best baseline, by 0.03 macro F1 [0.01, 0.05]."
    )
    close = replace(grid, test_difference=replace(gap, macro_f1=Estimate(0.03, 0.0031, 0.05), verdict="it is better"))
    assert "[0.003, 0.05]" in verdict_words(close), "an interval that excludes 0 does not read as if it held it"
    worse = replace(grid, test_difference=replace(gap, macro_f1=Estimate(-0.03, -0.05, -0.01), verdict="it is worse"))
    assert "worse than bag-of-words, the best baseline, by 0.03 macro F1 [0.01, 0.05]" in verdict_words(worse)
    assert verdict_words(replace(grid, test_difference=None)).startswith("No verdict: there is no baseline")


def test_words_claim_a_difference_only_where_its_interval_excludes_zero():
    from saekit.probes import Estimate

    assert standing_words(Estimate(0, 0, 0), best=True).startswith("Best in validation")
    assert re.search("^These texts cannot tell it .*holds 0", standing_words(Estimate(0.02, -0.01, 0.05), best=False))
    worse = standing_words(Estimate(0.02, 0.01, 0.05), best=False)
    assert worse.startswith("Worse than the best cell") and "+0.02 [+0.01, +0.05]" in worse
    assert standing_words(Estimate(-0.02, -0.05, -0.01), best=False).startswith("Better than the best cell")
    assert over_baseline_words(Estimate(0.01, -0.02, 0.04), "tfidf").startswith("No verdict against tfidf")
    assert over_baseline_words(Estimate(0.03, 0.02, 0.04), "tfidf").startswith("Better than tfidf")
    assert over_baseline_words(Estimate(-0.03, -0.04, -0.02), "tfidf").startswith("Worse than tfidf")
    assert interval_words(Estimate(0.9, 0.85, float("nan"))) == "0.90 [0.85, –]"
    assert interval_words(Estimate(0.01, -0.02, 0.04), sign=True) == "+0.01 [−0.02, +0.04]"
    assert interval_words(Estimate(0.01, 0, 0.004), sign=True) == "+0.01 [0.00, +0.00]"
    found = probes.Classified("", "spam", np.array([-1, 1.5]), (), np.zeros((2, 0)), ())
    assert result_words(found, 0.9) == "spam, probability 0.90"
    assert result_words(found, None).startswith("spam, by 2.50 in score")


def test_an_opened_cell_has_its_confusions_and_features(view, grid, features):
    from sklearn.metrics import confusion_matrix

    number = 3
    view.value = grid.cells[number].name
    rows = grid.fold != 0
    np.testing.assert_array_equal(
        confusion_in(view), confusion_matrix(grid.labels[rows], grid.rounds[0].predicted[number][rows]).ravel()
    )
    titles = elements(elements(view.state()["cell"], look="confusion")[0], "th")
    assert [text(title) for title in titles] == [*grid.label_names, *grid.label_names]
    assert view.wait(300)
    strongest = probes.top_features(view.probe, probes.training_part(grid, features, number), k=STRONGEST)
    shown, panel = rows_in(view.state()["cell"]), view.state()["cell"]
    assert [one[1]["data-class"] for one in elements(panel, "div") if "data-class" in one[1]] == ["0", "1"]
    for c, label in enumerate(grid.label_names):
        assert shown[c] == [
            [
                f"feature {weight.column}",
                signed(weight.effect),
                f"{percent(weight.share_in_class)} / {percent(weight.share_in_others)}",
                first_in_index(weight.column),
            ]
            for weight in strongest[label]
        ], "in the order of their effects, with contexts of the index"
        assert len(shown[c]) == STRONGEST
        one = elements(panel, "table", "rows")[c]
        assert text(elements(one, "caption")[0]).startswith(f"+ for {label}, − for {grid.label_names[1 - c]}; ")
        weights = view.probe.fitted.weights[c]
        told = [cell[1]["title"] for cell in elements(one, "td") if "title" in cell[1]]
        assert told == [f"weight {weights[weight.column]:.2g}" for weight in strongest[label]]
        tones = [bar[1]["tone"] for bar in elements(one, look="meter")]
        assert tones == ["minus" if weight.effect < 0 else "plus" for weight in strongest[label]]
    view.value = "bag-of-words"
    assert view.wait(300)
    words = probes.top_words(view.probe, k=STRONGEST)
    assert rows_in(view.state()["cell"]) == [
        [[word, signed(weight)] for word, weight in words[label]] for label in grid.label_names
    ]
    assert any("cat" in word for word, _ in rows_in(view.state()["cell"])[0])
    view.value = "majority"
    assert view.wait(300)
    assert rows_in(view.state()["cell"]) == [] and view.probe.fitted is None
    assert "no weights to read" in text(view.state()["cell"])


def test_over_repeats_the_view_says_what_the_grid_says(features):
    grid = probes.grid(features, **OPTIONS, repeats=3, progress=False)
    view = Probes(grid, features)
    assert view.wait(300)
    rows = grid.fold != 0
    for row in csv.DictReader(io.StringIO(view.to_csv())):
        assert float(row["behind_best"]) == pytest.approx(grid.best_cell.macro_f1.value - float(row["macro_f1"]))
        view.value = row["name"]
        behind = grid.behind_best(probes.number_of(grid, row["name"]))
        assert standing_words(behind, best=row["name"] == grid.best_cell.name) in text(view.state()["cell"])
        right = np.trace(confusion_in(view).reshape(2, 2)) / (3 * rows.sum())
        assert right == pytest.approx(float(row["accuracy"])), "every text is counted in every repeat"
    shown = view._repr_html_()
    assert "mean over 3 repeats" in shown and "each counted once in each of 3 repeats" in shown
    assert "repeats" not in Probes(probes.grid(features, **OPTIONS, progress=False))._repr_html_()


def test_contexts_come_from_the_labelled_texts_where_there_is_no_index(model, grid, features):
    view = Probes(grid, features, model=model, sae={"s": random_sae()})
    assert view.wait(300)
    part = probes.training_part(grid, features, grid.best)

    def by_hand(feature):
        return [
            (sig(one.activation), context_of(one.before, one.token, one.after), f" · {one.label}")
            for one in probes.contexts(part, feature, k=4, model=model)
        ]

    for listed in rows_in(view.state()["cell"]):
        for name, _, _, first in listed:
            assert first == by_hand(int(name.split()[1]))[0][1]
    view.feature = feature = int(rows_in(view.state()["cell"])[0][0][0].split()[1])
    assert view.wait(300)
    found = view.state()["feature"]
    assert "strongest contexts in the labelled texts" in text(found)
    assert contexts_in(found) == by_hand(feature)
    assert contexts_in(found)[0][0] == sig(part.sae("s").events[:, [feature]].max())
    assert {label for *_, label in contexts_in(found)} <= {" · plain", f" · {HOSTILE}"}


def test_a_text_is_classified_as_in_the_analysis(view, grid, model):
    view.text = TEXT
    assert view.wait(300)
    found = probes.classify(model, random_sae(), view.probe, TEXT)
    assert view.classified.label == found.label
    np.testing.assert_allclose(view.classified.contributions, found.contributions, atol=1e-5)
    chances = probes.probabilities(grid.best_cell.setting["classifier"], view.classified.scores)
    assert sum(chances) == pytest.approx(1)
    panel = view.state()["text"]
    assert text(panel).startswith(f"{found.label}, probability {two(max(chances))}")
    likely = sorted(zip(chances, grid.label_names, strict=True), reverse=True)
    buttons = elements(elements(panel, look="classes")[0], "button")
    assert [text(button).split() for button in buttons] == [[*name.split(), two(chance)] for chance, name in likely]
    for strip, parts in zip(elements(panel, "strip"), view.classified.contributions, strict=True):
        assert strip[1]["tokens"] == [token.replace(" ", "·") for token in found.tokens], (
            "one token is one mark: no character is in pieces"
        )
        assert [[number, words] for number, words, *_ in strip[1]["marks"]] == [
            [number, signed(part)] for number, part in enumerate(parts)
        ]
    decisive = view.classified.features[:STRONGEST]
    assert rows_in(panel) == [[[f"feature {j}", signed(part), first_in_index(j)] for j, _, part in decisive]]
    first = view.classified
    view.value = view.grid.cells[0].name
    assert view.wait(300)
    assert view.classified is not first
    high, low = sorted(view.classified.scores, reverse=True)
    by = f"{view.classified.label}, by {two(high - low)} in score: this classifier gives no probability"
    assert text(view.state()["text"]).startswith(by), "the difference of means gives scores"
    view.text = " "
    assert "text" not in view.state() and view.classified is None


def test_texts_that_cannot_be_classified_are_told_why(view, grid, model, features):
    view.text = TEXT
    view.value = "majority"
    assert view.wait(300)
    assert view.classified is None and "text" not in view.state()
    assert "A baseline reads no features" in view.error
    view.value = grid.best_cell.name
    assert view.wait(300) and view.error == "" and view.classified is not None
    alone = Probes(grid, text=TEXT)
    assert "needs the features, the model and its SAE" in alone.error
    view.value = None
    assert not {"text", "cell"} & set(view.state()) and view.cell is None and view.probe is None
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
    found = view.state()["feature"]
    assert "strongest contexts in the index" in text(found)
    assert [tuple(shown) for *shown, _ in contexts_in(found)] == contexts_of_index(40, 4)
    link.unlink()


def test_the_csv_has_every_cell_and_baseline(view, grid):
    rows = list(csv.DictReader(io.StringIO(view.to_csv())))
    assert [row["name"] for row in rows] == [c.name for c in (*grid.cells, *grid.baselines)]
    assert float(rows[2]["macro_f1_low"]) == grid.cells[2].macro_f1.low
    assert {k: rows[0][k] for k in grid.axes} == grid.cells[0].setting
    assert rows[-1]["kind"] == "baseline" and rows[-1]["sae"] == ""
    assert [row["kind"] for row in rows] == ["cell"] * 8 + ["baseline"] * 2
    for i, row in enumerate(rows):
        gap = grid.behind_best(i)
        assert [float(row[f"behind_best{end}"]) for end in ("", "_low", "_high")] == [gap.value, gap.low, gap.high]


# --- the search --------------------------------------------------------------------------------------------------


def test_the_grid_is_computed_in_the_background(model, grid, features):
    view = Probes(features, model=model, sae={"s": random_sae()}, text=TEXT, **OPTIONS)
    assert view.grid is None or view.grid is not grid
    assert view.wait(300)
    assert view.error == "" and repr(view.grid) == repr(grid)
    assert view.classified is not None, "a text that was given before the grid is classified after it"
    assert not view.busy


def test_stop_ends_the_search_and_compute_begins_again(features, monkeypatch):
    gate, begun = threading.Event(), threading.Event()
    real = probes.grid

    @wraps(real)
    def slow(features, *, progress, stop, **options):
        begun.set()
        while not gate.wait(0.005):
            progress(1, 10)
            if stop():
                raise Stopped
        return real(features, progress=progress, stop=stop, **options)

    monkeypatch.setattr(probes, "grid", slow)
    view = Probes(features, **OPTIONS)
    assert begun.wait(300)
    assert repr(view) == "Probes('cats & <others>': computing)"
    assert "not computed yet" in view._repr_html_(), "showing the view does not wait for a search"
    view.set_state({"_stops": 1})
    assert view.wait(300)
    assert view.grid is None and not view.busy
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
    assert view.error.startswith("class 'rare' has 1") and repr(view).endswith("not computed)")
