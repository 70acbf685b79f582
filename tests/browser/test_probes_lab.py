"""The probes view in a real JupyterLab: choose a cell, type a text, read the verdict and the class back in Python."""

import pytest

from tests.browser.test_top_activations_lab import run_cell
from tests.browser.test_training_lab import open_notebook

pytestmark = pytest.mark.browser

VIEW = """
import pathlib, tempfile
from saekit.models import load_model
from saekit.views.probes import Probes
from tests import tiny
from tests.views.probes_parts import OPTIONS, extraction, fake_index, random_sae
model = load_model(str(tiny.write_model(pathlib.Path(tempfile.mkdtemp()) / "tiny")))
model.cfg.model_name = "tiny"
features = extraction(model)
view = Probes(features, model=model, sae={"s": random_sae()}, index=fake_index(), autostart=False, **OPTIONS)
view
"""
ASK = """
view.wait()
print("read back:", view.value == view.grid.cells[2].name, view.text)
print("class:", view.classified.label, "| verdict:", view.verdict)
print("feature:", view.feature)
"""


def test_a_cell_a_text_and_the_verdict_are_read_back(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1000})
    open_notebook(lab, page, "probes.ipynb", (VIEW, ASK))
    run_cell(page, 0)
    view = page.locator(".saekit-probes")
    view.get_by_role("button", name="Compute the grid").click()
    cell = view.locator(".saekit-heat[data-key='2']")
    cell.wait_for()
    view.locator(".saekit-progress").wait_for(state="hidden")
    cells = page.locator(".jp-CodeCell").count()
    cell.focus()
    for key in ["b", "a", "d", "d", "x"]:
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == cells, "a key leaked into JupyterLab's command mode"
    page.keyboard.press("Enter")
    box = view.get_by_role("textbox", name="Your own text")
    box.fill("the dog sat")
    box.press_sequentially(" on it")
    shown = ".saekit-outcome :not([hidden]) > div > [role=option]"  # of the class that is shaded
    page.wait_for_function(
        f"[...document.querySelectorAll('{shown}')].map((t) => t.textContent).join('') === 'the·dog·sat·on·it'",
    )
    said = view.locator(".saekit-class").inner_text()
    button = view.get_by_role("region", name="Weights").locator("button:visible").first
    button.click()
    feature = button.get_attribute("data-feature")
    verdict = view.locator(".saekit-verdict").inner_text()
    run_cell(page, 1)
    page.get_by_text("read back: True the dog sat on it").wait_for()
    page.get_by_text(f"feature: {feature}").wait_for()
    told = page.get_by_text("| verdict:").last.inner_text()
    label = told.split("class: ")[1].split(" | ")[0]
    assert said.startswith(f"{label}, ")
    assert ("None" in told) == verdict.startswith("No verdict")
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "probes_lab.png")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
    assert page.foreign == []
