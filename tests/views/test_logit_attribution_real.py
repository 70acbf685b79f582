"""The logit attribution view on the packaged model: the account adds up, and one feature of layer 24 has the name."""

import json

import pytest

from saekit.views.logit_attribution import LogitAttribution

PROMPT = "When Mary and John went to the shop, John gave a drink to"
LATE, MIDDLE = "blocks.24.hook_resid_post", "blocks.18.hook_resid_post"


@pytest.mark.slow
def test_one_feature_of_layer_24_speaks_for_mary_and_its_ablation_costs_the_answer():
    from saekit.models import load_model
    from saekit.saes import load_sae

    model = load_model(progress=False)
    saes = [load_sae(f"smollm2-135m/{LATE}.4608", model=model), load_sae(model=model)]
    view = LogitAttribution(model, saes, PROMPT)
    assert view.wait(300)
    assert view.attribution.complete
    assert view.attribution.towards == ("' Mary' - ' John'",)
    strongest = view.attribution.top(1)[0]
    assert (strongest.token, strongest.effect > 1) == (" to", True)
    assert json.loads(view.to_json())["predictions"][0]["text"] == " Mary"
    view.ablated = [strongest.feature]
    assert view.wait(300)
    says = json.loads(view.to_json())["predictions"][0]
    assert says["ablated"] < says["probability"] / 3
    assert says["control"] > says["probability"] * 0.8, "a random active feature does not matter"
    view.hook = MIDDLE
    assert view.wait(300)
    assert view.attribution.complete
    assert abs(view.attribution.top(1)[0].effect) < 0.5, "at layer 18 the name is not at the last token yet"
    assert not any(point._forward_hooks for point in model.hook_dict.values())
