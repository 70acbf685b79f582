"""The image view without a kernel: traits, what a card holds, static HTML, exported page."""

import html.parser
import re

import numpy as np
import pytest
import traitlets

from saekit.errors import FeatureIndexError, VisionError
from saekit.views.image_activations import ImageActivations
from saekit.vision import LabelledImages
from tests.planted_images import DEAD, GRID, NASTY, place_of, planted_features, planted_images
from tests.views.panels import elements, text


@pytest.fixture
def data():
    return planted_images()


@pytest.fixture
def features(data):
    return planted_features(data)


def shown(view, group=0):
    """Return the images of a group: number, value in words, label, patches, pixels."""
    gallery = elements(view.state()["images"], look="gallery")[group]
    found = []
    for option in elements(gallery, look="thumbnail"):
        (about,) = (one[1] for one in elements(option, "pixels"))
        patches = np.zeros(about["grid"])
        for number, _, exact, _ in about["marks"]:
            patches.flat[number] = float(exact)
        grey = np.frombuffer(about["pixels"], np.uint8).reshape(about["size"])
        labels = [text(label) for label in elements(option, look="class")]
        found.append((option[1]["data-image"], text(elements(option, "b")[0]), "".join(labels), patches, grey))
    return found


def test_a_planted_detector_shows_the_brightest_images_in_order_with_the_right_patch(data, features):
    brightness = {i: data.images[i].max() for i in range(len(data)) if data.labels[i]}
    expected = sorted(brightness, key=lambda i: (-brightness[i], i))[:16]
    found = shown(ImageActivations(features, feature=0))
    assert [image for image, *_ in found] == expected
    for image, value, label, patches, grey in found:
        assert np.argwhere(patches > 0).tolist() == [list(place_of(image))]
        assert np.array_equal(grey, np.rint(255 * data.images[image]))
        assert label == "bright"
        assert float(value) == pytest.approx(10 * (brightness[image] - 0.4), abs=0.01)


def test_a_card_counts_images_patches_classes_and_places(features):
    panels = ImageActivations(features, feature=0).state()
    assert "active on 30 of 960 patches (3.1 %) in 30 of 60 images" in text(panels["head"])
    assert [row[1]["title"] for row in elements(panels["classes"], "tr")] == ["0 of 30 images", "30 of 30 images"]
    places = np.zeros((GRID, GRID))
    for image in range(1, 60, 2):
        places[place_of(image)] += 1 / 60
    ((_, about),) = elements(panels["places"], "patches")
    assert about["grid"] == [GRID, GRID]
    for number, _, exact, shade in about["marks"]:
        assert float(exact) == pytest.approx(places.flat[number], rel=1e-3)
        assert shade == pytest.approx(places.flat[number] / places.max(), abs=1e-3)
    assert len(about["marks"]) == (places > 0).sum()
    assert elements(panels["histogram"], "svg")[0][1]["aria-label"].startswith("30 activations")


def test_intervals_go_from_strong_to_weak(features):
    view = ImageActivations(features, feature=5)
    titles = [text(title) for title in elements(view.state()["images"], "h4")]
    assert titles[0].startswith("Top images (shade = activation / ")
    bounds = [tuple(map(float, title.partition(" (")[0].split(" to "))) for title in titles[1:]]
    assert len(bounds) == 4
    assert bounds == sorted(bounds, reverse=True)
    for group, (low, high) in enumerate(bounds, 1):
        values = [float(value) for _, value, *_ in shown(view, group)]
        assert values == sorted(values, reverse=True)
        assert all(low - 0.01 <= value <= high + 0.01 for value in values)


def test_a_change_of_feature_brings_its_card_and_its_first_image(features):
    view = ImageActivations(features)
    assert (view.value, repr(view)) == (0, "ImageActivations(feature 0 of 6, live)")
    view.value = 4
    assert (text(elements(view.state(), "h2")[0]), view.image) == ("Feature 4", 7)
    view.value = DEAD
    assert (list(view.state()), elements(view.state(), "pixels"), view.image) == (["head", "images"], [], None)
    assert repr(view) == "ImageActivations(feature 3 of 6, dead)"


def test_the_browser_hears_of_changes_in_the_order_of_their_names(features):
    view = ImageActivations(features, feature=0)
    sent = []
    view.comm.send = lambda data=None, **_: sent.append(list(data["state"]))
    view.value = 5
    assert [len(names) > 1 for names in sent] == [False, True]  # the feature at once, then its card and its image
    for names in sent:
        assert names == sorted(names)


