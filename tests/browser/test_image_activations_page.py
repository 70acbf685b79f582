"""The image view in a bare page: which pictures are drawn, keys, roles, contrast, hostile text. No Jupyter."""

import numpy as np
import pytest

from saekit.views.image_activations import ImageActivations
from tests.planted_images import DEAD, NASTY, place_of, planted_features, planted_images

pytestmark = pytest.mark.browser
DATA = planted_images()


@pytest.fixture
def open_view(page, tmp_path):
    """Open a view's page and return it; checks at the end that no script failed and nothing was requested."""

    def opened(feature=0, *, features=None, data=DATA, **options):
        view = ImageActivations(planted_features(data), feature=feature, **options)
        file = tmp_path / "view.html"
        file.write_text(view.to_html(features), encoding="utf-8")
        page.goto(file.as_uri())
        page.wait_for_function("window.saekit?.ready")
        return page

    yield opened
    assert page.errors == []
    assert page.foreign == []


def value(page):
    return page.evaluate("saekit.state.value")


def number_of(option):
    return int(option.get_attribute("aria-label").split(",")[0].removeprefix("Image "))


def test_the_planted_images_are_drawn_in_order_with_their_pixels_and_the_right_patch_shaded(open_view):
    page = open_view()
    brightness = {i: DATA.images[i].max() for i in range(1, 60, 2)}
    top = page.get_by_role("group", name="Top", exact=True).get_by_role("option")
    expected = sorted(brightness, key=lambda i: (-brightness[i], i))[:16]
    assert [number_of(option) for option in top.all()] == expected
    for option, image in list(zip(top.all(), expected, strict=True))[:3]:
        row, column = place_of(image)
        on = option.locator(".saekit-patch").evaluate_all(
            "(all) => all.flatMap((n, i) => n.classList.contains('saekit-patch-on') ? [i] : [])"
        )
        assert on == [4 * row + column]
        assert option.get_attribute("aria-label").endswith(f"at row {row + 1}, column {column + 1}")
        drawn = option.locator("canvas").evaluate(
            "(c) => Array.from(c.getContext('2d').getImageData(0, 0, 8, 8).data).filter((_, i) => i % 4 === 0)"
        )
        assert np.array_equal(np.reshape(drawn, (8, 8)), np.rint(255 * DATA.images[image]))
    shade = top.first.locator(".saekit-patch-on").evaluate("(n) => n.style.getPropertyValue('--saekit-shade')")
    assert float(shade) == 1


def test_the_slider_previous_next_and_the_number_agree(open_view):
    page = open_view()
    slider = page.get_by_role("slider")
    page.get_by_role("button", name="Next feature").click()
    assert (value(page), slider.input_value()) == (1, "1")
    slider.fill("3")
    assert value(page) == 4, "3 is dead: the walk leaves it out"
    assert slider.get_attribute("aria-valuetext") == "feature 4"
    assert page.get_by_label("Feature number").input_value() == "4"
    assert page.get_by_role("heading", level=2).inner_text().endswith("4")
    page.get_by_role("button", name="Previous feature").click()
    assert value(page) == 2


def test_a_feature_is_drawn_also_where_its_image_is_heard_of_before_its_card(open_view, page):
    # A kernel's message holds its traits in no fixed order; here the page's host tells them last to first.
    page.add_init_script("const keys = Object.keys; Object.keys = (of) => keys(of).reverse();")
    open_view(feature=0)
    heard = page.evaluate(
        """() => {
          const heard = [];
          for (const name of ["image", "_card"]) saekit.model.on(`change:${name}`, () => heard.push(name));
          saekit.model.set("value", 5);
          return heard;
        }"""
    )
    assert heard == ["image", "_card"]
    assert page.get_by_role("heading", level=2).inner_text().endswith("5")
    shown = page.get_by_role("listbox", name="Images").get_by_role("option", selected=True).first
    assert number_of(shown) == page.evaluate("saekit.state.image")
    assert page.get_by_role("heading", name=f"Image {number_of(shown)}", exact=True).is_visible()


