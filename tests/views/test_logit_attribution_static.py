"""The logit attribution view without a kernel: static HTML, repr, mime bundle, exports that are the same in both."""

import csv
import html.parser
import io
import json
import re

import pytest

from saekit.views._shared.words import percent
from saekit.views.logit_attribution.ask import Asked
from saekit.views.logit_attribution.numbers import table_csv
from saekit.views.logit_attribution.state import bar_name, baseline_words, picture_words
from tests.views.attribution_parts import PROMPT, small_view
from tests.views.panels import elements, text

HOSTILE = 'The cat <img src=x onerror="window.hacked=1"> </script> sat\n&amp; "on", the mat'


@pytest.fixture(scope="module")
def view(model):
    made = small_view(model, ablated=[7, 21])
    assert made.wait(300)
    made.method = "patching"
    assert made.wait(300)
    made.method = "direct"
    assert made.wait(300)
    return made


def tags(text):
    found = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append(tag)
    parser.feed(text)
    return found


def test_the_repr_and_the_bundle_say_what_is_shown(view):
    numbers = json.loads(view.to_json())
    strongest = next(row for row in numbers["bars"] if row["kind"] == "feature")
    assert repr(view) == (
        f"LogitAttribution('c' - 'd' = {numbers['reading']:+.2f}, direct at blocks.1.hook_resid_post, "
        f"strongest feature {strongest['feature']} at ·mat: {strongest['effect']:+.2f})"
    )
    bundle, _ = view._repr_mimebundle_()
    assert bundle["text/plain"] == repr(view)
    assert bundle["text/html"] == view._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_static_html_shows_every_bar_and_the_predictions(view):
    shown = view._repr_html_()
    assert not {"script", "style", "img", "a", "input", "button"} & set(tags(shown))
    assert not re.search(r"https?:|#[0-9a-f]{3,6}\b", shown)
    assert len(shown.encode()) < 60_000
    assert shown.count('data-saekit="picture"') == 2, "bars and picture"
    for row in json.loads(view.to_json())["bars"]:
        assert bar_name(row) in shown
    assert "2 ablated" in shown
    assert "2 random ablated" in shown
    assert "exact" in json.loads(view.to_json())["check"]
    assert json.loads(view.to_json())["check"] in shown


def test_hostile_text_stays_text(model):
    view = small_view(model)
    view.prompt = HOSTILE
    assert view.wait(300)
    assert view.error == ""
    for shown in (view._repr_html_(), view.to_html()):
        assert "img" not in tags(shown.split('<script type="module">')[0])
        assert 'onerror="' not in shown
    assert view.to_html().count("</script>") == 1


def test_the_page_holds_the_methods_computed_and_refuses_others(view):
    page = view.to_html()
    replies = json.loads(re.search(r"replies = (\{.*?\}), heard", page)[1])
    assert replies["method"].keys() == {'"direct"', '"patching"', ""}
    assert replies["method"]['"patching"']["_shown"]["method"] == "patching"
    bars = replies["method"]['"direct"']["_shown"]["panels"]["bars"]
    assert text(elements(bars, look="agreement")[0]).startswith("Agreement of direct with patching")


def test_csv_and_json_are_the_bars_that_are_shown(view):
    rows = list(csv.DictReader(io.StringIO(view.to_csv())))
    assert [float(row["effect"]) for row in rows] == pytest.approx(
        [b["effect"] for b in json.loads(view.to_json())["bars"]], abs=1e-6
    )
    assert [row["kind"] for row in rows] == [bar["kind"] for bar in json.loads(view.to_json())["bars"]]
    record = json.loads(view.to_json())
    assert record["asked"]["prompt"] == PROMPT
    assert record["features"] == list(dict.fromkeys(row["feature"] for row in record["bars"] if row["feature"] >= 0))
    assert record["ablated"] == [7, 21]
    assert len(record["picture"]) == len(record["features"]) + 1
    assert record["bars"][-1]["running"] == pytest.approx(record["sum"])


# --- words -------------------------------------------------------------------------------------------------------


def bar(kind, **more):
    about = {"feature": -1, "position": -1, "token": "", "items": 1, "activation": None, "effect": 1.5, "running": 1.5}
    return {"kind": kind, **about, **more}


def test_bars_have_names_that_show_whitespace():
    assert bar_name(bar("feature", feature=7, token=" to")) == "feature 7 at ·to"
    assert bar_name(bar("error", items=15)) == "reconstruction error, 15 tokens"
    assert bar_name(bar("error", token="\n")) == "reconstruction error at ↵"
    names = [bar_name(bar(kind, items=1234)) for kind in ("others", "bias", "rest", "output_bias")]
    assert names == ["1,234 other features", "bias of the SAE", "rest of the model", "output bias"]


def test_bars_lie_on_both_sides_of_a_zero_that_they_share(view):
    rows = json.loads(view.to_json())["bars"]
    drawn = [one[1] for one in elements(view.state()["bars"], look="span-bar")]
    span = max(0, *(row["effect"] for row in rows)) - min(0, *(row["effect"] for row in rows))
    zero = elements(view.state()["bars"], "table")[0][1]["zero"]
    for row, one in zip(rows, drawn, strict=True):
        assert one["length"] == pytest.approx(abs(row["effect"]) / span, abs=1e-4)
        edge = one["start"] if row["effect"] >= 0 else one["start"] + one["length"]
        assert edge == pytest.approx(zero, abs=2e-4)
        assert one["tone"] == ("plus" if row["effect"] >= 0 else "minus")


def test_a_cell_is_shaded_by_the_strongest_feature(view):
    numbers = json.loads(view.to_json())
    scale = max(abs(row["effect"]) for row in numbers["bars"] if row["kind"] == "feature")
    cells = elements(view.state()["picture"], look="cell")
    values = [value for row in numbers["picture"] for value in row]
    for cell, value in zip(cells, values, strict=True):
        share = min(1, abs(value) / scale)
        if cell[1]["data-position"] and share > 0.025:
            assert cell[1]["shade"] == pytest.approx(share, abs=1e-3)
            assert text(cell) == f"{value:+.2f}".replace("-", "−")


def test_tokens_with_commas_quotes_and_line_breaks_stay_in_their_field():
    written = table_csv([bar("feature", feature=2, position=0, token=',"\n', activation=3.0)])
    head = "kind,feature,position,token,items,activation,effect,running\n"
    assert written == head + 'feature,2,0,",""\n",1,3.000000,1.500000,1.500000\n'
    assert table_csv([]) == head


def test_effects_say_what_they_are_measured_against():
    asked = Asked("a b", " Mary", " John", "corrupted", "c d", "blocks.1.hook_resid_post")
    assert "final norm" in baseline_words(asked, "direct")
    assert baseline_words(asked, "exact") == "against “c d”"
    assert "each token's own prediction" in picture_words("direct")
    assert "last token's prediction" in picture_words("exact")


def test_a_predicted_token_tells_its_shares_on_hover(view):
    for row, shown in zip(
        json.loads(view.to_json())["predictions"], elements(view.state()["says"], "tr")[1:], strict=True
    ):
        parts = [percent(row["probability"]), f"{percent(row['ablated'])} with the ticked features ablated"]
        parts.append(f"{percent(row['control'])} with random ones ablated")
        assert shown[1]["title"] == f"{json.dumps(row['text'], ensure_ascii=False)}: {', '.join(parts)}"
