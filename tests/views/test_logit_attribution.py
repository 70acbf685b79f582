"""The logit attribution view in Python: what it refuses, computes and when, Stop, ablation, links. No browser."""

import json
import re
import threading

import numpy as np
import pytest
import torch
import traitlets

from saekit import attribution
from saekit.attribution import activation_patching, attribution_patching, direct_logit_attribution
from saekit.errors import FeatureIndexError, ModelError, SAEError
from saekit.models import encode_text
from saekit.views._shared.words import percent
from saekit.views.logit_attribution import LogitAttribution
from saekit.views.logit_attribution.ask import swapped
from saekit.views.logit_attribution.work import EXACT, EXACT_ERRORS
from saekit.views.top_activations import TopActivations
from tests.views.attribution_parts import OTHER, PROMPT, small_view
from tests.views.circuit_parts import HIGH, LOW, WIDTH, fake_index, random_saes
from tests.views.panels import elements, text

READ = {"answer": "c", "foil": "d"}


@pytest.fixture
def view(model):
    made = small_view(model)
    assert made.wait(300)
    assert made.error == ""
    return made


@pytest.fixture
def gate(monkeypatch):
    """Attributions wait until ``gate.set()``; ``gate.asked`` lists the prompts that were begun."""
    opened = threading.Event()
    opened.asked, opened.begun = [], threading.Event()

    def held(real):
        def waiting(model, saes, prompts, **options):
            opened.asked.append(model.tokenizer.decode(prompts[1:]))
            opened.begun.set()
            assert opened.wait(300)
            return real(model, saes, prompts, **options)

        return waiting

    for name in ("direct_logit_attribution", "attribution_patching", "activation_patching"):
        monkeypatch.setattr(attribution, name, held(getattr(attribution, name)))
    return opened


def settled(view):
    assert view.wait(300)
    return view


def shown(view):
    """Return what is shown as numbers, as it is saved."""
    return json.loads(view.to_json())


def compared_with(view):
    """Return the methods with which the one that is shown is said to agree."""
    (said,) = elements(view.state(), look="agreement") or [""]
    return re.findall(r"(?:with|;) ([a-z ]+): ", text(said))


