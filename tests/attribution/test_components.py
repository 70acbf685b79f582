"""Heads and MLPs add up to the logit, whatever the norm; the logit lens ends at the model's own prediction."""

import numpy as np
import pytest
import torch

from saekit.attribution import direct_logit_attribution, logit_attribution_by_component, logit_lens
from saekit.errors import ModelError
from saekit.models import check_hook
from tests.attribution.test_direct import CLOSE, KINDS, PROMPT, ids_of, load_any, sae_at  # noqa: F401 (a fixture)

READ = {"answer": 7, "foil": 9}


@pytest.mark.parametrize(("kind", "folded"), KINDS)
def test_parts_of_the_model_add_up_to_its_own_logit_in_float64(load_any, kind, folded):  # noqa: F811
    model, ids = load_any(kind, folded=folded), list(ids_of(2))
    want = model(torch.stack(ids), prepend_bos=False)[:, -1, 7].detach()
    cap = 30.0 if kind == "gemma2" else None  # the items add up to the logit before the cap
    for by in ["layer"] if kind == "gemma2" else ["layer", "head"]:
        found = logit_attribution_by_component(model, ids, answer=7, by=by)
        got = torch.from_numpy(found.sums[:, 0])
        got = got if cap is None else cap * torch.tanh(got / cap)
        torch.testing.assert_close(got, want, rtol=0, atol=CLOSE[kind] * found.clean.max() + 1e-11)
        assert found.complete
        assert "the whole model" in repr(found)
        layers = model.cfg.n_layers
        assert len(found) == 2 * (2 + 2 * layers + (4 * layers if by == "head" else 0))


def test_each_head_is_its_output_matrix_applied_to_its_values(load_any):  # noqa: F811
    """Written out for transformers' own weights: 8 columns of the input of c_proj belong to one head."""
    model, ids = load_any("gpt2"), ids_of(1)
    seen = {}

    def keep(x, hook):
        return seen.__setitem__(hook.name, x)

    names = [check_hook(model, "blocks.1.attn.hook_z"), "ln_final.hook_in"]
    model.run_with_hooks(ids, fwd_hooks=[(name, keep) for name in names], prepend_bos=False)
    z, last = seen[names[0]][0, -1].flatten(), seen["ln_final.hook_in"][0, -1]
    d = (model.W_U[:, 7] - model.W_U[:, 9]) * model.ln_final.weight / (last.var(unbiased=False) + 1e-5).sqrt()
    d = d - d.mean()
    layer = model.original_model.transformer.h[1].attn.c_proj
    weight = dict(layer.named_parameters())
    weight = next(value for name, value in weight.items() if name.endswith("weight"))
    found = logit_attribution_by_component(model, ids[0], **READ)
    effects = {item.label: item.effect for item in found}
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        rows = weight[part] if weight.shape[0] == 32 else weight[:, part].T
        label = next(name for name in effects if name.startswith(f"head 1.{head} "))
        assert effects[label] == pytest.approx((z[part] @ rows @ d).item(), abs=1e-9)


def test_the_later_parts_are_the_rest_of_direct_attribution(load_any):  # noqa: F811
    model, ids = load_any("llama"), ids_of(1)[0]
    rest = (
        direct_logit_attribution(model, sae_at("blocks.0.hook_resid_post"), ids, **READ)
        .top(1, kinds=["rest"])[0]
        .effect
    )
    parts = logit_attribution_by_component(model, ids, **READ, by="layer")
    later = [item.effect for item in parts if item.hook_name.startswith(("blocks.1.", "blocks.2."))]
    assert sum(later) == pytest.approx(rest, abs=1e-9)


def test_heads_before_a_norm_are_refused(load_any):  # noqa: F811
    with pytest.raises(ModelError, match="do not add up to its attention output"):
        logit_attribution_by_component(load_any("gemma2"), PROMPT, answer=7)
    with pytest.raises(ModelError, match="'head' or 'layer'"):
        logit_attribution_by_component(load_any("gpt2"), PROMPT, answer=7, by="neuron")
    with pytest.raises(ModelError, match="parts of one account"):
        logit_attribution_by_component(load_any("gpt2"), PROMPT, answer=7).only(hook="ln_final")