def test_the_walk_follows_the_order_and_leaves_the_dead_out(features):
    walk = lambda view: np.frombuffer(view._walk, "<f4").astype(int).tolist()  # noqa: E731
    view = ImageActivations(features)
    assert walk(view) == [0, 1, 2, 4, 5]
    view.order = "density"
    assert walk(view) == sorted([0, 1, 2, 4, 5], key=lambda f: (-features.density[f], f))
    view.order = "max"
    assert walk(view) == sorted([0, 1, 2, 4, 5], key=lambda f: (-features.max[f], f))
    scored = ImageActivations(features, scores=[1, 5, np.nan, 9, 3, 4])
    assert (scored.order, scored.value, walk(scored)) == ("score", 1, [1, 5, 4, 0])


def test_wrong_values_are_refused_in_words(data, features):
    view = ImageActivations(features)
    with pytest.raises(traitlets.TraitError, match="feature must be a whole number from 0 to 5, not 6"):
        view.value = 6
    with pytest.raises(traitlets.TraitError, match="order 'score' needs scores: ImageActivations"):
        view.order = "score"
    with pytest.raises(traitlets.TraitError, match="number of an image, 0 to 59, not 60"):
        view.image = 60
    with pytest.raises(traitlets.TraitError, match=r"not 2\.5"):
        ImageActivations(features, feature=2.5)
    with pytest.raises(FeatureIndexError, match="one number for each of 6 features"):
        ImageActivations(features, scores=[1, 2])
    with pytest.raises(VisionError, match="need their images"):
        ImageActivations(np.zeros((60, 16, 2)))
    with pytest.raises(VisionError, match="hold their images already"):
        ImageActivations(features, data)
    with pytest.raises(VisionError, match="hold their labels already"):
        ImageActivations(np.zeros((60, 16, 2)), data, labels=[0])
    for labels in (["cat"] * 60, [0.5] * 60, [None] * 60):
        with pytest.raises(VisionError, match="labels must be whole numbers, the place of each class in label_names"):
            ImageActivations(np.zeros((60, 16, 2)), data.images, labels=labels)


def test_arrays_of_your_own_show_the_same_card(data, features):
    values = features.events.toarray().reshape(60, 16, 6)
    known = ImageActivations(features, feature=0).state()
    names = ["plain", "bright"]
    mine = ImageActivations(values, data.images, labels=data.labels, label_names=names, feature=0)
    assert {name: panel for name, panel in mine.state().items() if name != "head"} == {
        name: panel for name, panel in known.items() if name != "head"
    }
    unlabelled = ImageActivations(values, data.images, feature=0)
    assert "classes" not in unlabelled.state()
    assert {label for _, _, label, *_ in shown(unlabelled)} == {""}


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def test_static_html_shows_hostile_names_as_text_and_loads_nothing():
    data = planted_images(names=(NASTY, "</script>"))
    found = _Tags()
    found.feed(ImageActivations(planted_features(data), feature=0, names={0: NASTY})._repr_html_())
    tables = {"table", "caption", "tbody", "tr", "td", "bdi"}
    assert set(found.tags) <= {"div", "p", "b", "span", "svg", "rect", "path", "text", *tables}
    assert [name for name in found.attributes if name.startswith("on") or name in ("src", "href")] == []
    assert NASTY in found.text


def test_static_pictures_have_the_greys_of_their_pixels():
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 2, 3:6] = 1
    values = np.zeros((1, 16, 1))
    values[0, 5] = 2
    html = ImageActivations(values, image)._repr_html_()
    assert '<path fill="rgb(255,255,255)" d="M3 2h3v1h-3z"></path>' in html
    assert '<rect x="2" y="2" width="2" height="2" style="fill:rgba(0,120,186,0.75)"></rect>' in html
    paper = LabelledImages("scan", image, np.zeros(1, np.int64), ("a",), "", "", ink=True)
    assert '<path fill="rgb(0,0,0)" d="M3 2h3v1h-3z"></path>' in ImageActivations(values, paper)._repr_html_()


def test_static_html_of_large_images_stays_small():
    images = np.random.default_rng(0).random((30, 224, 224)).astype(np.float32)
    view = ImageActivations(np.random.default_rng(1).random((30, 196, 2)), images)
    assert len(view._repr_html_()) < 1_000_000


def test_static_html_says_that_a_feature_is_dead(features):
    assert "dead: never active on 960 patches of 60 images" in ImageActivations(features, feature=DEAD)._repr_html_()


def test_the_mime_bundle_has_widget_html_and_text(features):
    view = ImageActivations(features)
    data, _ = view._repr_mimebundle_()
    assert data["text/plain"] == repr(view)
    assert data["text/html"] == view._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in data


def test_a_page_holds_the_chosen_features_and_nothing_foreign(features):
    page = ImageActivations(features, feature=0, names={0: NASTY}).to_html([4, 5])
    assert "This page holds 3 features only (0, 4, 5)" in page
    assert "<img" not in page
    assert page.count("<script") == 1
    assert not re.search(r'(?:src|href)="https?:', page)
    assert "This page holds 5 features only" in ImageActivations(features).to_html()
    with pytest.raises(traitlets.TraitError, match="0 to 5"):
        ImageActivations(features).to_html([6])
