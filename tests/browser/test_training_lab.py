"""The training view in a real JupyterLab: press Start, watch the curves grow, press Stop, read the SAE back."""

import nbformat
import pytest

from tests.browser.test_top_activations_lab import IDLE, run_cell

pytestmark = pytest.mark.browser

VIEW = """
import torch
from saekit.views.training import Training
x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
runs = {"TopK": dict(k=8), "L1": dict(architecture="standard", sparsity_coefficient=2.0)}
view = Training(x, runs, d_sae=128, batch_size=512, epochs=2000, report_every=5)
view
"""
ASK = "print('the kernel answers:', view.busy, view.value)"
RESULT = """
sae, last = view.saes["TopK"], view.history["TopK"][-1]
print("kept:", type(sae).__name__, tuple(sae.encode(x).shape), 0 < last.step < last.steps, "L1" in view.saes)
"""
SHORT = """
small = Training(x, {"A": dict(k=8), "B": dict(k=16)}, d_sae=128, batch_size=512, epochs=5, autostart=True)
small.wait(None)
small
"""
POINTS = """() => document.querySelector('.saekit-panels path.saekit-line')?.getAttribute('d').split('L').length ?? 0"""


def open_notebook(lab, page, name, cells):
    """Open a notebook with these cells and a kernel that is ready; run none."""
    url, root = lab
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / name)
    page.goto(f"{url}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.wait_for_function(IDLE)


def test_start_watch_stop_and_read_back(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1000})
    open_notebook(lab, page, "training.ipynb", (VIEW, ASK, RESULT))
    run_cell(page, 0)
    view = page.locator(".saekit-training")
    view.get_by_text("2 runs to train").wait_for()
    view.get_by_role("button", name="Start").click()
    page.wait_for_function(f"({POINTS})() > 5")
    few = page.evaluate(POINTS)
    page.wait_for_function(f"({POINTS})() > {few} + 5")
    assert "samples/s" in view.locator(".saekit-pace-words").inner_text()

    run_cell(page, 1)
    page.get_by_text("the kernel answers: True TopK").wait_for()
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "training_lab_under_way.png")

    view.get_by_label("Run whose densities are shown").select_option("L1")
    cells = page.locator(".jp-CodeCell").count()
    view.get_by_role("button", name="Stop").focus()
    for key in ["b", "a", "d", "d", "x"]:
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == cells, "a key leaked into JupyterLab's command mode"
    page.keyboard.press("Enter")
    view.get_by_role("button", name="Start the other run").wait_for()
    assert view.get_by_text("1 stopped, its result kept · 1 not trained").is_visible()
    run_cell(page, 2)
    page.get_by_text("kept: TopKSAE (4096, 128) True False").wait_for()
    run_cell(page, 1)
    page.get_by_text("the kernel answers: False L1").wait_for()

    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "training_lab_dark.png")
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.wait_for_selector("body[data-jp-theme-light=true]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
    assert page.foreign == []


def test_a_finished_view_and_its_second_picture_stay_in_step(lab, page, shots):
    open_notebook(lab, page, "finished.ipynb", (VIEW, SHORT, "small"))
    for number in range(3):
        run_cell(page, number)
    page.wait_for_function("document.querySelectorAll('.saekit-training').length === 3")
    first, second = (page.locator(".saekit-training").nth(i) for i in (1, 2))
    first.get_by_text("2 done").wait_for()
    first.get_by_role("button", name="B").click()
    second.locator("button[aria-pressed=false]").wait_for()
    assert second.locator(".saekit-panels g:not([hidden]) > path.saekit-line").count() == 4
    page.screenshot(path=shots / "training_lab_finished.png")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
