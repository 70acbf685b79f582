"""Interventions: each mode against its formula, in float64; hooks that come off; plain data that comes back."""

import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saekit.errors import ModelError, SteeringError
from saekit.models import check_hook, encode_text, hidden_states
from saekit.saes import sae_hook, sae_identity
from saekit.steering import Edit, Intervention, generate, planned, side_effects
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
MODES = ("add", "clamp", "ablate", "scale")
MOST = 1e6  # times as long as the residual, the longest edit that is written


@pytest.fixture(scope="module")
def sae():
    found = tiny.topk_sae(32, 96)
    with torch.no_grad():
        found.b_dec.copy_(torch.randn(32, generator=torch.Generator().manual_seed(3)))
        found.W_dec.mul_(torch.linspace(0.5, 2, 96)[:, None])  # rows of several lengths
    return found


@pytest.fixture(scope="module")
def ids(model):
    return encode_text(model, "The cat sat on the mat.")[None]


def steered(model, ids, interventions, *, sae=None):
    """The residual stream at HOOK as the blocks above see it."""
    seen = []
    plan = planned(model, interventions, ids[0], sae=sae)
    with torch.no_grad(), plan.hooked(model):
        handle = model.hook_dict[check_hook(model, HOOK)].register_forward_hook(lambda p, a, out: seen.append(out))
        try:
            model(ids.expand(len(interventions), -1), prepend_bos=False)
        finally:
            handle.remove()
    return seen[0]


def hooks_on(model):
    return sum(len(point._forward_hooks) for point in set(model.hook_dict.values()))


def live_feature(model, sae, ids):
    """A feature that is active on some tokens and not on others."""
    active = sae.encode(hidden_states(model, ids, HOOK))[0, 1:] > 0
    return int((active.float().mean(0) - 0.4).abs().argmin())


