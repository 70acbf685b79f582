"""The training view in a bare page: curves, legend, densities, roles, contrast, hostile names. No Jupyter."""

import re
from itertools import pairwise

import pytest

from saekit.views import training as views
from saekit.views.training import Training
from tests.views.fake_index import NASTY
from tests.views.fake_trainer import FakeTrainer

pytestmark = pytest.mark.browser

RUNS = {
    "TopK": {"k": 8},
    "L1": {"architecture": "standard", "sparsity_coefficient": 2.0},
    "Matryoshka BatchTopK": {"k": 16},
}


@pytest.fixture
def open_view(page, tmp_path):
    """Open a finished view's page and return it; checks at the end that no script failed and nothing was requested."""

    def opened(runs=RUNS, *, finish=True, with_kernel=False, **options):
        view = Training(None, runs, train=FakeTrainer(), d_sae=64, **options)
        if finish:
            view.start()
            assert view.wait(300)
        text = view.to_html()
        if with_kernel:
            text = text.replace('"_has_kernel":false', '"_has_kernel":true')
        file = tmp_path / "view.html"
        file.write_text(text, encoding="utf-8")
        page.goto(file.as_uri())
        page.wait_for_function("window.saekit?.ready")
        return page

    yield opened
    assert page.errors == []
    assert page.foreign == []


def change(page, name, value):
    """Change a trait as the kernel would."""
    page.evaluate("([name, value]) => saekit.model.set(name, value)", [name, value])


def test_every_run_is_drawn_in_every_panel(open_view):
    page = open_view()
    panels = page.locator(".saekit-panels svg")
    assert panels.count() == 4
    for i in range(4):
        lines = panels.nth(i).locator("path.saekit-line")
        assert lines.count() == 3
        looks = lines.evaluate_all(
            "(all) => all.map((n) => getComputedStyle(n).stroke + getComputedStyle(n).strokeDasharray)"
        )
        assert len(set(looks)) == 3
        for path in lines.evaluate_all("(all) => all.map((n) => n.getAttribute('d'))"):
            assert path.count("L") == 39
            assert "NaN" not in path
    labels = page.locator(".saekit-label > title").all_text_contents()
    assert labels.count("Matryoshka BatchTopK") == 4, "a name that is cut short is whole in its tooltip"


def test_a_curve_is_where_its_numbers_say(open_view):
    page = open_view({"TopK": {"k": 8}})
    panel = page.locator(".saekit-panels svg").nth(3)  # dead share: a straight line from 0.5 % to 20 %
    points = panel.locator("path.saekit-line").get_attribute("d").lstrip("M").split("L")
    heights = [float(point.split()[1]) for point in points]
    rules = panel.locator(".saekit-rule").evaluate_all("(all) => all.map((n) => n.getAttribute('d'))")
    ticks = [float(rule.split()[1].split("H")[0]) for rule in rules]
    names = panel.locator("text[text-anchor=end]").all_text_contents()
    zero, twenty = ticks[names.index("0 %")], ticks[names.index("20 %")]
    assert heights[-1] == pytest.approx(twenty, abs=0.1)
    assert heights[0] == pytest.approx(zero + (twenty - zero) / 40, abs=0.1)


def test_labels_do_not_cover_each_other_or_leave_the_panel(open_view):
    page = open_view({f"run {i}": {"k": 8} for i in range(6)})
    for i in range(4):
        panel = page.locator(".saekit-panels svg").nth(i)
        boxes = panel.locator(".saekit-label").evaluate_all(
            "(all) => all.map((n) => n.getBoundingClientRect()).map((b) => [b.top, b.bottom, b.right])"
        )
        right = panel.evaluate("(n) => n.getBoundingClientRect().right")
        boxes.sort()
        assert all(box[2] <= right + 1 for box in boxes)
        assert all(below[0] >= above[1] - 5 for above, below in pairwise(boxes))