def test_one_prompt_of_several_is_an_account_of_its_own(load_any):  # noqa: F811
    model = load_any("gpt2")
    both = logit_attribution_by_component(model, [PROMPT, "In 1984"], **READ)
    for number, prompt in enumerate((PROMPT, "In 1984")):
        alone = logit_attribution_by_component(model, prompt, **READ)
        assert both.only(prompt=number).complete
        assert both.only(prompt=number).agreement(alone).largest_difference < 1e-10


# --- the logit lens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "folded"), KINDS)
def test_the_lens_ends_at_the_models_own_prediction(load_any, kind, folded):  # noqa: F811
    model, ids = load_any(kind, folded=folded), ids_of(1)[0]
    lens = logit_lens(model, ids, **READ, k=3)
    logits = model(ids[None], prepend_bos=False)[0].detach()
    best = logits.softmax(-1).topk(3, dim=-1)
    assert lens.complete
    assert lens.layers == ("embedding", "0", "1", "2")
    assert np.array_equal(lens.top[-1], best.indices.numpy())
    np.testing.assert_allclose(lens.top_probability[-1], best.values.numpy(), rtol=1e-5)
    np.testing.assert_allclose(lens.probability[-1], logits.softmax(-1)[:, 7].numpy(), rtol=1e-5)
    rank = (logits > logits[:, [7]]).sum(-1)
    assert np.array_equal(lens.rank[-1], rank.numpy())
    np.testing.assert_allclose(lens.accumulated[-1], lens.reading[-1], atol=1e-5)


def test_the_lens_in_between_is_the_model_with_the_blocks_above_taken_out(load_any):  # noqa: F811
    """A block that writes nothing leaves the residual stream as it is."""
    model, ids = load_any("gpt2"), ids_of(1)[0]
    lens = logit_lens(model, ids, **READ)

    def skip(x, hook):
        return torch.zeros_like(x)

    for row in range(4):
        above = [f"blocks.{layer}.{part}.hook_out" for layer in range(row, 3) for part in ("attn", "mlp")]
        logits = model.run_with_hooks(ids[None], fwd_hooks=[(name, skip) for name in above], prepend_bos=False)[0]
        np.testing.assert_allclose(lens.reading[row], (logits[:, 7] - logits[:, 9]).numpy(), atol=1e-5)


def test_steps_of_the_accumulated_reading_are_what_the_layers_write(load_any):  # noqa: F811
    model, ids = load_any("llama"), ids_of(1)[0]
    lens = logit_lens(model, ids, **READ)
    parts = logit_attribution_by_component(model, ids, **READ, by="layer")
    steps = np.diff(lens.accumulated[:, -1])
    for layer in range(3):
        written = sum(item.effect for item in parts if item.hook_name.startswith(f"blocks.{layer}.hook_attn"))
        written += sum(item.effect for item in parts if item.hook_name.startswith(f"blocks.{layer}.hook_mlp"))
        assert steps[layer] == pytest.approx(written, abs=1e-9)


def test_the_lens_needs_no_answer_and_may_look_at_one_position(load_any):  # noqa: F811
    model = load_any("gpt2")
    lens = logit_lens(model, PROMPT, position=-1, k=2)
    assert lens.top.shape == (4, 1, 2)
    assert lens.towards == ""
    assert np.isnan(lens.reading).all()
    assert lens.complete
    assert "exact" in repr(lens)
    with pytest.raises(ModelError, match="foil= goes with answer="):
        logit_lens(model, PROMPT, foil=3)
    with pytest.raises(ModelError, match="k must be a whole number from 1 to"):
        logit_lens(model, PROMPT, k=0)


def test_upstreams_accumulated_residual_gives_the_same_where_the_norm_is_folded(load_any):  # noqa: F811
    model, ids = load_any("gpt2", folded=True), ids_of(1)
    _, cache = model.run_with_cache(ids, prepend_bos=False)
    stack = torch.stack([cache["blocks.0.hook_in"], *(cache[f"blocks.{layer}.hook_out"] for layer in range(3))])
    theirs = cache.apply_ln_to_stack(stack[:, :, -1], layer=-1, pos_slice=-1)[:, 0] @ (
        model.W_U[:, 7] - model.W_U[:, 9]
    )
    ours = logit_lens(model, ids[0], **READ).accumulated[:, -1]
    np.testing.assert_allclose(ours, (theirs + model.b_U[7] - model.b_U[9]).detach().numpy(), atol=1e-6)
