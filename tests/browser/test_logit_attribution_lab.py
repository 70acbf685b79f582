"""The logit attribution view in a real JupyterLab: edit, recompute, ablate, follow the link, read back in Python."""

import pytest

from tests.browser.test_top_activations_lab import run_cell
from tests.browser.test_training_lab import open_notebook

pytestmark = pytest.mark.browser

VIEW = """
import pathlib, tempfile
from saekit.models import load_model
from saekit.views.top_activations import TopActivations
from tests import tiny
from tests.views.attribution_parts import small_view
model = load_model(str(tiny.write_model(pathlib.Path(tempfile.mkdtemp()) / "tiny")))
model.cfg.model_name = "tiny"
view = small_view(model)
top = TopActivations(view._indexes["blocks.1.hook_resid_post"], feature=50)
view.link(top)
view
"""
TOP = "top"
ASK = """
view.wait()
import json
numbers = json.loads(view.to_json())
strongest = next(row for row in numbers["bars"] if row["kind"] == "feature")
feature, last = strongest["feature"], len(numbers["tokens"]) - 1
print("read back:", view.prompt, view.value == ("blocks.1.hook_resid_post", last, feature), top.value == feature)
patched = view.predictions.n_patched, view.control.n_patched
print("ablated:", view.ablated == [feature], *patched, view.attribution.complete)
print("untouched:", not any(point._forward_hooks for point in model.hook_dict.values()))
"""
BROKEN = """
view.answer = "cat"
view.wait()
print("wrong:", view._wrong, view.attribution.towards)
"""
SAYS = "document.querySelector('.saekit-says tbody').innerText"


def test_edit_ablate_follow_the_link_and_read_back(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1100})
    open_notebook(lab, page, "attribution.ipynb", (VIEW, TOP, ASK, BROKEN))
    run_cell(page, 0)
    view = page.locator(".saekit-attribution")
    view.locator(".saekit-item").first.wait_for()
    run_cell(page, 1)
    page.locator(".saekit-top .saekit-title").wait_for()

    says = page.evaluate(SAYS)
    box = view.get_by_label("prompt", exact=True)
    box.click()
    page.keyboard.press("Control+End")
    page.keyboard.type(" and the dog")
    page.wait_for_function(
        "document.querySelectorAll('.saekit-grid-picture thead .saekit-last')[0]?.title.includes('dog')"
        f" && {SAYS} !== {says!r} && document.querySelector('.saekit-attribution').ariaBusy === 'false'",
    )

    cells = page.locator(".jp-CodeCell").count()
    item = view.locator("tr[data-kind=feature] .saekit-item").first
    feature = item.locator("xpath=ancestor::tr").get_attribute("data-feature")
    item.focus()
    for key in ["b", "a", "d", "d", "x"]:
        page.keyboard.press(key)
    assert page.locator(".jp-CodeCell").count() == cells, "a key leaked into JupyterLab's command mode"
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(feature) => document.querySelector('.saekit-top .saekit-title h2').textContent.endsWith(' ' + feature)",
        arg=feature,
    )
    assert f"Feature {feature}" in view.get_by_role("region", name="Selected item").inner_text()

    assert view.locator(".saekit-share-ablated").count() == 0
    view.get_by_label(f"Ablate feature {feature} at every token").first.check()
    view.get_by_text("1 feature ablated at every token, error kept").wait_for()
    shares = view.locator(".saekit-says tbody tr").first.locator("td").all_inner_texts()
    assert len(shares) == 3, "as it is, ablated, a random feature ablated"
    page.screenshot(path=shots / "attribution_lab.png")

    run_cell(page, 2)
    page.get_by_text("read back: The cat sat on the mat and the dog True True").wait_for()
    page.get_by_text("ablated: True 1 1 True").wait_for()
    page.get_by_text("untouched: True").wait_for()

    run_cell(page, 3)
    page.get_by_text("wrong: answer (\"'c' - 'd'\",)").wait_for()
    assert "2 tokens for this tokenizer ('c', 'at')" in view.get_by_role("alert").filter(has_text="tokens").inner_text()
    assert view.get_by_label("answer", exact=True).get_attribute("aria-invalid") == "true"
    assert view.get_by_text("answers the last question that could be read").is_visible()
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
    assert page.foreign == []


def test_a_slow_method_is_computed_when_chosen_and_after_an_edit_when_asked(lab, page, shots):
    page.set_viewport_size({"width": 1400, "height": 1100})
    open_notebook(lab, page, "slow_attribution.ipynb", (VIEW,))
    run_cell(page, 0)
    view = page.locator(".saekit-attribution")
    view.locator(".saekit-item").first.wait_for()
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    view.get_by_label("Method", exact=True).select_option("exact")
    view.get_by_text("measured one by one").wait_for()
    view.get_by_label("Compared with").select_option("corrupted")
    wrong = view.get_by_role("alert").filter(has_text="there is no prompt to compare with")
    wrong.wait_for()
    view.get_by_label("prompt to compare with").fill("The dog sat on the mat")
    view.get_by_text("exact patching takes seconds and waits for Compute").wait_for()
    view.get_by_role("button", name="Compute").click()
    view.get_by_text("against “The dog sat on the mat”").wait_for()
    view.get_by_role("button", name="Up to date").wait_for()
    assert wrong.count() == 0
    page.screenshot(path=shots / "attribution_lab_dark.png")
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.wait_for_selector("body[data-jp-theme-light=true]", state="attached")
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    assert page.errors == []
