"""The packaged model with its SAE: accounts that are exact in float32, and estimates that are not."""

import pytest

from saekit.attribution import (
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    logit_attribution_by_component,
    logit_lens,
)

CLEAN = "When Mary and John arrived at the station, John gave a book to"
CORRUPTED = "When Mary and John arrived at the station, Mary gave a book to"
READ = {"answer": " Mary", "foil": " John"}


@pytest.mark.slow
def test_accounts_of_the_packaged_model_are_exact_and_gradients_miss_what_is_saturated():
    from saekit.models import load_model
    from saekit.saes import load_sae

    model = load_model(progress=False)
    sae = load_sae(model=model)
    direct = direct_logit_attribution(model, sae, CLEAN, **READ, position="each")
    parts = logit_attribution_by_component(model, CLEAN, **READ)
    assert direct.complete
    assert parts.complete
    assert logit_lens(model, CLEAN, **READ, position=-1).complete
    assert parts.clean[0] == pytest.approx(direct.clean[-1], abs=1e-4)
    pair = {"corrupted": CORRUPTED, **READ}
    gradient = attribution_patching(model, sae, CLEAN, **pair)
    integrated = attribution_patching(model, sae, CLEAN, **pair, method="integrated")
    exact = activation_patching(model, sae, CLEAN, **pair, nodes=integrated.top(16))
    # The answer flips; at the clean end of the line the slope is small, so its estimate is far from the whole.
    assert gradient.total[0, 0] > 5
    assert integrated.gap < 0.01 * gradient.total[0, 0]
    assert gradient.gap > 0.5 * gradient.total[0, 0]
    assert exact.agreement(integrated).same_sign > 0.8
    strongest = exact.top(1)[0]
    assert (strongest.position, strongest.token) == (10, " John")
