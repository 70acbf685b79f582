"""The browser and the still draw the same state: words and numbers of every panel of every view, drawn both ways.

The browser's half runs in Node on a stand-in for the page (`tests/widgets/drawn.mjs`), so that it takes no Chromium;
`tests/browser/test_one_state_page.py` asks whether a live view shows its whole state.
"""

import html.parser
import json
import re
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from saekit.views._shared.still import still
from tests.__main__ import find_node
from tests.views.every_view import EVERY_VIEW

ROOT = Path(__file__).parents[2]


class Words(html.parser.HTMLParser):
    """What a reader of static HTML reads, and what a picture is to those who do not see it."""

    def __init__(self):
        super().__init__()
        self.text, self.labels, self.titles = "", [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.labels += [found["aria-label"]] if found.get("role") == "img" else []
        # The tooltip of a token is coarser in a still, which is compared: its figures are in the live view.
        self.titles += [found["title"]] if "title" in found and tag != "mark" else []

    def handle_data(self, data):
        self.text += data


def both(node):
    """Return a panel without what only the live view has, as the still leaves it out."""
    if isinstance(node, str):
        return node
    tag, attributes, *children = node
    if attributes.get("only"):
        return ""
    if "rough" in attributes:
        digits = [float(words.replace(",", "")) for words in (attributes["rough"], children[0])]
        assert digits[0] == pytest.approx(digits[1], rel=0.06), "the same number with fewer digits"
        children = [attributes["rough"]]
    return [tag, attributes, *filter(None, map(both, children))]


def plain(text):
    """Return a text without blanks and the dots with which a still sets parts in one line apart."""
    return re.sub(r"[\s·]+", "", text)


@pytest.mark.parametrize("name", EVERY_VIEW)
def test_the_browser_draws_the_words_and_numbers_of_the_still(name, monkeypatch):
    node = find_node()
    if node is None:
        pytest.skip("needs Node 20.19 or newer")
    state = EVERY_VIEW[name](monkeypatch).state()
    panels = {key: both(panel) for key, panel in state.items() if not panel[1].get("only")}
    script = ROOT / "tests/widgets/drawn.mjs"
    sent = json.dumps(panels, allow_nan=False, default=lambda found: {"b64": b64encode(found).decode()}).encode()
    done = subprocess.run([node, str(script)], input=sent, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    drawn = json.loads(done.stdout)
    assert list(drawn) == list(panels)
    for key, panel in panels.items():
        words = Words()
        words.feed(still([panel]))
        assert plain(drawn[key]["text"]) == plain(words.text), key
        assert drawn[key]["labels"] == words.labels, key
        assert drawn[key]["titles"] == words.titles, key


@pytest.mark.parametrize("name", EVERY_VIEW)
def test_the_still_is_the_state(name, monkeypatch):
    view = EVERY_VIEW[name](monkeypatch)
    assert still(view.state().values()) == view._repr_html_()
