"""The still of a panel: what of a node it keeps, and what it leaves to the live view."""

import pytest

from saekit.views._shared.nodes import el, facts, figure, label, meter, picture, table, token
from saekit.views._shared.palette import TONES
from saekit.views._shared.still import html_of, still, svg_document
from saekit.views._shared.strips import near_only, shaded_strip, strip

HOSTILE = '<img src=x onerror="hacked()">'


def test_text_and_titles_are_escaped():
    shown = html_of(el("p", {"title": HOSTILE}, HOSTILE, el("b", {}, "\0")))
    assert "<img" not in shown
    assert "&lt;img src=x onerror=&quot;hacked()&quot;&gt;" in shown
    assert "\0" not in shown


def test_what_can_only_be_pressed_is_left_out():
    button = el("button", {"type": "button", "set": ["value", 3], "data-feature": 3, "title": "go", "tabindex": 0}, "3")
    assert html_of(button) == '<span title="go">3</span>'
    assert html_of(el("input", {"type": "range"})) == html_of(el("p", {"only": "live"}, "more")) == ""
    assert html_of(el("div", {"role": "option", "aria-selected": "true"}, "x")) == "<div>x</div>"


def test_a_picture_has_its_words_and_no_roles_of_its_parts():
    mark = el("g", {"role": "option", "aria-label": "node"}, el("circle", {"class": "dot", "tone": "minus", "r": 2}))
    shown = html_of(picture(10, 10, "two nodes", mark, label(1, 2, "text", "end"), role="listbox"))
    assert shown.startswith('<svg data-saekit="picture" role="img" aria-label="two nodes"')
    assert shown.count("role=") == shown.count("aria-label=") == 1
    assert "fill:rgb(213,94,0)" in shown
    assert '<text x="1" y="2" text-anchor="end">text</text>' in shown
    assert svg_document(picture(10, 10, "two")).startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_facts_stand_in_one_line():
    assert html_of(facts(("max", "11"), ("", "dead"))).endswith(">max 11 · dead</div>")


@pytest.mark.parametrize("tone", TONES)
def test_every_tone_is_the_colour_of_the_palette(tone):
    colour = ",".join(map(str, TONES[tone]))
    assert f"background:rgba({colour},0.8)" in html_of(el("td", {"class": "shaded", "tone": tone, "shade": 1}, "x"))


def test_a_table_in_the_flow_of_text_is_a_line_of_its_rows():
    rows = [el("tr", {"title": "first"}, el("th", {}, token(" a")), el("td", {}, "+1")), ["b", meter(1, "plus")]]
    shown = html_of(table(["token", "logit"], rows, caption="Promotes", **{"class": "flow"}))
    assert "<table" not in shown
    assert ">Promotes</div>" in shown
    assert 'title="first"' in shown


def test_noise_in_a_shade_does_not_change_the_bytes():
    first, second = (still([shaded_strip("", ["a"], [value], 1.0)]) for value in (0.5, 0.5000001))
    assert first == second


def test_only_active_tokens_are_marked_and_signs_have_their_colour():
    shown = still([strip("", ["a", "b", "c"], [0, 1, 2, 3], [[0, "1", "1", 1.0], [2, "−1", "−1", -1.0]])])
    assert shown.count("<mark") == 2
    assert shown.index("0,120,186") < shown.index("213,94,0")


def test_a_strip_is_cut_around_its_peak_and_never_inside_a_character():
    tokens = ["a", "戦", "", "", "b", "c", "d"]
    node = shaded_strip("", tokens, [0, 1, 3, 0, 0, 0, 0], 3.0, peak=2, side=1)
    about = node[1]
    assert (about["tokens"], about["peak"], about["near"]) == (["a", "戦", "b", "c", "d"], 1, [0, 3])
    assert about["at"] == [0, 1, 4, 5, 6, 7]
    assert near_only(node)[1]["tokens"] == ["a", "戦", "b"]
    assert near_only(node)[1]["at"] == [0, 1, 4, 5]


def test_generated_text_keeps_its_whitespace():
    about = strip("", [" a\n", "b"], [0, 1, 2], [], written=True)[1]
    assert about["tokens"] == [" a\n", "b"]
    assert "raw" not in about
    assert "white-space:pre-wrap" in still([["strip", about]])


def test_a_figure_says_itself_once_to_those_who_do_not_see_it():
    shown = figure("Title", picture(1, 1, "a line"), "a line")
    assert shown[-1][1]["aria-hidden"] == "true"
    assert html_of(shown).count("a line") == 2
