"""Charts as nodes: axes, labels that make room, gaps where there is no number, words."""

import itertools
import math

import numpy as np
import pytest

from saekit.views._shared.chart import (
    Line,
    axis,
    bar_chart,
    decade_ticks,
    dodge,
    end_places,
    histogram_bars,
    histogram_words,
    line_chart,
    line_path,
    linear_ticks,
    looks,
    sample,
    tight_axis,
)
from tests.views.panels import elements, text


def test_linear_ticks_are_round_begin_at_0_and_reach_the_largest_value():
    assert linear_ticks(100) == [0, 50, 100]
    assert linear_ticks(0.3) == [0, 0.1, 0.2, 0.3]
    assert linear_ticks(102400, 3) == [0, 50000, 100000, 150000]
    for bad in (0, math.nan, -1, math.inf):
        assert linear_ticks(bad) == [0, 1]
    high = 1e-7
    while high < 1e9:
        ticks = linear_ticks(high, 4)
        assert ticks[-1] >= high * (1 - 1e-6)
        assert 2 <= len(ticks) <= 5
        assert ticks[-2] < high, "no empty step above"
        high *= 1.37


def test_logarithmic_ticks_enclose_the_values_and_stay_few():
    assert decade_ticks(0.13, 1.7) == [0.1, 0.2, 0.5, 1, 2]
    assert decade_ticks(30, 900) == [20, 50, 100, 200, 500, 1000]
    assert decade_ticks(3, 3) == [2, 5]
    assert decade_ticks(1, 1) == [1, 2]
    for exponent, ratio in itertools.product(range(-16, 9), (1, 3, 9, 80, 1e5, 1e12)):
        low = 10 ** (exponent / 2)
        ticks = decade_ticks(low, low * ratio)
        assert ticks[0] <= low * (1 + 1e-6)
        assert ticks[-1] >= low * ratio * (1 - 1e-6)
        assert 2 <= len(ticks) <= 7
        assert ticks == sorted(set(ticks))


def test_an_axis_is_logarithmic_where_the_values_differ_much_and_never_with_a_zero_on_it():
    assert axis([10, 100]).log
    assert not axis([10, 20]).log
    assert not axis([0, 10, 100]).log
    assert not axis([10, 100], linear=True).log
    assert not axis([]).log
    assert [axis([1, 10, 100]).at(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])
    tight = tight_axis(102400)
    assert (tight.ticks, tight.at(51200)) == ((0, 50000, 100000), 0.5), "a tight axis ends where the data end"
    assert axis([math.nan, 30, math.inf]).high == 30, "what is no number does not set the scale"


def test_a_path_leaves_a_gap_where_there_is_no_number():
    assert line_path([(0, 5), (1, 6), (2, math.nan), (3, 8)]) == "M0 5L1 6M3 8"
    assert line_path([]) == ""
    assert math.isnan(axis([1, 10]).at(0)), "a log axis has no 0"


def test_labels_move_apart_keep_their_order_and_stay_inside_where_they_fit():
    assert dodge([50, 10], 12, 0, 100) == [50, 10]
    assert dodge([98, 99, 97, 20], 12, 0, 100) == [88, 100, 76, 20]
    many = sorted(dodge([50] * 8, 12, 0, 100))
    assert all(after - before >= 12 - 1e-9 for before, after in itertools.pairwise(many))


def test_a_label_far_from_the_others_stays_at_the_end_of_its_line():
    assert end_places([(180, 50), (100, 52), (180, 51), (178, 80)], 60, 0, 100) == [50, 52, 62, 80]
    assert end_places([], 60, 0, 100) == []


def test_forty_two_lines_look_different_before_one_look_comes_again():
    shown = [str(sample(number)) for number in range(looks() + 1)]
    assert looks() == 42
    assert len(set(shown)) == 42
    assert shown[42] == shown[0]


def test_a_line_chart_draws_every_line_in_the_box_with_its_name_at_its_end():
    xs = np.array([0.0, 500, 1000])
    lines = [Line("first", 0, xs, np.array([9.0, 3, 1])), Line("another long name", 1, xs, np.array([9.0, np.nan, 2]))]
    chart = line_chart(lines, "two lines", mark=500)
    assert chart[1]["aria-label"] == "two lines"
    assert len(elements(chart, look="line")) == 2
    assert elements(chart, look="line")[1][1]["d"].count("M") == 2
    assert [text(name) for name in elements(chart, look="label")] == ["firstfirst", "another long nameanother l…"]
    assert "log scale" in text(chart)
    assert len(elements(chart, look="chart-mark")) == 1
    assert "log scale" not in text(line_chart(lines, "", linear=True))
    assert elements(line_chart([], "nothing yet"), look="line") == []


def test_bars_stand_on_the_axis_and_one_beside_it():
    chart = bar_chart([0, 5, 10], "counts", apart=(2, "never"), number=3, ticks=[(0, "a"), (1, "b")], x_label="share")
    bars = [one[1] for one in elements(chart, look="column")]
    assert [bar["height"] for bar in bars] == [0, bars[2]["height"] / 2, bars[2]["height"]]
    assert len({bar["y"] + bar["height"] for bar in bars}) == 1
    assert text(elements(chart, "text")[-1]) == "share"


def test_histogram_bars_grow_with_the_logarithm_and_one_activation_still_has_a_bar():
    chart = histogram_bars({"edges": [0, 1, 2, 3, 4], "counts": [1000, 10, 1, 0]}, "words")
    bars = [one[1] for one in elements(chart, look="column")]
    heights = [bar["height"] for bar in bars]
    assert len(bars) == 3
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] > 0
    assert all(bar["y"] >= 0 for bar in bars)
    assert [text(tick) for tick in elements(chart, "text")][:4] == ["1", "10", "100", "1k"]


def test_a_histogram_in_words():
    words = histogram_words({"edges": [0, 1, 2], "counts": [1200, 3]}, 1203)
    assert words == "1,203 activations in 2 bins from 0 to 2; most (1,200) between 0 and 1, 3 in the highest bin"


def test_a_curve_of_numbers_that_are_none_is_left_out():
    none = Line("a", 0, np.array([1.0, 2.0]), np.array([np.nan, np.nan]))
    half = Line("b", 1, np.array([1.0, 2.0]), np.array([np.nan, 3.0]))
    alone = Line("c", 2, np.array([10.0]), np.array([3.0]))
    for lines, drawn in [([none], 0), ([half, none], 1), ([alone], 1)]:
        made = line_chart(lines, "words")
        assert "nan" not in repr(made)
        assert len(elements(made, "path", "line")) == len(elements(made, "circle")) == drawn
