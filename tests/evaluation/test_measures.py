"""Each measure of an SAE against a closed form, against brute force in float64, and against sae-lens's own figures."""

import json
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from saekit.errors import DataError
from saekit.evaluation import density_histogram, evaluate, published_gate
from saekit.models import check_hook, hidden_states, load_model
from saekit.saes import baseline_sae
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
EMBEDDING = "blocks.0.hook_resid_pre"  # here activations are rows of the embedding, and can be made as one likes
EDGES = [-6 + step / 2 for step in range(13)]


@pytest.fixture(scope="module")
def tokens():
    return tiny.random_tokens(16, 24, 400)


def counted(tokens):
    """Return which tokens of this corpus count: it has no special and no massive ones besides BOS."""
    return torch.from_numpy(tokens.document) >= 0


def ids_of(tokens):
    return torch.from_numpy(tokens.ids).long()


def shrinking_sae(model, share, b_dec):
    """Return an SAE whose reconstruction is ``b_dec + (1 - share) * (x - b_dec)``."""
    sae = baseline_sae(model, HOOK, kind="neurons", k=32, b_dec=b_dec)  # 32 axes, both signs: nothing is lost
    with torch.no_grad():
        sae.W_dec.mul_(1 - share)
    return sae


def logits_with(model, tokens, new):
    """Return logits of the whole model in float64, with ``new`` at the counted tokens."""
    where = counted(tokens)

    def put(activation, hook):
        activation = activation.clone()
        activation[where] = new
        return activation

    hooks = [] if new is None else [(check_hook(model, HOOK), put)]
    with torch.no_grad():
        return model.run_with_hooks(ids_of(tokens), fwd_hooks=hooks, prepend_bos=False).double()


# --- reconstruction ------------------------------------------------------------------------------------------------


@contextmanager
def embedding(model, rows):
    """Give the model another embedding for a while."""
    weight = model.embed.weight
    before = weight.clone()
    weight.copy_(rows)
    try:
        yield
    finally:
        weight.copy_(before)


def noisy_sae(model, mean, noise):
    """Return an SAE that adds ``noise`` times an orthogonal map of ``x - mean`` to x: error and x are equally long."""
    sae = baseline_sae(model, EMBEDDING, kind="neurons", k=32, b_dec=mean)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    with torch.no_grad():
        sae.W_dec += noise * sae.W_dec @ turn
    return sae


def test_fvu_does_not_depend_on_scale_or_offset(model, tokens):
    rows = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for scale, offset in ((1, 0), (10, 7), (1e-3, 0), (1, 300), (100, -50)):
        with embedding(model, scale * rows + offset):
            mean = hidden_states(model, ids_of(tokens), EMBEDDING)[counted(tokens)].mean(0)
            found.append(evaluate(model, noisy_sae(model, mean, 0.3), tokens).fvu)
    assert found == pytest.approx([found[0]] * 5, rel=1e-3)


def test_fvu_of_known_noise_is_its_share_of_the_variance(model, tokens):
    """An error that is .3 times as long as the distance from the mean, for every token: FVU .09."""
    mean = hidden_states(model, ids_of(tokens), EMBEDDING)[counted(tokens)].mean(0)
    assert evaluate(model, noisy_sae(model, mean, 0.3), tokens).fvu == pytest.approx(0.09, rel=1e-4)
    assert evaluate(model, noisy_sae(model, mean, 0), tokens).fvu == pytest.approx(0, abs=1e-9)
    assert evaluate(model, noisy_sae(model, mean, -1), tokens).fvu == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_an_sae_that_shrinks_by_a_known_share_has_the_numbers_of_the_closed_form(model, tokens, share):
    x = hidden_states(model, ids_of(tokens), HOOK)[counted(tokens)].double()
    about_mean = evaluate(model, shrinking_sae(model, share, x.mean(0).float()), tokens)
    assert about_mean.fvu == pytest.approx(share**2, rel=1e-4)
    assert about_mean.cosine == pytest.approx(1, abs=1e-5)
    about_zero = evaluate(model, shrinking_sae(model, share, None), tokens)
    second, mean_norm = x.square().sum(1).mean().item(), x.norm(dim=1).mean().item()
    assert about_zero.fvu == pytest.approx(share**2 * second / (x - x.mean(0)).square().sum(1).mean().item(), rel=1e-4)
    assert about_zero.l2_ratio == pytest.approx(1 - share, rel=1e-5)
    assert about_zero.mse == pytest.approx(share**2 * second / 32, rel=1e-4)
    assert about_zero.mse_normalised == pytest.approx(share**2 * second / mean_norm**2, rel=1e-4)


