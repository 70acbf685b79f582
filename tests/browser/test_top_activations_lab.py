"""The top-activations view in a real JupyterLab with a live kernel: clicks, keys, themes, speed."""

import nbformat
import pytest

pytestmark = pytest.mark.browser

VIEW = """
from tests.views.fake_index import FakeIndex
import saekit.views.top_activations as views
views.work.check_index_pair = lambda *pair: None  # the fake needs no model
view = views.TopActivations(FakeIndex(), feature=12, model="model", sae="sae")
view
"""
CELLS = (VIEW, "print('value is', view.value, 'and token is', view.token)")
LINKED = """
from tests.views.fake_index import FakeIndex
import ipywidgets
from saekit.views.top_activations import TopActivations
view, other = TopActivations(FakeIndex(), feature=12), TopActivations(FakeIndex(), feature=5)
link = ipywidgets.link((view, "value"), (other, "value"))
view
"""
SLOW = """
import time
read = view._index.read_prompt
view._index.read_prompt = lambda *args: (time.sleep(6), read(*args))[1]
"""
IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"

# Time from setting the feature until two frames have been drawn with it: what a person waits for.
TIMED_CLICK = """async () => {
  const shown = () => document.querySelector(".saekit-title h2").textContent;
  const times = [];
  for (let i = 0; i < 15; i++) {
    const before = shown(), start = performance.now();
    document.querySelector("[aria-label='Next feature']").click();
    while (shown() === before) await new Promise((done) => requestAnimationFrame(done));
    await new Promise((done) => requestAnimationFrame(done));
    times.push(performance.now() - start);
    await new Promise((done) => setTimeout(done, 60));
  }
  return times;
}"""


def open_notebook(lab, page, name, cells):
    url, root = lab
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
    notebook.metadata.kernelspec = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, root / name)
    page.goto(f"{url}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.wait_for_function(IDLE)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    page.locator(".saekit-view h2").first.wait_for()


def run_cell(page, number):
    page.locator(".jp-CodeCell").nth(number).locator(".jp-InputArea-editor").click()
    page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")


def test_the_view_answers_in_jupyterlab(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1000})
    open_notebook(lab, page, "view.ipynb", CELLS)
    view = page.locator(".saekit-view")

    tops = view.locator(".saekit-facts > div").evaluate_all("(all) => all.map((n) => n.getBoundingClientRect().top)")
    assert len(set(tops)) == 1, "JupyterLab's own style for definition lists breaks the line of facts"

    token = view.get_by_role("listbox").nth(2).get_by_role("option").nth(9)
    token.click()
    assert token.get_attribute("aria-selected") == "true"
    assert "activation" in view.locator(".saekit-sticky").inner_text()

    box = view.get_by_label("Your own text", exact=True).and_(page.locator("textarea"))
    box.click()
    page.keyboard.type("rain on Monday")
    option = view.get_by_role("listbox", name="Your own text, feature 12").get_by_role("option", name="Monday")
    option.wait_for()
    page.wait_for_function("document.querySelector('.saekit-own').ariaBusy === 'false'")
    option.click()
    view.locator(".saekit-at-token .saekit-feature").first.wait_for()
    page.screenshot(path=shots / "lab_1400_light.png")

    field = view.get_by_label("Feature number")
    field.fill("17")
    field.press("Enter")
    page.wait_for_function("document.querySelector('.saekit-title h2').textContent.endsWith('17')")
    run_cell(page, 1)
    page.get_by_text("value is 17 and token is 3").wait_for()

    view.get_by_label("Search features").fill("Monday")
    view.get_by_role("button", name="Find").click()
    view.get_by_text('8 features for "Monday" in tokens').wait_for()
    page.screenshot(path=shots / "lab_search.png")
    view.get_by_role("button", name="Feature 9, score 0.167").click()
    page.wait_for_function("document.querySelector('.saekit-title h2').textContent.endsWith(' 9')")
    view.get_by_role("button", name="Close").click()
    view.locator(".saekit-hit").first.wait_for(state="detached")

    times = sorted(page.evaluate(TIMED_CLICK))
    print(f"feature change on screen in JupyterLab: median {times[len(times) // 2]:.0f} ms, worst {times[-1]:.0f} ms")

    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    view.get_by_role("listbox").nth(1).scroll_into_view_if_needed()
    page.screenshot(path=shots / "lab_1400_dark.png")
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.wait_for_selector("body[data-jp-theme-light=true]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
    assert page.foreign == []


def test_keys_stay_in_the_view(lab, page):
    open_notebook(lab, page, "keys.ipynb", CELLS)
    view = page.locator(".saekit-view")
    view.get_by_role("listbox").nth(0).get_by_role("option").nth(2).click()
    cells = page.locator(".jp-CodeCell").count()
    for key in ["ArrowRight", "ArrowDown", "ArrowUp", "b", "a", "d", "d", "x", "Enter"]:
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == cells
    # A change of feature redraws what had the focus: the keys after it must still be the view's.
    feature = view.locator("h2").inner_text()
    page.keyboard.press("n")
    page.wait_for_function("(before) => document.querySelector('.saekit-title h2').innerText !== before", arg=feature)
    for key in ["b", "d", "d", "x"]:
        page.keyboard.press(key)
    view.locator(".saekit-feature").first.click()
    page.wait_for_timeout(300)
    for key in ["b", "d", "d", "x"]:
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == cells, "a key leaked into JupyterLab's command mode"
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []


def test_stop_ends_slow_work(lab, page):
    open_notebook(lab, page, "slow.ipynb", (VIEW, SLOW))
    view = page.locator(".saekit-view")
    view.get_by_placeholder("Type or paste").fill("rain")
    stop = view.get_by_role("button", name="Stop")
    stop.wait_for()
    stop.click()
    stop.wait_for(state="hidden")
    assert view.locator(".saekit-prompt-result [role=option]").count() == 0
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []


def test_two_views_of_one_widget_and_linked_widgets_stay_in_step(lab, page):
    open_notebook(lab, page, "linked.ipynb", (LINKED, "view", "other"))
    page.wait_for_function("document.querySelectorAll('.saekit-view').length === 3")
    page.locator(".saekit-view").first.get_by_role("button", name="Next feature").click()
    page.wait_for_function(
        "[...document.querySelectorAll('.saekit-title h2')].every((h) => h.textContent.endsWith(' 13'))",
    )
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
