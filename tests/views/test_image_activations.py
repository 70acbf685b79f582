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


@pytest.fixture
def data():
    return planted_images()


@pytest.fixture
def features(data):
    return planted_features(data)


def shown(view, group=0):
    """Return the images of a group, with their patches and pixels as the front-end will find them."""
    card, facts = view._card, view._facts
    values = np.frombuffer(card["values"], "<f4").reshape(-1, *facts["grid"])
    pixels = np.frombuffer(card["pixels"], np.uint8).reshape(-1, *facts["pixels"])
    return [(row, values[row["at"]], pixels[row["at"]]) for row in card["groups"][group]["rows"]]


def test_a_planted_detector_shows_the_brightest_images_in_order_with_the_right_patch(data, features):
    brightness = {i: data.images[i].max() for i in range(len(data)) if data.labels[i]}
    expected = sorted(brightness, key=lambda i: (-brightness[i], i))[:16]
    found = shown(ImageActivations(features, feature=0))
    assert [row["image"] for row, _, _ in found] == expected
    for row, values, pixels in found:
        assert np.argwhere(values > 0).tolist() == [list(place_of(row["image"]))]
        assert np.array_equal(pixels, np.rint(255 * data.images[row["image"]]))
        assert row["label"] == "bright"
        assert row["value"] == pytest.approx(10 * (brightness[row["image"]] - 0.4), rel=1e-5)


def test_a_card_counts_images_patches_classes_and_places(features):
    card = ImageActivations(features, feature=0)._card
    assert (card["count"], card["images"], card["classes"]) == (30, 30, [["plain", 0, 30], ["bright", 30, 30]])
    places = np.zeros((GRID, GRID))
    for image in range(1, 60, 2):
        places[place_of(image)] += 1 / 60
    assert np.allclose(np.frombuffer(card["places"], "<f4").reshape(GRID, GRID), places)
    assert sum(card["histogram"]["counts"]) == 30


def test_intervals_go_from_strong_to_weak(features):
    groups = ImageActivations(features, feature=5)._card["groups"]
    assert [g["kind"] for g in groups] == ["top", *["interval"] * 4]
    assert [g["low"] for g in groups[1:]] == sorted((g["low"] for g in groups[1:]), reverse=True)
    for group in groups[1:]:
        values = [row["value"] for row in group["rows"]]
        assert values == sorted(values, reverse=True)
        assert all(group["low"] < v <= group["high"] + 1e-6 for v in values)


def test_a_change_of_feature_brings_its_card_and_its_first_image(features):
    view = ImageActivations(features)
    assert (view.value, repr(view)) == (0, "ImageActivations(feature 0 of 6, live)")
    view.value = 4
    assert (view._card["feature"], view.image) == (4, 7)
    view.value = DEAD
    assert (view._card["dead"], view._card["groups"], view.image) == (True, [], None)
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
    known = ImageActivations(features, feature=0)._card
    mine = ImageActivations(values, data.images, labels=data.labels, label_names=["plain", "bright"], feature=0)._card
    assert mine == known
    unlabelled = ImageActivations(values, data.images, feature=0)._card
    assert unlabelled["classes"] == []
    assert {row["label"] for row in unlabelled["groups"][0]["rows"]} == {""}


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
    assert set(found.tags) <= {"div", "p", "strong", "b", "br", "span", "svg", "rect", "path", "g"}
    assert [name for name in found.attributes if name.startswith("on") or name in ("src", "href")] == []
    assert NASTY in found.text


def test_static_pictures_have_the_greys_of_their_pixels():
    image = np.zeros((1, 8, 8), np.float32)
    image[0, 2, 3:6] = 1
    values = np.zeros((1, 16, 1))
    values[0, 5] = 2
    text = ImageActivations(values, image)._repr_html_()
    assert '<path fill="rgb(255,255,255)" d="M3 2h3v1h-3z"/>' in text
    assert '<rect x="2" y="2" width="2" height="2" fill="rgba(34,136,230,0.8)"/>' in text
    paper = LabelledImages("scan", image, np.zeros(1, np.int64), ("a",), "", "", ink=True)
    assert '<path fill="rgb(0,0,0)" d="M3 2h3v1h-3z"/>' in ImageActivations(values, paper)._repr_html_()


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
