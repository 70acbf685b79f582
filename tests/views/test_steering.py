"""The steering view in Python: what it refuses, what it writes and measures, Stop, settings. No browser."""

import json
import math
import re
import threading
import time
from dataclasses import astuple
from importlib import import_module
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import traitlets
from ipywidgets.embed import dependency_state

from saekit.errors import SAEError, SteeringError
from saekit.models import encode_text, load_model, token_bytes
from saekit.steering import Intervention, generate, side_effects, steering_sweep
from saekit.views._shared.words import percent, rough
from saekit.views.steering import Steering
from saekit.views.steering.state import token_rows
from tests import tiny
from tests.views.circuit_parts import fake_index
from tests.views.panels import elements, text
from tests.views.steering_parts import PROMPT, Gate, hooks_on, small_sae, small_view


@pytest.fixture(scope="module")
def sae():
    return small_sae()


@pytest.fixture
def view(model, sae):
    return small_view(model, sae)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def effects_shown(view, key):
    """Return the side effects beneath a text, as they are shown."""
    (column,) = [one for one in elements(view.state()["texts"], "article") if one[1]["data-text"] == key]
    return {one[1]["data-effect"]: text(one) for one in elements(column, "dd")}


def wish(view, asked=None, **changes):
    """Ask as the browser does."""
    turn = view._wish.get("turn", 0) + 1
    view.set_state({"_wish": {"turn": turn, "setting": {**view.setting, **changes}, "asked": asked or {}}})
    assert view._heard == turn


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ([96], {}, "no feature 96: the SAE has 96, numbered from 0 to 95"),
        ([-1], {}, "no feature -1"),
        ([2.5], {}, r"no feature 2\.5"),
        ([7, 8, 7], {}, "feature 7 is in the list twice"),
        ([3], {}, "feature 3 has no known maximum .it is dead in the index"),
        ([7], {"index": None, "unit": "max"}, "there is no index that knows it"),
        ([7], {"mode": "push"}, "mode must be one of add, clamp, ablate, scale, not 'push'"),
        ([7], {"unit": "metres"}, "unit must be one of max, norm, activation"),
        ([7], {"positions": (5, 5)}, "positions must be 'all', 'generated'"),
        ([7], {"positions": (-1, 5)}, "positions must be 'all', 'generated'"),
        ({7: math.nan}, {}, "the strength of feature 7 must be a number, not nan"),
        ({7: "much"}, {}, "the strength of feature 7 must be a number"),
        ([7], {"temperature": -1}, "the temperature must be a finite number at least 0 and at most 100, not -1"),
        ([7], {"seed": 1.5}, "the seed must be a whole number"),
        ([7], {"max_new_tokens": 0}, "the length in tokens must be a whole number from 1 to 1,000, not 0"),
        ([7], {"prompt": 7}, "prompt must be text"),
        ([7], {"chat": "yes"}, "chat must be True, False or None"),
        ([{"feature": 7, "odd": 1}], {}, "a feature of a setting has no 'odd'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_words(model, sae, features, options, message):
    with pytest.raises(SteeringError, match=message):
        small_view(model, sae, features, **options)


def test_an_index_or_model_of_another_sae_is_refused(model, sae):
    with pytest.raises(SAEError, match=r"index is of another SAE.* Pass the SAE that it was built with"):
        small_view(model, sae, index=fake_index(tiny.topk_sae(32, 96, seed=5)))
    with pytest.raises(SAEError):
        Steering(model, tiny.topk_sae(16, 96), PROMPT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "  \n"}, "the prompt is empty"),
        ({"prompt": "cat " * 400}, "the prompt fills the context of 256 tokens"),
        ({"positions": [250, 260]}, "positions 250 to 260 lie outside of the text"),
        ({"concept": "("}, "is no regular expression"),
    ],
)
def test_what_only_a_run_can_know_is_told_in_place(model, view, changes, message):
    wish(view, {"run": 1}, **changes)
    assert view.wait(300)
    assert message in view.error
    assert (view.busy, view.texts) == (False, {}), "no empty texts are left standing"
    assert hooks_on(model, view._writer.model) == 0
    wish(view, {"run": 2}, prompt=PROMPT, positions="all", concept="")
    assert view.wait(300)
    assert view.error == ""
    assert view.value


