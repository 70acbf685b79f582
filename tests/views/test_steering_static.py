"""The steering view without kernel and browser: static HTML, repr, exported page. Hostile text stays text."""

import json
import math
import re
from html.parser import HTMLParser
from importlib import import_module

import pytest

from saekit._base.assets import module
from saekit.views.steering.setting import amount_words, setting_words
from tests.views.steering_parts import small_sae, small_view

static = import_module("saekit.views.steering.still")

HOSTILE = "</script><img src=x onerror=\"window.hacked=1\"> & 'quotes' \0"


@pytest.fixture(scope="module")
def view(model):
    made = small_view(model, small_sae(), {7: 1.0, 9: -0.5}, prompt=HOSTILE, chat=False, topic="cats")
    made.run()
    made.compare("random feature", "prompt")
    made.run_sweep((0.5, 2), baselines=("prompt", "random direction"))
    assert made.wait(90)
    assert made.error == ""
    return made


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], set(), ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in ("br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_static_html_is_well_formed_and_says_what_the_view_says(view):
    found = Tags(view._repr_html_())
    assert not {"script", "style", "img", "link"} & found.seen
    for words in ("Unsteered", "Steered", "Random feature", "Prompt", "KL on neutral text", "Strength sweep", "greedy"):
        assert words in found.words
    assert setting_words(view.setting) in found.words
    assert HOSTILE[:-1].strip() in found.words
    assert f"edit / residual0{static.rough(view.effects['steered'].edit_norm)}" in found.words
    assert "Asked for in the prompt instead: concept in the text" in found.words


def test_the_same_view_is_the_same_bytes_without_addresses(view):
    first, second = view._repr_html_(), view._repr_html_()
    assert first == second
    assert not re.search("0x[0-9a-f]{6}", first + repr(view))
    assert len(first) < 60_000


def test_repr_says_what_is_done_and_how_far(model, view):
    assert repr(small_view(model, small_sae(), {})) == "Steering(nothing is steered: not run)"
    said = "feature 7: add 1 × its maximum; feature 9: add −0.5 × its maximum · all tokens"
    assert repr(view) == f"Steering({said}: text of {len(view.value)} characters)"


def test_a_view_that_was_not_run_says_so(model):
    empty = small_view(model, small_sae(), {}, prompt="")
    assert "not run yet" in empty._repr_html_()
    assert "nothing is steered" in empty._repr_html_()
    assert json.loads(empty.to_json())["features"] == []


def test_the_exported_page_holds_the_texts_and_nothing_runs_away(view):
    page = view.to_html()
    assert page.count("</script>") == 1
    assert "<img" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert '"_has_kernel":false' in page


@pytest.mark.parametrize(
    ("row", "unit", "words"),
    [
        ({"feature": 7, "mode": "add", "value": -1.5}, "max", "feature 7: add −1.5 × its maximum"),
        ({"feature": 7, "mode": "clamp", "value": 20.0}, "activation", "feature 7: clamp to 20 (activation)"),
        ({"feature": 7, "mode": "ablate", "value": 1.0}, "norm", "feature 7: ablate"),
        ({"feature": 7, "mode": "scale", "value": 2.0}, "norm", "feature 7: scale by 2"),
    ],
)
def test_words_are_those_of_the_browser(row, unit, words):
    """The same sentences stand in tests/widgets/steering.test.mjs."""
    assert amount_words(row, unit) == words


def test_words_and_shade_of_a_token_change_together():
    for n in range(-60, 61):
        change = n / 10
        assert bool(static.change_words(change)) == (static._shade(change) > 0)
        if abs(change) < 3.9 and (found := re.search(r"about (\d+)", static.change_words(change))):
            assert abs(math.log(int(found[1])) - abs(change)) < 0.5, "the factor is e to the change, within its step"


def test_fixed_words_stand_in_both_languages():
    source = re.sub(r'"\s*\+\s*"', "", module("steering"))  # a long text stands on several lines
    assert static.FLUENCY_WORDS in source
    for name in (*static.NAMES.values(), *(title for _, title in static.PANELS)):
        assert f'"{name}"' in source


def test_where_fluency_breaks_is_said():
    sweep = {"breaks_at": 2.0, "value": -3.0}
    assert static.breaks_words(sweep) == "Fluency falls below one half at strength −6."
    assert static.breaks_words({"breaks_at": None, "value": None}).startswith("Fluency stays above")
    assert static.strength_words(0.25, {"value": None}) == "0.25 ×"


def test_a_stopped_text_is_shown_as_far_as_it_came(model):
    view = small_view(model, small_sae())
    view._columns = [{"key": "steered", "title": "Steered", "note": ""}]
    view._texts = {"steered": {"text": "so <b>far", "end": "stopped"}}
    assert "so &lt;b&gt;far … (stopped)" in view._repr_html_()
    assert view.value == "so <b>far"
