"""The result of every attribution: order, slices, sums and the words of its check."""

import dataclasses

import numpy as np
import pytest

from saekit.attribution import KINDS, Attribution, attribution_patching, direct_logit_attribution
from saekit.errors import ModelError
from saekit.models import shuffled_model
from tests import tiny


def made(effects, *, total=None, method="direct"):
    """Return an attribution of two prompts and two hook points from ``{(prompt, hook, position, feature): effect}``."""
    kinds = {-1: "error", -2: "bias"}
    items = np.array([(*place, KINDS.index(kinds.get(place[3], "feature")), max(place[3], -1)) for place in effects])
    effect = np.array([*effects.values()])
    found = Attribution(
        method=method,
        towards=("' a' - ' b'", "' c' - ' d'"),
        baseline="" if method == "direct" else "corrupted prompts",
        units="logits",
        tokens=(("<s>", " x", " y"), ("<s>", " z", " w")),
        hook_names=("blocks.1.hook_resid_post", "blocks.2.hook_resid_post"),
        read_prompt=np.arange(2),
        read_position=np.array([2, 2]),
        clean=np.zeros(2),
        total=np.zeros((2, 2)),
        at_read=items[:, 0],
        at_hook=items[:, 1],
        position=items[:, 2],
        kind=items[:, 4],
        feature=items[:, 5],
        activation=np.abs(effect),
        activation_baseline=np.zeros(len(effect)),
        effect=effect,
    )
    return dataclasses.replace(found, total=found.sums if total is None else np.array(total))


EFFECTS = {
    (0, 0, 1, 5): 1.0,
    (0, 0, 2, 5): -3.0,
    (0, 0, 2, 6): 2.0,
    (0, 0, 2, -1): 9.0,
    (0, 0, 2, -2): 0.5,
    (0, 1, 2, 5): 4.0,
    (1, 0, 1, 5): 0.25,
}


def test_the_strongest_come_first_by_size_or_by_sign():
    found = made(EFFECTS)
    assert [item.effect for item in found.top(3)] == [4, -3, 2]
    assert [item.effect for item in found.top(9, by="positive", prompt=0)] == [4, 2, 1]
    assert [item.effect for item in found.top(9, by="negative")] == [-3]
    assert found.top(1, kinds=())[0].kind == "error"
    assert [item.kind for item in found.top(9, kinds=("bias", "error"))] == ["error", "bias"]
    with pytest.raises(ModelError, match="'size', 'positive' or 'negative', not 'best'"):
        found.top(by="best")
    with pytest.raises(ModelError, match="no kind 'neuron'"):
        found.top(kinds=["neuron"])


def test_features_are_summed_over_positions_and_averaged_over_prompts_but_not_over_hook_points():
    first, second, third = made(EFFECTS).by_feature(9)
    assert (first.hook_name[7], first.feature, first.effect) == ("2", 5, 2.0)
    assert (second.hook_name[7], second.feature, second.effect) == ("1", 6, 1.0)
    assert (third.hook_name[7], third.feature, third.effect) == ("1", 5, (1 - 3 + 0.25) / 2)
    assert {item.position for item in (first, second, third)} == {-1}


def test_the_picture_has_a_row_a_position_and_a_column_a_feature():
    found = made(EFFECTS)
    assert found.matrix([6, 5, 7]).tolist() == [[0, 0, 0], [0, 1, 0], [2, -3, 0]]
    assert found.matrix([5], prompt=0, hook="blocks.2.hook_resid_post").tolist() == [[0], [0], [4]]
    assert found.matrix([5], prompt=1).tolist() == [[0], [0.25], [0]]


def test_sums_are_kept_apart_by_prompt_and_hook_point():
    found = made(EFFECTS)
    assert found.sums.tolist() == [[9.5, 4], [0.25, 0]]
    part = found.only(prompt=0, hook="blocks.2.hook_resid_post")
    assert (len(part), part.sums.tolist(), part.tokens) == (1, [[4]], (("<s>", " x", " y"),))
    assert found.only(prompt=1).towards == ("' c' - ' d'",)
    assert next(iter(found.only(prompt=1))).token == " z"
    for wrong in ({"prompt": 2}, {"hook": "blocks.9.hook_resid_post"}):
        with pytest.raises(ModelError, match="expected a prompt below 2"):
            found.only(**wrong)


def test_the_check_says_what_adds_up_and_what_does_not():
    assert made(EFFECTS).complete
    assert "exact, up to rounding" in repr(made(EFFECTS))
    wrong = made(EFFECTS, total=[[9.5, 4], [0.25, 1]])
    assert not wrong.complete
    assert "not exact, largest gap 1 logits" in wrong.check
    assert "blocks.2.hook_resid_post: items add up to +2.0000, the reading +2.5000" in wrong.check
    assert "all at once" in made(EFFECTS, method="exact").check
    assert repr(made(EFFECTS)).splitlines()[2].endswith("error 1 at ' y'")


def test_agreement_is_over_what_both_have():
    one = made(EFFECTS)
    other = made({key: 2 * effect for key, effect in EFFECTS.items() if key[0] == 0} | {(1, 1, 1, 8): 1.0})
    found = one.agreement(other)
    assert (found.n, found.same_sign, found.largest_difference) == (6, 1, 9)
    assert found.correlation == pytest.approx(1)
    turned = made({key: effect * (1 if key[3] == -1 else -1) for key, effect in EFFECTS.items()})
    assert one.agreement(turned).same_sign == pytest.approx(9 / (1 + 3 + 2 + 9 + 0.5 + 4 + 0.25))
    with pytest.raises(ModelError, match="no item in common"):
        one.agreement(made({(1, 1, 1, 8): 1.0}))


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        made(EFFECTS).units = "nats"


def test_attributions_of_different_saes_or_models_are_not_compared(model):
    prompt = "The cat sat on the mat"
    sae, other = (tiny.topk_sae(32, 96, k=k) for k in (8, 2))
    one = direct_logit_attribution(model, sae, prompt, answer="c")
    patched = attribution_patching(model, sae, prompt, answer="c")
    assert one.agreement(patched).n > 0
    for second in (
        direct_logit_attribution(model, other, prompt, answer="c"),
        attribution_patching(model, other, prompt, answer="c"),
    ):
        with pytest.raises(ModelError, match=r"different SAEs at blocks\.1\.hook_resid_post: k 8 against 2"):
            one.agreement(second)
    with pytest.raises(ModelError, match="different models: weights "):
        one.agreement(direct_logit_attribution(shuffled_model(model), sae, prompt, answer="c"))
