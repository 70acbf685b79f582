"""The top-activations view in a bare page: what is drawn, keys, roles, contrast, hostile text. No Jupyter."""

import pytest

from saekit.views import top_activations as views
from saekit.views.top_activations import work
from tests.views.fake_index import NASTY, FakeIndex

pytestmark = pytest.mark.browser

PROMPT = "It was raining on the second Monday"


@pytest.fixture
def open_view(page, tmp_path, monkeypatch):
    """Open a view's page and return it; checks at the end that no script failed and nothing was requested."""
    monkeypatch.setattr(work, "check_index_pair", lambda *pair: None)

    def opened(feature=12, *, features=None, index=None, own_text=None, **options):
        index = index or FakeIndex(neuronpedia_id="gpt2-small/8-res-jb")
        view = views.TopActivations(index, feature=feature, model="model", sae="sae", **options)
        view.wait()
        text = view.to_html(features)
        if own_text:
            text = text.replace('"own_text":"page"', f'"own_text":"{own_text}"')
        file = tmp_path / f"view{feature}.html"
        file.write_text(text, encoding="utf-8")
        page.goto(file.as_uri())
        page.wait_for_function("window.saekit?.ready")
        return page

    yield opened
    assert page.errors == []
    assert page.foreign == []


def value(page):
    return page.evaluate("saekit.state.value")


def test_neighbours_navigate_and_the_card_follows(open_view):
    page = open_view()
    page.get_by_role("button", name="14 0.76").click()
    assert value(page) == 14
    assert page.get_by_role("heading", level=2).inner_text().endswith("14")
    assert page.get_by_label("Feature number").input_value() == "14"


def test_previous_next_and_random_stay_on_live_features(open_view):
    page = open_view(feature=2, features=[1, 3, 4])
    page.get_by_role("button", name="Next feature").click()
    assert value(page) == 4, "3 is dead"
    page.get_by_role("button", name="Next feature").click()
    assert value(page) == 1, "the walk wraps around"
    page.get_by_role("button", name="Previous feature").click()
    assert value(page) == 4
    page.get_by_role("button", name="Random").click()
    assert value(page) in (1, 2)


def test_a_number_is_checked_before_it_is_sent(open_view):
    page = open_view()
    field = page.get_by_label("Feature number")
    field.fill("99")
    field.press("Enter")
    assert page.get_by_role("alert").filter(has_text="Expected 0 to 63").is_visible()
    assert value(page) == 12
    field.fill("13")
    field.press("Enter")
    assert value(page) == 13
    assert page.get_by_role("alert").filter(has_text="Expected").count() == 0


def test_a_feature_that_the_page_does_not_hold_is_told(open_view):
    page = open_view(features=[13])
    field = page.get_by_label("Feature number")
    field.fill("40")
    field.press("Enter")
    assert page.get_by_role("alert").filter(has_text="holds 2 features only (12, 13)").is_visible()
    assert value(page) == 12
    assert field.input_value() == "12"


def test_a_token_shows_its_exact_value(open_view):
    page = open_view()
    peak = page.locator(".saekit-peak").first
    peak.click()
    assert peak.get_attribute("aria-selected") == "true"
    assert page.locator(".saekit-sticky").inner_text().startswith('" were" · activation 11.01')


def test_keys_walk_within_and_between_examples_and_open_the_window(open_view):
    page = open_view()
    first, second = (page.locator(".saekit-row").nth(i) for i in (0, 1))
    first.locator(".saekit-peak").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.ariaLabel").startswith("late")
    page.keyboard.press("ArrowDown")
    assert second.locator(".saekit-peak").evaluate("(node) => node === document.activeElement")
    shown = second.get_by_role("option").count()
    page.keyboard.press("Enter")
    assert second.get_by_role("option").count() == 32 > shown
    assert second.get_by_role("button").get_attribute("aria-expanded") == "true"
    assert second.get_by_role("option", selected=True).evaluate("(node) => node === document.activeElement")
    page.keyboard.press("Enter")
    assert second.get_by_role("option").count() == shown
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert second.get_by_role("option").last.get_attribute("aria-selected") == "true"


def test_examples_have_one_tab_stop(open_view):
    page = open_view()
    stops = page.locator(".saekit-examples [role=option][tabindex='0']")
    assert stops.count() == 1
    page.locator(".saekit-row").nth(4).locator(".saekit-peak").click()
    assert stops.count() == 1


def test_shortcuts_work_and_leave_text_fields_alone(open_view):
    page = open_view(features=[13, 14], own_text="live")
    page.locator(".saekit-peak").first.focus()
    page.keyboard.press("n")
    assert value(page) == 13
    assert page.evaluate("document.activeElement.role") == "option", "the focus stays in the examples"
    page.keyboard.press("p")
    page.keyboard.press("?")
    assert page.locator(".saekit-keys").get_attribute("open") is not None
    page.keyboard.press("g")
    page.keyboard.type("nr12")
    assert value(page) == 12
    page.locator(".saekit-peak").first.focus()
    page.keyboard.press("t")
    page.keyboard.type("non-random")
    assert value(page) == 12
    assert page.evaluate("saekit.state.prompt") == "non-random"