@pytest.mark.parametrize("strength", [1.0, 0.7, -2.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unit", ["max", "norm", "activation"])
def test_every_mode_is_its_formula(model, sae, ids, mode, unit, strength):
    feature, value, maximum = live_feature(model, sae, ids), 1.5, 2.5
    one = Intervention.on(sae, feature, value, mode=mode, unit=unit, maximum=maximum, strength=strength)
    x = hidden_states(model, ids, HOOK)[0]
    f, d, x = sae.encode(x)[:, feature].double(), sae.W_dec[feature].double(), x.double()
    c = strength * value * {"max": maximum, "activation": 1.0, "norm": x.norm(dim=-1) / d.norm()}[unit]
    amount = {"add": c, "clamp": c - f, "ablate": -strength * f, "scale": strength * (value - 1) * f}[mode]
    expected = x + (amount * torch.ones(len(x)))[:, None] * d
    expected[0] = x[0]  # BOS is left alone
    got = steered(model, ids, [one], sae=sae)[0].double()
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(got[1:], x[1:], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_along_a_direction_the_activation_is_the_projection(model, ids, mode):
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    one = Intervention.along(7 * direction, HOOK, 1.5, mode=mode, unit="activation")
    x, u = hidden_states(model, ids, HOOK)[0].double(), direction.double() / direction.double().norm()
    f = x @ u
    amount = {"add": torch.full_like(f, 1.5), "clamp": 1.5 - f, "ablate": -f, "scale": 0.5 * f}[mode]
    expected = torch.cat([x[:1], (x + amount[:, None] * u)[1:]])
    assert torch.allclose(steered(model, ids, [one])[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_a_direction_may_be_an_array_or_a_list():
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))
    one = Intervention.along(direction, HOOK)
    backwards = direction.flip(0).numpy()[::-1]
    for given in (direction.numpy(), direction.tolist(), direction[None], backwards, list(direction)):
        assert Intervention.along(given, HOOK) == one


def test_a_clamped_feature_reads_as_clamped_and_the_error_stays(model, ids):
    """Orthonormal rows without top-k: encoding again gives the value, and no other feature moves."""
    from saekit.saes import baseline_sae

    sae = baseline_sae(model, HOOK, kind="neurons", k=32)
    x = hidden_states(model, ids, HOOK)
    feature = int((sae.encode(x)[0, 1:] > 0).float().mean(0).argmax())
    new = steered(model, ids, [Intervention.on(sae, feature, 4.0, mode="clamp", unit="activation")], sae=sae)
    before, after = sae.encode(x)[0, 1:], sae.encode(new)[0, 1:]
    on = before[:, feature] > 0
    assert torch.allclose(after[on, feature], torch.tensor(4.0), atol=1e-5)
    others = [f for f in range(64) if f % 32 != feature % 32]
    assert torch.allclose(after[:, others], before[:, others], atol=1e-5)


def test_several_features_in_one_intervention_are_the_sum_of_their_changes(model, sae, ids):
    x = hidden_states(model, ids, HOOK)[0]
    parts = [
        Intervention.on(sae, 3, 2.0, unit="activation"),
        Intervention.on(sae, live_feature(model, sae, ids), mode="ablate"),
        Intervention.along(torch.ones(32), HOOK, 0.5),
    ]
    together = steered(model, ids, [parts[0] + parts[1] + parts[2]], sae=sae)[0] - x
    alone = sum(steered(model, ids, [part], sae=sae)[0] - x for part in parts)
    assert torch.allclose(together, alone, atol=1e-4)


def test_rows_of_a_batch_have_their_own_interventions_and_hooks(model, sae, ids):
    lower = Intervention.along(torch.ones(32), "blocks.0.hook_resid_post", 0.5)
    rows = [None, Intervention.on(sae, 3, 2.0, unit="activation"), lower, lower.scaled(0)]
    got = steered(model, ids, rows, sae=sae)
    plain = steered(model, ids, [None] * 4)
    assert torch.equal(got[[0, 3]], plain[[0, 3]])
    assert torch.allclose(got[1], steered(model, ids, [rows[1]], sae=sae)[0], atol=1e-5)
    assert torch.allclose(got[2], steered(model, ids, [lower])[0], atol=1e-5)
    assert not torch.allclose(got[2], plain[2], atol=1e-2)


@pytest.mark.parametrize(
    "positions, first, stop", [("all", 1, 99), ("generated", -1, 99), ((0, 2), 0, 2), ((3, 99), 3, 99)]
)
def test_only_the_positions_asked_for_change(model, sae, ids, positions, first, stop):
    n = ids.shape[1]
    x = hidden_states(model, ids, HOOK)[0]
    got = steered(model, ids, [Intervention.on(sae, 3, 2.0, unit="activation", positions=positions)], sae=sae)[0]
    changed = (got != x).any(-1)
    assert changed.tolist() == [first % n <= pos < stop for pos in range(n)]


@pytest.mark.parametrize("unit", ["max", "norm", "activation"])
def test_adding_a_feature_takes_no_sae(model, sae, ids, unit):
    """The intervention carries the decoder rows; along a direction nothing else is needed either."""
    both = Intervention.on(sae, {3: 2.0, 5: -0.5}, unit=unit, maximum=1.5) + Intervention.along(torch.ones(32), HOOK)
    assert torch.equal(steered(model, ids, [both]), steered(model, ids, [both], sae=sae))


def test_the_rows_are_those_of_the_sae_as_it_was(model, ids):
    changed = tiny.topk_sae(32, 96)
    one = Intervention.on(changed, 3, 2.0, unit="activation")
    expected = steered(model, ids, [one])
    with torch.no_grad():
        changed.W_dec.mul_(2)
    assert torch.equal(steered(model, ids, [one]), expected)


def test_rows_of_a_batch_may_add_features_of_one_number_of_two_saes(model, sae, ids):
    other = tiny.topk_sae(32, 96, seed=1)
    rows = [Intervention.on(one, 3, 2.0, unit="activation") for one in (sae, other)]
    together = steered(model, ids, rows)
    for row, (intervention, one) in enumerate(zip(rows, (sae, other), strict=True)):
        assert torch.allclose(together[row], steered(model, ids, [intervention], sae=one)[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "rescales each input .'layer_norm'.*Intervention.along"),
        ({"hook_name_out": "blocks.2.hook_resid_post"}, "transcoder.*can be added with Intervention.along"),
    ],
)
def test_saes_that_do_not_write_where_they_read_are_refused(model, ids, change, message):
    odd = tiny.topk_sae(32, 96)
    for name, value in change.items():
        setattr(odd.cfg.metadata if name == "hook_name_out" else odd.cfg, name, value)
    with pytest.raises(SteeringError, match=message):
        Intervention.on(odd, 3, unit="norm")
    by_hand = Intervention((Edit(3, unit="norm"),), HOOK)
    for run in (lambda: planned(model, [by_hand], ids[0], sae=odd), lambda: by_hand.with_rows(odd)):
        with pytest.raises(SteeringError, match=message):
            run()


def test_an_intervention_without_strength_changes_no_bit(model, sae, ids):
    reference = model(ids, prepend_bos=False)
    for mode in MODES:
        off = Intervention.on(sae, 3, 2.0, mode=mode, unit="activation", strength=0.0)
        with planned(model, [off], ids[0], sae=sae).hooked(model):
            assert torch.equal(model(ids, prepend_bos=False), reference)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e30, -1e38])