def test_a_legend_button_switches_a_run_off_and_on(open_view):
    page = open_view()
    button = page.get_by_role("group", name="Runs").get_by_role("button", name="L1")
    assert button.get_attribute("aria-pressed") == "true"
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate("saekit.state.hidden") == ["L1"]
    assert page.locator(".saekit-panels g:not([hidden]) > path.saekit-line").count() == 8
    assert page.get_by_role("row", name="L1").count() == 1, "its values stay in the table"
    assert button.evaluate("(node) => node === document.activeElement")
    page.keyboard.press(" ")
    assert page.evaluate("saekit.state.hidden") == []
    assert page.locator(".saekit-panels path.saekit-line").count() == 12


def test_the_chosen_run_is_the_value_and_its_densities_are_shown(open_view):
    page = open_view()
    assert page.get_by_role("img", name="TopK: 8 of 64 features fired on none").count() == 1
    page.get_by_label("Run whose densities are shown").select_option("L1")
    assert page.evaluate("saekit.state.value") == "L1"
    assert page.get_by_role("img", name="L1: 8 of 64 features fired on none").count() == 1
    change(page, "value", "TopK")
    assert page.get_by_label("Run whose densities are shown").input_value() == "TopK"


def test_start_and_stop_are_one_button_that_says_what_it_does(open_view):
    page = open_view(finish=False, with_kernel=True)
    page.get_by_role("button", name="Start").click()
    assert page.evaluate("saekit.state._starts") == 1
    trainer = FakeTrainer(gated=True)
    view = Training(None, RUNS, train=trainer, d_sae=64, autostart=True)
    change(page, "_progress", view._progress)
    page.get_by_role("button", name="Stop").click()
    assert (page.evaluate("saekit.state._starts"), page.evaluate("saekit.state._stops")) == (1, 1)
    view.stop()
    change(page, "_progress", view._progress)
    stopping = page.get_by_role("button", name="Stopping …")
    assert stopping.get_attribute("aria-disabled") == "true"
    stopping.click(force=True)
    assert (page.evaluate("saekit.state._starts"), page.evaluate("saekit.state._stops")) == (1, 1)
    assert stopping.evaluate("(node) => node === document.activeElement"), "the keys must stay in the view"
    trainer.allow()
    assert view.wait(300)


def test_a_page_without_a_kernel_has_no_button_that_does_nothing(open_view):
    page = open_view(finish=False)
    assert page.get_by_role("button", name="Start").count() == 0
    assert page.get_by_text("3 runs to train").is_visible()


def test_curves_grow_with_the_news_of_the_run_under_way(open_view, shots, monkeypatch):
    page = open_view(with_kernel=True)
    monkeypatch.setattr(views, "EVERY_SECONDS", 0)
    view = Training(None, RUNS, train=FakeTrainer(), d_sae=64)
    sent = []
    view.observe(lambda _: sent.append(view.get_state(["_panels", "_progress", "_densities", "busy"])), "_progress")
    view.start()
    assert view.wait(300)
    words = "run 3 of 3: Matryoshka BatchTopK · 5,120 of 10,240 samples · "
    half = next(state for state in sent if state["_progress"]["words"].startswith(words))
    for name, value in half.items():
        change(page, name, value)
    assert re.fullmatch(r".* · [\d,]+ samples/s · \d s left", page.get_by_text(words).inner_text())
    paths = page.locator(".saekit-panels svg").first.locator("path.saekit-line")
    assert [d.count("L") for d in paths.evaluate_all("(all) => all.map((n) => n.getAttribute('d'))")] == [39, 39, 19]
    assert page.get_by_role("progressbar").get_attribute("aria-valuenow") == "83"
    page.screenshot(path=shots / "training_under_way.png", full_page=True)


