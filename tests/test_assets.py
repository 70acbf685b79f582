"""The front-end sources keep to the rules that linking by text needs."""

import re

import pytest

from saekit import _assets

VIEWS = [
    *("top_activations", "training", "logit_attribution", "circuit", "steering", "probes"),
    "image_activations",
]
FILES = sorted(path.stem for path in _assets.ROOT.glob("*.js"))
TOP_LEVEL = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class)\s+(\w+)", re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_imports_are_one_line_named_imports_of_siblings(name):
    lines = [line for line in _assets.source(name).splitlines() if re.match(r"\s*import\b", line)]
    odd = [line for line in lines if not re.fullmatch(r'import \{ [\w, ]+ \} from "\./[\w-]+\.js";', line)]
    assert odd == []
    assert not re.search(r"\bimport\(|\bas\b .* from", _assets.source(name))


@pytest.mark.parametrize("view", VIEWS)
def test_top_level_names_are_unique_over_all_linked_files(view):
    files = [*_assets.dependencies(view), view]
    names = [name for file in files for name in TOP_LEVEL.findall(_assets.source(file))]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


@pytest.mark.parametrize("view", VIEWS)
def test_a_linked_module_has_no_import_and_one_export(view):
    linked = _assets.module(view)
    assert re.findall(r"^import\b.*", linked, re.MULTILINE) == []
    assert re.findall(r"^export\b.*", linked, re.MULTILINE) == ["export default { render };"]


def test_dependencies_come_before_what_needs_them():
    order = _assets.dependencies("top_activations")
    assert order.index("lib") < order.index("dom") < order.index("chooser")


@pytest.mark.parametrize("name", FILES)
def test_text_never_reaches_the_page_as_markup(name):
    found = re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", _assets.source(name))
    assert found == []


@pytest.mark.parametrize("name", FILES)
def test_no_classes_and_no_network(name):
    source = re.sub(r"https://www\.neuronpedia\.org/|http://www\.w3\.org/2000/svg", "", _assets.source(name))
    assert re.findall(r"^\s*class \w+|https?://|fetch\(|XMLHttpRequest|WebSocket", source, re.MULTILINE) == []


@pytest.mark.parametrize("view", VIEWS)
def test_every_selector_is_ours(view):
    css = re.sub(r"/\*.*?\*/", "", _assets.style(view), flags=re.DOTALL)
    css = re.sub(r"@(?:media|container)[^{]*\{", "", css)
    selectors = [part.strip() for block in re.findall(r"([^{}]+)\{", css) for part in _split(block)]
    assert [s for s in selectors if s and not s.startswith(".saekit-")] == []


@pytest.mark.parametrize("view", VIEWS)
def test_no_colour_is_hard_coded_white_or_black(view):
    css = re.sub(r"mask-image:[^;]*;", "", _assets.style(view))
    assert re.findall(r"#[0-9a-f]{3,8}\b|:\s*(?:white|black)\b", css, re.IGNORECASE) == []
    assert "prefers-reduced-motion" in css
    assert "forced-colors" in css


def _split(selectors: str) -> list[str]:
    """Split at commas outside parentheses."""
    return re.split(r",(?![^()]*\))", selectors)