@pytest.mark.parametrize("unit", ["norm", "activation"])
@pytest.mark.parametrize("mode", ["add", "clamp", "scale"])
def test_no_strength_is_too_large(model, sae, ids, mode, unit, value):
    one = Intervention.on(sae, 3, value, mode=mode, unit=unit, strength=abs(value))
    x = hidden_states(model, ids, HOOK)[0]
    got = steered(model, ids, [one], sae=sae)[0]
    assert torch.isfinite(got).all()
    assert ((got - x).norm(dim=-1) <= 1.01 * MOST * x.norm(dim=-1).clamp_min(1)).all()
    with planned(model, [one], ids[0], sae=sae).hooked(model):
        assert torch.isfinite(model(ids, prepend_bos=False)).all()


def test_hooks_come_off_whatever_happens_inside(model, sae, ids):
    before, reference = hooks_on(model), model(ids, prepend_bos=False)
    plan = planned(model, [Intervention.on(sae, 3, 2.0, unit="activation")], ids[0], sae=sae)
    for error in (KeyboardInterrupt, RuntimeError, GeneratorExit):
        with pytest.raises(error), plan.hooked(model):
            assert hooks_on(model) > before
            raise error
        assert hooks_on(model) == before
    assert torch.equal(model(ids, prepend_bos=False), reference)


def test_another_thread_gets_the_model_unsteered(model, sae, ids):
    reference, got = model(ids, prepend_bos=False), []
    plan = planned(model, [Intervention.on(sae, 3, 9.0, unit="activation")], ids[0], sae=sae)
    with plan.hooked(model):
        thread = threading.Thread(target=lambda: got.append(model(ids, prepend_bos=False)))
        thread.start()
        thread.join()
        assert not torch.allclose(model(ids, prepend_bos=False), reference)
    assert torch.equal(got[0], reference)


def test_lengths_of_the_edits_are_taken_down(model, sae, ids):
    plan = planned(model, [None, Intervention.on(sae, 3, 0.25, unit="norm")], ids[0], sae=sae)
    plan.shares = [[], []]
    with plan.hooked(model):
        model(ids.expand(2, -1), prepend_bos=False)
    assert plan.shares[0] == []
    assert plan.shares[1] == pytest.approx([0.25] * (ids.shape[1] - 1), rel=1e-5)


# --- plain data ------------------------------------------------------------------------------------------------