def test_a_model_without_tokenizer_says_so(model_folder, sae):
    bare = load_model(str(model_folder))
    bare.cfg.model_name, bare.tokenizer = "tiny", None
    view = small_view(bare, sae)
    view.run()
    assert view.wait(300)
    assert "tokenizer" in view.error


def test_a_wish_that_cannot_be_leaves_the_setting_and_says_why(view):
    before = dict(view.setting)
    for row in ({"feature": 4000}, {"feature": 7, "mode": "push"}, {"feature": 3, "mode": "add"}):
        wish(view, {"run": 1}, features=[row])
        assert view.error
        assert view.setting == before
        assert not view.texts, "nothing runs with a setting that was refused"
    wish(view, seed=4)
    assert (view.error, view.setting["seed"]) == ("", 4)


# --- what it writes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["add", "clamp", "ablate", "scale"])
def test_both_texts_are_those_of_generate(model, sae, mode):
    view = small_view(model, sae, {7: 3.0, 9: -2.0}, mode=mode, unit="activation")
    view.run()
    assert view.wait(300)
    one = Intervention.on(sae, {7: 3.0, 9: -2.0}, mode=mode, unit="activation")
    expected = generate(model, PROMPT, [None, one], sae=sae, max_new_tokens=8)
    assert tuple(view.texts.values()) == expected.texts
    assert view.value == view.texts["steered"] == expected.texts[1]
    for got, right in zip(view.effects.values(), side_effects(model, expected, sae=sae, features=[7, 9]), strict=True):
        assert np.hstack(astuple(got)) == pytest.approx(np.hstack(astuple(right)), rel=1e-4, nan_ok=True)
    assert effects_shown(view, "steered")["kl"] == rough(view.effects["steered"].kl)


def test_sampling_draws_what_the_seed_says(model, sae):
    view = small_view(model, sae, temperature=1.0, seed=3, unit="norm")
    view.run()
    assert view.wait(300)
    one = Intervention.on(sae, 7, 0.5, unit="norm")
    expected = generate(model, PROMPT, [None, one], sae=sae, max_new_tokens=8, temperature=1.0, seed=3)
    assert tuple(view.texts.values()) == expected.texts


@pytest.mark.parametrize(("mode", "value"), [("add", 0.0), ("scale", 1.0)])
def test_strength_zero_is_the_model_left_alone(model, sae, mode, value):
    view = small_view(model, sae, {7: value}, mode=mode)
    assert view.intervention is None
    view.run()
    assert view.wait(300)
    assert view.texts["steered"] == view.texts["unsteered"]
    steered, plain = view.effects["steered"], view.effects["unsteered"]
    assert (steered.kl, steered.edit_norm, steered.logprobs) == (0, 0, plain.logprobs)


@pytest.mark.parametrize("strength", [math.inf, -math.inf, 1e300, 1e9])
def test_huge_strengths_may_write_nonsense_but_do_not_fail(model, sae, strength):
    view = small_view(model, sae, {7: strength})
    view.run()
    view.run_sweep((1.0, 1e6))
    assert view.wait(300)
    assert view.error == ""
    assert view.effects["steered"].edit_norm > 100
    json.dumps(view.get_state(["setting", "_texts", "_sweep"]), allow_nan=False)


def test_maxima_come_from_the_index(model, sae, view):
    index = fake_index(sae)
    assert view.intervention == Intervention.on(sae, 7, 1.0, index=index)
    assert small_view(model, sae, {7: 2.0}, index=None).setting["unit"] == "norm"


def test_an_ended_text_shows_no_end_token(model, sae, monkeypatch):
    first = generate(model, PROMPT, max_new_tokens=4).ids[0][3]
    monkeypatch.setattr(import_module("saekit.steering.generation"), "end_tokens", lambda model: frozenset([first]))
    view = small_view(model, sae, {7: 0.0})
    view.run()
    assert view.wait(300)
    (shown,) = elements(view.state()["texts"][3], "strip")
    assert text(view.state()["texts"][3]).count("…") == 0, "it ended by itself"
    positions = shown[1].get("at", [*range(len(shown[1]["tokens"]) + 1)])[-1]
    assert positions == len(view.effects["steered"].logprobs) - 1


def test_tokens_of_one_character_read_as_one(model):
    said = "née Müller 戦 😀, she said"
    ids = tuple(encode_text(model, said)[1:].tolist())
    changes = tuple(-float(i) for i in range(len(ids)))
    made = SimpleNamespace(ids=(ids,), ends=("length",))
    row = token_rows(token_bytes(model), made, 0, SimpleNamespace(logprobs=changes, logprobs_plain=changes))
    assert "".join(row["tokens"]) == said
    assert "" in row["tokens"]
    assert row["logprobs"] == row["plain"] == list(changes)


