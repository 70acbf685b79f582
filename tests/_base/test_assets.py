"""The front-end sources keep to the rules that linking by text needs."""

import itertools
import posixpath
import re
from pathlib import Path

import pytest

from saekit._base import assets as _assets

VIEWS = [
    *("top_activations", "training", "logit_attribution", "circuit", "steering", "probes"),
    "image_activations",
]


def _name(path: Path) -> str:
    return path.relative_to(_assets.ROOT).with_suffix("").as_posix()


ROOTS = re.compile(r"\.saekit-(?:panel|view|images|top|steering|circuit|attribution|probes|training)(?![\w-])")
STYLES = sorted(_name(path) for path in _assets.ROOT.rglob("*.css"))
FILES = sorted(_name(path) for path in _assets.ROOT.rglob("*.js"))
WRITTEN = sorted([*_assets.ROOT.glob("*/*"), *(Path(__file__).parents[1] / "widgets").iterdir()])
TOP_LEVEL = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class)\s+(\w+)", re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_imports_are_named_imports_of_siblings_and_stand_first(name):
    source = re.sub(r"\A(?://.*\n)*", "", _assets.source(name))
    named = re.compile(r'import \{\s[\w,\s]+?\s\} from "(\.\.?/[\w/-]+)\.js";\n')
    while match := named.match(source):
        assert posixpath.normpath(f"{posixpath.dirname(name)}/{match[1]}") in FILES
        assert not re.search(r"\bas\b", match[0])
        source = source[match.end() :]
    assert re.findall(r"^\s*import\b.*|\bimport\(.*|^export .* from .*", source, re.MULTILINE) == []


def test_an_import_over_several_lines_is_linked_too(tmp_path, monkeypatch):
    _write(tmp_path, "of_parts/index.js", 'import {\n  first,\n  second,\n} from "./part.js";\n\nfirst(second);\n')
    _write(tmp_path, "of_parts/part.js", "export const second = 2;\n\nexport function first() {}\n")
    monkeypatch.setattr(_assets, "ROOT", tmp_path)
    linked = _assets.module("of_parts")
    assert linked.split() == "const second = 2; function first() {} first(second);".split()


def test_a_file_that_two_folders_import_by_different_paths_is_linked_once(tmp_path, monkeypatch):
    _write(tmp_path, "by_two_paths/index.js", 'import { a } from "./a.js";\nimport { b } from "../_both/b.js";\n')
    _write(tmp_path, "by_two_paths/a.js", 'import { b } from "../_both/b.js";\nexport const a = b;\n')
    _write(tmp_path, "_both/b.js", 'import { c } from "./c.js";\nexport const b = c;\n')
    _write(tmp_path, "_both/c.js", "export const c = 1;\n")
    monkeypatch.setattr(_assets, "ROOT", tmp_path)
    assert _assets.dependencies("by_two_paths") == ["_both/c", "_both/b", "by_two_paths/a", "by_two_paths/index"]
    assert _assets.module("by_two_paths").split() == "const c = 1; const b = c; const a = b;".split()


def _write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_line_is_longer_than_120_characters(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [(number, line) for number, line in enumerate(lines, 1) if len(line) > 120] == []


@pytest.mark.parametrize("view", VIEWS)
def test_top_level_names_are_unique_over_all_linked_files(view):
    names = [name for file in _assets.dependencies(view) for name in TOP_LEVEL.findall(_assets.source(file))]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


@pytest.mark.parametrize("view", VIEWS)
def test_a_linked_module_has_no_import_and_one_export(view):
    linked = _assets.module(view)
    assert re.findall(r"^import\b.*", linked, re.MULTILINE) == []
    assert re.findall(r"^export\b.*", linked, re.MULTILINE) == ["export default { render };"]


def test_dependencies_come_before_what_needs_them():
    order = _assets.dependencies("top_activations")
    assert order.index("_shared/strips") < order.index("_shared/draw") < order.index("_shared/chooser")


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
    selectors = _selectors(_assets.style(view))
    assert len(selectors) > 50
    assert [s for s in selectors if not s.startswith(".saekit-")] == []


@pytest.mark.parametrize("view", VIEWS)
def test_every_stylesheet_begins_with_the_theme_and_holds_each_file_once(view):
    css = _assets.style(view)
    assert css.startswith(_assets.rules("_shared/theme"))
    assert "@import" not in css
    for name in STYLES:
        own = re.sub("@import.*\n", "", _assets.rules(name))
        assert css.count(own) <= 1, name


def test_no_two_stylesheets_declare_the_same_variable_on_their_views():
    found = [
        (name, file)
        for file in STYLES
        for selectors, declared in _blocks(_assets.rules(file))
        if ROOTS.sub("", selectors) == ""
        for name in re.findall(r"(--[\w-]+):", declared)
    ]
    names = [name for name, _ in found]
    assert [(name, file) for name, file in found if names.count(name) > 1] == []


def test_no_two_stylesheets_repeat_a_block():
    seen: dict[tuple, str] = {}
    again = []
    for file in STYLES:
        for selectors, declared in _blocks(_assets.rules(file)):
            declarations = tuple(sorted(part.strip() for part in declared.split(";") if part.strip()))
            block = (ROOTS.sub("", selectors).strip(), declarations)
            if len(declarations) > 1 and seen.setdefault(block, file) != file:
                again.append((file, seen[block], selectors))
    assert again == []


def test_a_class_that_another_view_styles_too_stands_under_the_views_own():
    written = {file: _selectors(_assets.rules(file)) for file in STYLES if file != "_shared/theme"}
    bare = {file: {re.match(r"\.[\w-]+", s)[0] for s in selectors} for file, selectors in written.items()}
    found = []
    for file, other in itertools.permutations(written, 2):
        view = other.partition("/")[0]
        if view in VIEWS and re.sub(r"@import[^\n]*\n", "", _assets.rules(file)) in _assets.style(view):
            continue  # the other one builds upon it
        used = {name for s in written[other] for name in re.findall(r"\.[\w-]+", s) if not ROOTS.fullmatch(name)}
        found += [(file, other, name) for name in sorted(bare[file] & used)]
    assert found == []


@pytest.mark.parametrize("view", VIEWS)
def test_no_colour_is_hard_coded_white_or_black(view):
    css = re.sub(r"mask-image:[^;]*;", "", _assets.style(view))
    assert re.findall(r"#[0-9a-f]{3,8}\b|:\s*(?:white|black)\b", css, re.IGNORECASE) == []
    assert "prefers-reduced-motion" in css
    assert "forced-colors" in css


def _blocks(css: str) -> list[tuple[str, str]]:
    """Return the selectors and the declarations of every rule, also of those inside a condition."""
    css = re.sub(r"/\*.*?\*/|@import[^\n]*\n", "", css, flags=re.DOTALL)
    css = re.sub(r"@(?:media|container)[^{]*\{", "", css)
    return [(selectors.strip(" \n}"), declared) for selectors, declared in re.findall(r"([^{}]+)\{([^}]*)\}", css)]


def _selectors(css: str) -> list[str]:
    return [part.strip() for selectors, _ in _blocks(css) for part in _split(selectors)]


def _split(selectors: str) -> list[str]:
    """Split at commas outside parentheses."""
    inside = re.compile(r"\([^()]*\)")
    flat = selectors
    while inside.search(flat):
        flat = inside.sub(lambda found: "_" * len(found[0]), flat)
    cuts = [-1, *(found.start() for found in re.finditer(",", flat)), len(selectors)]
    return [selectors[a + 1 : b] for a, b in itertools.pairwise(cuts)]
