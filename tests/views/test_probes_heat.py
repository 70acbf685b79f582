"""The heat map of the probes view and the table behind it: where cells stand, what they say, what is no number."""

import csv
import io
from dataclasses import replace
from itertools import product

import pytest

from saekit import probes
from saekit.probes import cell_figures
from saekit.views.probes import Probes
from saekit.views.probes.words import interval_words
from tests import tiny
from tests.views.panels import elements, text
from tests.views.probes_parts import D_SAE, OPTIONS, extraction, labelled, random_sae


@pytest.fixture(scope="module")
def grid(model):
    return probes.grid(extraction(model), **OPTIONS, progress=False)


def test_every_cell_has_its_place(model):
    """Sites and classifiers across, poolings and binarisings down, in the order in which keys walk them."""
    saes = {"s": random_sae(), 'a,"b': tiny.topk_sae(32, D_SAE, seed=2)}
    features = probes.extract_features(model, saes, labelled(), progress=False)
    view = Probes(
        probes.grid(features, **{**OPTIONS, "classifiers": ("difference", "logistic", "tree")}, progress=False)
    )
    of_cells, of_lines = elements(view.state()["maps"], "svg")
    axes = view.grid.axes
    across, down = (list(product(axes[a], axes[b])) for a, b in (("sae", "classifier"), ("pooling", "binarise")))
    assert (len(down), len(across)) == (4, 6)
    rows = [elements(row, "g", "heat") for row in elements(of_cells, "g") if row[1].get("role") == "row"]
    for (pooling, binarise), row in zip(down, rows, strict=True):
        for (site, classifier), cell in zip(across, row, strict=True):
            setting = {"sae": site, "pooling": pooling, "binarise": binarise, "classifier": classifier}
            number = int(cell[1]["key"])
            assert view.grid.cells[number].setting == setting
            assert cell[1]["set"] == ["value", view.grid.cells[number].name]
    boxes = [[elements(cell, "rect")[0][1] for cell in row] for row in rows]
    names = {(name[1]["x"], name[1]["y"]): name[2] for name in elements(of_cells, "text")}
    for j, (site, classifier) in enumerate(across):
        assert len({row[j]["x"] for row in boxes}) == 1
        left, right = (boxes[0][j]["x"] + end for end in (0, boxes[0][j]["width"]))
        above = [name for (x, y), name in names.items() if left < x < right and y < boxes[0][0]["y"]]
        assert classifier in above and ((site in above) or j % 3 != 1), (
            "a site stands over the middle of its classifiers"
        )
    for i, (pooling, binarise) in enumerate(down):
        assert len({box["y"] for box in boxes[i]}) == 1
        top, bottom = (boxes[i][0]["y"] + end for end in (0, boxes[i][0]["height"]))
        beside = [name for (x, y), name in names.items() if top < y < bottom and x < boxes[0][0]["x"]]
        assert beside == ([pooling] if i % 2 == 0 else []) + [binarise]
    for ends in ([box["x"] for box in boxes[0]], [row[0]["y"] for row in boxes]):
        assert ends == sorted(set(ends)), "in this order on the screen too"
    assert [int(cell[1]["key"]) for cell in elements(of_lines, "g", "heat")] == [24, 25]
    written = view.to_csv()
    assert 'cell,"a,""b, max, none, difference","a,""b",max,none,difference,' in written
    assert [row["name"] for row in csv.DictReader(io.StringIO(written))] == [line.name for line in view.grid.lines]


def test_every_figure_is_that_of_the_grid(grid):
    view = Probes(grid)
    assert "auroc" not in view.to_csv() and "AUROC" not in text(view.state()["cell"])
    view.figure = "auroc"
    assert view.wait(300)
    for figure, name in (("macro_f1", "macro F1"), ("auroc", "AUROC"), ("accuracy", "accuracy")):
        view.figure = figure
        titles = [text(elements(cell, "title")[0]) for cell in elements(view.state()["maps"], "g", "heat")]
        for line, found, title in zip(grid.lines, cell_figures(grid, figure), titles, strict=True):
            assert title.startswith(f"{line.name}: {name} {interval_words(found)}")
    assert text(view.state()["cell"]).count("AUROC") == 1
    written = list(csv.DictReader(io.StringIO(view.to_csv())))
    for figure in ("macro_f1", "auroc", "accuracy"):
        read = [[float(row[f"{figure}{end}"]) for end in ("", "_low", "_high")] for row in written]
        assert read == [[found.value, found.low, found.high] for found in cell_figures(grid, figure)]


def test_what_is_no_number_is_a_dash_in_the_map_and_empty_in_the_csv(grid):
    nan = float("nan")
    unsure = replace(grid.baselines[0], macro_f1=probes.Estimate(0.4, nan, nan))
    view = Probes(replace(grid, baselines=(unsure, *grid.baselines[1:])))
    assert ",majority,,,,,0.4,,," in view.to_csv()
    shown = elements(view.state()["maps"], "g", "heat")[len(grid.cells)]
    assert [text(words) for words in elements(shown, "text")] == ["0.40", "–––"]
