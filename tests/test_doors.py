"""What is refused at one entrance is refused at all of them, and what is right at one is right at all of them."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from saekit.errors import SAEError, SaekitError
from saekit.models import forward, hidden_states, load_model, logits_from
from saekit.probes import extract_features
from saekit.saes import encoded, nodes_of, sae_hook
from saekit.training import harvest
from tests import tiny
from tests.entrances import ENTRANCES, FEATURES, QUIET, TEXTS, corpus, harvested, indexed, intervention, numbers

RESIDUAL, HEADS = "blocks.1.hook_resid_post", "blocks.1.attn.hook_z"
EVERY = pytest.mark.parametrize("entrance", ENTRANCES.values(), ids=ENTRANCES)
WITH_SAE = {name: entrance for name, entrance in ENTRANCES.items() if entrance.sae}
WITH_IDS = {name: entrance for name, entrance in ENTRANCES.items() if entrance.ids}
AT_HEADS = {name: entrance for name, entrance in ENTRANCES.items() if entrance.everywhere}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama of three layers whose context holds 48 tokens."""
    return tiny.write_own(tmp_path_factory.mktemp("doors") / "tiny", n_ctx=48)


@pytest.fixture(scope="module")
def small(folder):
    return load_model(folder, progress=False)


@pytest.fixture(scope="module")
def ids():
    return ids_of(4, 12)


def ids_of(rows: int, pos: int) -> torch.Tensor:
    ids = torch.randint(12, 400, (rows, pos), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    return ids


def sae_at(hook: str = RESIDUAL, d_in: int = 32, **fields):
    return tiny.own_sae("topk", d_in, 96, k=8, hook_name=hook, apply_b_dec_to_input=True, **fields)


@contextmanager
def refused(error, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=match):
            yield


@EVERY
def test_what_is_right_comes_in(entrance, small, ids):
    found = numbers(entrance.run(small, sae_at(), ids))
    assert np.isfinite(found).sum() >= np.isnan(found).sum()


@pytest.mark.parametrize("entrance", WITH_IDS.values(), ids=WITH_IDS)
def test_rows_longer_than_the_models_context_are_refused(entrance, small):
    with refused(SaekitError, r"context (holds|of) (48|tiny)|fills the context of 48"):
        entrance.run(small, sae_at(), ids_of(2, 49))


@pytest.mark.parametrize("entrance", WITH_IDS.values(), ids=WITH_IDS)
def test_an_id_that_the_model_has_no_embedding_for_is_refused(entrance, small):
    ids = ids_of(2, 12)
    ids[:, 6] = 431
    with refused(SaekitError, r"token ids from .* to 431, outside 0 to 399"):
        entrance.run(small, sae_at(), ids)


@EVERY
def test_a_model_in_training_mode_is_refused(entrance, small, ids):
    try:
        small.train()
        with refused(SaekitError, r"is in training mode"):
            entrance.run(small, sae_at(), ids)
    finally:
        small.eval()


@pytest.fixture(scope="module")
def overflowing(folder):
    """The same model in half precision, whose first MLP writes numbers above 65,504."""
    half = load_model(folder, dtype=torch.float16, progress=False)
    with torch.no_grad():
        weight = half.blocks[0].mlp.out.weight
        weight.copy_(6e4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).sign())
    return half


@EVERY
def test_half_precision_that_overflows_is_refused(entrance, overflowing, ids):
    with refused(SaekitError, r"not finite.*float16"):
        entrance.run(overflowing, sae_at(), ids)


