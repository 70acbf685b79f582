"""The probes view in a bare page: cells, keys, figures, features, shading, exports, hostile names. No Jupyter."""

import csv
import io
from pathlib import Path

import pytest

from saekit import probes
from saekit.probes import cell_figures, top_features, training_part
from saekit.views._shared.words import percent, signed
from saekit.views.probes import Probes
from saekit.views.probes.state import STRONGEST, confusion
from saekit.views.probes.words import FIGURE_NAMES, interval_words, two, verdict_words
from tests.views.probes_parts import (
    HOSTILE,
    OPTIONS,
    contexts_of_index,
    extraction,
    fake_index,
    first_in_index,
    random_sae,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def view(model):
    features = extraction(model)
    grid = probes.grid(features, **OPTIONS, progress=False)
    made = Probes(grid, features, model=model, sae={"s": random_sae()}, index=fake_index(), figure="auroc")
    assert made.wait(300)
    made.value = "bag-of-words"  # opened, so the page has its words
    assert made.wait(300)
    made.value = grid.best_cell.name
    made.text, made.feature, made.figure = "the café cat 😀 sat", 7, "macro_f1"
    assert made.wait(300)
    return made


def cell(number):
    """Where a cell of the heat map is, or a baseline."""
    return f".saekit-heat[data-key='{number}']"


def test_the_heat_map_shows_every_cell_with_its_interval(open_view, view):
    page = open_view
    cells = page.get_by_role("grid", name="Cells of the grid").get_by_role("gridcell")
    lines = page.get_by_role("grid", name="Baselines").get_by_role("gridcell")
    assert (cells.count(), lines.count()) == (8, 2)
    for figure in ("macro_f1", "auroc", "accuracy"):
        page.get_by_label("figure").select_option(figure)
        for number, found in enumerate(cell_figures(view.grid, figure)):
            node = page.locator(cell(number))
            title, value, interval = node.locator("title, text").all_text_contents()
            assert value.split()[0] == two(found.value)
            assert interval == f"{two(found.low)}–{two(found.high)}"
            assert f"{FIGURE_NAMES[figure]} {interval_words(found)}" in title
    assert "★" in page.locator(cell(view.grid.best)).text_content()
    assert page.locator(".saekit-verdict").inner_text() == verdict_words(view.grid)


def test_keys_walk_the_grid_and_enter_opens_a_cell(open_view, view):
    page = open_view
    grid = page.get_by_role("grid", name="Cells of the grid")
    stop = grid.locator("[tabindex='0']")
    assert stop.count() == 1, "one tab stop"
    stop.focus()
    for key in ("Home", *["ArrowUp"] * 4):
        page.keyboard.press(key)
    assert page.locator(":focus").get_attribute("data-key") == "0"
    assert view.grid.cells[0].name in page.locator(".saekit-readout").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.locator(":focus").get_attribute("data-key") == "3"
    page.keyboard.press("Enter")
    assert page.evaluate("saekit.state.value") == view.grid.cells[3].name
    assert page.locator("[aria-selected=true]").get_attribute("data-key") == "3"
    shown = page.locator(".saekit-confusion tbody td").all_inner_texts()
    assert [int(n) for n in shown] == confusion(view.grid, 3).ravel().tolist()
    page.locator(cell(8)).click()
    assert page.evaluate("saekit.state.value") == "majority"
    assert (
        view.grid.baselines[0].macro_f1.value < 0.5
        and "Worse than the best cell" in page.locator(".saekit-cell").inner_text()
    )
    page.locator(cell(9)).click()
    assert "Words for class" in page.locator(".saekit-cell").inner_text()


def test_features_have_signs_and_a_click_selects_one(open_view, view, model):
    page = open_view
    table = page.get_by_role("region", name="Weights")
    part = training_part(view.grid, extraction(model), view.grid.best)
    first, second = top_features(view.probe, part, k=STRONGEST).values()

    def shown():
        rows = [row.locator("th, td").all_text_contents() for row in table.locator("tbody tr:visible").all()]
        return [[feature, effect.strip(), shares, first] for feature, effect, shares, first in rows]

    def expected(weights):
        shares = [f"{percent(one.share_in_class)} / {percent(one.share_in_others)}" for one in weights]
        return [
            [f"feature {one.column}", signed(one.effect), share, first_in_index(one.column)]
            for one, share in zip(weights, shares, strict=True)
        ]

    assert shown() == expected(second), "in the order of their effects, with their signs"
    page.get_by_label("Features for class").select_option("0")
    assert shown() == expected(first) != expected(second)
    button = table.locator("button:visible").nth(2)
    button.click()
    feature = int(button.get_attribute("data-feature"))
    assert page.evaluate("saekit.state.feature") == feature
    card = page.get_by_role("region", name="Selected feature")
    assert card.locator("h4").inner_text() == f"Feature {feature}"
    said = card.locator("li .saekit-context").all_text_contents()
    assert said == [words for _, words in contexts_of_index(feature, 4)] and len(said) == 4
    assert page.locator(":focus").get_attribute("data-feature") == str(feature), "the focus stays where it was"


def test_tokens_are_shaded_by_their_parts(open_view, view):
    page = open_view
    outcome = page.locator(".saekit-outcome")
    assert page.locator(".saekit-class").inner_text().startswith(f"{view.classified.label}, probability 0.")
    tokens = outcome.get_by_role("option")
    assert "".join(tokens.all_inner_texts()).replace("·", " ") == "the café cat 😀 sat"
    parts = view.classified.contributions[view.grid.label_names.index(view.classified.label)]
    shown = part_of(tokens)
    assert sum(shown) == pytest.approx(parts.sum(), abs=0.006 * len(shown))
    tokens.first.click()
    assert "to the score of" in outcome.locator(".saekit-part").inner_text()
    outcome.get_by_role("button", name=HOSTILE).click()
    turned = part_of(tokens)
    sign = 1 if view.classified.label == HOSTILE else -1
    assert turned == [sign * value for value in shown]
    assert "The parts add up to the score" in outcome.inner_text()


def part_of(tokens):
    """What screen readers hear of tokens as numbers."""
    return [float(token.get_attribute("aria-label").split(", ")[1].replace("−", "-")) for token in tokens.all()]


def test_what_is_saved_is_what_python_writes(open_view, view):
    page = open_view
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    read = lambda text: [[_number(v) for v in row] for row in csv.reader(io.StringIO(text))]  # noqa: E731
    assert read(Path(download.value.path()).read_text(encoding="utf-8")) == read(view.to_csv())


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text


def test_hostile_names_and_contexts_stay_text(open_view):
    page = open_view
    assert HOSTILE in page.locator("body").inner_text()
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1200])
def test_accessible_in_both_schemes_and_at_all_widths(page, open_view, shots, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(path=shots / f"probes_{width}_{scheme}.png", full_page=True)
