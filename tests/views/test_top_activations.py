"""The top-activations view in Python: traits, payload, static HTML, background work. No browser."""

import json
import re
import threading
import time

import numpy as np
import pytest
import traitlets

from saekit.errors import FeatureIndexError, ModelError
from saekit.views.top_activations import TopActivations
from tests.views.fake_index import FakeIndex
from tests.views.panels import elements, strip_values, text


def seen_as(blank):
    return {" ": "·", "\n": "↵", "\t": "⇥"}[blank[0]]


def title(view):
    (shown,) = elements(view.state()["head"], "h2")
    return text(shown)


def shown_prompt(view):
    (shown,) = elements(view.state()["prompt"], "strip")
    return "".join(shown[1]["tokens"]).removeprefix("<bos>").replace("·", " ")


# --- traits ------------------------------------------------------------------------------------------------------


def test_value_is_the_feature_and_the_card_follows_it(index):
    view = TopActivations(index, feature=12)
    assert view.value == 12
    view.value = 5
    assert title(view) == "Feature 5"
    assert repr(view) == "TopActivations(feature 5 of 64, live)"


def test_the_first_feature_is_the_first_live_one_of_the_walk():
    assert TopActivations(FakeIndex(dead=(0, 1))).value == 2
    index = FakeIndex()
    assert TopActivations(index, order="max").value == int(index.max.argmax())
    assert TopActivations(FakeIndex(d_sae=4, dead=(0, 1, 2, 3))).value == 0


@pytest.mark.parametrize("bad", [-1, 64, 3.5, "12", None])
def test_a_feature_out_of_range_is_refused_with_the_range(index, bad):
    view = TopActivations(index, feature=12)
    with pytest.raises(traitlets.TraitError):
        view.value = bad
    assert view.value == 12
    with pytest.raises(traitlets.TraitError, match="from 0 to 63"):
        view.value = 64


def test_a_bad_first_feature_is_refused_with_the_range(index):
    with pytest.raises(
        traitlets.TraitError,
        match=r"feature must be a whole number from 0 to 63, not 64",
    ):
        TopActivations(index, feature=64)


def test_numpy_integers_are_features(index):
    view = TopActivations(index, feature=np.int64(4))
    view.value = index.density.argmax()
    assert type(view.value) is int
    json.dumps(view.get_state(["_card", "_facts"]), allow_nan=False)


def test_a_change_of_feature_is_one_message(index):
    view = TopActivations(index, feature=12)
    sent = []
    view.comm.send = lambda data=None, **_: sent.append(data)
    view.value = 13
    assert [sorted(m["state"]) for m in sent if m["method"] == "update"] == [["_card", "value"]]


def test_a_change_from_the_browser_is_answered_with_the_card(index):
    view = TopActivations(index, feature=12)
    sent = []
    view.comm.send = lambda data=None, **_: sent.append(data)
    view.set_state({"value": 13})
    assert title(view) == "Feature 13"
    assert [sorted(m["state"]) for m in sent if m["method"] == "update"] == [["_card"]]


def test_observers_hear_of_a_change_once_and_links_work(index):
    view, other = TopActivations(index, feature=12), TopActivations(index, feature=5)
    heard = []
    view.observe(lambda change: heard.append((change.old, change.new)), names="value")
    traitlets.link((view, "value"), (other, "value"))
    other.value = 20
    assert view.value == other.value == 20
    assert heard == [(12, 20)]
    assert title(view) == "Feature 20"


def test_the_card_is_sent_before_slow_observers_run(index):
    view = TopActivations(index, feature=12)
    order = []
    view.comm.send = lambda data=None, **_: order.append("message")
    view.observe(lambda change: order.append("observer"), names="value")
    view.value = 13
    assert order == ["message", "observer"]


def test_walks_visit_live_features_in_order(index):
    def walk(view):
        return np.frombuffer(view._walk, "<f4").astype(int).tolist()

    view = TopActivations(index)
    live = [f for f in range(64) if f != 3]
    assert walk(view) == live
    view.order = "density"
    assert walk(view) == sorted(live, key=lambda f: -index.density[f])
    view.order = "max"
    assert walk(view) == sorted(live, key=lambda f: -index.max[f])


