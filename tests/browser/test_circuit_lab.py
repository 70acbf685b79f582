"""The circuit view in a real JupyterLab: move the threshold, read faithfulness and the selected node back in Python."""

import pytest

from tests.browser.test_top_activations_lab import run_cell
from tests.browser.test_training_lab import open_notebook

pytestmark = pytest.mark.browser

VIEW = """
import pathlib, tempfile
from saekit.models import load_model
from saekit.views.circuit import Circuit
from tests import tiny
from tests.views.circuit_parts import fake_index, random_saes, shown_nodes, small_task
model = load_model(str(tiny.write_model(pathlib.Path(tempfile.mkdtemp()) / "tiny")))
model.cfg.model_name = "tiny"
saes = random_saes()
view = Circuit(model, saes, small_task(model), index=fake_index(saes[1]), k=10)
view
"""
ASK = """
view.wait()
strongest = tuple(shown_nodes(view)[0]["node"])
print("read back:", view.size, view.faithfulness is not None, view.value == strongest)
print(f"measured: {view.faithfulness:.2f}".replace("-", "−"))
"""


def test_threshold_and_selection_are_read_back(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1000})
    open_notebook(lab, page, "circuit.ipynb", (VIEW, ASK))
    run_cell(page, 0)
    view = page.locator(".saekit-circuit")
    view.locator(".saekit-node").first.wait_for()
    view.get_by_label("Features kept").fill("4")
    page.wait_for_function(
        "document.querySelector('.saekit-shares dd').textContent !== '…'"
        " && document.querySelectorAll('.saekit-node:not(:has(.saekit-missed))').length === 4",
    )
    shown = view.locator(".saekit-shares dd").first.inner_text()
    cells = page.locator(".jp-CodeCell").count()
    node = view.locator(".saekit-node[data-node='0']")
    node.focus()
    assert "Top contexts" in view.get_by_role("region", name="Node", exact=True).inner_text()
    for key in ["b", "a", "d", "d", "x"]:
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == cells, "a key leaked into JupyterLab's command mode"
    page.keyboard.press("Enter")
    run_cell(page, 1)
    page.get_by_text("read back: 4 True True").wait_for()
    page.get_by_text(f"measured: {shown}").wait_for()
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "circuit_lab.png")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
    assert page.foreign == []