def test_mse_normalised_is_the_mse_of_activations_scaled_to_a_mean_length_of_sqrt_d_in(model, tokens):
    sae = tiny.topk_sae(32, 96)
    x = hidden_states(model, ids_of(tokens), HOOK)[counted(tokens)]
    scale = math.sqrt(32) / x.double().norm(dim=1).mean()
    error = scale * x.double() - scale * sae.decode(sae.encode(x)).double()
    assert evaluate(model, sae, tokens).mse_normalised == pytest.approx(error.square().mean().item(), rel=1e-5)


# --- sparsity ------------------------------------------------------------------------------------------------------


def test_density_and_dead_features_are_those_of_a_count(model, tokens):
    sae = tiny.topk_sae(32, 96)
    result = evaluate(model, sae, tokens)
    active = sae.encode(hidden_states(model, ids_of(tokens), HOOK)[counted(tokens)]).numpy() != 0
    share = active.mean(0)
    want, _ = np.histogram(np.log10(share[share > 0]), bins=EDGES)
    assert result.density == {"log10_edges": EDGES, "features": want.tolist(), "dead": int((share == 0).sum())}
    assert sum(result.density["features"]) + result.density["dead"] == 96
    assert result.dead_share == pytest.approx(result.density["dead"] / 96)
    assert result.l0 == pytest.approx(active.sum(1).mean())
    assert result.n_sequences == 16


def test_every_share_of_tokens_has_its_bin():
    """On all tokens, on one in ten exactly (an edge), on fewer than one in a million, on none."""
    histogram = density_histogram(torch.tensor([10_000_000, 1_000_000, 1, 0]), 10_000_000)
    assert histogram["dead"] == 1
    assert histogram["features"] == [1] + 9 * [0] + [1, 1]


def test_a_negative_activation_is_an_active_feature(model, tokens):
    sae = tiny.topk_sae(32, 96)
    sae.activation_fn = torch.nn.Identity()
    result = evaluate(model, sae, tokens)
    assert (sae.encode(hidden_states(model, ids_of(tokens), HOOK)) < 0).any()
    assert result.l0 == 96
    assert result.density["features"][-1] == 96


# --- behaviour -----------------------------------------------------------------------------------------------------


def test_losses_and_kl_are_those_of_the_whole_model_in_float64(model, tokens):
    sae = tiny.topk_sae(32, 96)
    result = evaluate(model, sae, tokens)
    x = hidden_states(model, ids_of(tokens), HOOK)[counted(tokens)]
    document = torch.from_numpy(tokens.document)
    scored = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    runs = {"clean": None, "spliced": sae.decode(sae.encode(x)), "zero": torch.zeros(32), "mean": x.mean(0)}
    log_p = {name: logits_with(model, tokens, new)[:, :-1].log_softmax(-1) for name, new in runs.items()}
    target = ids_of(tokens)[:, 1:, None]
    loss = {name: -p.gather(-1, target)[..., 0][scored].mean().item() for name, p in log_p.items()}
    clean = log_p["clean"]
    kl = {name: (clean.exp() * (clean - q)).sum(-1)[scored].mean().item() for name, q in log_p.items()}
    for name in runs:
        assert getattr(result, f"loss_{name}") == pytest.approx(loss[name], rel=1e-5)
    for name in ("spliced", "zero", "mean"):
        assert getattr(result, f"kl_{name}") == pytest.approx(kl[name], rel=1e-4)
    for floor in ("zero", "mean"):
        assert getattr(result, f"kl_recovered_{floor}") == pytest.approx(1 - kl["spliced"] / kl[floor], rel=1e-4)
        want = (loss[floor] - loss["spliced"]) / (loss[floor] - loss["clean"])
        assert getattr(result, f"loss_recovered_{floor}") == pytest.approx(want, rel=0.01)
    assert result.n_loss_tokens == scored.sum()


def test_an_identity_recovers_all_and_an_sae_that_says_nothing_recovers_nothing(model, tokens):
    perfect = evaluate(model, shrinking_sae(model, 0, None), tokens)
    assert perfect.kl_recovered_zero == pytest.approx(1, abs=1e-6)
    assert perfect.kl_recovered_mean == pytest.approx(1, abs=1e-6)
    assert perfect.kl_spliced == pytest.approx(0, abs=1e-6)
    assert perfect.l2_ratio == pytest.approx(1, abs=1e-6)
    nothing = evaluate(model, shrinking_sae(model, 1, None), tokens)
    assert nothing.kl_spliced == nothing.kl_zero > 0
    assert nothing.kl_recovered_zero == nothing.loss_recovered_zero == 0
    assert nothing.l2_ratio == 0