# --- baselines and the sweep -------------------------------------------------------------------------------------


def test_baselines_have_an_edit_as_long_as_the_steered_one(model, view):
    view.compare("difference of means", "random direction", "random feature")
    assert view.wait(300)
    assert view.error == ""
    wanted = view.effects["steered"].edit_norm
    assert wanted > 0
    for kind in ("difference of means", "random direction", "random feature"):
        assert view.effects[kind].edit_norm == pytest.approx(wanted, rel=1e-3)
    assert list(view.texts)[2:] == [
        "difference of means", "random direction", "random feature",
    ]  # fmt: skip
    view.compare("random direction")
    assert view.wait(300)
    assert len(view.texts) == 5, "a baseline that is written again takes its own place"


def test_the_prompt_baseline_asks_instead_of_steering(model, view):
    wish(view, {"prompt": 1})
    assert view.wait(300)
    assert "it needs a name" in view.error
    wish(view, {"prompt": 2}, topic="cats")
    assert view.wait(300)
    asked = generate(model, f"Talk about cats. {PROMPT}", max_new_tokens=8)
    assert view.texts["prompt"] == asked.texts[0]
    assert view.effects["prompt"].kl == 0
    before = encode_text(model, PROMPT)
    ids = torch.cat([before, torch.tensor(asked.ids[0])])
    logprobs = model(ids[None], prepend_bos=False)[0, len(before) - 1 : -1].double().log_softmax(-1)
    plain = logprobs.gather(1, ids[len(before) :, None])[:, 0]
    assert view.effects["prompt"].logprobs_plain == pytest.approx(plain.tolist(), abs=1e-4)
    assert view.effects["prompt"].perplexity == pytest.approx(math.exp(-plain.mean()), rel=1e-4)
    (shown,) = elements(view.state()["texts"][4], "strip")
    starts = shown[1].get("at", range(len(shown[1]["tokens"]) + 1))
    said = [re.search("probability ([^ ]+) %", mark[1])[1] for mark in shown[1]["marks"]]
    likely = [100 * math.exp(plain[start]) for start in list(starts)[: len(said)]]
    assert [float(one) for one in said] == pytest.approx(likely, rel=0.06)


def test_baselines_that_cannot_be_are_told(model, sae):
    view = small_view(model, sae, [], index=None)
    with pytest.raises(SteeringError, match="no baseline 'luck'"):
        view.compare("luck")
    view.compare("random direction")
    assert view.wait(300)
    assert "nothing is steered" in view.error
    view = small_view(model, sae, index=None)
    view.compare("difference of means")
    assert view.wait(300)
    assert "it needs texts: pass examples=" in view.error
    assert view.baselines_ready() == ("random direction", "random feature")


def test_a_comparison_before_a_run_writes_the_steered_text_first(view, gate):
    view.run_sweep((1.0,))
    assert gate.begun.wait(300)
    view.compare("random direction")
    gate.set()
    assert view.wait(300)
    assert "nothing is steered" in view.error, "the sweep was under way, and there is no text to compare with"
    view.compare("random direction")
    assert view.wait(300)
    assert (view.error, list(view.texts)) == ("", ["unsteered", "steered", "random direction"])


def test_the_sweep_is_that_of_steering_sweep(model, sae):
    view = small_view(model, sae, {7: 2.0}, unit="activation", concept="cat|dog")
    view.run_sweep((0.5, 1, 4), baselines=("random direction",))
    assert view.wait(300)
    assert view.error == ""
    one = Intervention.on(sae, 7, 2.0, unit="activation")
    options = {"strengths": (0.5, 1, 4), "concept": "cat|dog", "baselines": ("random direction",)}
    expected = steering_sweep(model, PROMPT, one, sae=sae, max_new_tokens=8, **options)
    assert view.sweep.as_dict() == expected.as_dict()
    panel = view.state()["sweep"]
    at = expected.breaks_at("feature 7")
    breaks = "stays above one half" if at is None else f"falls below one half at strength {2 * at:.3g}"
    assert breaks in text(panel)
    assert [text(one).strip() for one in elements(panel, look="legend")[0][2:]] == ["steered", "random direction"]
    rows = [[text(cell) for cell in row[2:6]] for row in elements(panel, "tr")[1:]]
    points = expected.curve("feature 7")
    assert [row[0] for row in rows] == ["off", "1", "2", "8"]
    assert [row[1] for row in rows] == [percent(point.fluency) for point in points]
    assert [row[3] for row in rows] == [point.texts[0] for point in points]


