"""Quality of an SAE: known answers, and the same numbers by another road."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saekit.errors import DataError
from saekit.evaluation import evaluate
from saekit.models import hidden_states, massive
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(16, 24, 400)


def identity_sae(model):
    from saekit.saes import baseline_sae

    return baseline_sae(model, HOOK, kind="neurons", k=32)  # 32 axes, both signs, 32 kept: nothing is lost


def test_an_sae_that_loses_nothing_is_perfect(model, tokens):
    result = evaluate(model, identity_sae(model), tokens)
    assert result.fvu == pytest.approx(0, abs=1e-9)
    assert result.cosine == pytest.approx(1, abs=1e-6)
    assert result.loss_spliced == pytest.approx(result.loss_clean, abs=1e-5)
    assert result.loss_recovered_zero == pytest.approx(1, abs=1e-4)
    assert result.loss_recovered_mean == pytest.approx(1, abs=1e-4)
    assert result.l0 == pytest.approx(32, abs=0.01)


def test_an_sae_that_always_says_the_mean_explains_no_variance(model, tokens):
    ids = torch.from_numpy(tokens.ids).long()
    states = hidden_states(model, ids, HOOK)
    keep = (torch.from_numpy(tokens.document) >= 0) & (ids > 1) & ~massive(states.norm(dim=-1))
    sae = tiny.topk_sae(32, 96)
    with torch.no_grad():
        sae.W_dec.zero_()
        sae.b_dec.copy_(states[keep].mean(0))
    result = evaluate(model, sae, tokens)
    assert result.fvu == pytest.approx(1, abs=1e-5)
    assert result.loss_recovered_mean == pytest.approx(0, abs=1e-3)
    assert result.loss_spliced == pytest.approx(result.loss_mean, abs=1e-4)


def test_the_numbers_agree_with_float64_and_with_transformers_loss(model, model_folder, tokens):
    from transformers import AutoModelForCausalLM

    sae = tiny.topk_sae(32, 96)
    result = evaluate(model, sae, tokens)
    ids = torch.from_numpy(tokens.ids).long()
    states = hidden_states(model, ids, HOOK)
    document = torch.from_numpy(tokens.document)
    keep = (document >= 0) & (ids > 1) & ~massive(states.norm(dim=-1))
    x = states[keep].double().numpy()
    features = sae.encode(states[keep])
    rebuilt = sae.decode(features).double().numpy()
    assert result.fvu == pytest.approx(((x - rebuilt) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    assert result.mse == pytest.approx(((x - rebuilt) ** 2).mean(), rel=1e-5)
    assert result.l0 == pytest.approx((features > 0).sum(1).double().mean().item())
    assert result.active_fraction == pytest.approx(result.l0 / 96)
    assert result.dead_share == pytest.approx(1 - (features > 0).any(0).double().mean().item())
    assert result.n_tokens == keep.sum()

    labels = ids.clone()
    labels[:, 1:][document[:, 1:] != document[:, :-1]] = -100
    labels[document < 0] = -100
    reference = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert result.loss_clean == pytest.approx(reference(ids, labels=labels).loss.item(), rel=1e-4)
    assert result.n_loss_tokens == (labels[:, 1:] >= 0).sum()


def test_scaling_and_shifting_the_activations_does_not_change_fvu(model, tokens):
    """In the closed form that `evaluate` uses; sae-lens's legacy formula divides by the raw second moment."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 8))
    rebuilt = x + generator.normal(size=x.shape) * 0.3
    fvu = lambda a, b: ((a - b) ** 2).sum() / ((a - a.mean(0)) ** 2).sum()  # noqa: E731
    assert fvu(10 * x + 7, 10 * rebuilt + 7) == pytest.approx(fvu(x, rebuilt))


def test_the_model_is_left_as_it_was_and_the_result_says_what_was_left_out(model, tokens):
    ids = torch.from_numpy(tokens.ids[:2]).long()
    before = model(ids)
    result = evaluate(model, tiny.topk_sae(32, 96), tokens)
    assert torch.equal(model(ids), before)
    assert f"{result.excluded['bos_or_padding']:,} bos_or_padding" in repr(result)
    assert result.held_out == "random (train)"


def test_a_corpus_without_text_is_refused(model, tokens):
    with pytest.raises(DataError, match="no token is left"):
        evaluate(model, tiny.topk_sae(32, 96), replace(tokens, document=np.full_like(tokens.document, -1)))
