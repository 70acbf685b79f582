"""The steering view in a bare page: sliders, wishes, shaded tokens, saved settings, hostile texts. No Jupyter."""

import json
import re
from pathlib import Path

import pytest

from tests.views.panels import elements, text
from tests.views.steering_parts import small_sae, small_view

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=\"window.hacked=1\"> & 'quotes'"


@pytest.fixture(scope="module")
def view(model):
    made = small_view(model, small_sae(), {7: 1.0, 9: -0.5}, prompt=HOSTILE, max_new_tokens=16, chat=False)
    made.run()
    made.compare("random direction")
    made.run_sweep((0.5, 1, 2))
    assert made.wait(300)
    assert made.error == ""
    return made


@pytest.fixture
def open_view(page, tmp_path, view):
    """Open the view's page as in a notebook, or as it is exported; at the end no script has failed."""

    def opened(*, live=True, **changes):
        file = tmp_path / "view.html"
        html = view._page(busy=False, _doing="", _has_kernel=live, **changes) if live or changes else view.to_html()
        file.write_text(html, encoding="utf-8")
        page.goto(file.as_uri())
        page.wait_for_function("window.saekit?.ready")
        return page

    yield opened
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.errors == []
    assert page.foreign == []


def shown_of(view, key):
    """Return a text as it is shown, controls as a mark of their own."""
    (column,) = [one for one in elements(view.state()["texts"], "article") if one[1]["data-text"] == key]
    return re.sub("[\0-\x08\x0b-\x1f]", "\ufffd", text(elements(column, "strip")[0]))


def test_texts_stand_side_by_side_with_what_they_cost(open_view, view):
    page = open_view(live=False)
    assert page.locator(".saekit-text-column").count() == 3
    for key in ("unsteered", "steered"):
        shown = page.locator(f"[data-text={key}]")
        assert shown.locator("[data-effect]").count() == 5
        said = shown_of(view, key)
        assert shown.locator(".saekit-text").inner_text().split("…")[0].strip() == said.strip()
    strip = page.get_by_role("listbox", name="Steered text, token by token", exact=True)
    first = strip.locator("[role=option]").first
    assert "probability" in first.get_attribute("aria-label")
    first.focus()
    page.keyboard.press("End")
    words = page.locator("[data-text=steered] .saekit-pointed").inner_text()
    assert "probability" in words
    assert shown_of(view, "steered").endswith(page.locator(":focus").inner_text())
    assert page.get_by_role("button", name="Run").count() == 0
    assert page.get_by_label("Strength of feature 7", exact=True).is_disabled()
    assert page.locator(".saekit-multiples svg").count() == 4
    assert page.locator(".saekit-sweep-table tbody tr").count() == 4
    marks = 4 * text(view.state()["sweep"]).count("Fluency falls below")
    assert page.locator(".saekit-chart-mark").count() == marks


def test_sliders_boxes_and_modes_ask_for_a_setting(open_view, view):
    page = open_view()
    asked = lambda: page.evaluate("saekit.state._wish.setting")  # noqa: E731
    page.get_by_label("Strength of feature 7", exact=True).fill("3")
    assert asked()["features"][0]["value"] == 3
    box = page.get_by_label("Strength of feature 7, as a number")
    assert box.input_value() == "3"
    box.fill("1e300")
    box.press("Enter")
    assert asked()["features"][0]["value"] == 1e9
    page.get_by_label("Mode of feature 9").select_option("ablate")
    assert not page.get_by_label("Strength of feature 9", exact=True).is_visible()
    page.get_by_label("Positions").select_option("span")
    page.get_by_label("End of the span").fill("5")
    page.get_by_label("End of the span").press("Enter")
    page.get_by_label("Choice of tokens").select_option("sampled")
    page.get_by_label("Seed").fill("12")
    page.get_by_label("Seed").press("Enter")
    page.get_by_label("Length in tokens").fill("20")
    page.get_by_label("Length in tokens").press("Enter")
    page.get_by_label("Prompt").fill("A dog")
    wanted = asked()
    got = [wanted[name] for name in ("positions", "seed", "temperature", "max_new_tokens", "prompt")]
    assert got == [[1, 5], 12, 0.8, 20, "A dog"]
    assert view._checked(wanted)["features"][1]["mode"] == "ablate", "what the browser asks for is a setting"
    assert page.get_by_text("The texts below are of an earlier setting.").is_visible()
    turn = page.evaluate("saekit.state._wish.turn")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="random direction").click()
    page.get_by_role("button", name="Sweep", exact=True).click()
    assert page.evaluate("saekit.state._wish.asked") == {"run": 1, "random direction": 1, "sweep": 1}
    assert page.evaluate("saekit.state._wish.turn") == turn + 3
    # The kernel answers, in its own way: that is what counts then.
    page.evaluate("""() => {
      const { state, model } = saekit;
      model.set("setting", { ...state._wish.setting, prompt: "answered" });
      model.set("_heard", state._wish.turn);
    }""")
    assert page.get_by_label("Prompt").input_value() == "answered"


def test_features_are_added_and_taken_out(open_view, view):
    page = open_view()
    page.get_by_text("Add a feature").click()
    page.get_by_label("Feature number").fill("12")
    page.get_by_label("Feature number").press("Enter")
    assert page.evaluate("saekit.state._peek") == 12
    page.get_by_role("button", name="Steer with feature 12").click()
    features = "saekit.state._wish.setting.features.map((row) => row.feature)"
    assert page.evaluate(features) == [7, 9, 12]
    page.get_by_role("button", name="Steer with feature 12").click()
    assert "Feature 12 is in the list already" in page.locator(".saekit-error").inner_text()
    page.get_by_role("button", name="Take feature 7 out").click()
    assert page.evaluate(features) == [9, 12]
    assert page.evaluate("document.activeElement.closest('.saekit-steering') !== null"), "the focus stays in the view"
    page.get_by_label("Feature number").fill("96")
    page.get_by_label("Feature number").press("Enter")
    assert page.get_by_text("Expected 0 to 95").is_visible()


def test_without_an_index_features_are_added_by_number(open_view, view):
    page = open_view(_facts={**view._facts, "has_index": False})
    page.get_by_label("Feature number").fill("96")
    page.get_by_role("button", name="Add", exact=True).click()
    assert page.get_by_text("Expected 0 to 95").is_visible()
    page.get_by_label("Feature number").fill("95")
    page.get_by_role("button", name="Add", exact=True).click()
    assert page.evaluate("saekit.state._wish.setting.features.at(-1).feature") == 95


def test_a_setting_is_saved_and_loaded_as_a_file(open_view, view, tmp_path):
    page = open_view()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save setting").click()
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert saved == json.loads(view.to_json())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**saved, "seed": 99}), encoding="utf-8")
    page.get_by_label("Setting file").set_input_files(other)
    page.wait_for_function("saekit.state._wish.setting?.seed === 99")
    other.write_text("{", encoding="utf-8")
    page.get_by_label("Setting file").set_input_files(other)
    page.get_by_text("This file is no saved setting").wait_for()


def test_a_strength_of_the_sweep_is_used_at_a_press(open_view):
    page = open_view()
    page.get_by_role("button", name="Use strength 2 ×").click()
    assert page.evaluate("saekit.state._wish.setting.features.map((row) => row.value)") == [2, -1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1200])
def test_accessible_in_both_schemes_and_at_all_widths(page, open_view, shots, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    open_view()
    page.get_by_text("Add a feature").click()
    page.locator(".saekit-written[role=option]").first.click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(path=shots / f"steering_{width}_{scheme}.png", full_page=True)