def test_hostile_names_and_errors_are_text(open_view):
    page = open_view({NASTY[0]: {"k": 8}, "bad": {"k": 0}})
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.get_by_role("alert").inner_text() == "bad: k must be between 1 and 63, not 0"
    change(page, "error", NASTY[0])
    assert page.get_by_role("alert").inner_text() == NASTY[0].strip()
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 700, 1200])
def test_accessible_in_both_schemes_and_at_all_widths(open_view, page, shots, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    open_view({**RUNS, "bad": {"k": 0}}, with_kernel=True)
    page.get_by_role("group", name="Runs").get_by_role("button", name="L1").click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found] == []
    page.get_by_role("group", name="Runs").get_by_role("button", name="L1").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(path=shots / f"training_{width}_{scheme}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_line_colours_stand_out_from_the_ground(open_view, page, scheme):
    page.emulate_media(color_scheme=scheme)
    open_view({f"run {i}": {"k": 8} for i in range(6)})
    ratios = page.evaluate("""() => {
      const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const linear = (c) => (c <= 0.03928 * 255 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
      const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
      const ground = light(parse(getComputedStyle(document.documentElement).backgroundColor));
      return [...document.querySelectorAll(".saekit-legend path")].map((n) => light(parse(getComputedStyle(n).stroke)))
        .map((l) => (Math.max(l, ground) + 0.05) / (Math.min(l, ground) + 0.05));
    }""")
    assert len(ratios) == 6
    assert min(ratios) >= 3, ratios


def test_forced_colours_keep_the_lines_apart_by_their_dashes(open_view, page, shots):
    page.emulate_media(forced_colors="active")
    open_view()
    page.screenshot(path=shots / "training_forced_colours.png")
    lines = page.locator(".saekit-panels svg").first.locator("path.saekit-line")
    assert len(set(lines.evaluate_all("(all) => all.map((n) => getComputedStyle(n).strokeDasharray)"))) == 3
    stroke, ground = lines.first.evaluate(
        "(n) => [getComputedStyle(n).stroke, getComputedStyle(document.body).backgroundColor]"
    )
    assert stroke != ground


def test_reads_well_aloud(open_view):
    snapshot = open_view(with_kernel=True).locator("main").aria_snapshot()
    for line in [
        '- heading "Training · TopK, L1, Matryoshka BatchTopK" [level=1]',
        '- region "Training":',
        '- button "Done" [disabled]',
        '- progressbar "Progress of all runs"',
        '- button "L1" [pressed]',
        '- heading "FVU variance left unexplained" [level=3]',
        '"FVU: TopK 0.112 after 10,240 samples; L1 0.124 after 10,240 samples; '
        'Matryoshka BatchTopK 0.12 after 10,240 samples"',
        '- combobox "Run whose densities are shown":',
        '- table "Last values":',
        '- columnheader "Dead features"',
        '- rowheader "L1"',
        '- cell "architecture standard, sparsity_coefficient 2.0"',
        '- cell "0.124"',
    ]:
        assert line in snapshot, f"{line}\n\nnot in\n\n{snapshot}"


def test_static_html_is_safe_and_readable_in_both_schemes(page, tmp_path, shots):
    view = Training(None, {**RUNS, NASTY[0]: {"k": 20}, "bad": {"k": 0}}, train=FakeTrainer(), d_sae=64, autostart=True)
    assert view.wait(300)
    file = tmp_path / "static.html"
    scheme = "<style>:root{color-scheme:light dark;background:Canvas;font:14px sans-serif}</style>"
    base = f"<!doctype html><html lang=en><meta charset=utf-8><title>static</title>{scheme}"
    file.write_text(f"{base}<main>{view._repr_html_()}</main>", encoding="utf-8")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto(file.as_uri())
        assert page.locator("img").count() == 0
        assert page.evaluate("window.hacked") is None
        found = axe.Axe().run(page).response["violations"]
        assert [
            (v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found if v["id"] != "page-has-heading-one"
        ] == []
        page.screenshot(path=shots / f"training_static_{scheme}.png", full_page=True)
    assert page.errors == page.foreign == []
