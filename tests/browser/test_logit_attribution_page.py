"""The logit attribution view in a bare page: bars, keys, picture, methods, exports, roles, hostile text. No Jupyter."""

import json
from pathlib import Path

import pytest

from tests.views.attribution_parts import small_view
from tests.views.circuit_parts import HIGH
from tests.views.test_logit_attribution_static import HOSTILE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def view(model):
    made = small_view(model)
    made.prompt = HOSTILE
    made.ablated = [7]
    made.method = "patching"
    assert made.wait(300)
    made.method = "direct"
    assert made.wait(300)
    return made


def shown_number(value):
    return f"{value:+.2f}".replace("-", "−")


def test_every_bar_has_its_number_and_the_last_total_is_the_models(open_view, view):
    page = open_view
    rows = page.locator(".saekit-bars tbody tr")
    numbers = json.loads(view.to_json())
    bars = numbers["bars"]
    assert rows.count() == len(bars)
    assert rows.locator("td:nth-child(4)").all_inner_texts() == [shown_number(row["effect"]) for row in bars]
    assert rows.last.locator(".saekit-running").inner_text() == shown_number(numbers["reading"])
    for kind in ("error", "bias", "rest"):
        assert page.locator(f".saekit-bars tr[data-kind={kind}]").count() == 1
    assert page.locator(".saekit-says tbody tr").count() == len(numbers["predictions"])
    assert page.get_by_text("1 feature ablated at every token").is_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0


def test_keys_walk_over_bars_and_picture_and_select(open_view, view):
    page = open_view
    stops = page.locator(".saekit-item[tabindex='0']")
    assert stops.count() == 1, "one tab stop"
    stops.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    selected = page.evaluate("saekit.state.value")
    row = page.locator(".saekit-bars tr.saekit-now")
    assert [HIGH, int(row.get_attribute("data-position")), int(row.get_attribute("data-feature"))] == selected

    cell = page.locator("[role=gridcell][tabindex='0']")
    assert cell.count() == 1
    cell.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    last = len(json.loads(view.to_json())["tokens"]) - 1
    assert page.evaluate("saekit.state.value")[1] == last - 1
    assert page.locator("[role=gridcell][aria-selected=true]").count() == 1
    assert page.locator(":focus").get_attribute("aria-selected") == "true"
    page.get_by_role("gridcell", name="reconstruction error").last.click()
    assert page.evaluate("saekit.state.value") == [HIGH, last, -1]
    assert "Reconstruction error" in page.get_by_role("region", name="Selected item").inner_text()


def test_methods_that_were_computed_can_be_looked_at_and_others_are_refused(open_view, view):
    page = open_view
    chooser = page.get_by_label("Method", exact=True)
    chooser.select_option("patching")
    assert page.locator(".saekit-bars tr[data-kind=rest]").count() == 0
    assert page.get_by_text("first-order estimates add up only where").is_visible()
    assert page.get_by_text("Agreement of patching with direct").is_visible()
    assert page.get_by_label("Compared with").is_visible()
    chooser.select_option("exact")
    assert page.get_by_role("alert").filter(has_text="Open the view in a notebook").is_visible()
    assert chooser.input_value() == "patching"
    assert page.get_by_label("prompt", exact=True).get_attribute("readonly") is not None
    assert page.locator("input[type=checkbox]:enabled").count() == 0


def test_what_is_saved_is_what_python_writes(open_view, view):
    page = open_view
    with page.expect_download() as download:
        page.get_by_role("button", name="Save JSON").click()
    assert json.loads(Path(download.value.path()).read_text(encoding="utf-8")) == json.loads(view.to_json())
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    assert Path(download.value.path()).read_text(encoding="utf-8") == view.to_csv()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1200])
def test_accessible_in_both_schemes_and_at_all_widths(page, open_view, shots, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.locator(".saekit-item").first.click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(path=shots / f"attribution_{width}_{scheme}.png", full_page=True)
