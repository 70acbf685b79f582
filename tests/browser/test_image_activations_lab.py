"""The image view in a real JupyterLab: change the feature, choose an image, read both back in Python."""

import pytest

from tests.browser.test_top_activations_lab import open_notebook, run_cell

pytestmark = pytest.mark.browser

VIEW = """
from saekit.views.image_activations import ImageActivations
from tests.planted_images import planted_features, planted_images
view = ImageActivations(planted_features(planted_images()), feature=0)
view
"""
ASK = "print('read back:', view.value, view.image, view.order)"
SHOWN = "(words) => document.querySelector('.saekit-title h2').textContent === `Feature ${words}`"


def test_feature_and_image_are_read_back_in_python(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1100})
    open_notebook(lab, page, "images.ipynb", (VIEW, ASK))
    view = page.locator(".saekit-images")

    tops = view.locator(".saekit-facts > div").evaluate_all("(all) => all.map((n) => n.getBoundingClientRect().top)")
    assert len(set(tops)) == 1, "JupyterLab's own style for definition lists breaks the line of facts"

    field = view.get_by_label("Feature number")
    field.fill("5")
    field.press("Enter")
    page.wait_for_function(SHOWN, arg="5")
    third = view.get_by_role("listbox", name="Images").get_by_role("option").nth(2)
    chosen = third.get_attribute("aria-label").split(",")[0].removeprefix("Image ")
    third.click()
    view.get_by_role("heading", name=f"Image {chosen}", exact=True).wait_for()

    cells = page.locator(".jp-CodeCell").count()
    for key in ["b", "a", "d", "d", "x"]:
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == cells, "a key leaked into JupyterLab's command mode"

    run_cell(page, 1)
    page.get_by_text(f"read back: 5 {chosen} number").wait_for()

    view.get_by_label("Walk by").select_option("density")
    page.wait_for_function("document.querySelector('.saekit-where').textContent.startsWith('2 of 5')")
    view.get_by_role("button", name="Previous feature").click()
    page.wait_for_function(SHOWN, arg="2")
    run_cell(page, 1)
    page.get_by_text("read back: 2").wait_for()
    page.get_by_text("density").last.wait_for()
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "images_lab_light.png")

    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "images_lab_dark.png")
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.wait_for_selector("body[data-jp-theme-light=true]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
    assert page.foreign == []