def test_hidden_rows_come_on_demand(open_view):
    page = open_view()
    top = page.locator(".saekit-rows").first.locator(".saekit-row:visible")
    assert top.count() == 8
    page.get_by_role("button", name="Show 12 more").click()
    assert top.count() == 20
    page.get_by_role("button", name="Show fewer").click()
    assert top.count() == 8


def test_a_token_of_the_prompt_lists_its_strongest_features(open_view):
    page = open_view(prompt=PROMPT)
    strip = page.get_by_role("listbox", name="Your own text, feature 12")
    strip.get_by_role("option", name="raining").click()
    assert page.evaluate("saekit.state.token") == 3
    assert page.locator(".saekit-at-token li").count() == 10
    assert page.get_by_role("heading", name="Strongest features here").is_visible()


def test_hostile_text_is_text(open_view):
    page = open_view(feature=7, names={7: NASTY[0]})
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.get_by_text(NASTY[0].replace(" ", "·"), exact=True).count() > 0
    row = page.locator(".saekit-row").first
    row.get_by_role("button").click()
    kanji = row.get_by_role("option").filter(has_text="戦")
    assert kanji.count() == 1
    assert kanji.get_attribute("aria-label").endswith("3 pieces"), "pieces of one character are one option"


def test_right_to_left_tokens_keep_their_place(open_view):
    page = open_view(feature=7)
    row = page.locator(".saekit-row").first
    row.get_by_role("button").click()
    boxes = row.get_by_role("option").evaluate_all(
        "(all) => all.map((n) => n.getBoundingClientRect()).map((b) => [b.top, b.left])"
    )
    assert boxes == sorted(boxes), "tokens stand in reading order, line by line"


def test_a_dead_feature_says_so(open_view):
    page = open_view(feature=3)
    assert page.get_by_text("This feature is dead: it was never active on 1,000,000 tokens").is_visible()
    assert page.get_by_role("listbox").count() == 0


def test_the_neuronpedia_link_is_safe_and_only_where_an_id_is_known(open_view):
    link = open_view().get_by_role("link", name="Neuronpedia")
    assert link.get_attribute("href") == "https://www.neuronpedia.org/gpt2-small/8-res-jb/12"
    assert link.get_attribute("rel") == "noopener noreferrer"
    assert open_view(feature=13, index=FakeIndex()).get_by_role("link").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [600, 1400])
def test_accessible_in_both_schemes_and_at_both_widths(open_view, page, shots, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    open_view(prompt=PROMPT, token=3, names={12: "days of the week"}, own_text="live")
    page.locator(".saekit-keys summary").click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(path=shots / f"page_{width}_{scheme}.png", full_page=True)


def test_forced_colours_keep_the_selection_visible(open_view, page, shots):
    page.emulate_media(forced_colors="active")
    open_view(prompt=PROMPT, token=3)
    page.screenshot(path=shots / "page_forced_colours.png")
    outline = page.locator("[role=option][aria-selected=true]").first.evaluate(
        "(n) => getComputedStyle(n).outlineStyle"
    )
    assert outline == "solid"


def test_reads_well_aloud(open_view):
    page = open_view(names={12: "days of the week"})
    snapshot = page.locator("main").aria_snapshot()
    for line in [
        '- heading "Top activations · tiny · blocks.1.hook_resid_post" [level=1]',
        '- region "Top activations":',
        '- button "Previous feature"',
        '- spinbutton "Feature number": "12"',
        '- heading "Feature 12" [level=2]',
        '- heading "Examples" [level=3]',
        '- listbox "Example 1, activation 11, sequence 1000":',
        '- option "were, activation 11": ·were',
        '- button "Whole window of 32 tokens, example 1": +',
        '- img "45,351 activations in 24 bins from 0 to 11; most (12,957) between 0 and 0.459, 7 in the highest bin"',
        '- table "Promotes":',
        '- rowheader "·Monday"',
        '- cell "+1.90"',
        '- button "14 0.76": 14 0.76',
    ]:
        assert line.split(": ")[0] in snapshot, f"{line}\n\nnot in\n\n{snapshot}"


def test_static_html_is_safe_and_readable_in_both_schemes(page, tmp_path, shots):
    view = views.TopActivations(FakeIndex(), feature=7)
    file = tmp_path / "static.html"
    scheme = "<style>:root{color-scheme:light dark;background:Canvas}</style>"
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
        page.screenshot(path=shots / f"static_{scheme}.png", full_page=True)
    assert page.errors == page.foreign == []
