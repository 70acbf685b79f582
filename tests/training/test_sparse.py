"""The sparse step against autograd through sae-lens's own training classes, gradient by gradient in float64."""

import pytest
import torch

from saekit.training import architectures as sparse

D_IN, D_SAE, BATCH = 12, 40, 30


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def weights(draw):
    return sparse.Weights(draw(D_SAE, D_IN), draw(D_SAE, D_IN), draw(D_SAE) - 2, draw(D_IN))


def upstream(architecture, weights, k, **options):
    """Return sae-lens's training SAE with the same weights."""
    from sae_lens.registry import get_sae_training_class

    sae_class, config = get_sae_training_class(architecture)
    sae = sae_class(
        config(d_in=D_IN, d_sae=D_SAE, k=k, dtype="float64", apply_b_dec_to_input=True,
               rescale_acts_by_decoder_norm=False, **options)
    )  # fmt: skip
    with torch.no_grad():
        sae.W_enc.copy_(weights.W_enc.T)
        sae.W_dec.copy_(weights.W_dec)
        sae.b_enc.copy_(weights.b_enc)
        sae.b_dec.copy_(weights.b_dec)
    return sae


def upstream_step(sae, x, dead=None):
    from sae_lens.saes.sae import TrainStepInput

    step = TrainStepInput(sae_in=x, coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False)
    out = sae.training_forward_pass(step)
    out.loss.backward()
    return out, [sae.W_enc.grad.T, sae.W_dec.grad, sae.b_enc.grad, sae.b_dec.grad]


def assert_same(got, want):
    for ours, theirs in zip(got.tensors(), want, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("k", [1, 5, 40])  # with k = 40 many of the chosen are below zero, and relu cuts them off
def test_the_topk_step_has_the_gradients_of_sae_lens(draw, weights, k):
    x = draw(BATCH, D_IN)
    active = sparse.topk_active(sparse.pre_activations(weights, x), k)
    loss, gradients, error = sparse.sparse_gradients(weights, x, active)
    out, want = upstream_step(upstream("topk", weights, k), x)
    torch.testing.assert_close(loss, out.losses["mse_loss"].detach())
    torch.testing.assert_close(error, (out.sae_out - x).detach())
    assert_same(gradients, want)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_the_batchtopk_step_has_the_gradients_of_sae_lens(draw, weights, k):
    x = draw(BATCH, D_IN)
    active = sparse.batchtopk_active(sparse.pre_activations(weights, x), k * BATCH)
    loss, gradients, _ = sparse.sparse_gradients(weights, x, active)
    out, want = upstream_step(upstream("batchtopk", weights, k), x)
    torch.testing.assert_close(loss, out.losses["mse_loss"].detach())
    assert_same(gradients, want)


def test_the_matryoshka_step_has_the_gradients_of_sae_lens(draw, weights):
    x = draw(BATCH, D_IN)
    active = sparse.batchtopk_active(sparse.pre_activations(weights, x), 6 * BATCH)
    loss, gradients, _ = sparse.sparse_gradients(weights, x, active, widths=(5, 17, D_SAE))
    out, want = upstream_step(upstream("matryoshka_batchtopk", weights, 6, matryoshka_widths=[5, 17, D_SAE]), x)
    torch.testing.assert_close(loss, out.losses["mse_loss"].detach())
    assert_same(gradients, want)


@pytest.mark.parametrize("n_dead", [1, 3, 20])
def test_auxk_has_the_gradients_of_sae_lens(draw, weights, n_dead):
    x = draw(BATCH, D_IN)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[torch.arange(n_dead) * 2] = True
    hidden = sparse.pre_activations(weights, x)
    loss, gradients, error = sparse.sparse_gradients(weights, x, sparse.topk_active(hidden, 5))
    aux_loss, extra = sparse.auxk_gradients(weights, x, hidden, error, dead)
    out, want = upstream_step(upstream("topk", weights, 5, aux_loss_coefficient=1.0), x, dead)
    torch.testing.assert_close(aux_loss, out.losses["auxiliary_reconstruction_loss"].detach())
    torch.testing.assert_close(loss + aux_loss, out.loss.detach())
    total = [a + b for a, b in zip(gradients.tensors(), extra.tensors(), strict=True)]
    assert_same(sparse.Weights(*total), want)


@pytest.mark.parametrize(("rows", "columns", "total"), [(7, 5, 1), (7, 5, 35), (64, 1000, 640), (300, 500, 1500)])
def test_batchtopk_takes_exactly_the_largest_of_the_whole_batch(draw, rows, columns, total):
    hidden = draw(rows, columns)
    active = sparse.batchtopk_active(hidden, total)
    want = hidden.relu().flatten().sort(descending=True).values[:total]
    want = want[want > 0]
    torch.testing.assert_close(active.value.sort(descending=True).values, want)
    assert torch.equal(hidden[active.token, active.feature], active.value)
    assert torch.equal(active.token, active.token.sort().values)


def test_batchtopk_survives_a_sample_that_misleads():
    """All large values stand where the sample looks, so its threshold is far too high."""
    hidden = torch.rand(2000, 500, dtype=torch.float64)
    stride = (hidden.numel() // 100_000) | 1
    hidden.view(-1)[::stride] += 10
    hidden.view(-1)[1] = 5
    total = hidden.numel() // stride + 40_000
    active = sparse.batchtopk_active(hidden, total)
    want = hidden.flatten().sort(descending=True).values[:total]
    torch.testing.assert_close(active.value.sort(descending=True).values, want)


def test_batchtopk_of_nothing_positive_is_empty():
    active = sparse.batchtopk_active(-torch.ones(4, 6), 8)
    assert len(active.value) == 0
    weights = sparse.Weights(torch.ones(6, 3), torch.ones(6, 3), torch.zeros(6), torch.zeros(3))
    loss, gradients, _ = sparse.sparse_gradients(weights, torch.ones(4, 3), active)
    assert loss == 3
    assert gradients.W_enc.abs().sum() == 0
    torch.testing.assert_close(gradients.b_dec, torch.full((3,), -2.0))