def test_scores_sort_the_walk_and_leave_out_what_has_none(index):
    scores = np.arange(64.0)
    scores[63] = np.nan
    view = TopActivations(index, scores=scores)
    assert (view.order, view.value) == ("score", 62)
    with pytest.raises(FeatureIndexError, match=r"one number for each of 64 features, got shape \(3,\)"):
        TopActivations(index, scores=[1, 2, 3])
    with pytest.raises(traitlets.TraitError, match="needs scores"):
        TopActivations(index).order = "score"
    with pytest.raises(traitlets.TraitError, match="needs scores"):
        TopActivations(index, order="score")
    with pytest.raises(traitlets.TraitError, match="order must be one of"):
        TopActivations(index, order="beauty")


def test_names_are_a_mapping_or_a_sequence(index):
    for names in ({2: "rain"}, ["", "", "rain"]):
        (shown,) = elements(TopActivations(index, feature=2, names=names).state()["head"], look="given")
        assert text(shown) == "rain"
    near = TopActivations(index, feature=2, names={3: "dead one"}).state()["neighbours"]
    assert text(elements(near, "button")[0]) == "3 dead one 0.83"


# --- the card ----------------------------------------------------------------------------------------------------


def test_the_card_holds_what_the_index_says(index):
    panels = TopActivations(index, feature=12).state()
    assert list(panels) == ["head", "examples", "histogram", "logits", "neighbours"]
    titles = [text(title) for title in elements(panels["examples"], "h4")]
    assert titles[0] == f"Top activations (shade = activation / {index.max[12]:.3g})"
    assert len(titles) == 6
    wanted = [*index.top(12, 20), *(e for i in index.intervals(12) for e in i.examples)]
    rows = elements(panels["examples"], look="row")
    assert len(rows) == len(wanted) == 40
    for row, example in zip(rows, wanted, strict=True):
        (shown,) = elements(row, "strip")
        assert shown[1]["tokens"] == [re.sub("[ \n\t]", seen_as, token) for token in example.tokens]
        np.testing.assert_allclose(strip_values(shown, len(example.tokens)), example.activations, rtol=1e-3)
        assert shown[1]["peak"] == example.peak
        assert (shown[1]["sequence"], shown[1]["first"]) == (example.sequence_id, example.position - example.peak)
    assert f"{sum(index.histogram(12).counts[:1]):,}" in panels["histogram"][3][1]["aria-label"]
    promoted = elements(panels["logits"], "table")[0]
    shown = [text(token).replace("·", " ") for token in elements(promoted, "bdi")]
    assert shown == [t.replace("\n", "↵") for _, t, _ in index.logits(12).promoted]


def test_shades_are_shares_of_the_features_maximum(index):
    for shown in elements(TopActivations(index, feature=12).state()["examples"], "strip"):
        for _, _, exact, shade in shown[1]["marks"]:
            assert shade == pytest.approx(float(exact) / index.max[12], abs=2e-3)


def test_a_dead_feature_says_so_and_has_no_examples(index):
    view = TopActivations(index, feature=3)
    assert elements(view.state(), "strip") == []
    assert "histogram" not in view.state()
    assert repr(view) == "TopActivations(feature 3 of 64, dead)"
    assert "dead: never active on 1,000,000 tokens" in view._repr_html_()
    assert "<mark" not in view._repr_html_()


def test_an_index_without_logits_or_neighbours_leaves_the_panels_out(index):
    def no(*args, **kwargs):
        raise FeatureIndexError("not stored")

    index.logits = index.neighbours = no
    view = TopActivations(index, feature=12)
    assert list(view.state()) == ["head", "examples", "histogram"]
    assert "Neighbours" not in view._repr_html_()


# --- your own text -----------------------------------------------------------------------------------------------


def test_a_prompt_is_read_in_the_background(live, index):
    live.prompt = "rain on Monday"
    assert live.wait(300)
    assert not live.busy
    (shown,) = elements(live.state()["prompt"], "strip")
    assert shown[1]["tokens"] == ["<bos>", "rain", "·on", "·Monday"]
    assert shown[1]["out"] == [0]
    reading = index.read_prompt(None, None, "rain on Monday")
    np.testing.assert_allclose(strip_values(shown, 4), reading.features[:, 12], rtol=1e-3)
    for position, strongest in enumerate(live._result["strongest"]):
        active = {f: v for f, v in enumerate(reading.features[position]) if v > 0}
        assert [feature for feature, _ in strongest] == sorted(active, key=lambda f: (-active[f], f))[:10]