def test_an_intervention_comes_back_from_json_as_it_was(sae, tmp_path):
    both = Intervention.on(sae, {3: 2.0, 5: float("inf")}, unit="norm", positions=(2, 9), strength=-0.5)
    both += Intervention.along(torch.randn(32), HOOK, 0.1, positions=(2, 9), strength=-0.5, name="<b>“odd”</b>")
    both.save(tmp_path / "setting.json")
    assert Intervention.load(tmp_path / "setting.json", sae=sae) == both
    assert json.loads(both.to_json(), parse_constant=pytest.fail)["edits"][0]["feature"] == 3


OLD_JSON = """{
 "format": "saekit intervention 1",
 "edits": [
  {"feature": 3, "direction": [], "mode": "add", "value": 2.0, "unit": "norm", "maximum": null, "name": ""}
 ],
 "hook_name": "blocks.1.hook_resid_post",
 "positions": "all",
 "strength": 1.0,
 "sae_hash": "%s"
}"""


def test_a_saved_intervention_names_its_sae_in_place_of_the_rows(model, sae, ids, tmp_path):
    one = Intervention.on(sae, 3, 2.0, unit="norm")
    one.save(tmp_path / "one.json")
    text = (tmp_path / "one.json").read_text()
    assert json.loads(text)["sae"] == sae_identity(sae).facts
    bare = Intervention.load(tmp_path / "one.json")
    assert bare == one and hash(bare) == hash(one) and repr(bare) == repr(one)
    with pytest.raises(
        SteeringError, match=r"does not carry the decoder row of feature 3 .*read from JSON.*: pass sae="
    ):
        planned(model, [bare], ids[0])
    expected = steered(model, ids, [one], sae=sae)
    for again in (bare.with_rows(sae), Intervention.load(tmp_path / "one.json", sae=sae)):
        assert torch.equal(steered(model, ids, [again]), expected)
    assert torch.equal(steered(model, ids, [bare], sae=sae), expected)
    with pytest.raises(SteeringError, match="another SAE"):
        bare.with_rows(tiny.topk_sae(32, 96, seed=1))


def test_a_file_of_an_earlier_saekit_knows_the_weights_of_its_sae_alone(sae):
    one, text = Intervention.on(sae, 3, 2.0, unit="norm"), OLD_JSON % sae_identity(sae).facts["weights"]
    read = Intervention.from_json(text, sae=sae)
    assert read.edits == one.edits and read.features == [3]
    with pytest.raises(SteeringError, match=r"another SAE.* weights "):
        Intervention.from_json(text, sae=tiny.topk_sae(32, 96, seed=1))
    assert Intervention.from_json(OLD_JSON % "").sae_identity is None


