"""An SAE's identity: weights and settings, equal before and after saving, another as soon as one setting differs."""

from copy import deepcopy

import pytest
import torch

from saekit.saes import encode, load_sae, sae_identity, save_sae
from tests import tiny

ARCHITECTURES = ["standard", "gated", "topk", "jumprelu", "transcoder", "skip_transcoder", "matching_pursuit"]
FIELDS = {name: {"d_out": 32, "apply_b_dec_to_input": False} for name in ("transcoder", "skip_transcoder")}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_sae_is_itself_before_and_after_saving_in_half_precision(architecture, tmp_path):
    fields = FIELDS.get(architecture, {})
    sae = tiny.own_sae(architecture, 32, 96, **fields)
    save_sae(sae, tmp_path / "sae")
    loaded = load_sae(str(tmp_path / "sae"))
    assert sae_identity(sae) == sae_identity(deepcopy(sae)) == sae_identity(loaded)
    assert sae_identity(sae).digest == sae_identity(loaded).digest


@pytest.mark.parametrize(
    ("architecture", "field", "values"),
    [
        ("topk", "k", (8, 2)),
        ("abstopk", "k", (8, 2)),
        ("topk", "rescale_acts_by_decoder_norm", (True, False)),
        ("standard", "apply_b_dec_to_input", (True, False)),
        ("standard", "normalize_activations", ("none", "layer_norm")),
        ("jumprelu", "normalize_activations", ("none", "expected_average_only_in")),
        ("standard", "hook_name", ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")),
        ("standard", "hook_head_index", (None, 1)),
        ("standard", "prepend_bos", (True, False)),
        ("transcoder", "hook_name_out", ("blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out")),
        ("standard", "reshape_activations", ("none", "hook_z")),
        ("matching_pursuit", "residual_threshold", (0.01, 0.1)),
        ("matching_pursuit", "max_iterations", (3, 4)),
    ],
)
def test_one_other_setting_of_equal_weights_is_another_sae_and_named(architecture, field, values, tmp_path):
    fields = {"hook_name": "blocks.1.attn.hook_z"} if "reshape" in field else FIELDS.get(architecture, {})
    one, other = (tiny.own_sae(architecture, 32, 96, **fields, **{field: value}) for value in values)
    (said,) = sae_identity(one).difference(sae_identity(other))
    assert said.startswith(f"{field} ")
    for value in values:
        assert str(value).lower() in said


def test_other_architectures_with_weights_of_one_name_differ():
    topk, absolute = (tiny.own_sae(name, 32, 96, k=8) for name in ("topk", "abstopk"))
    assert "architecture 'topk' against 'abstopk'" in sae_identity(topk).difference(sae_identity(absolute))


@pytest.mark.parametrize("past_the_count", [False, True])
@pytest.mark.parametrize("name", ["threshold", "W_enc", "W_dec", "b_enc", "b_dec"])
def test_a_weight_that_changes_in_place_makes_another_sae(name, past_the_count):
    sae = tiny.own_sae("jumprelu", 32, 96)
    before = sae_identity(sae)
    with torch.no_grad():
        weight = getattr(sae, name)
        (weight.data if past_the_count else weight).view(-1)[5] += 0.25
    (said,) = before.difference(sae_identity(sae))
    assert said.startswith("weights ")


def test_the_k_that_acts_is_the_one_that_counts():
    sae, states = tiny.topk_sae(32, 96), torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    before = sae_identity(sae)
    sae.cfg.k = 2  # sae-lens built its activation function from the old one
    assert (encode(sae, states) > 0).sum(-1).max() == 8
    assert sae_identity(sae) == before
    sae.activation_fn.k = 2
    assert (encode(sae, states) > 0).sum(-1).max() == 2
    assert before.difference(sae_identity(sae)) == ["k 8 against 2"]
