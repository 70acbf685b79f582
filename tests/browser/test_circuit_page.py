"""The circuit view in a bare page: slider, keys, card, exports, roles, hostile contexts. No Jupyter."""

import json
from pathlib import Path

import pytest

from saekit.views.circuit import Circuit
from tests.views.circuit_parts import HIGH, fake_index, random_saes, shown_nodes, small_task

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def view(model):
    saes = random_saes()
    made = Circuit(model, saes, small_task(model), index=fake_index(saes[1]), k=10)
    made.measure_curve((0, 3, 10))
    assert made.wait(300)
    return made


def test_the_threshold_moves_nodes_and_faithfulness(open_view, view):
    page = open_view
    nodes = page.get_by_role("option", name="feature ")
    assert nodes.count() == 10
    assert page.locator(".saekit-shares dd").first.inner_text() == f"{view.faithfulness:.2f}".replace("-", "−")
    page.get_by_label("Features kept").fill("3")
    assert page.evaluate("saekit.state.size") == 3
    assert nodes.count() == 3
    expected = view.measured["kept", 3][0]
    assert page.locator(".saekit-shares dd").first.inner_text() == f"{expected:.2f}".replace("-", "−")
    assert page.get_by_role("option", name="reconstruction error").count() == 4
    page.get_by_label("reconstruction errors").select_option("ablated")
    assert page.get_by_role("option", name="reconstruction error").count() == 0
    assert page.get_by_text("This size was not measured").is_visible()


def test_keys_reach_every_layer_and_show_contexts_as_text(open_view, view):
    page = open_view
    node = page.locator(".saekit-node[tabindex='0']")
    assert node.count() == 1, "one tab stop"
    node.focus()
    page.keyboard.press("ArrowDown")
    low = page.locator(":focus").get_attribute("aria-label")
    assert "blocks.0.hook_resid_post" in low
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    page.locator(".saekit-node[data-node='0']").focus()
    card = page.get_by_role("region", name="Node", exact=True)
    first = shown_nodes(view)[0]["node"]
    assert f"Feature {first[2]}" in card.inner_text()
    page.keyboard.press("Enter")
    assert page.evaluate("saekit.state.value") == first
    assert page.locator("[aria-selected=true]").get_attribute("data-node") == "0"
    nodes = [row["node"] for row in shown_nodes(view)[:10]]
    indexed = [i for i, (hook, _, feature) in enumerate(nodes) if hook == HIGH and feature not in (3, -1)]
    page.locator(f".saekit-node[data-node='{indexed[0]}']").hover()
    assert card.locator(".saekit-contexts li").count() == 4
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_what_is_saved_is_what_python_writes(open_view, view):
    page = open_view
    with page.expect_download() as download:
        page.get_by_role("button", name="Save JSON").click()
    assert json.loads(Path(download.value.path()).read_text(encoding="utf-8")) == json.loads(view.to_json())
    with page.expect_download() as download:
        page.get_by_role("button", name="Save SVG").click()
    picture = Path(download.value.path()).read_text(encoding="utf-8")
    assert picture.startswith("<svg")
    assert "var(" not in picture
    assert picture.count("<title>") >= 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1200])
def test_accessible_in_both_schemes_and_at_all_widths(page, open_view, shots, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.locator(".saekit-node").first.click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(path=shots / f"circuit_{width}_{scheme}.png", full_page=True)
