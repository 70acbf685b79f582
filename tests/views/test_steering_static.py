"""The steering view without kernel and browser: static HTML, repr, exported page. Hostile text stays text."""

import json
import math
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from saekit.steering import SteeringSweep, SweepPoint
from saekit.views._shared.words import rough
from saekit.views.steering.setting import amount_words, setting_words
from saekit.views.steering.state import (
    EFFECTS,
    Swept,
    Written,
    asked_words,
    breaks_words,
    change_words,
    effect_words,
    strength_words,
    text_panels,
)
from tests.views.panels import elements
from tests.views.steering_parts import small_sae, small_view

HOSTILE = "</script><img src=x onerror=\"window.hacked=1\"> & 'quotes' \0"


@pytest.fixture(scope="module")
def view(model):
    made = small_view(model, small_sae(), {7: 1.0, 9: -0.5}, prompt=HOSTILE, chat=False, topic="cats")
    made.run()
    made.compare("random feature", "prompt")
    made.run_sweep((0.5, 2), baselines=("prompt", "random direction"))
    assert made.wait(300)
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
    assert "edit / residual 0" in found.words
    assert f"edit / residual {rough(view.effects['steered'].edit_norm)}" in found.words
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
def test_words_say_what_is_done(row, unit, words):
    assert amount_words(row, unit) == words


def test_words_and_shade_of_a_token_change_together(model):
    """The factor is e to the change, within its step."""
    changes = [n / 10 for n in range(-60, 61)]
    read = {"tokens": ["x"] * len(changes), "logprobs": changes, "plain": [0.0] * len(changes)}
    effects = SimpleNamespace(**dict.fromkeys(EFFECTS, 0.0))
    written = Written({}, ({"key": "k", "title": "K", "note": ""},), {"k": ("x", "eos")}, {"k": read}, {"k": effects})
    (shown,) = elements(text_panels(written, busy=False), "strip")
    for change, (_, _, _, shade, told) in zip(changes, shown[1]["marks"], strict=True):
        assert bool(told) == (shade != 0)
        assert shade * change >= 0
        assert abs(shade) == pytest.approx(min(1, abs(change) / 4), abs=0.09)
        if abs(change) < 3.9 and (found := re.search(r"about (\d+)", told)):
            assert abs(math.log(int(found[1])) - abs(change)) < 0.5


def test_what_steering_did_to_a_probability_is_said():
    assert change_words(math.log(0.5), math.log(0.004)) == "probability 0.4 % → 50 %"
    assert change_words(-1, -1) == "probability 37 %, as without steering"


def test_side_effects_have_two_digits():
    shown = [effect_words(name, 0.1234) for name in ("kl", "perplexity", "repetition", "edit_norm")]
    assert shown == ["0.12", "0.12", "12 %", "0.12"]
    assert effect_words("kl", None) == "–"


def test_where_fluency_breaks_is_said(view):
    single = {**view.setting, "features": [{"feature": 7, "mode": "add", "value": -3.0}]}
    points = [sweep_point(strength, fluency) for strength, fluency in ((0, 1.0), (1, 0.9), (2, 0.2))]
    swept = Swept(SteeringSweep(("x",), tuple(points), {}), single, "feature 7", under_way=False)
    assert breaks_words(swept) == "Fluency falls below one half at strength −6."
    whole = replace(swept, sweep=replace(swept.sweep, points=tuple(points[:2])))
    assert breaks_words(whole) == "Fluency stays above one half at every strength tried."
    assert breaks_words(replace(whole, under_way=True)).endswith("so far.")
    assert strength_words(0.25, None) == "0.25 ×"


def test_how_the_prompt_baseline_does_is_said():
    asked = replace(sweep_point(math.nan, 0.456), method="prompt", concept_hit=1.0)
    said = "Asked for in the prompt instead: concept in the text 100 %, fluency 46 %."
    assert asked_words(SteeringSweep(("x",), (asked,), {})) == said
    assert asked_words(SteeringSweep(("x",), (), {})) == ""


def sweep_point(strength, fluency):
    numbers = {one.name: 0.0 for one in fields(SweepPoint)}
    about = {"method": "feature 7", "matched_to": "", "intervention": None, "texts": ("x",)}
    return SweepPoint(**{**numbers, **about, "strength": strength, "fluency": fluency})


def test_a_stopped_text_is_shown_as_far_as_it_came(model):
    view = small_view(model, small_sae())
    column = {"key": "steered", "title": "Steered", "note": ""}
    view._written = Written(view.setting, (column,), {"steered": ("so <b>far", "stopped")})
    assert "so &lt;b&gt;far … (stopped)" in view._repr_html_()
    assert view.value == "so <b>far"