def test_a_sweep_of_nothing_is_refused(model, sae, view):
    with pytest.raises(SteeringError, match="nothing is steered, so there is no strength to vary"):
        small_view(model, sae, {7: 0.0}).run_sweep()
    for factors in ((), (0,), (-1,), (math.inf,), ("a",)):
        with pytest.raises(SteeringError, match="factors must be positive numbers"):
            view.run_sweep(factors)
    wish(view, {"sweep": 1}, features=[])
    assert "nothing is steered" in view.error


# --- background --------------------------------------------------------------------------------------------------


def test_stop_keeps_the_text_so_far_and_leaves_the_model_clean(model, sae):
    view = small_view(model, sae, max_new_tokens=200)
    view.run()
    while len(view.value) < 5:
        time.sleep(0.002)
    view.set_state({"_stops": 1})
    assert (view.busy, view._doing) == (False, "")
    so_far = view.texts
    assert text(view.state()["texts"]).count(" … (stopped)") == 2
    assert view.wait(300)
    assert view.texts == so_far, "nothing comes after Stop"
    assert view.effects == {}
    assert hooks_on(model, view._writer.model) == 0
    wish(view, {"run": 1}, max_new_tokens=3)
    assert view.wait(300)
    assert text(view.state()["texts"][3]).count(" …") == 1


def test_stop_is_heard_inside_a_pass_and_while_side_effects_are_measured(model, sae, monkeypatch):
    view = small_view(model, sae)
    begun = threading.Event()
    blocks = view._writer.model.blocks

    def hold(block, args):
        if view._doing == "measuring side effects on neutral text":
            begun.set()
            time.sleep(0.01)

    handle = blocks[0].register_forward_pre_hook(hold)
    view.run()
    assert begun.wait(300)
    view.stop()
    assert view.wait(300)
    handle.remove()
    assert view.error == ""
    assert math.isnan(view.effects["steered"].kl)
    assert hooks_on(model, view._writer.model) == 0


def test_a_run_ends_a_sweep_and_keeps_its_points(view):
    view.run_sweep((1.0, 2.0, 4.0))
    while not view.sweep:
        time.sleep(0.002)
    assert "so far" in text(view.state()["sweep"]) or len(view.sweep.points) < 2
    view.run()
    assert view.wait(300)
    assert "so far" not in text(view.state()["sweep"])
    assert "Stopped before its end." in text(view.state()["sweep"]) or view.sweep.complete
    assert view.value


def test_a_second_run_replaces_the_first(view, gate):
    view.run()
    assert gate.begun.wait(300)
    view.setting = {**view.setting, "prompt": "A dog, 3 birds"}
    view.run()
    view.run()
    gate.set()
    assert view.wait(300)
    assert view._ran["prompt"] == "A dog, 3 birds"
    assert view.texts["unsteered"] == generate(view._writer.model, "A dog, 3 birds", max_new_tokens=8).texts[0]


def test_closing_the_view_ends_its_thread_and_leaves_no_hook(model, view, gate):
    view.run()
    view.run_sweep()
    assert gate.begun.wait(300)
    thread = view._worker._thread
    view.close()
    thread.join(300)
    assert not thread.is_alive()
    assert hooks_on(model, view._writer.model) == 0


def test_a_view_that_was_refused_closes_quietly(model, sae):
    with pytest.raises(SteeringError):
        small_view(model, sae, [96])


def test_other_cells_may_run_the_model_meanwhile(model, sae):
    ids = encode_text(model, PROMPT)[None]
    plain = model(ids)
    view = small_view(model, sae, {7: 100.0}, max_new_tokens=100)
    view.run()
    for _ in range(40):
        assert torch.equal(model(ids), plain)
    view.stop()
    assert view.wait(300)


def test_presses_are_counted_so_that_none_is_lost_or_heard_twice(view):
    wish(view, {"run": 1})
    assert view.wait(300)
    first = view.texts
    wish(view, {"run": 1}, prompt="A dog")
    assert (view.busy, view.texts) == (False, first), "a press that was heard is not heard again"
    wish(view, {"run": 2, "random direction": 1})
    assert view.wait(300)
    assert view._ran["prompt"] == "A dog"
    assert set(view.texts) == {"unsteered", "steered", "random direction"}


