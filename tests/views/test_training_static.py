"""The training view without a kernel: static HTML, repr, mime bundle, exported page."""

import html.parser
import math
import re
from pathlib import Path

from saekit.views._shared.words import rough
from saekit.views.training import Training
from tests.views.fake_index import NASTY
from tests.views.fake_trainer import FakeTrainer
from tests.views.test_training import RUNS, training

HOSTILE = NASTY[0] + "</script>&\0"


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.text += data


def finished(runs=RUNS, **options):
    view = training(runs, autostart=True, **options)
    assert view.wait(300)
    return view


def test_the_repr_is_the_same_in_every_session():
    assert repr(training()) == "Training(TopK: not trained; L1: not trained)"
    assert repr(finished({**RUNS, "bad": {"k": 0}})) == (
        "Training(TopK: done, FVU 0.11, L0 8; L1: done, FVU 0.12, L0 20; bad: failed)"
    )
    assert [rough(v) for v in (0.2149, 8.04, 123.4, 999.6, 1234.5, 0, math.nan)] == [
        "0.21", "8", "120", "1,000", "1,200", "0", "–",
    ]  # fmt: skip


def test_the_mime_bundle_has_widget_html_and_text():
    view = finished()
    data, _ = view._repr_mimebundle_()
    assert data["text/plain"] == repr(view)
    assert data["text/html"] == view._repr_html_()
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_finished_picture_shows_all_curves_and_values():
    found = _Tags()
    shown = finished()._repr_html_()
    found.feed(shown)
    assert shown.count('role="img"') == 4
    for text in ("2 done of 2", "Loss", "FVU", "L0", "Dead features", "10,240", "56", "0.11", "20 %"):
        assert text in found.text
    assert "all runs: d_sae 64" in found.text
    assert "architecture standard, sparsity_coefficient 2.0" in found.text


def test_the_picture_is_small_deterministic_and_without_a_clock():
    first, second = (finished()._repr_html_() for _ in range(2))
    assert first == second
    assert len(first.encode()) < 30_000
    assert not re.search(r"<script|<style|https?:|#[0-9a-f]{3,6}\b|:\s*(?:white|black)\b", first)
    assert "samples/s" not in first
    assert "left" not in _text(first)
    long = finished(steps=3000)._repr_html_()
    assert len(long.encode()) < 30_000


def test_hostile_names_and_errors_are_text():
    def trainer(activations, **options):
        raise ValueError(HOSTILE)

    view = Training(None, {HOSTILE: {"note": HOSTILE}}, train=trainer, autostart=True)
    view.wait(300)
    found = _Tags()
    found.feed(view._repr_html_())
    assert set(found.tags) <= {
        "div", "p", "span", "b", "bdi", "svg", "path", "circle", "text", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert [name for name in found.attributes if name.startswith("on") or name in ("src", "href")] == []
    assert found.text.count(NASTY[0]) >= 3
    assert "\0" not in found.text
    named = finished({HOSTILE: {"k": 8}})
    assert "<img" not in named._repr_html_()
    page = named.to_html()
    assert "<img" not in page
    assert page.count("<script") == 1


def test_before_training_the_picture_says_how_to_start():
    shown = _text(training()._repr_html_())
    assert "not started: press Start in the live view, or call view.start()" in shown
    assert 'role="img"' not in training()._repr_html_()


def test_under_way_there_are_no_figures_that_change_by_the_second():
    trainer = FakeTrainer(gated=True)
    view = training(train=trainer, autostart=True)
    before = view._repr_html_()
    trainer.allow(2)
    while len(view.history["TopK"]) < 2:
        pass
    assert view._repr_html_() == before
    assert 'role="img"' not in before
    view.stop()
    trainer.allow()
    view.wait(300)


def test_a_page_needs_no_kernel_and_holds_the_curves():
    page = finished().to_html()
    assert '"_has_kernel":false' in page
    assert '"busy":false' in page
    assert page.count("<script") == 1
    assert not re.search(r'(?:src|href)="https?:', page)


def test_nbval_leaves_out_the_drawn_curves_and_nothing_else():
    config = (Path(__file__).parents[2] / "notebooks" / "nbval.cfg").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"^\[training curves\]\nregex: (.*)$", config, re.MULTILINE)
    shown = finished()._repr_html_()
    left = re.sub(pattern, "", shown)
    assert "data-saekit" not in left
    drawn = "".join(_text(picture) for picture in re.findall("<svg.*?</svg>", shown))
    assert len(_text(left)) == len(_text(shown)) - len(drawn)
    assert all(title in left for title in ("Loss", "FVU", "L0", "Dead features"))


def _text(shown):
    found = _Tags()
    found.feed(shown)
    return found.text