def test_a_new_feature_is_read_on_the_same_prompt_without_another_pass(live, index):
    live.prompt = "rain"
    live.wait(300)
    live.value = 13
    live.wait(300)
    assert elements(live.state()["prompt"], "strip")[0][1]["label"] == "Your own text, feature 13"
    assert live._result["strongest"]
    assert index.asked == ["rain"]


def test_only_the_newest_prompt_counts(live, index):
    gate = threading.Event()
    read = index.read_prompt
    index.read_prompt = lambda *args: (gate.wait(300), read(*args))[1]
    for prompt in ("r", "ra", "rai", "rain"):
        live.prompt = prompt
    assert live.busy
    gate.set()
    live.wait(300)
    assert shown_prompt(live) == "rain"
    assert len(index.asked) <= 2, "texts that were overtaken are not computed"


def test_stop_drops_the_result_at_once(live, index):
    gate = threading.Event()
    read = index.read_prompt
    index.read_prompt = lambda *args: (gate.wait(300), read(*args))[1]
    live.prompt = "rain"
    live.set_state({"_stops": 1})
    assert not live.busy
    gate.set()
    live.wait(300)
    assert "prompt" not in live.state()
    live.prompt = "rain again"
    live.wait(300)
    assert shown_prompt(live) == "rain again"


def test_errors_become_words(live, index):
    def broken(*args, **kwargs):
        raise RuntimeError("boom")

    index.read_prompt = broken
    live.prompt = "rain"
    live.wait(300)
    assert (live.error, live.busy) == ("RuntimeError: boom", False)

    def refuses(*args, **kwargs):
        raise ModelError("too strange")

    index.read_prompt = refuses
    live.prompt = "rain on"
    live.wait(300)
    assert live.error == "too strange"


def test_an_empty_prompt_is_told(live):
    live.prompt = "rain"
    live.wait(300)
    live.token = 1
    live.prompt = "  "
    assert live.error == "The text is empty: type at least one character."
    assert ("prompt" in live.state(), live.token) == (False, None)
    live.prompt = "sun"
    live.wait(300)
    assert live.error == ""


def test_a_long_prompt_is_cut_and_told(live, index):
    live.prompt = "rain " * 20_000
    live.wait(300)
    assert live.error == "The text has 100,000 characters: only the first 2,000 are used."
    assert len(index.asked[0]) == 2_000


def test_a_token_beyond_a_shorter_prompt_moves_to_its_end(live):
    live.prompt = "rain on Monday"
    live.wait(300)
    live.token = 3
    live.prompt = "rain"
    live.wait(300)
    assert live.token == 1
    with pytest.raises(traitlets.TraitError, match="position of the prompt"):
        live.token = -1


def test_a_prompt_without_a_model_says_what_is_missing(index):
    view = TopActivations(index, feature=12)
    view.prompt = "rain"
    assert "TopActivations(index, model=model, sae=sae)" in view.error
    with pytest.raises(FeatureIndexError, match="only one of model= and sae="):
        TopActivations(index, model="model")


def test_search_finds_features_or_says_that_there_are_none(live):
    live.set_state({"_query": {"mode": "token", "text": " Monday"}})
    live.wait(300)
    assert live._hits["said"] == '8 features for " Monday" in tokens'
    buttons = elements(live._hits["panel"], "button")
    assert [button[1]["data-feature"] for button in buttons] == list(range(4, 12))
    assert all(len(elements(button, "strip")[0][1]["tokens"]) <= 11 for button in buttons)
    live.set_state({"_query": {"mode": "text", "text": "xyzzy"}})
    live.wait(300)
    assert live._hits["said"] == 'No features for "xyzzy" in contexts'
    live.set_state({"_query": {}})
    assert live._hits == {}


def test_neither_thread_nor_lock_is_left_behind(live):
    live.prompt = "rain"
    live.wait(300)
    time.sleep(0.05)
    assert [t for t in threading.enumerate() if t.name == "saekit-view"] == []