@pytest.mark.parametrize("entrance", WITH_SAE.values(), ids=WITH_SAE)
@pytest.mark.parametrize(
    ("hook", "d_in", "demand", "match"),
    [
        (RESIDUAL, 16, {}, r"reads 16 dimensions, but blocks\.1\.hook_resid_post of .* has 32"),
        (HEADS, 8, {}, r"reads 8 dimensions, but blocks\.1\.attn\.hook_z of .* has 32"),
        (HEADS, 8, {"hook_head_index": 2}, "one attention head alone|reads 8 dimensions"),
        ("blocks.1.attn.hook_pattern", 32, {}, "no vector per token"),
        ("blocks.7.hook_resid_post", 32, {}, "no hook point"),
        (RESIDUAL, 32, {"normalize_activations": "expected_average_only_in"}, "not folded|fold the scaling in"),
    ],
    ids=["width", "one head", "head index", "pattern", "layer", "normalisation"],
)
def test_an_sae_that_does_not_fit_the_model_is_refused(entrance, small, ids, hook, d_in, demand, match):
    with refused(SaekitError, match):
        entrance.run(small, sae_at(hook, d_in, **demand), ids)


@EVERY
def test_gradients_that_are_left_on_change_no_number(entrance, folder, small, ids):
    live, sae = load_model(folder, progress=False), sae_at()
    for parameter in [*live.parameters(), *sae.parameters()]:
        parameter.requires_grad_(True)
    np.testing.assert_allclose(
        numbers(entrance.run(live, sae, ids)), numbers(entrance.run(small, sae_at(), ids)), rtol=1e-5, atol=1e-6
    )
    assert all(parameter.grad is None for parameter in [*live.parameters(), *sae.parameters()])


@EVERY
@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16"), ("float32", "float64")])
def test_model_and_sae_may_be_of_different_dtypes(entrance, folder, ids, dtypes):
    of_model, of_sae = (getattr(torch, name) for name in dtypes)
    model = load_model(folder, dtype=of_model, progress=False)
    sae = sae_at()
    sae = sae.to(dtype=of_sae) if of_sae != torch.bfloat16 else sae.bfloat16()  # which sae-lens does not hear of
    numbers(entrance.run(model, sae, ids))


