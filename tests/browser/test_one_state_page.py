"""A live view shows its whole state: every word and number of every panel stands in the exported page."""

import re
from collections import Counter

import pytest

from tests.views.every_view import EVERY_VIEW
from tests.views.panels import elements

pytestmark = pytest.mark.browser

CONTROLS = re.compile("[\0-\x08\x0b-\x1f]")  # they have no picture of their own, in a page as in a still
TEXTS = """() => {
  const walk = document.createTreeWalker(document.querySelector("#view"), NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walk.nextNode()) texts.push(walk.currentNode.data);
  const pictures = document.querySelectorAll("#view [role=img], #view svg[aria-label]");
  const labels = [...pictures].map((node) => node.ariaLabel);
  return [...texts, ...labels];
}"""


def words_of(panel):
    """Return the words that a panel shows at first, and those of its pictures' labels."""
    if isinstance(panel, str):
        return CONTROLS.sub("\ufffd", panel).split()
    if panel[0] == "strip":
        first, end = panel[1].get("near", (0, None))
        return [word for token in panel[1]["tokens"][first:end] for word in words_of(token)]
    if panel[0] == "patches":
        rows, columns = panel[1]["grid"]
        marked = [word for _, words, *_ in panel[1]["marks"] for word in words.split()]
        return [*panel[1]["caption"].split(), *marked, *["0"] * (rows * columns - len(panel[1]["marks"]))]
    return [word for child in panel[2:] for word in words_of(child)]


@pytest.mark.parametrize("name", EVERY_VIEW)
def test_every_word_and_number_of_the_state_is_in_the_page(page, tmp_path, monkeypatch, name):
    view = EVERY_VIEW[name](monkeypatch)
    file = tmp_path / "view.html"
    file.write_text(view.to_html(), encoding="utf-8")
    page.goto(file.as_uri())
    page.wait_for_function("window.saekit?.ready")
    shown = Counter(word for text in page.evaluate(TEXTS) for word in text.split())
    for key, panel in view.state().items():
        labels = [one[1]["aria-label"] for one in elements(panel, "svg") if "aria-label" in one[1]]
        labels += [one[1]["label"] for one in elements(panel, "pixels")]
        wanted = Counter([*words_of(panel), *(word for label in labels for word in label.split())])
        assert wanted - shown == Counter(), key
    assert page.errors == []