def test_a_feature_that_the_page_does_not_hold_is_told(open_view):
    page = open_view(features=[1])
    field = page.get_by_label("Feature number")
    field.fill("5")
    field.press("Enter")
    assert page.get_by_role("alert").filter(has_text="holds 2 features only (0, 1)").is_visible()
    assert (value(page), field.input_value()) == (0, "0")


def test_keys_walk_the_images_and_the_lens_follows_with_values_as_text(open_view):
    page = open_view(feature=5)
    options = page.get_by_role("listbox", name="Images").get_by_role("option")
    options.first.click()
    page.keyboard.press("ArrowRight")
    second = options.nth(1)
    assert second.evaluate("(n) => n === document.activeElement")
    assert page.evaluate("saekit.state.image") == number_of(second)
    assert page.get_by_role("heading", name=f"Image {number_of(second)}", exact=True).is_visible()
    cells = page.get_by_role("table", name="activation of each patch").get_by_role("cell").all_inner_texts()
    known = planted_features(DATA).activations(5)[number_of(second)].ravel()
    assert cells == [f"{v:.2f}" if v > 0 else "0" for v in known]
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert below > second.bounding_box()["y"]
    page.keyboard.press("ArrowUp")
    assert second.evaluate("(n) => n === document.activeElement")
    assert page.locator(".saekit-examples [role=option][tabindex='0']").count() == 1
    page.keyboard.press("n")
    assert value(page) == 0
    assert page.evaluate("document.activeElement.role") == "option", "the focus stays with the images"


def test_patches_tell_their_value_on_hover(open_view):
    page = open_view()
    on = page.locator(".saekit-thumbnail .saekit-patch-on").first
    top = planted_features(DATA).top(0, 1)[0]
    row, column = place_of(top.image)
    place, number = on.get_attribute("title").split(": ")
    assert place == f"row {row + 1}, column {column + 1}"
    assert float(number) == pytest.approx(top.value, rel=1e-3)


def test_classes_are_listed_with_their_share(open_view):
    rows = open_view().get_by_role("region", name="Classes").get_by_role("row")
    assert [row.inner_text().split() for row in rows.all()] == [["plain", "0", "%"], ["bright", "100", "%"]]
    assert rows.nth(1).get_attribute("title") == "30 of 30 images"


def test_a_dead_feature_says_so(open_view):
    page = open_view(feature=DEAD)
    assert page.get_by_text("This feature is dead: it was never active on 960 patches of 60 images").is_visible()
    assert page.get_by_role("listbox", name="Images").count() == 0


def test_hostile_text_is_text(open_view):
    page = open_view(data=planted_images(names=("plain", NASTY)), names={0: NASTY})
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None
    assert page.get_by_text(NASTY, exact=True).count() > 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1200])
def test_accessible_in_both_schemes_and_at_both_widths(open_view, page, shots, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    open_view(feature=5, names={5: "noise"})
    page.locator(".saekit-keys summary").click()
    found = axe.Axe().run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"][:3]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
    page.screenshot(path=shots / f"images_{width}_{scheme}.png", full_page=True)


def test_forced_colours_keep_pictures_and_selection(open_view, page, shots):
    page.emulate_media(forced_colors="active")
    open_view()
    page.screenshot(path=shots / "images_forced_colours.png")
    outline = page.locator("[role=option][aria-selected=true]").first.evaluate(
        "(n) => getComputedStyle(n).outlineStyle"
    )
    assert outline == "solid"


def test_reads_well_aloud(open_view):
    snapshot = open_view(names={0: "bright patch"}).locator("main").aria_snapshot()
    for line in [
        '- region "Image activations":',
        '- spinbutton "Feature number": "0"',
        '- slider "Place of the feature in the walk"',
        '- heading "Feature 0" [level=2]',
        '- listbox "Images":',
        '- group "Top":',
        '- region "The chosen image":',
        '- table "activation of each patch":',
        '- region "Classes":',
    ]:
        assert line.split(": ")[0] in snapshot, f"{line}\n\nnot in\n\n{snapshot}"