# --- settings ----------------------------------------------------------------------------------------------------


def test_a_setting_goes_to_json_and_back(model, sae):
    view = small_view(
        model, sae, [{"feature": 7, "mode": "clamp", "value": 2.5}, {"feature": 9, "mode": "ablate"}],
        positions=(2, 9), temperature=0.7, seed=11, topic="cats", concept="cat", prompt="“Grüße”",
    )  # fmt: skip
    again = Steering.from_setting(model, sae, view.to_json())
    assert again.setting == view.setting
    assert again.intervention == view.intervention
    assert Steering.from_setting(model, sae, view.setting, index=fake_index(sae)).setting == view.setting
    json.dumps(view.setting, allow_nan=False)
    again.setting = {"prompt": "x", "unit": "norm", "features": [5]}
    assert again.setting["features"] == [{"feature": 5, "mode": "add", "value": 1.0, "maximum": None}]
    assert again.setting["temperature"] == 0, "what is left out is default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "no saved setting"),
        ("[1]", "no saved setting"),
        ("[" * 100_000, "no saved setting"),
        ('{"format": "odd"}', "no setting of the steering view"),
        ('{"odd": 1}', "a setting has no 'odd'"),
        ('{"features": 7}', "features must be a list"),
        ('{"features": [{"feature": 7, "maximum": -3}]}', "expected a positive number"),
    ],
)
def test_what_is_no_setting_is_refused(model, sae, text, message):
    with pytest.raises(SteeringError, match=message):
        Steering.from_setting(model, sae, text)


def test_a_setting_of_another_sae_is_refused(model, sae, view):
    other = tiny.topk_sae(32, 96, seed=9)
    with pytest.raises(SteeringError, match="the setting is for another SAE"):
        Steering.from_setting(model, other, view.to_json())
    with pytest.raises((SteeringError, traitlets.TraitError), match="another SAE"):
        view.setting = {**view.setting, "sae": {"weights": "0" * 64}}
    with pytest.raises((SteeringError, traitlets.TraitError), match="another SAE"):
        view.setting = {name: value for name, value in view.setting.items() if name != "sae"} | {"sae_hash": "0" * 64}


def test_an_sae_that_was_changed_since_is_told_instead_of_steered_with(model):
    sae = small_sae()
    view = small_view(model, sae)
    with torch.no_grad():
        sae.W_dec.mul_(2)
    view.run()
    assert view.wait(300)
    assert "features of another SAE" in view.error
    assert view.texts == {}


def test_names_of_the_widget_machinery_are_its_own(view):
    """An attribute of the view that hides one of them leaves an empty cell in JupyterLab."""
    names = ("_model_name", "_model_module", "_view_name", "_view_module")
    assert [getattr(view, name) for name in names] == ["AnyModel", "anywidget", "AnyView", "anywidget"]


def test_traits_link_and_the_value_is_read_only(view):
    seen = []
    view.observe(lambda change: seen.append(change.new), names="value")
    view.run()
    assert view.wait(300)
    assert seen[-1] == view.value
    assert all(later.startswith(sooner) for sooner, later in pairwise(seen))
    with pytest.raises(traitlets.TraitError):
        view.value = "x"


def test_search_and_cards_say_what_features_are(view):
    context, promotes = view._cards["7"]["words"]
    assert text(elements(context, "mark")[0])
    assert text(promotes).startswith('promotes "')
    view.set_state({"_query": {"mode": "text", "text": "river"}})
    assert view._searcher.wait(300)
    assert view._hits["features"] == list(range(4, 12))
    view.set_state({"_peek": 12})
    assert set(view._cards) == {"7", "12"}
    view.set_state({"_peek": 3})
    assert view._cards["3"]["words"] == ["dead: it was never active on the texts of the index"]
    view.set_state({"_peek": 4000})
    assert set(view._cards) == {"7"}
    view.set_state({"order": "density"})
    assert len(np.frombuffer(view._walk, "<f4")) == 95
    view.set_state({"_query": {}})
    assert view._hits == {}


def test_ipywidgets_can_embed_the_state_of_the_view(view):
    state = dependency_state([view], drop_defaults=True)
    assert state[view.model_id]["state"]["setting"] == view.setting
