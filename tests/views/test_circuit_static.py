"""The circuit view without a kernel: static HTML, repr, mime bundle, exported page, one layout in both."""

import html.parser
import json
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from saekit.views.circuit import Circuit
from saekit.views.circuit.state import kept_numbers
from tests.views.circuit_parts import HIGH, LOW, fake_index, random_saes, small_task

drawn = import_module("saekit.views.circuit.still")


@pytest.fixture(scope="module")
def view(model):
    saes = random_saes()
    made = Circuit(model, saes, small_task(model), index=fake_index(saes[1]), k=30)
    assert made.wait(60)
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


def test_live_and_static_pictures_have_the_same_layout(view, tmp_path):
    node = shutil.which("node")
    if not node:
        pytest.skip("needs Node")
    module = (Path(__file__).parents[2] / "widgets/circuit/picture.js").as_uri()
    numbers = kept_numbers(view._nodes, 30, "kept")
    kept = [view._nodes[i] for i in numbers]
    script = tmp_path / "layout.mjs"
    script.write_text(
        f'import {{ keptNumbers, layoutCircuit }} from "{module}";\n'
        f"const nodes = {json.dumps(view._nodes)}, kept = keptNumbers(nodes, 30, 'kept');\n"
        "console.log(JSON.stringify([kept, layoutCircuit(kept.map((i) => nodes[i]), 2, 2)]));",
        encoding="utf-8",
    )
    out = subprocess.run([node, "--no-warnings", script], capture_output=True, text=True, check=True).stdout
    theirs, layout = json.loads(out)
    assert theirs == numbers
    assert layout == json.loads(json.dumps(drawn.layout(kept, 2, 2)))
