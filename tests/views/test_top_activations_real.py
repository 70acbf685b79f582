"""The top-activations view on a real `FeatureIndex` of a tiny random model: surfaces fit, bad pairs are refused."""

import numpy as np
import pytest

from saekit.data import tokens_from_texts
from saekit.errors import SAEError
from saekit.index import FeatureIndex
from saekit.saes import baseline_sae
from saekit.views._shared.words import join_starts
from saekit.views.top_activations import TopActivations
from tests.views.panels import elements, strip_values

HOOK = "blocks.0.hook_resid_post"
TEXTS = [f"On day {n} the river rose, and nobody in Zürich saw 戦 or <b>rain</b> 🙂." for n in range(40)]


@pytest.fixture(scope="module")
def sae(model):
    return baseline_sae(model, HOOK, kind="random", n_features=48, k=4)


@pytest.fixture(scope="module", params=[None, 10], ids=["full", "bounded"])
def index(request, model, sae):
    tokens = tokens_from_texts(TEXTS, model=model, context_size=32)
    return FeatureIndex.build(model, sae, tokens, examples_per_feature=request.param, progress=False)


def test_every_feature_has_a_card_that_agrees_with_the_index(index):
    view = TopActivations(index)
    for feature in range(index.d_sae):
        view.value = feature
        panels = view.state()
        rows = elements(panels["examples"], look="rows")
        if index.dead[feature]:
            assert rows == []
            continue
        for shown, example in zip(elements(rows[0], "strip"), index.top(feature), strict=True):
            whole = join_starts(example.tokens)
            strongest = [max(example.activations[start:end]) for start, end in whole]
            np.testing.assert_allclose(strip_values(shown, len(whole)), strongest, rtol=1e-3, atol=1e-6)
            start, end = whole[shown[1]["peak"]]
            assert start <= example.peak < end
        assert len(view._repr_html_()) < 60_000


def test_own_text_and_the_strongest_features_agree_with_each_other(index, model, sae):
    text = "The river 戦 rose 🙂 שלום\0"
    view = TopActivations(index, model=model, sae=sae, prompt=text)
    assert view.wait(300)
    assert view.error == ""
    (shown,) = elements(view.state()["prompt"], "strip")
    found = index.by_prompt(model, sae, text)
    whole = join_starts(found.tokens)
    values = strip_values(shown, len(whole))
    assert len(shown[1]["tokens"]) == len(view._result["strongest"]) == len(whole)
    for value, strongest, (start, end) in zip(values, view._result["strongest"], whole, strict=True):
        features = [feature for feature, _ in strongest]
        assert set(features) <= set(found.features[start:end].ravel().tolist())
        if view.value in features:
            assert float(dict(strongest)[view.value]) == pytest.approx(value, rel=0.02)
        else:
            assert value == 0 or value <= found.values[start:end].min()


def test_search_answers_with_real_hits(index, model, sae):
    view = TopActivations(index)
    view.set_state({"_query": {"mode": "text", "text": "river"}})
    view.wait(300)
    assert view._hits["features"] == [hit.feature for hit in index.search(text="river")]
    view.value = view._hits["features"][0]


def test_an_sae_of_another_index_is_refused(index, model):
    other = baseline_sae(model, HOOK, kind="random", n_features=48, k=4, seed=1)
    with pytest.raises(SAEError, match=r"index is of another SAE.* Pass the SAE that it was built with"):
        TopActivations(index, model=model, sae=other)


def test_the_page_of_a_real_index_is_self_contained(index):
    page = TopActivations(index).to_html()
    assert "<b>rain</b>" not in page
    assert "cdn" not in page.lower()
