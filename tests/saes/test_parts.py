"""States as an SAE splits them: which of its features are active, however it lays them out."""

import copy

import pytest
import torch

from saekit.saes import active_entries, decoded, decoder_rows, encoded, sparse_form
from tests import tiny


@pytest.fixture(scope="module")
def sae():
    return tiny.topk_sae(32, 64)


@pytest.mark.parametrize("form", [lambda sae: sae, sparse_form], ids=["dense", "sparse"])
def test_the_active_entries_are_those_of_the_dense_matrix(sae, form):
    states = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    keep = torch.arange(50) % 3 != 0
    row, feature, value = active_entries(form(sae), states, keep)
    matrix = torch.zeros(50, 64)
    matrix[row, feature] = value
    assert torch.equal(matrix, torch.where(keep[:, None], sae.encode(states), 0))
    assert (value != 0).all()
    assert torch.equal(row, row.sort().values)
    assert torch.equal(encoded(sparse_form(sae), states), sae.encode(states))


def test_a_hook_on_the_activations_of_a_topk_sae_still_sees_a_dense_matrix(sae):
    handle = sae.hook_sae_acts_post.register_forward_hook(lambda *_: None)
    try:
        assert sparse_form(sae) is sae
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("standard", {}),
        ("gated", {}),
        ("jumprelu", {}),
        ("topk", {"k": 8}),
        ("topk", {"k": 8, "rescale_acts_by_decoder_norm": True}),
        ("matching_pursuit", {}),
    ],
)
def test_decoder_rows_are_what_one_unit_of_each_feature_adds_to_the_reconstruction(architecture, fields):
    sae = tiny.own_sae(architecture, 32, 64, **fields)
    units = torch.eye(64)
    added = sae.decode(units).double() - sae.decode(torch.zeros(1, 64)).double()
    torch.testing.assert_close(decoder_rows(sae).double(), added, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scaling", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_a_deep_copy_of_an_sae_scales_inputs_by_itself(kind, scaling):
    """sae-lens keeps the scale of the last input in the SAE that was copied, not in the copy."""
    sae = tiny.own_sae(kind, 32, 24, normalize_activations=scaling, **({"k": 4} if kind == "topk" else {}))
    other = copy.deepcopy(sae)
    x, y = torch.randn(2, 3, 5, 32, generator=torch.Generator().manual_seed(0))
    want = [rebuilt_by_sae_lens(sae, states) for states in (x, y)]
    of_copy, of_sae = encoded(other, x), encoded(sae, y)
    for got, rebuilt in zip((decoded(other, of_copy), decoded(sae, of_sae)), want, strict=True):
        torch.testing.assert_close(got, rebuilt.double())


def rebuilt_by_sae_lens(sae, states):
    with torch.no_grad():
        return sae.decode(sae.encode(states))
