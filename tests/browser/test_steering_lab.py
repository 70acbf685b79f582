"""The steering view in a real JupyterLab: type a prompt, move a slider, run, stop, run again, read the setting back."""

import pytest

from tests.browser.test_top_activations_lab import run_cell
from tests.browser.test_training_lab import open_notebook

pytestmark = pytest.mark.browser

VIEW = """
import pathlib, tempfile, time
from saekit.models import CachedReader, load_model
from tests import tiny
from tests.views.steering_parts import hooks_on, small_sae, small_view
model = load_model(str(tiny.write_model(pathlib.Path(tempfile.mkdtemp()) / "tiny")))
model.cfg.model_name = "tiny"
read = CachedReader._pass  # a tenth of a second a token: 200 would else be written before anybody can press Stop
CachedReader._pass = lambda reader, ids: (time.sleep(0.1), read(reader, ids))[1]
view = small_view(model, small_sae(), max_new_tokens=200)
view
"""
ASK = """
view.wait(300)
row = view.setting["features"][0]
print("read back:", view.setting["prompt"], row["feature"], row["value"], view.setting["max_new_tokens"])
print("texts:", len(view.texts), view.value == view.texts["steered"], view.value != view.texts["unsteered"])
print("hooks:", hooks_on(model, view._writer.model), f"kl {view.effects['steered'].kl:.6f}")
"""
FREE = "print('the kernel answers:', view.busy)"


def test_a_prompt_a_slider_run_stop_run_and_the_setting_read_back(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1000})
    open_notebook(lab, page, "steering.ipynb", (VIEW, FREE, ASK))
    run_cell(page, 0)
    view = page.locator(".saekit-steering")
    prompt = view.get_by_label("Prompt")
    prompt.wait_for()
    cells = page.locator(".jp-CodeCell").count()
    prompt.click()
    prompt.fill("")
    page.keyboard.type("The dog bad dabb")
    assert page.locator(".jp-CodeCell").count() == cells, "a key leaked into JupyterLab's command mode"
    view.get_by_label("Strength of feature 7", exact=True).fill("4.5")

    steered = view.locator("[data-text=steered] .saekit-text")
    view.get_by_role("button", name="Run").click()
    page.wait_for_function("document.querySelector('[data-text=steered] .saekit-text')?.textContent.length > 20")
    run_cell(page, 1)
    page.get_by_text("the kernel answers: True").wait_for()
    view.get_by_role("button", name="Stop").click()
    view.get_by_text("… (stopped)").first.wait_for()
    page.wait_for_function("document.querySelector('.saekit-steering').ariaBusy === 'false'")
    stopped = steered.inner_text()
    assert len(stopped) > 20

    length = view.get_by_label("Length in tokens")
    length.fill("12")
    length.press("Enter")
    view.get_by_role("button", name="Run").click()
    for key in ("unsteered", "steered"):
        view.locator(f"[data-text={key}] [data-effect=kl]").filter(has_not_text="…").wait_for()
    page.wait_for_function("document.querySelector('.saekit-steering').ariaBusy === 'false'")
    assert steered.inner_text() != view.locator("[data-text=unsteered] .saekit-text").inner_text()
    assert (
        view.get_by_role("listbox", name="Steered text, token by token", exact=True).get_by_role("option").count() > 5
    )

    run_cell(page, 2)
    page.get_by_text("read back: The dog bad dabb 7 4.5 12").wait_for()
    page.get_by_text("texts: 2 True True").wait_for()
    page.get_by_text("hooks: 0 kl").wait_for()
    view.scroll_into_view_if_needed()
    page.screenshot(path=shots / "steering_lab.png")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
    assert page.foreign == []