def test_a_large_vocabulary_costs_no_precision(tmp_path, tokens):
    """``cross_entropy`` with the classes second, where the model's logits have them last, is off by 7e-5 here."""
    model = load_model(str(tiny.write_model(tmp_path, d_vocab=50_000)))
    few = tokens[:2]
    result = evaluate(model, shrinking_sae(model, 0, None), few)
    document = torch.from_numpy(few.document)
    scored = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    logits = logits_with(model, few, None)
    want = -logits[:, :-1].log_softmax(-1).gather(-1, ids_of(few)[:, 1:, None])[..., 0][scored].mean().item()
    assert logits.shape[-1] == 50_000
    assert result.loss_clean == pytest.approx(want, abs=1e-5)


def test_a_floor_that_costs_nothing_leaves_recovery_undefined(model_folder, tokens):
    """A model that reads nothing from its last state loses nothing, whatever stands there."""
    mute = load_model(str(model_folder))
    mute.ln_final.weight.zero_()
    result = evaluate(mute, tiny.topk_sae(32, 96), tokens)
    assert result.loss_zero == result.loss_mean == result.loss_clean
    for name in ("loss_recovered_zero", "loss_recovered_mean", "kl_recovered_zero", "kl_recovered_mean"):
        assert math.isnan(getattr(result, name))


# --- where sae-lens's own figures differ ---------------------------------------------------------------------------


class Store:
    """What `sae_lens.evals` asks of an activation store."""

    def __init__(self, ids):
        self._batches = iter(ids.split(8))

    def get_batch_tokens(self, size):
        return next(self._batches)


def sae_lens_reconstruction(model, sae, tokens):
    from sae_lens.evals import get_sparsity_and_variance_metrics
    from sae_lens.training.activation_scaler import ActivationScaler

    metrics, _ = get_sparsity_and_variance_metrics(
        sae, model, Store(ids_of(tokens)), ActivationScaler(), n_batches=2, compute_l2_norms=True,
        compute_sparsity_metrics=True, compute_variance_metrics=True, compute_featurewise_density_statistics=True,
        eval_batch_size_prompts=8, model_kwargs={}, ignore_tokens=[0],
    )  # fmt: skip
    return metrics


def sae_lens_behaviour(model, sae, tokens):
    from sae_lens.evals import get_downstream_reconstruction_metrics
    from sae_lens.training.activation_scaler import ActivationScaler

    return get_downstream_reconstruction_metrics(
        sae, model, Store(ids_of(tokens)), ActivationScaler(), compute_kl=True, compute_ce_loss=True, n_batches=2,
        eval_batch_size_prompts=8, ignore_tokens=[0],
    )  # fmt: skip


def test_reconstruction_is_sae_lenss_where_it_is_right(model, tokens):
    """Same explained variance, L0 and length ratio; its MSE is summed over dimensions, its legacy variance wrong."""
    sae = tiny.topk_sae(32, 96, hook_name=check_hook(model, HOOK))
    ours, theirs = evaluate(model, sae, tokens), sae_lens_reconstruction(model, sae, tokens)
    assert 1 - ours.fvu == pytest.approx(theirs["explained_variance"], rel=1e-5)
    assert ours.l0 == pytest.approx(theirs["l0"])
    assert ours.l2_ratio == pytest.approx(theirs["l2_ratio"], rel=1e-5)
    assert ours.mse * 32 == pytest.approx(theirs["mse"], rel=1e-5)

    x = hidden_states(model, ids_of(tokens), HOOK)[counted(tokens)]
    rebuilt = sae.decode(sae.encode(x)).double()
    x = x.double()
    true = 1 - ((x - rebuilt).square().sum() / (x - x.mean(0)).square().sum()).item()
    assert 1 - ours.fvu == pytest.approx(true, rel=1e-5)
    # A ratio for each token, then the mean, with each batch's own mean: tokens near the mean decide.
    assert abs(theirs["explained_variance_legacy"] - true) > 0.01