@pytest.mark.parametrize("setting", ["k", "rescale_acts_by_decoder_norm", "apply_b_dec_to_input"])
def test_an_sae_of_the_same_weights_and_another_setting_is_another_sae(model, ids, setting):
    fields = {"k": 8, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": True}
    one = tiny.own_sae("topk", 32, 96, hook_name=HOOK, **fields)
    other = tiny.own_sae("topk", 32, 96, hook_name=HOOK, **fields | {setting: 2 if setting == "k" else False})
    clamped = Intervention.on(one, 3, 2.0, mode="clamp", unit="activation")
    words = {"k": "k 8 against 2"}.get(setting, f"{setting} true against false")
    for use in (
        lambda: planned(model, [clamped], ids[0], sae=other),
        lambda: Intervention.from_json(clamped.to_json(), sae=other),
        lambda: clamped + Intervention.on(other, 5, 2.0, mode="clamp", unit="activation"),
    ):
        with pytest.raises(SteeringError, match=words):
            use()


def test_the_maximum_comes_from_the_index(sae):
    index = SimpleNamespace(max=torch.arange(96).numpy(), sae_identity=sae_identity(sae))
    assert Intervention.on(sae, [7, 9], 2.0, index=index).edits[1].maximum == 9
    with pytest.raises(SteeringError, match="feature 0 is 0: expected a positive number"):
        Intervention.on(sae, 0, index=index)
    index.sae_identity = sae_identity(tiny.topk_sae(32, 96, k=2))
    with pytest.raises(SteeringError, match="index is of another SAE"):
        Intervention.on(sae, 7, index=index)


def test_an_intervention_on_another_sae_is_refused(sae):
    text = Intervention.on(sae, 3, unit="norm").to_json()
    with pytest.raises(SteeringError, match="features of another SAE"):
        Intervention.from_json(text, sae=tiny.topk_sae(32, 96, seed=1))


@pytest.mark.parametrize("d_sae", [96, 48, 4])
def test_an_intervention_does_not_run_on_another_sae_of_its_hook_point(model, sae, ids, d_sae):
    one, other = Intervention.on(sae, [3, 7], unit="norm"), tiny.topk_sae(32, d_sae, k=2, seed=1)
    assert "feature 3" in repr(one) and sae_hook(sae) == sae_hook(other)
    message = r"another SAE.*; weights \w{8} against \w{8} \(.* Intervention\.on\(sae, \.\.\.\)"
    for run in (
        lambda: planned(model, [None, one], ids[0], sae=other),
        lambda: generate(model, "The cat", one, sae=other, max_new_tokens=1),
        lambda: generate(model, "The cat", one.scaled(0), sae=other, max_new_tokens=1),
        lambda: side_effects(model, generate(model, "The cat", one, sae=sae, max_new_tokens=1), sae=other, neutral=[]),
        lambda: Intervention.from_json(one.to_json(), sae=other),
    ):
        with pytest.raises(SteeringError, match=message):
            run()


def test_features_of_another_sae_can_be_read_in_a_steered_text(model, sae):
    other = tiny.topk_sae(32, 48, seed=1)
    made = generate(model, "The cat", Intervention.on(sae, 7, 2.0, unit="norm"), sae=sae, max_new_tokens=4)
    (found,) = side_effects(model, made, sae=other, features=[5], neutral=[])
    text = torch.tensor([*made.prompt_ids, *made.ids[0]])[None]
    active = other.encode(hidden_states(model, text, HOOK))[0, len(made.prompt_ids) :, 5]
    assert found.feature_mean == pytest.approx(active.mean().item(), rel=1e-4)


def test_an_sae_that_was_changed_is_another_sae(model, ids):
    """Its decoder rows are not those of which the maxima were measured."""
    changed = tiny.topk_sae(32, 96)
    one = Intervention.on(changed, 3, unit="norm")
    planned(model, [one], ids[0], sae=changed)
    with torch.no_grad():
        changed.W_dec.mul_(2)
    with pytest.raises(SteeringError, match="features of another SAE"):
        planned(model, [one], ids[0], sae=changed)


def test_interventions_print_what_they_do(sae):
    one = Intervention.on(sae, {3: 2.0}, maximum=4.0) + Intervention.on(sae, 5, mode="ablate")
    assert repr(one) == "feature 3: add 2 x its maximum; feature 5: ablate (at blocks.1.hook_resid_post, all)"


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("format"),
        lambda d: d.pop("edits"),
        lambda d: d.update(more=1),
        lambda d: d.update(edits=[]),
        lambda d: d.update(edits=[1]),
        lambda d: d.update(strength="much"),
        lambda d: d.update(positions="everywhere"),
        lambda d: d["edits"][0].update(mode="explode"),
        lambda d: d["edits"][0].update(feature=-1),
        lambda d: d["edits"][0].update(feature=1.5),
        lambda d: d["edits"][0].update(name=["x"]),
        lambda d: d["edits"][0].update(maximum="9"),
        lambda d: d["edits"][0].update(direction=["x"]),
        lambda d: d["edits"].append(d["edits"][0]),
    ],
)
def test_json_that_is_no_intervention_is_refused(sae, change):
    data = json.loads(Intervention.on(sae, 3, unit="norm").to_json())
    change(data)
    with pytest.raises(SteeringError):
        Intervention.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"format": "saekit intervention 1"}'])