def ids_of_prompt(model, text=PROMPT):
    return encode_text(model, text)[None]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"answer": "cat"}, r"the answer 'cat' is 2 tokens for this tokenizer \('c', 'at'\)"),
        ({"foil": "cat dog"}, r"the foil 'cat dog' is 3 tokens"),
        ({"answer": "d"}, r"^answer and foil are the same token, 'd'"),
        ({"answer": ""}, "there is no answer"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": "The cat " * 80}, r"the prompt has \d+ tokens: .* takes at most 128"),
        ({"prompt": "The cat " * 150}, r"the prompt has \d+ tokens, the model's context holds 256"),
        ({"corrupted": "The cat"}, r"the prompt has 7 tokens and its corrupted counterpart 3"),
        ({"corrupted": PROMPT}, "the same tokens: nothing changes"),
        ({"baseline": "corrupted"}, "there is no prompt to compare with"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_at_once(model, wrong, message):
    asked = {"prompt": PROMPT, **READ} | wrong
    with pytest.raises(ModelError, match=message):
        LogitAttribution(model, random_saes(), asked.pop("prompt"), **asked)


def test_saes_and_indexes_that_do_not_fit_are_refused(model):
    saes = random_saes()
    with pytest.raises(SAEError, match="two SAEs read"):
        LogitAttribution(model, [saes[0], saes[0]], PROMPT, **READ)
    with pytest.raises(SAEError, match=r"index is of another SAE.* Pass the SAE that it was built with"):
        LogitAttribution(model, saes, PROMPT, index=fake_index(saes[0]), **READ)
    with pytest.raises(FeatureIndexError, match=r"an index of blocks\.1\.hook_resid_post, expected one of the hook"):
        LogitAttribution(model, saes[0], PROMPT, index=fake_index(saes[1]), **READ)
    for wrong, message in [
        ({"k": 0}, "k must be a whole number from 1 to 100"),
        ({"hook": "blocks.2.hook_resid_post"}, r"there are SAEs at blocks\.0"),
        ({"method": "guess"}, "method"),
        ({"ablated": [WIDTH]}, "must be in 0…95"),
    ]:
        with pytest.raises(traitlets.TraitError, match=message):
            LogitAttribution(model, saes, PROMPT, **READ, **wrong)


def test_traits_say_what_they_may_be(model, view):
    for value, message in [
        (("odd", 1, 1), "there is no SAE at 'odd'"),
        ((HIGH, -1, 1), "position must be 0 or more"),
        ((HIGH, 1, WIDTH), "must be in 0…95, or -1"),
    ]:
        with pytest.raises(traitlets.TraitError, match=message):
            view.value = value
    view.set_state({"value": [HIGH, 2, -1]})
    assert view.value == (HIGH, 2, -1), "a list from the browser is a tuple here"
    view.ablated = [5, 3, 5]
    assert view.ablated == [3, 5]
    with pytest.raises(traitlets.TraitError, match="at most"):
        small_view(model, hook=LOW, ablated=range(101))


# --- what it computes --------------------------------------------------------------------------------------------


def test_bars_run_up_to_the_logit_difference_that_the_model_gives(model, view):
    logits = model(ids_of_prompt(model))[0, -1].double()
    answer, foil = (model.tokenizer.encode(text, add_special_tokens=False)[0] for text in "cd")
    expected = (logits[answer] - logits[foil]).item()
    bars = shown(view)["bars"]
    assert bars[-1]["running"] == pytest.approx(expected, abs=1e-5)
    assert shown(view)["reading"] == pytest.approx(expected, abs=1e-5)
    assert shown(view)["exact"]
    np.testing.assert_allclose(np.cumsum([row["effect"] for row in bars]), [row["running"] for row in bars])
    sizes = [abs(row["effect"]) for row in bars]
    assert sizes == sorted(sizes, reverse=True)
    kinds = [row["kind"] for row in bars]
    assert {kind: kinds.count(kind) for kind in ("error", "bias", "rest")} == {"error": 1, "bias": 1, "rest": 1}


def test_few_bars_leave_the_others_in_one(model):
    whole, few = settled(small_view(model, k=50)), settled(small_view(model, k=2))
    rows = {row["kind"]: row for row in shown(few)["bars"]}
    rest = sum(row["effect"] for row in shown(whole)["bars"] if row["kind"] == "feature") - sum(
        row["effect"] for row in shown(few)["bars"] if row["kind"] == "feature"
    )
    assert rows["others"]["effect"] == pytest.approx(rest)
    assert rows["others"]["items"] == 8 - 2, "a TopK SAE has eight features"
    assert shown(few)["features"] == shown(whole)["features"][:2]


def test_the_logit_alone_is_explained_without_a_foil(model):
    view = settled(small_view(model, foil=None))
    logit = model(ids_of_prompt(model))[0, -1, model.tokenizer.encode("c", add_special_tokens=False)[0]].item()
    assert shown(view)["bars"][-1]["running"] == pytest.approx(logit, abs=1e-5)
    assert view.foil == ""
    assert "the logit that the model gives" in shown(view)["check"]


def test_every_column_of_the_direct_picture_is_that_positions_own_reading(model, view):
    sae, tokens = random_saes()[1], shown(view)["tokens"]
    picture = np.array(shown(view)["picture"])
    assert picture.shape == (len(shown(view)["features"]) + 1, len(tokens))
    for position in range(len(tokens)):
        alone = direct_logit_attribution(model, sae, PROMPT, position=position, **READ)
        effects = {item.feature: item.effect for item in alone.top(99, kinds=("feature", "error"))}
        expected = [effects.get(feature, 0.0) for feature in [*shown(view)["features"], -1]]
        np.testing.assert_allclose(picture[:, position], expected, atol=1e-5)
    shades = {one[1]["data-position"]: one[1]["shade"] for one in elements(view.state()["picture"], look="cell")}
    assert shades[0] == 0, "BOS is not shaded"
    assert any(shades.values())


@pytest.mark.parametrize("against", [{"baseline": "zero"}, {"baseline": "mean"}, {"corrupted": OTHER}])
@pytest.mark.parametrize("method", ["patching", "integrated gradients", "exact"])
def test_the_methods_are_those_of_the_analysis(model, method, against):
    view = settled(small_view(model, method=method, **against))
    sae = random_saes()[1]
    kind = "integrated" if method == "integrated gradients" else "gradient"
    expected = attribution_patching(model, sae, PROMPT, method=kind, **READ, **against)
    if method == "exact":
        nodes = [*expected.top(EXACT), *expected.top(EXACT_ERRORS, kinds=("error",))]
        expected = activation_patching(model, sae, PROMPT, nodes=nodes, **READ, **against)
    assert view.error == ""
    assert view.attribution.method == method
    assert len(view.attribution) == len(expected)
    assert view.attribution.agreement(expected).largest_difference < 1e-4
    assert shown(view)["bars"][-1]["running"] == pytest.approx(expected.sums[0, 0], abs=1e-4)
    assert shown(view)["total"] == pytest.approx(expected.total[0, 0], abs=1e-4)


def test_agreement_is_told_of_all_methods_computed_for_this_question(model, view):
    assert compared_with(view) == []
    view.method = "patching"
    settled(view)
    sae = random_saes()[1]
    expected = attribution_patching(model, sae, PROMPT, **READ).agreement(
        direct_logit_attribution(model, sae, PROMPT, **READ)
    )
    assert compared_with(view) == ["direct"]
    r = f"{expected.correlation:.2f}".replace("-", "−")
    assert f"Agreement of patching with direct: r = {r}, {percent(expected.same_sign)} of" in text(view.state()["bars"])
    view.method = "exact"
    assert compared_with(settled(view)) == ["direct", "patching"]
    view.corrupted, view.baseline = OTHER, "corrupted"
    view.method = "patching"
    assert compared_with(settled(view)) == ["direct"], "which compares with nothing"
    view.prompt = OTHER
    view.method = "direct"
    assert compared_with(settled(view)) == []
    json.dumps(view.get_state(["_shown", "_says", "_facts", "_head"]), allow_nan=False)


def test_slow_methods_wait_until_they_are_asked_for(view):
    view.method = "exact"
    assert shown(settled(view))["method"] == "exact"
    view.prompt = OTHER
    settled(view)
    assert shown(view)["asked"]["prompt"] == PROMPT, "the last picture stays"
    fresh = settled(small_view(view._answerer.model, prompt=OTHER))
    assert view.state()["says"] == fresh.state()["says"], "what the model says is of the new prompt"
    view.set_state({"_starts": 1})
    assert shown(settled(view))["asked"]["prompt"] == OTHER
    assert view.attribution.method == "exact"


def test_another_layer_is_another_account(view):
    view.ablated = [3]
    settled(view)
    view.hook = LOW
    settled(view)
    assert shown(view)["asked"]["hook"] == LOW
    assert view.attribution.hook_names == (LOW,)
    assert (view.ablated, shown(view)["ablated"]) == ([], []), "features of another SAE are not ticked"
    assert "contexts" not in view.state(), "this layer has no index"
    view.hook = HIGH
    assert settled(view)._shown["items"]["contexts"].keys() == {str(feature) for feature in shown(view)["features"]}
    listed = [int(text(one)) for one in elements(view.state()["contexts"], "b")]
    assert set(listed) <= set(shown(view)["features"])


# --- edits -------------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_told_at_its_field_and_the_last_good_picture_stays(view):
    good = shown(view)
    for field, typed, message in [
        ("answer", "cat", "is 2 tokens"),
        ("foil", "c", "answer and foil are the same token"),
        ("prompt", "", "the prompt is empty"),
    ]:
        before = getattr(view, field)
        setattr(view, field, typed)
        settled(view)
        assert view._wrong == field
        assert message in view.error
        assert shown(view)["bars"] == good["bars"]
        setattr(view, field, before)
        settled(view)
        assert (view.error, view._wrong) == ("", "")


def test_direct_attribution_does_not_look_at_the_corrupted_prompt(view):
    view.baseline = "corrupted"
    settled(view)
    assert view.error == ""
    view.method = "patching"
    settled(view)
    assert view._wrong == "corrupted"
    view.corrupted = OTHER
    assert settled(view).error == ""
    assert view.attribution.baseline == "corrupted prompts"


def test_the_corrupted_prompt_is_made_up_until_the_reader_types_one(model):
    assert swapped("Mary met John and Maryam, John's", " Mary", " John") == "John met Mary and Maryam, Mary's"
    assert swapped("Nobody came", " Mary", " John") == ""
    assert swapped("Mary came", " Mary", "") == ""
    view = small_view(model)
    view.prompt = "a c sat, a d"
    view.baseline = "corrupted"
    assert view.corrupted == "a d sat, a c"
    view.prompt = "the c sat, a d"
    assert view.corrupted == "the d sat, a c"
    view.corrupted = "the d sat, a d"
    view.prompt = "a c sat, a c"
    assert view.corrupted == "the d sat, a d", "the reader's own stays"
    settled(view)


def test_a_text_that_is_still_typed_leaves_no_queue_behind(view, gate):
    typed = "The dog and the cat"
    for end in range(4, len(typed) + 1):
        view.prompt = typed[:end]
    assert view.busy
    assert gate.begun.wait(300)
    gate.set()
    settled(view)
    assert shown(view)["asked"]["prompt"] == typed
    assert len(gate.asked) <= 2, "what was begun, and the last"
    assert gate.asked[-1] == typed


def test_the_view_is_there_before_anything_is_computed(model, gate):
    view = small_view(model)
    assert view.busy
    assert (view.attribution, repr(view)) == (None, "LogitAttribution(not computed yet)")
    assert gate.begun.wait(300)
    assert view.predictions is not None, "what the model says comes first"
    gate.set()
    settled(view)


def test_stop_drops_the_work_and_compute_takes_it_up_again(view, gate):
    view.method = "exact"
    assert gate.begun.wait(300)
    view.set_state({"_stops": 1})
    assert (view.busy, view._doing) == (False, "")
    gate.set()
    settled(view)
    assert shown(view)["method"] == "direct"
    assert len(gate.asked) <= 2, "the patches after Stop are not run"
    view.compute()
    assert shown(settled(view))["method"] == "exact"


def test_what_goes_wrong_in_the_worker_is_told(view, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(attribution, "direct_logit_attribution", broken)
    view.prompt = OTHER
    settled(view)
    assert (view.error, view.busy) == ("RuntimeError: out of luck", False)


def test_the_readers_model_has_no_hooks_and_runs_meanwhile(model, view):
    ids = ids_of_prompt(model)
    plain = model(ids)
    view.method = "exact"
    while view.busy:
        assert torch.equal(model(ids), plain)
        assert not any(point._forward_hooks for point in model.hook_dict.values())
    assert not any(point._forward_hooks for point in view._answerer.model.hook_dict.values())


# --- ablation ----------------------------------------------------------------------------------------------------


def test_ticked_features_are_ablated_at_every_token_but_bos(model, view):
    sae = random_saes()[1]
    ids = ids_of_prompt(model)
    states = {}
    model.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_out", lambda x, hook: states.__setitem__("x", x))])
    features = sae.encode(states["x"])
    chosen = features[0, 1:].sum(0).topk(3).indices.tolist()
    change = torch.zeros_like(states["x"])
    for feature in chosen:
        change[0, 1:] -= features[0, 1:, feature, None] * sae.W_dec[feature]
    logits = model.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_out", lambda x, hook: x + change)])[0, -1]
    view.ablated = chosen
    settled(view)
    probabilities = logits.softmax(-1)
    for row in shown(view)["predictions"]:
        assert row["ablated"] == pytest.approx(probabilities[row["token"]].item(), abs=1e-5)
    clean = model(ids)[0, -1].softmax(-1)
    kl = (clean * (clean / probabilities).log()).sum().item()
    assert view.predictions.kl == pytest.approx(kl, abs=1e-4)
    said = f"3 features ablated at every token, error kept ({', '.join(map(str, sorted(chosen)))}): KL {kl:.2f} nats"
    assert said in text(view.state()["says"])
    assert [row["role"] for row in shown(view)["predictions"]].count("answer") == 1
    assert view.predictions.n_patched == 3
    view.ablated = []
    assert shown(settled(view))["predictions"][0]["ablated"] is None
    assert (view.predictions.n_patched, view.control) == (0, None)


def test_the_control_ablates_as_many_other_active_features(model, view):
    features = random_saes()[1].encode(
        model.run_with_cache(ids_of_prompt(model), names_filter="blocks.1.hook_out")[1]["blocks.1.hook_out"]
    )
    active = set(features[0, 1:].sum(0).nonzero().flatten().tolist())
    ticked = sorted(active)[:4]
    view.ablated = ticked
    settled(view)
    control = shown(view)["control"]
    assert len(control) == 4
    at_last = set(features[0, -1].nonzero().flatten().tolist())
    assert set(control) <= active & at_last - set(ticked), "those of the last token first: others would do little"
    assert view.control.n_patched == 4
    expected = attribution.predictions(model, PROMPT, sae=random_saes()[1], nodes=control, also=view.predictions.ids)
    by_token = dict(zip(expected.ids.tolist(), expected.probability_patched, strict=True))
    assert all(row["control"] == pytest.approx(by_token[row["token"]], abs=1e-6) for row in shown(view)["predictions"])
    view.ablated = sorted(active)
    assert shown(settled(view))["control"] == [], "no other feature is left to draw"


# --- links -------------------------------------------------------------------------------------------------------


def test_a_linked_view_shows_the_selected_feature(view):
    top = TopActivations(view._indexes[HIGH], feature=50)
    end = view.link(top)
    view.set_state({"value": [HIGH, 3, 12]})
    assert top.value == 12
    view.value = (LOW, 3, 13)
    view.value = (HIGH, 3, -1)
    view.value = None
    assert top.value == 12, "features of other layers, errors and nothing pass it by"
    end()
    view.value = (HIGH, 3, 14)
    assert top.value == 12
    view.link(top)
    assert top.value == 14, "what is selected already is shown at once"
    other = fake_index(random_saes()[1], "blocks.2.hook_resid_post")
    with pytest.raises(FeatureIndexError, match=r"shows features of blocks\.2"):
        view.link(TopActivations(other))
