"""The circuit view without a kernel: static HTML, repr, mime bundle, exported page, how large it is."""

import html.parser
import re

import pytest

from saekit.views.circuit import Circuit
from tests.views.circuit_parts import HIGH, LOW, fake_index, random_saes, small_task


@pytest.fixture(scope="module")
def view(model):
    saes = random_saes()
    made = Circuit(model, saes, small_task(model), index=fake_index(saes[1]), k=30)
    assert made.wait(300)
    return made


def test_the_repr_and_the_bundle_say_what_is_shown(view):
    score = f"faithfulness {view.faithfulness:.2f}, completeness {view.completeness:.2f}"
    assert repr(view) == f"Circuit(own: 30 of 384 features on {LOW} and {HIGH}, errors kept, {score})".replace(
        " -", " −"
    )
    bundle, _ = view._repr_mimebundle_()
    assert bundle["text/plain"] == repr(view)
    assert bundle["text/html"] == view._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_static_html_is_small_safe_and_without_script(view):
    shown = view._repr_html_()
    tags = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)
    parser.feed(shown)
    assert not {"script", "style", "img", "a"} & set(tags)
    assert not re.search(r"https?:|#[0-9a-f]{3,6}\b", shown)
    assert len(shown.encode()) < 60_000
    assert shown.count('data-saekit="picture"') == 1
    page = view.to_html()
    assert "<img" not in page
    assert page.count("<script") == 1
    assert view.to_svg().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
