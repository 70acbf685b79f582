"""Quality of an SAE: known answers, and the same numbers by another road."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from saekit.errors import DataError, ModelError, SAEError, Stopped
from saekit.evaluation import evaluate, evaluate_many
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


def test_the_model_is_left_as_it_was_and_the_result_says_what_was_left_out(model, tokens):
    ids = torch.from_numpy(tokens.ids[:2]).long()
    before = model(ids)
    result = evaluate(model, tiny.topk_sae(32, 96), tokens)
    assert torch.equal(model(ids), before)
    assert f"{result.excluded['bos_or_padding']:,} bos_or_padding" in repr(result)
    assert result.held_out == "random (train)"


def many_saes():
    """SAEs of five hook points, among them one that is not of the residual stream, and two of one."""
    points = ("1.hook_resid_post", "0.hook_resid_post", "1.hook_mlp_out", "1.hook_resid_post", "1.hook_resid_mid",
              "2.hook_resid_pre")  # fmt: skip
    hooks = [f"blocks.{point}" for point in points]
    return [tiny.topk_sae(32, 64 + 8 * n, k=4 + n, hook_name=hook, seed=n) for n, hook in enumerate(hooks)]


def test_several_saes_at_once_are_measured_as_each_alone(model, tokens):
    saes = many_saes()
    together = evaluate_many(model, saes, tokens)
    for sae, got in zip(saes, together, strict=True):
        alone = evaluate(model, sae, tokens).as_dict()
        for name, value in got.as_dict().items():
            assert value == (pytest.approx(alone[name], rel=1e-4) if isinstance(value, float) else alone[name]), name
    assert together[0].fvu != together[3].fvu


def test_what_several_saes_share_is_run_once(model, tokens):
    saes = [tiny.topk_sae(32, 96, seed=seed) for seed in range(3)]  # all after block 1 of 3
    evaluate_many(model, saes, tokens)  # the first call of a length tries the model
    ran = [0, 0, 0]

    def count(number):
        def hook(block, args, output):
            ran[number] += len(output)

        return hook

    handles = [block.register_forward_hook(count(number)) for number, block in enumerate(model.blocks)]
    evaluate_many(model, saes, tokens)
    for handle in handles:
        handle.remove()
    assert ran == [len(tokens), len(tokens), len(tokens) * (1 + 2 + len(saes))]


def test_tokens_that_are_left_out_do_not_count(model):
    """Padding after a text: whatever stands there, no number moves."""
    full = tiny.random_tokens(16, 24, 400)
    document = full.document.copy()
    document[:, 18:] = -1
    other = full.ids.copy()
    other[:, 18:] = np.random.default_rng(1).integers(2, 400, (16, 6))
    sae = tiny.topk_sae(32, 96)
    padded, changed = (replace(full, ids=ids, document=document) for ids in (full.ids, other))
    first, second = evaluate(model, sae, padded), evaluate(model, sae, changed)
    assert first == second
    assert first.excluded["bos_or_padding"] == (document < 0).sum()
    assert first != evaluate(model, sae, replace(full, ids=other)), "as text they do count"


def test_a_run_can_be_watched_and_stopped(model, tokens):
    seen = []
    evaluate(
        model, tiny.topk_sae(32, 96), tokens, batch_size=4, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 8) for done in range(1, 9)]
    with pytest.raises(Stopped):
        evaluate(model, tiny.topk_sae(32, 96), tokens, stop=lambda: True)


def test_how_the_corpus_is_cut_into_batches_changes_nothing(model, tokens):
    one, other = (evaluate(model, tiny.topk_sae(32, 96), tokens, batch_size=size).as_dict() for size in (3, 100))
    for name, value in one.items():
        assert value == (pytest.approx(other[name], rel=1e-4) if isinstance(value, float) else other[name]), name


def test_a_corpus_without_text_is_refused(model, tokens):
    with pytest.raises(DataError, match="no token is left"):
        evaluate(model, tiny.topk_sae(32, 96), replace(tokens, document=np.full_like(tokens.document, -1)))


def test_what_cannot_be_evaluated_is_refused_with_the_reason(model, tokens, monkeypatch):
    sae = tiny.topk_sae(32, 96)
    with pytest.raises(SAEError, match="no SAE to evaluate"):
        evaluate_many(model, [], tokens)
    with pytest.raises(SAEError, match="reads 16 dimensions, but"):
        evaluate_many(model, [sae, tiny.topk_sae(16, 96)], tokens)
    with pytest.raises(ModelError, match="no hook point"):
        evaluate(model, tiny.topk_sae(32, 96, hook_name="blocks.9.hook_resid_post"), tokens)
    with pytest.raises(DataError, match="no token is left"):
        evaluate(model, sae, tokens[:0])
    with pytest.raises(DataError, match="batch_size must be a whole number from 1 on"):
        evaluate(model, sae, tokens, batch_size=0)
    broken = tiny.topk_sae(32, 96)
    broken.b_dec.data[3] = torch.nan
    with pytest.raises(SAEError, match="not all weights of the SAE are finite numbers: b_dec"):
        evaluate(model, broken, tokens)
    transcoder = tiny.topk_sae(32, 96)
    transcoder.cfg.metadata.hook_name_out = "blocks.2.hook_mlp_out"
    with pytest.raises(SAEError, match=r"a transcoder: it reads blocks.1.hook_resid_post and writes blocks.2"):
        evaluate(model, transcoder, tokens)
    alone = np.arange(tokens.document.size, dtype=np.int32).reshape(tokens.document.shape)
    with pytest.raises(DataError, match="no prediction is left"):
        evaluate(model, sae, replace(tokens, document=alone))
    single = np.full_like(tokens.document[:1], -1)
    single[0, 5] = 0
    with pytest.raises(DataError, match=r"all 1 activations counted at blocks.1.hook_out are equal"):
        evaluate(model, sae, replace(tokens[:1], document=single))

    def nan(model, ids, names):
        return {name: torch.full((*ids.shape, 32), torch.nan) for name in names}

    monkeypatch.setattr(import_module("saekit.evaluation.evaluation"), "hidden_states_at", nan)
    with pytest.raises(ModelError, match="not finite"):
        evaluate(model, sae, tokens)
