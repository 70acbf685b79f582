"""Predictions beside those with features changed, against the whole model run with a hook."""

import numpy as np
import pytest
import torch

from saekit.attribution import attribution_patching, predictions
from saekit.errors import ModelError
from saekit.models import check_hook, encode_text, hidden_states
from tests import tiny

HOOK, PROMPT, OTHER = "blocks.1.hook_resid_post", "The cat sat on the mat", "The dog sat on the mat"


def log_p(model, ids, states):
    def put(activation, hook):
        return states[None]

    with torch.no_grad():
        logits = model.run_with_hooks(ids[None], fwd_hooks=[(check_hook(model, HOOK), put)], prepend_bos=False)
    return logits[0, -1].double().log_softmax(-1)


def test_without_features_it_is_what_the_model_says(model):
    ids = encode_text(model, PROMPT)
    found = predictions(model, PROMPT, k=4, also=[7])
    logits = model(ids[None], prepend_bos=False)[0, -1]
    best = logits.softmax(-1).topk(4)
    assert found.ids[:4].tolist() == best.indices.tolist()
    assert 7 in found.ids
    np.testing.assert_allclose(found.probability[:4], best.values, rtol=1e-5)
    np.testing.assert_allclose(found.logit, logits[found.ids], rtol=1e-5)
    assert (found.kl, found.n_patched) == (0, 0)
    assert np.array_equal(found.probability, found.probability_patched)
    assert "->" not in repr(found)
    assert predictions(model, PROMPT, k=1, also=found.ids).ids.tolist() == found.ids.tolist(), "ids as they come back"


@pytest.mark.parametrize("corrupted", [None, OTHER])
def test_features_and_errors_are_patched_together(model, corrupted):
    ids, sae = encode_text(model, PROMPT), tiny.topk_sae(32, 96)
    versus = {} if corrupted is None else {"corrupted": corrupted}
    nodes = attribution_patching(model, sae, PROMPT, answer=7, **versus).top(6, kinds=("feature", "error"))
    assert {node.kind for node in nodes} == {"feature", "error"}
    found = predictions(model, PROMPT, sae=sae, nodes=nodes, k=5, **versus)
    x = hidden_states(model, ids[None], HOOK)[0]
    other = torch.zeros_like(x) if corrupted is None else hidden_states(model, encode_text(model, OTHER)[None], HOOK)[0]
    f, g = sae.encode(x), torch.zeros(len(x), 96) if corrupted is None else sae.encode(other)
    e, h = x - sae.decode(f), torch.zeros_like(x) if corrupted is None else other - sae.decode(g)
    changed = x.clone()
    for node in nodes:
        at, feature = node.position, node.feature
        changed[at] += (g - f)[at, feature] * sae.W_dec[feature] if node.kind == "feature" else (h - e)[at]
    before, after = log_p(model, ids, x), log_p(model, ids, changed)
    np.testing.assert_allclose(found.probability_patched, after[found.ids].exp(), rtol=1e-3)
    assert found.kl == pytest.approx((before.exp() * (before - after)).sum().item(), rel=1e-3)
    assert {*after.topk(5).indices.tolist(), *before.topk(5).indices.tolist()} == set(found.ids.tolist())
    assert f"{len(nodes)} nodes patched together" in repr(found)


def test_a_feature_by_its_number_is_ablated_at_every_position_but_the_special_ones(model):
    ids, sae = encode_text(model, PROMPT), tiny.topk_sae(32, 96)
    x = hidden_states(model, ids[None], HOOK)[0]
    f = sae.encode(x)
    feature = int((f != 0)[1:].sum(0).argmax())
    found = predictions(model, PROMPT, sae=sae, nodes=[feature])
    changed = x - f[:, feature, None] * sae.W_dec[feature]
    changed[0] = x[0]
    np.testing.assert_allclose(found.probability_patched, log_p(model, ids, changed)[found.ids].exp(), rtol=1e-3)


def test_what_cannot_be_patched_is_refused(model):
    with pytest.raises(ModelError, match="pass sae="):
        predictions(model, PROMPT, nodes=[3])
    with pytest.raises(ModelError, match="k must be a whole number from 1 to"):
        predictions(model, PROMPT, k=0)
    with pytest.raises(ModelError, match="no feature 96"):
        predictions(model, PROMPT, sae=tiny.topk_sae(32, 96), nodes=[96])
    with pytest.raises(ModelError, match="empty"):
        predictions(model, "")
