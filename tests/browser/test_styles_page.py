"""The stylesheets of two views in one bare page, as in a notebook that shows both. No Jupyter."""

import re
from itertools import permutations

import pytest

from saekit._base import assets as _assets
from tests._base.test_assets import VIEWS

pytestmark = pytest.mark.browser

CONTROLS = """<button>Go</button><button class="saekit-go">Go</button><button aria-disabled="true">Go</button>
<select><option>one</option></select><textarea></textarea><input type="text">
<input type="number"><input type="range"><input type="checkbox"><details><summary>More</summary></details>"""
TEXT = """<h2>Title</h2><h3>Part</h3><h4>Label <span>aside</span></h4><p>Text <mark>here</mark></p>
<p class="saekit-faint">Aside</p><p class="saekit-alert">Wrong</p>
<ul><li>One</li></ul><ol class="saekit-contexts"><li>One <mark>here</mark></li></ol><dl><dt>Term</dt><dd>Means</dd></dl>
<table><caption>Values</caption><thead><tr><th>Name</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>"""
# What the browser computes for every element of the first view, once its stylesheet and another's are in the head.
COMPUTED = """(styles) => {
  const sheet = (text) => Object.assign(document.createElement("style"), { textContent: text });
  document.head.replaceChildren(...styles.map(sheet));
  return [...document.querySelectorAll("section, section *")].map((node) => {
    const look = getComputedStyle(node);
    const name = `${node.localName}.${node.className}`;
    return [name, [...look].map((key) => `${key}: ${look.getPropertyValue(key)}`).join("; ")];
  });
}"""


def body_of(view):
    """Return elements that many views have, and one for every class that the view's own modules write."""
    root = _prefixed(re.search(r'class: "((?:saekit-)?panel [^"]+)"', _assets.source(f"{view}/index"))[1])
    modules = [_assets.source(file) for file in {*_assets.dependencies(view)} - {"_shared/lib", "_shared/dom"}]
    found = re.findall(r'(?:h\(|\[\s*)"(\w+)",\s*\{[^{}]*?class: "([^"]+)"', "".join(modules))
    made = {(tag, _prefixed(names)) for tag, names in found} - {("section", root)}
    some = (
        f'<{tag} class="{names}"><h2>x</h2><h4>x</h4><mark>x</mark></{tag}>'
        for tag, names in sorted(made)
        if tag not in ("table", "tr", "th", "td", "p", "summary", "textarea")
    )
    words = (f'<p class="{names}">x</p>' for tag, names in sorted(made) if tag in ("p", "span"))
    return f'<section class="{root}">{TEXT}{CONTROLS}{"".join([*some, *words])}</section>'


def _prefixed(names):
    return " ".join(name if name.startswith("saekit-") else f"saekit-{name}" for name in names.split())


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_looks_the_same_beside_every_other_whichever_came_first(page, view):
    page.set_content(f"<!doctype html><body>{body_of(view)}</body>")
    alone = page.evaluate(COMPUTED, [_assets.style(view)])
    assert len(alone) > 60
    for other in VIEWS:
        for names in permutations((view, other)):
            beside = page.evaluate(COMPUTED, [_assets.style(name) for name in names])
            changed = {a[0] for a, b in zip(alone, beside, strict=True) if a != b}
            assert changed == set(), names


def test_a_view_changes_the_theme_where_it_means_to(page):
    page.set_content(f"<!doctype html><body>{body_of('top_activations')}{body_of('training')}</body>")
    for names in permutations(("top_activations", "training")):
        page.evaluate(COMPUTED, [_assets.style(name) for name in names])
        sizes = page.locator("section > h3").evaluate_all("(all) => all.map((node) => getComputedStyle(node).fontSize)")
        assert sizes == ["17px", "13px"]