@pytest.mark.parametrize("of_model", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("of_sae", ["float16", "bfloat16", "float32", "float64"])
def test_features_of_any_two_dtypes_are_sae_lens_own_on_the_states_in_the_saes(folder, ids, of_model, of_sae):
    model = load_model(folder, dtype=getattr(torch, of_model), progress=False)
    sae, plain = sae_at(), sae_at().to(dtype=getattr(torch, of_sae))
    sae.type(getattr(torch, of_sae))  # PyTorch's own way, of which sae-lens does not hear
    states = hidden_states(model, ids, RESIDUAL)
    assert states.dtype == getattr(torch, of_model)
    with torch.no_grad():
        want = plain.encode(states.to(plain.dtype))
    assert torch.equal(encoded(sae, states), want)
    count, *_ = indexed(model, sae, ids)
    np.testing.assert_array_equal(count, (want[:, 1:] > 0).flatten(0, 1).sum(0))


# --- heads -----------------------------------------------------------------------------------------------------------


def by_sae_lens(model, sae, ids):
    """What sae-lens's own encode makes of the states with their heads apart, and of those flattened."""
    with torch.no_grad():
        flat = hidden_states(model, ids, sae_hook(sae))
        sae.turn_on_forward_pass_hook_z_reshaping()
        apart = sae.encode(flat.unflatten(-1, (4, 8)))
        sae.turn_off_forward_pass_hook_z_reshaping()
        assert torch.equal(apart, sae.encode(flat))
    return apart


@pytest.mark.parametrize("entrance", AT_HEADS.values(), ids=AT_HEADS)
def test_an_sae_of_hook_z_works_whichever_way_sae_lens_would_have_it_take_heads(entrance, small, ids):
    reshaping = sae_at(HEADS, reshape_activations="hook_z")
    assert reshaping.hook_z_reshaping_mode
    found = numbers(entrance.run(small, reshaping, ids))
    assert reshaping.hook_z_reshaping_mode, "the SAE is left as it was"
    np.testing.assert_array_equal(found, numbers(entrance.run(small, sae_at(HEADS), ids)))


@pytest.mark.parametrize("point", ["q", "k", "v"])
@pytest.mark.parametrize("entrance", AT_HEADS.values(), ids=AT_HEADS)
def test_saes_of_queries_keys_and_values_work_too(entrance, small, ids, point):
    width = 16 if point in "kv" else 32
    numbers(entrance.run(small, sae_at(f"blocks.1.attn.hook_{point}", width), ids))


def test_features_of_hook_z_are_sae_lens_own(small, ids):
    sae = sae_at(HEADS)
    want = by_sae_lens(small, sae, ids)
    assert torch.equal(encoded(sae, hidden_states(small, ids, HEADS)), want)
    counted = want[:, 1:].flatten(0, 1)
    count, largest, _ = indexed(small, sae, ids)
    np.testing.assert_array_equal(count, (counted > 0).sum(0))
    np.testing.assert_allclose(largest, counted.amax(0), rtol=1e-3)
    flat = hidden_states(small, ids, HEADS)[:, 1:].flatten(0, 1)
    np.testing.assert_array_equal(harvested(small, sae, ids), flat.half().numpy())
    texts = extract_features(small, sae, TEXTS, context_size=48, **QUIET)
    ids = [torch.tensor([0, *row.tolist()]) for row in np.split(texts.ids, texts.id_starts[1:-1])]
    want = torch.cat([by_sae_lens(small, sae, row[None])[0, 1:] for row in ids])
    np.testing.assert_allclose(texts.sae().events.toarray(), want.numpy(), rtol=1e-4, atol=1e-5)


def test_what_an_sae_of_hook_z_rebuilds_and_misses_gives_the_clean_logits(small, ids):
    sae = sae_at(HEADS, reshape_activations="hook_z")
    states = hidden_states(small, ids, HEADS)
    nodes = nodes_of(sae, states)
    with torch.no_grad():
        sae.turn_off_forward_pass_hook_z_reshaping()
        rebuilt = sae.decode(nodes.features).double()
    spliced = logits_from(small, ids, rebuilt + nodes.error, HEADS)
    torch.testing.assert_close(spliced, forward(small, ids))
    assert not torch.allclose(logits_from(small, ids, rebuilt, HEADS), spliced)


def test_steering_at_hook_z_writes_the_decoder_row_over_all_heads(small, ids):
    """Against transformer-lens's own hooks, which see the heads apart."""
    from saekit.steering import planned

    sae = sae_at(HEADS)
    one = intervention(sae)
    with planned(small, [one], ids[0], sae=sae).hooked(small):
        got = forward(small, ids[:1])

    def edit(z, hook):
        x = z.flatten(2)
        norm = x[:, 1:].norm(dim=-1, keepdim=True)
        change = torch.zeros_like(x)
        for feature in FEATURES:
            row = sae.W_dec[feature]
            active = sae.encode(x[:, 1:])[..., feature, None]
            change[:, 1:] += (2.0 * norm / row.norm() - active) * row
        return (x + change).view_as(z)

    point = small._resolve_hook_name(HEADS)
    want = small.run_with_hooks(ids[:1], fwd_hooks=[(point, edit)], prepend_bos=False)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_feature_inside_a_layer_promotes_no_tokens_although_it_is_as_wide_as_the_residual_stream(small, ids):
    from saekit.index import FeatureIndex

    for hook, shown in ((HEADS, 0), ("blocks.1.ln2.hook_normalized", 0), (RESIDUAL, 10), ("blocks.1.hook_mlp_out", 10)):
        built = FeatureIndex.build(small, sae_at(hook), corpus(ids), **QUIET)
        assert len(built.logits(3).promoted) == shown


def test_the_same_error_names_the_hook_point_for_a_harvest_of_what_is_no_state(small, ids, tmp_path):
    with refused(SaekitError, r"hook_attn_scores has no vector per token"):
        harvest(small, corpus(ids), "blocks.1.attn.hook_attn_scores", tmp_path, **QUIET)


def test_features_that_overflow_in_a_half_precision_sae_are_refused(small, ids):
    sae = tiny.own_sae("standard", 32, 96).half()
    with torch.no_grad():
        sae.W_enc.mul_(60_000)
    with refused(SAEError, r"features of the SAE are not finite"):
        indexed(small, sae, ids)