def test_zero_ablation_leaves_the_beginning_of_the_text_and_sae_lenss_does_not(model, tokens):
    """With zeros at BOS too nothing is left to attend to: a floor that low makes any SAE look good."""
    sae = tiny.topk_sae(32, 96, hook_name=check_hook(model, HOOK))
    ours, theirs = evaluate(model, sae, tokens), sae_lens_behaviour(model, sae, tokens)

    def everywhere(activation, hook):
        return torch.zeros_like(activation)

    ids = ids_of(tokens)
    logits = model.run_with_hooks(ids, fwd_hooks=[(check_hook(model, HOOK), everywhere)], prepend_bos=False)
    nll = -logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    assert theirs["ce_loss_with_ablation"] == pytest.approx(nll[ids[:, :-1] != 0].mean().item(), rel=1e-5)

    document = torch.from_numpy(tokens.document)
    scored = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
    kept = -logits_with(model, tokens, torch.zeros(32))[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    assert ours.loss_zero == pytest.approx(kept[scored].mean().item(), rel=1e-5)
    assert abs(ours.loss_zero - theirs["ce_loss_with_ablation"]) > 0.5


def test_an_sae_is_evaluated_the_same_under_either_name_of_its_hook_point_also_by_sae_lens(model, tokens):
    """Without `load_model` the bridge skips hooks at ``hook_resid_post``: every run would be the clean one."""
    sae, same = tiny.topk_sae(32, 96), tiny.topk_sae(32, 96, hook_name=check_hook(model, HOOK))
    assert sae.cfg.metadata.hook_name != same.cfg.metadata.hook_name
    for measure in (sae_lens_reconstruction, sae_lens_behaviour):
        got, want = (measure(model, one, tokens) for one in (sae, same))
        assert got == pytest.approx(want, nan_ok=True)
    assert evaluate(model, sae, tokens) == evaluate(model, same, tokens)


# --- the gate card -------------------------------------------------------------------------------------------------


def test_the_gate_card_has_three_lines_each_with_its_own_verdict(model, tokens):
    from dataclasses import replace

    measured = evaluate(model, tiny.topk_sae(32, 96), tokens)
    at_the_limit = replace(measured, mse_normalised=0.02, fvu=0.05, active_fraction=0.01)
    passed = [gate.passed for gate in published_gate(at_the_limit).gates]
    assert passed == [True, False, True]  # "<= .02", "< 5 %", "<= 1 %"
    below = replace(measured, mse_normalised=0.019, fvu=0.049, active_fraction=0.009)
    assert all(gate.passed for gate in published_gate(below).gates)

    card = published_gate(measured)
    assert [gate.value for gate in card.gates] == [measured.mse_normalised, measured.fvu, measured.active_fraction]
    lines = repr(card).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        "fail  MSE 0.774 (≤ 0.02; a dimension, activations scaled to a mean length of sqrt(d_in)"
    )
    assert all("362 tokens of random (train); left out: 22 bos_or_padding" in line for line in lines)
    assert "2507.06427" in card.source
    assert "not known" in card.source


def test_the_gate_card_is_a_table_in_jupyter_and_json_in_a_file(model, tokens):
    from dataclasses import replace

    card = published_gate(replace(evaluate(model, tiny.topk_sae(32, 96), tokens), held_out="<b>corpus</b>"))
    page = card._repr_html_()
    assert page.count("<tr>") == 4
    assert "&lt;b&gt;corpus" in page
    assert "<b>" not in page
    assert "2507.06427" in page
    read = json.loads(json.dumps(card.as_dict(), allow_nan=False))
    assert [gate["limit"] for gate in read["gates"]] == [0.02, 0.05, 0.01]
    assert read["n_tokens"] == 362


def test_an_evaluation_is_json(model, tokens):
    result = evaluate(model, tiny.topk_sae(32, 96), tokens)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False)) == result.as_dict()


def test_an_evaluation_is_a_table_in_jupyter(model, tokens):
    page = evaluate(model, tiny.topk_sae(32, 96), tokens)._repr_html_()
    assert "362 tokens of random (train); left out: 22 bos_or_padding" in page
    assert page.count("<tr>") == 1 + 19


def test_the_card_of_a_bundled_sae_can_be_held_against_the_gate_too():
    from saekit.saes import sae_card

    card = sae_card()
    gate = published_gate(card)
    assert [g.value for g in gate.gates] == [card["mse_normalised"], card["fvu"], card["active_fraction"]]
    with pytest.raises(DataError, match="does not hold mse_normalised"):
        published_gate({"fvu": 0.1})