def test_text_that_is_no_intervention_is_refused(text):
    with pytest.raises(SteeringError, match="not a saved intervention"):
        Intervention.from_json(text)


def test_bad_edits_are_refused_with_what_was_expected(model, sae, ids):
    def refused(match, make):
        with pytest.raises(SteeringError, match=match):
            make()

    refused("no feature 96: the SAE has 96, numbered from 0 to 95", lambda: Intervention.on(sae, 96))
    refused("no feature -1", lambda: Intervention.on(sae, -1, unit="norm"))
    refused("no feature True", lambda: Intervention.on(sae, True, unit="norm"))
    refused("no feature 'x'", lambda: Intervention.on(sae, ["x"], unit="norm"))
    refused("feature 3 has no known maximum: pass index=", lambda: Intervention.on(sae, 3))
    refused("named twice", lambda: Intervention.on(sae, [3, 3], unit="norm"))
    one = Intervention.on(sae, 3, unit="norm")
    refused("feature 3 is edited twice", lambda: one + one)
    refused("expected the same", lambda: one + one.scaled(2))
    refused("without edits", lambda: Intervention((), HOOK))
    refused("one of the two", lambda: Edit(None))
    refused("mode must be 'add', .* not 'multiply'", lambda: Intervention.on(sae, 3, mode="multiply"))
    refused("unit must be 'max', 'norm' or 'activation', not 'metres'", lambda: Intervention.on(sae, 3, unit="metres"))
    refused("value must be a number, not nan", lambda: Intervention.on(sae, 3, float("nan"), unit="norm"))
    refused("strength must be a number, not nan", lambda: one.scaled(float("nan")))
    refused("zero or not finite", lambda: Intervention.along(torch.zeros(32), HOOK))
    for direction in ("north", [[1.0], [1.0, 2.0]], None, torch.ones(2, 16), [[1.0], [2.0]], 3.0, np.ones(32) * 1j):
        refused("direction must be a", lambda: Intervention.along(direction, HOOK))  # noqa: B023
    refused("zero or not finite", lambda: Intervention.along(torch.full((32,), float("nan")), HOOK))
    for positions in ("some", (3, 3), (-1, 4), (1, 2, 3), 5, (0.5, 2)):
        refused("positions must be", lambda: Intervention.on(sae, 3, unit="norm", positions=positions))  # noqa: B023


def test_interventions_that_do_not_fit_model_sae_or_text_are_refused(model, sae, ids):
    one = Intervention.on(sae, 3, unit="norm")
    by_hand = replace(one, sae_identity=None)  # of which SAE is not known
    for mode in ("clamp", "ablate", "scale"):
        with pytest.raises(SteeringError, match=f"to {mode} feature 3, its activation is read.*: pass sae="):
            planned(model, [Intervention.on(sae, 3, mode=mode, unit="norm")], ids[0])
    with pytest.raises(SteeringError, match="no feature 3"):
        planned(model, [by_hand], ids[0], sae=tiny.topk_sae(32, 3, k=2))
    with pytest.raises(SteeringError, match="expected the SAE that it was made with"):
        planned(model, [by_hand], ids[0], sae=tiny.topk_sae(32, 96, hook_name="blocks.0.hook_resid_post"))
    with pytest.raises(ModelError, match="no hook point"):
        planned(model, [Intervention.along(torch.ones(32), "blocks.9.hook_resid_post")], ids[0])
    with pytest.raises(SteeringError, match="positions 20 to 30 lie outside of the text"):
        planned(model, [Intervention.on(sae, 3, unit="norm", positions=(20, 30), strength=0)], ids[0], sae=sae, end=20)
    plan = planned(model, [Intervention.along(torch.ones(31), HOOK)], ids[0])
    with pytest.raises(SteeringError, match="31 dimensions, but the model has 32"), plan.hooked(model):
        model(ids, prepend_bos=False)
