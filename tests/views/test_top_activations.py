"""The top-activations view in Python: traits, payload, static HTML, background work. No browser."""

import json
import threading
import time

import numpy as np
import pytest
import traitlets

from saekit.errors import FeatureIndexError, ModelError
from saekit.views.top_activations import TopActivations
from tests.views.fake_index import FakeIndex

# --- traits ------------------------------------------------------------------------------------------------------


def test_value_is_the_feature_and_the_card_follows_it(index):
    view = TopActivations(index, feature=12)
    assert view.value == 12
    view.value = 5
    assert view._card["feature"] == 5
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
    with pytest.raises(traitlets.TraitError, match=r"0…63"):
        view.value = 64


def test_a_bad_first_feature_is_refused_with_the_range(index):
    with pytest.raises(
        traitlets.TraitError,
        match=r"feature must be an integer in 0…63 \(this SAE has 64\), not 64",
    ):
        TopActivations(index, feature=64)


def test_numpy_integers_are_features(index):
    view = TopActivations(index, feature=np.int64(4))
    view.value = index.density.argmax()
    assert type(view.value) is int
    json.dumps({k: v for k, v in view._card.items() if k != "values"}, allow_nan=False)


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
    assert view._card["feature"] == 13
    assert [sorted(m["state"]) for m in sent if m["method"] == "update"] == [["_card"]]


def test_observers_hear_of_a_change_once_and_links_work(index):
    view, other = TopActivations(index, feature=12), TopActivations(index, feature=5)
    heard = []
    view.observe(lambda change: heard.append((change.old, change.new)), names="value")
    traitlets.link((view, "value"), (other, "value"))
    other.value = 20
    assert view.value == other.value == 20
    assert heard == [(12, 20)]
    assert view._card["feature"] == 20


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
    assert TopActivations(index, feature=2, names={2: "rain"})._card["name"] == "rain"
    assert TopActivations(index, feature=2, names=["", "", "rain"])._card["name"] == "rain"
    near = TopActivations(index, feature=2, names={3: "dead one"})._card["neighbours"]["decoder"]
    assert (near[0]["feature"], near[0]["name"]) == (3, "dead one")


# --- the card ----------------------------------------------------------------------------------------------------


def test_the_card_holds_what_the_index_says(index):
    card = TopActivations(index, feature=12)._card
    values = np.frombuffer(card["values"], "<f4")
    assert [g["kind"] for g in card["groups"]] == ["top"] + ["interval"] * 5
    wanted = [*index.top(12, 20), *(e for i in index.intervals(12) for e in i.examples)]
    rows = [row for group in card["groups"] for row in group["rows"]]
    assert len(rows) == len(wanted) == 40
    for row, example in zip(rows, wanted, strict=True):
        window = values[row["at"] : row["at"] + len(row["tokens"])]
        np.testing.assert_array_equal(window, example.activations)
        assert (row["tokens"], row["peak"], row["value"]) == (
            example.tokens,
            example.peak,
            example.value,
        )
    assert sum(card["histogram"]["counts"]) == sum(index.histogram(12).counts)
    assert [t for _, t, _ in card["logits"]["promoted"]] == [t for _, t, _ in index.logits(12).promoted]


def test_a_dead_feature_says_so_and_has_no_examples(index):
    view = TopActivations(index, feature=3)
    assert view._card["dead"]
    assert view._card["groups"] == []
    assert repr(view) == "TopActivations(feature 3 of 64, dead)"
    assert "dead: never active on 1,000,000 tokens" in view._repr_html_()
    assert "<mark" not in view._repr_html_()


def test_an_index_without_logits_or_neighbours_leaves_the_panels_out(index):
    def no(*args, **kwargs):
        raise FeatureIndexError("not stored")

    index.logits = index.neighbours = no
    view = TopActivations(index, feature=12)
    assert view._card["logits"] == {"promoted": [], "suppressed": []}
    assert "Neighbours" not in view._repr_html_()


# --- your own text -----------------------------------------------------------------------------------------------


def test_a_prompt_is_read_in_the_background(live):
    live.prompt = "rain on Monday"
    assert live.wait(10)
    assert not live.busy
    result = live._result
    assert (result["prompt"], result["feature"]) == ("rain on Monday", 12)
    assert result["tokens"] == ["<bos>", "rain", " on", " Monday"]
    assert len(np.frombuffer(result["values"], "<f4")) == 4
    assert len(np.frombuffer(result["strengths"], "<f4")) == 4 * result["k"]
    assert result["excluded"] == [0]


def test_a_new_feature_is_read_on_the_same_prompt(live, index):
    live.prompt = "rain"
    live.wait(10)
    live.value = 13
    live.wait(10)
    assert live._result["feature"] == 13
    assert "features" in live._result
    assert index.asked == [("rain", 12), ("rain", 13)]


def test_only_the_newest_prompt_counts(live, index):
    gate = threading.Event()
    read = index.activations
    index.activations = lambda *args: (gate.wait(10), read(*args))[1]
    for text in ("r", "ra", "rai", "rain"):
        live.prompt = text
    assert live.busy
    gate.set()
    live.wait(10)
    assert live._result["prompt"] == "rain"
    assert len(index.asked) <= 2, "texts that were overtaken are not computed"


def test_stop_drops_the_result_at_once(live, index):
    gate = threading.Event()
    read = index.activations
    index.activations = lambda *args: (gate.wait(10), read(*args))[1]
    live.prompt = "rain"
    live.set_state({"_stops": 1})
    assert not live.busy
    gate.set()
    live.wait(10)
    assert live._result == {}
    live.prompt = "rain again"
    live.wait(10)
    assert live._result["prompt"] == "rain again"


def test_errors_become_words(live, index):
    def broken(*args, **kwargs):
        raise RuntimeError("boom")

    index.activations = broken
    live.prompt = "rain"
    live.wait(10)
    assert (live.error, live.busy) == ("RuntimeError: boom", False)

    def refuses(*args, **kwargs):
        raise ModelError("too strange")

    index.activations = refuses
    live.prompt = "rain on"
    live.wait(10)
    assert live.error == "too strange"


def test_an_empty_prompt_is_told(live):
    live.prompt = "rain"
    live.wait(10)
    live.token = 1
    live.prompt = "  "
    assert live.error == "The text is empty: type at least one character."
    assert (live._result, live.token) == ({}, None)
    live.prompt = "sun"
    live.wait(10)
    assert live.error == ""


def test_a_long_prompt_is_cut_and_told(live, index):
    live.prompt = "rain " * 20_000
    live.wait(10)
    assert live.error == "The text has 100,000 characters: only the first 2,000 are used."
    assert len(index.asked[0][0]) == 2_000


def test_a_token_beyond_a_shorter_prompt_moves_to_its_end(live):
    live.prompt = "rain on Monday"
    live.wait(10)
    live.token = 3
    live.prompt = "rain"
    live.wait(10)
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
    live.wait(10)
    hits = live._hits
    assert [hit["feature"] for hit in hits["found"]] == list(range(4, 12))
    assert len(np.frombuffer(hits["values"], "<f4")) == sum(len(hit["row"]["tokens"]) for hit in hits["found"])
    live.set_state({"_query": {"mode": "text", "text": "xyzzy"}})
    live.wait(10)
    assert live._hits["found"] == []
    live.set_state({"_query": {}})
    assert live._hits == {}


def test_neither_thread_nor_lock_is_left_behind(live):
    live.prompt = "rain"
    live.wait(10)
    time.sleep(0.05)
    assert [t for t in threading.enumerate() if t.name == "saekit-view"] == []
