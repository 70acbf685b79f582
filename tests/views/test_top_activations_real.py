"""The top-activations view on a real `FeatureIndex` of a tiny random model: surfaces fit, bad pairs are refused."""

import numpy as np
import pytest

from saekit.data import tokens_from_texts
from saekit.errors import SAEError
from saekit.index import FeatureIndex
from saekit.saes import baseline_sae
from saekit.views.top_activations import TopActivations

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
        card = view._card
        assert card["dead"] == bool(index.dead[feature])
        if card["dead"]:
            assert card["groups"] == []
            continue
        values = np.frombuffer(card["values"], "<f4")
        for row, example in zip(card["groups"][0]["rows"], index.top(feature), strict=True):
            window = values[row["at"] : row["at"] + len(row["tokens"])]
            np.testing.assert_array_equal(window, example.activations)
            assert window[row["peak"]] == np.float32(row["value"])
        assert len(view._repr_html_()) < 60_000


def test_own_text_and_the_prompt_view_agree_with_each_other(index, model, sae):
    view = TopActivations(index, model=model, sae=sae, prompt="The river 戦 rose 🙂 שלום\0")
    assert view.wait(60)
    assert view.error == ""
    result = view._result
    values = np.frombuffer(result["values"], "<f4")
    features = np.frombuffer(result["features"], "<f4").reshape(-1, result["k"]).astype(int)
    strengths = np.frombuffer(result["strengths"], "<f4").reshape(-1, result["k"])
    assert len(values) == len(features) == len(result["tokens"])
    for position, (found, strong) in enumerate(zip(features, strengths, strict=True)):
        if view.value in found[strong > 0]:
            assert strong[list(found).index(view.value)] == pytest.approx(values[position], rel=1e-5)
        else:
            assert values[position] <= strong.min() or values[position] == 0


def test_search_answers_with_real_hits(index, model, sae):
    view = TopActivations(index)
    view.set_state({"_query": {"mode": "text", "text": "river"}})
    view.wait(60)
    assert view._hits["found"]
    view.value = view._hits["found"][0]["feature"]


def test_an_sae_of_another_index_is_refused(index, model):
    other = baseline_sae(model, HOOK, kind="random", n_features=48, k=4, seed=1)
    with pytest.raises(SAEError, match="pass the SAE that the index was built with"):
        TopActivations(index, model=model, sae=other)


def test_the_page_of_a_real_index_is_self_contained(index):
    page = TopActivations(index).to_html()
    assert "<b>rain</b>" not in page
    assert "cdn" not in page.lower()
