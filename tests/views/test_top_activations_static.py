"""The top-activations view without a kernel: static HTML, mime bundle, exported page."""

import html.parser
import re

import numpy as np
import pytest
import traitlets

from saekit.index import PromptReading
from saekit.views._shared.still import still
from saekit.views.top_activations import TopActivations
from tests.views.fake_index import NASTY, FakeIndex
from tests.views.panels import elements


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def test_static_html_shows_hostile_tokens_as_text(index):
    found = _Tags()
    found.feed(TopActivations(index, feature=7)._repr_html_())
    assert set(found.tags) <= {
        "div",
        "p",
        "strong",
        "b",
        "mark",
        "bdi",
        "span",
        "svg",
        "g",
        "rect",
        "path",
        "text",
        "wbr",
    }
    assert [name for name in found.attributes if name.startswith("on") or name in ("src", "href")] == []
    assert NASTY[0].replace(" ", "·") in found.text
    assert "\0" not in found.text


def test_static_html_is_small_deterministic_and_colourless(index):
    first, second = (TopActivations(FakeIndex(), feature=12)._repr_html_() for _ in range(2))
    assert first == second
    assert len(first.encode()) < 60_000
    assert not re.search(r"<script|<style|https?:|#[0-9a-f]{3,6}\b|:\s*(?:white|black)\b", first)


def test_static_html_of_dense_activations_stays_small(index):
    dense = index._example

    def everywhere(*args):
        example = dense(*args)
        example.activations = np.linspace(0.1, example.value, 32).astype(np.float32)
        return example

    index._example = everywhere
    assert len(TopActivations(index, feature=7)._repr_html_().encode()) < 60_000


def test_static_html_waits_for_the_prompt(live):
    live.prompt = "rain on Monday"
    assert "On your own text" in live._repr_html_()


def test_the_mime_bundle_has_widget_html_and_text(index):
    view = TopActivations(index, feature=12)
    data, _ = view._repr_mimebundle_()
    assert data["text/plain"] == repr(view)
    assert data["text/html"] == view._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in data


def test_neuronpedia_is_linked_only_where_an_id_is_known():
    def links(**options):
        return [a[1]["href"] for a in elements(TopActivations(FakeIndex(**options)).state(), "a")]

    assert links() == []
    assert links(neuronpedia_id="gpt2-small/8-res-jb") == ["https://www.neuronpedia.org/gpt2-small/8-res-jb/0"]
    assert links(neuronpedia_id="javascript:x//") == []


def test_a_page_holds_the_chosen_features_and_nothing_foreign(index):
    page = TopActivations(index, feature=12).to_html(features=[7, 13])
    assert "This page holds 3 features only (7, 12, 13)" in page
    assert "<img" not in page
    assert page.count("<script") == 1
    assert not re.search(r'(?:src|href)="https?:', page)
    with pytest.raises(traitlets.TraitError, match="from 0 to 63"):
        TopActivations(index).to_html(features=[99])


def test_the_default_page_holds_the_neighbours(index):
    view = TopActivations(index, feature=12)
    near = {n.feature for by in ("decoder", "coactivation") for n in index.neighbours(12, by=by, k=8)}
    assert f"This page holds {len(near | {12})} features only" in view.to_html()


def test_a_token_left_out_of_the_statistics_does_not_set_the_scale_of_your_own_text(live, index):
    features = np.zeros((3, 64), np.float32)
    features[:, 12] = [1947, 0, 5]
    index.max[12] = 10
    tokens, excluded = ["<bos>", "about", " London"], np.array([True, False, False])
    index.read_prompt = lambda *args: PromptReading(tokens, features, excluded)
    live.prompt = "about London"
    live.wait(300)
    shown = still([live.state()["prompt"]])
    assert "strongest 5" in shown
    assert shown.count("<mark") == 1
    assert "1,9" not in shown
