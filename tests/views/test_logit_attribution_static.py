"""The logit attribution view without a kernel: static HTML, repr, mime bundle, exports that are the same in both."""

import csv
import html.parser
import io
import json
import re
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from saekit.views.logit_attribution.still import agreement_words, bar_name
from tests.views.attribution_parts import PROMPT, small_view

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
    strongest = next(row for row in view._shown["bars"] if row["kind"] == "feature")
    assert repr(view) == (
        f"LogitAttribution('c' - 'd' = {view._shown['reading']:+.2f}, direct at blocks.1.hook_resid_post, "
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
    for row in view._shown["bars"]:
        assert bar_name(row) in shown
    assert "2 ablated" in shown
    assert "2 random ablated" in shown
    assert "exact" in view._shown["check"]
    assert view._shown["check"] in shown


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
    assert replies["method"]['"direct"']["_agreement"][0]["method"] == "patching"


def test_csv_and_json_are_the_bars_that_are_shown(view):
    rows = list(csv.DictReader(io.StringIO(view.to_csv())))
    assert [float(row["effect"]) for row in rows] == pytest.approx([b["effect"] for b in view._shown["bars"]], abs=1e-6)
    assert [row["kind"] for row in rows] == [bar["kind"] for bar in view._shown["bars"]]
    record = json.loads(view.to_json())
    assert record["asked"]["prompt"] == PROMPT
    assert record["bars"] == view._shown["bars"]
    assert record["ablated"] == [7, 21]
    assert len(record["picture"]) == len(record["features"]) + 1
    assert record["bars"][-1]["running"] == pytest.approx(record["sum"])


def test_live_and_static_view_write_the_same(view, tmp_path):
    node = shutil.which("node")
    if not node:
        pytest.skip("needs Node")
    module = (Path(__file__).parents[2] / "widgets/logit_attribution/data.js").as_uri()
    shown = {name: value for name, value in view._shown.items() if name != "picture"}
    picture = b64encode(view._shown["picture"]).decode()
    script = tmp_path / "same.mjs"
    script.write_text(
        f'import {{ agreementWords, attributionRecord, barName, barsCsv }} from "{module}";\n'
        f"const shown = {json.dumps(shown)}, outcome = {json.dumps(view._outcome)};\n"
        f'const bytes = Uint8Array.from(atob("{picture}"), (c) => c.charCodeAt(0));\n'
        "const record = attributionRecord(shown, new Float32Array(bytes.buffer), outcome);\n"
        f"const words = agreementWords('direct', {json.dumps(view._agreement)});\n"
        "console.log(JSON.stringify([barsCsv(shown), record, shown.bars.map(barName), words]));",
        encoding="utf-8",
    )
    out = subprocess.run([node, "--no-warnings", script], capture_output=True, text=True, check=True).stdout
    table, record, names, words = json.loads(out)
    assert table == view.to_csv()
    assert record == json.loads(view.to_json())
    assert names == [bar_name(row) for row in view._shown["bars"]]
    assert words == agreement_words("direct", view._agreement)
