"""The start notebook as a student meets it: opened in JupyterLab, run, clicked, and read back, on the real model."""

from pathlib import Path

import nbformat
import pytest

from tests.browser.test_top_activations_lab import IDLE, TIMED_CLICK, run_cell

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]


def test_a_student_runs_the_start_notebook_and_explores_features(lab, page, shots):
    url, root = lab
    notebook = nbformat.read(ROOT / "notebooks/00_start_here.ipynb", as_version=4)
    # The student's own cell, at the end: what did I click?
    notebook.cells.append(nbformat.v4.new_code_cell("print('I chose feature', view.value)"))
    last = sum(cell.cell_type == "code" for cell in notebook.cells) - 1
    nbformat.write(notebook, root / "start.ipynb")
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.goto(f"{url}/lab/tree/start.ipynb?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.wait_for_function(IDLE)
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    title = page.locator(".saekit-view h2").first
    title.wait_for()
    page.wait_for_function(IDLE)
    first = title.inner_text()

    view = page.locator(".saekit-view").first
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "start_light.png")
    view.get_by_label("Next feature").click()
    page.wait_for_function(f"document.querySelector('.saekit-view h2').innerText !== {first!r}")
    times = sorted(page.evaluate(TIMED_CLICK))
    print(f"feature change on screen: median {times[len(times) // 2]:.0f} ms, worst {times[-1]:.0f} ms")

    # Your own sentence, computed by the model.
    box = view.locator("textarea")
    box.fill("Last year they talked a lot about London")
    view.get_by_role("option", name="London").last.wait_for()

    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.screenshot(path=shots / "start_dark.png")

    shown = "".join(c for c in title.inner_text() if c.isdigit())
    run_cell(page, last)
    page.get_by_text(f"I chose feature {shown}").wait_for()
    assert page.errors == []
    assert page.foreign == [], "a notebook in a lecture hall has no network"
