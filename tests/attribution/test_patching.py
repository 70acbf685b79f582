"""Attribution patching, integrated gradients and exact patching: equal where the model is linear, exact where exact."""

import pytest
import torch
import transformers

from saekit.attribution import activation_patching, attribution_patching, direct_logit_attribution
from saekit.errors import ModelError, SAEError
from saekit.models import check_hook, hidden_states, load_model
from saekit.saes import baseline_sae
from tests import tiny

HOOK = "blocks.1.hook_resid_post"
PROMPT, CORRUPTED = "The cat sat on the mat", "The dog sat on the mat"
READ = {"answer": 7, "foil": 9}


@pytest.fixture(scope="module")
def linear_model(model_folder, tmp_path_factory):
    """A model in which everything above the embedding is linear.

    Queries and keys are zero, so attention is a mean; the MLP's activation is the identity; and the norms' epsilon is
    so large that they divide by a constant.
    """
    folder = tmp_path_factory.mktemp("linear")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=400, bos_token_id=0, eos_token_id=1,
                activation_function="linear", layer_norm_epsilon=1e12, initializer_range=0.3,
            )
        )  # fmt: skip
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :64] = 0
        for name, parameter in model.named_parameters():
            if ".ln_" in name and name.endswith("weight"):
                parameter.mul_(1e6)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    loaded = load_model(str(folder), dtype=torch.float64)
    loaded.cfg.model_name = "tiny"
    return loaded


@pytest.fixture(scope="module")
def precise(model_folder):
    """The random Llama, which is far from linear, in float64."""
    loaded = load_model(str(model_folder), dtype=torch.float64)
    loaded.cfg.model_name = "tiny"
    return loaded


def sae_at(hook=HOOK, **changes):
    sae = tiny.topk_sae(32, 96, hook_name=hook).to(dtype=torch.float64)
    with torch.no_grad():
        sae.b_dec.copy_(0.1 * torch.randn(32, generator=torch.Generator().manual_seed(0)))
    for name, value in changes.items():
        setattr(sae.cfg, name, value)
    return sae


def pair(model):
    """Return two prompts of one length as ids."""
    ids = torch.from_numpy(tiny.random_tokens(3, 9, 400).ids).long()
    return ids[1], ids[2]


def logits(model, ids, states, hook=HOOK):
    def put(activation, hook):
        return states

    with torch.no_grad():
        out = model.run_with_hooks(ids[None], fwd_hooks=[(check_hook(model, hook), put)], prepend_bos=False)
    return (out[0, -1, 7] - out[0, -1, 9]).item()


AGAINST = [{"corrupted": True}, {"baseline": "zero"}, {"baseline": "mean"}]


def against(model, choice):
    return {"corrupted": pair(model)[1]} if "corrupted" in choice else choice


# --- the three agree ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", AGAINST)
@pytest.mark.parametrize("hook", [HOOK, "blocks.1.hook_mlp_out"])
def test_gradient_integrated_gradients_and_exact_patching_are_equal_on_a_linear_model(linear_model, choice, hook):
    clean, sae, versus = pair(linear_model)[0], sae_at(hook), against(linear_model, choice)
    gradient = attribution_patching(linear_model, sae, clean, **READ, **versus)
    integrated = attribution_patching(linear_model, sae, clean, **READ, **versus, method="integrated")
    nodes = gradient.top(10_000, kinds=("feature", "error"))
    exact = activation_patching(linear_model, sae, clean, **READ, **versus, nodes=nodes)
    assert len(gradient) == len(integrated) == len(exact) > 50
    largest = abs(gradient.effect).max()
    for one, other in ((gradient, integrated), (gradient, exact), (integrated, exact)):
        assert one.agreement(other).n == len(one)
        assert one.agreement(other).largest_difference < 1e-5 * largest
    assert gradient.complete
    assert exact.complete
    assert exact.agreement(gradient).correlation == pytest.approx(1)


def test_direct_attribution_joins_them_at_the_last_block_of_a_linear_model(linear_model):
    """With nothing above and a frozen norm, what a feature writes is what goes when it is set to zero."""
    ids, sae = pair(linear_model)[0], sae_at("blocks.2.hook_resid_post")
    direct = direct_logit_attribution(linear_model, sae, ids, **READ)
    gradient = attribution_patching(linear_model, sae, ids, **READ, baseline="zero")
    found = direct.agreement(gradient)
    assert found.n == 8 + 1  # features and the error
    assert found.largest_difference < 1e-6 * abs(direct.effect).max()
    assert found.same_sign == 1


def test_on_a_model_that_is_not_linear_integrated_gradients_add_up_and_gradients_do_not(precise):
    clean, corrupted = pair(precise)
    arguments = {"corrupted": corrupted, **READ}
    gradient = attribution_patching(precise, sae_at(), clean, **arguments)
    gaps = [
        attribution_patching(precise, sae_at(), clean, **arguments, method="integrated", steps=steps).gap
        for steps in (2, 10, 60)
    ]
    assert not gradient.complete
    assert "not exact" in repr(gradient)
    assert gradient.gap > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3 * abs(gradient.total).max()


# --- against brute force -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", AGAINST)
def test_exact_patching_is_the_whole_model_run_with_one_feature_changed(precise, choice):
    clean, corrupted = pair(precise)
    sae = sae_at()
    found = activation_patching(precise, sae, clean, **READ, **against(precise, choice), k=6)
    x, other = (hidden_states(precise, ids[None], HOOK)[0] for ids in (clean, corrupted))
    features = sae.encode(x)
    kept = torch.arange(1, 9) if "baseline" in choice else torch.arange(9)  # BOS stays
    target = {
        "zero": torch.zeros_like(features),
        "mean": features[kept].mean(0).expand_as(features),
        "corrupted": sae.encode(other),
    }["corrupted" if "corrupted" in choice else choice["baseline"]]
    reading = logits(precise, clean, x[None])
    assert found.clean[0] == pytest.approx(reading, abs=1e-5)
    assert len(found) == 6
    for item in found:
        changed = x.clone()
        step = target[item.position, item.feature] - features[item.position, item.feature]
        changed[item.position] += step * sae.W_dec[item.feature]
        assert item.effect == pytest.approx(reading - logits(precise, clean, changed[None]), abs=2e-5)
        assert item.activation == pytest.approx(features[item.position, item.feature].item())


def test_the_total_is_the_difference_of_the_two_runs(precise):
    clean, corrupted = pair(precise)
    with torch.no_grad():
        out = precise(torch.stack([clean, corrupted]), prepend_bos=False)[:, -1]
    want = (out[0, 7] - out[0, 9] - out[1, 7] + out[1, 9]).item()
    found = attribution_patching(
        precise, [sae_at(), sae_at("blocks.0.hook_resid_pre")], clean, corrupted=corrupted, **READ
    )
    assert found.total[0].tolist() == pytest.approx([want, want], abs=1e-5)
    # One layer's output is a part of the run only.
    part = attribution_patching(precise, sae_at("blocks.1.hook_mlp_out"), clean, corrupted=corrupted, **READ)
    assert abs(part.total[0, 0] - want) > 1e-3


def test_the_gradient_is_the_slope_of_the_whole_model(precise):
    """A step of a millionth towards the baseline changes the reading by a millionth of the effect."""
    clean, corrupted = pair(precise)
    sae = sae_at()
    found = attribution_patching(precise, sae, clean, corrupted=corrupted, **READ)
    x, other = (hidden_states(precise, ids[None], HOOK)[0] for ids in (clean, corrupted))
    features, target = sae.encode(x), sae.encode(other)
    error, missed = x - sae.decode(features), other - sae.decode(target)
    step = 1e-3
    for item in [*found.top(4), *found.top(2, kinds=["error"])]:
        move = torch.zeros_like(x)
        at = item.position
        if item.kind == "error":
            move[at] = missed[at] - error[at]
        else:
            move[at] = (target - features)[at, item.feature] * sae.W_dec[item.feature]
        # transformers norms in float32: central differences with a step that is not too small
        slope = (logits(precise, clean, (x + step * move)[None]) - logits(precise, clean, (x - step * move)[None])) / 2
        assert item.effect == pytest.approx(-slope / step, rel=0.02, abs=0.02)


def test_a_feature_patched_at_all_positions_is_one_item(precise):
    clean, corrupted = pair(precise)
    sae = sae_at()
    x, other = (hidden_states(precise, ids[None], HOOK)[0] for ids in (clean, corrupted))
    features, target = sae.encode(x), sae.encode(other)
    feature = int((features != 0).sum(0).argmax())
    found = activation_patching(precise, sae, clean, corrupted=corrupted, nodes=[feature], **READ)
    changed = x + (target - features)[:, feature, None] * sae.W_dec[feature]
    want = logits(precise, clean, x[None]) - logits(precise, clean, changed[None])
    (item,) = found
    assert (item.position, item.token, item.feature) == (-1, "", feature)
    assert item.effect == pytest.approx(want, abs=1e-5)
    assert item.activation == pytest.approx(features[:, feature].sum().item())


def test_features_summed_over_positions_can_be_handed_to_exact_patching(precise):
    ids = torch.from_numpy(tiny.random_tokens(6, 9, 400, seed=1).ids).long()
    ids = ids[[1, 2, 4, 5]]
    found = attribution_patching(precise, sae_at(), list(ids[:2]), corrupted=list(ids[2:]), **READ)
    best = found.by_feature(3)
    by_hand = found.effect[(found.feature == best[0].feature)].sum() / 2
    assert best[0].effect == pytest.approx(by_hand)
    exact = activation_patching(precise, sae_at(), list(ids[:2]), corrupted=list(ids[2:]), nodes=best, **READ)
    assert len(exact) == 6
    assert {item.feature for item in exact} == {item.feature for item in best}


def test_where_nothing_has_an_effect_there_is_no_item(precise):
    """The last position of one prompt differs, and the first position's prediction is read: it comes before."""
    clean = pair(precise)[0]
    corrupted = torch.cat([clean[:-1], clean[:1]])
    found = activation_patching(precise, sae_at(), clean, corrupted=corrupted, position=0, **READ)
    assert (len(found), found.total.tolist(), found.top(3)) == (0, [[0]], ())
    assert "add up to +0.0000, all at once +0.0000" in repr(found)


# --- SAEs that do more than a matrix product -----------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_an_sae_that_normalises_its_input_is_taken_apart_just_as_exactly(linear_model, normalize):
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    metadata = SAEMetadata(model_name="tiny", hook_name=HOOK)
    sae = StandardSAE(
        StandardSAEConfig(d_in=32, d_sae=64, normalize_activations=normalize, metadata=metadata, dtype="float64")
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
            parameter.requires_grad_(False)
    clean, corrupted = pair(linear_model)
    for versus in ({"corrupted": corrupted}, {"baseline": "zero"}):
        gradient = attribution_patching(linear_model, sae, clean, **READ, **versus)
        exact = activation_patching(linear_model, sae, clean, **READ, **versus, nodes=gradient.top(20, kinds=()))
        assert gradient.complete
        assert gradient.agreement(exact).largest_difference < 1e-5 * abs(gradient.effect).max()
    assert direct_logit_attribution(linear_model, sae, clean, **READ).complete


def test_an_sae_that_misses_nothing_has_no_effect_in_its_error(precise):
    """The axes of the residual stream, both signs: a complete dictionary."""
    clean, corrupted = pair(precise)
    sae = baseline_sae(precise, HOOK, kind="neurons", k=32).to(dtype=torch.float64)
    found = attribution_patching(precise, sae, clean, corrupted=corrupted, **READ)
    assert abs(found.effect[found.kind == 1]).max() < 1e-5


def test_special_tokens_keep_their_values_where_the_baseline_is_no_prompt(precise):
    clean, corrupted = pair(precise)
    found = attribution_patching(precise, sae_at(), clean, baseline="zero", **READ)
    assert found.excluded_tokens >= 1
    assert 0 not in found.position
    assert "left as they are" in repr(found)
    assert 0 not in activation_patching(precise, sae_at(), clean, baseline="zero", k=200, **READ).position
    with_prompt = attribution_patching(precise, sae_at(), clean, corrupted=corrupted, **READ)
    assert with_prompt.excluded_tokens == 0


def test_the_mean_may_be_of_other_prompts(precise):
    clean, other = pair(precise)
    own = attribution_patching(precise, sae_at(), clean, baseline="mean", **READ)
    theirs = attribution_patching(precise, sae_at(), clean, baseline="mean", reference=[other, other], **READ)
    x = hidden_states(precise, other[None], HOOK)[0, 1:]
    feature = int(sae_at().encode(x).mean(0).argmax())
    rows = theirs.feature == feature
    assert theirs.activation_baseline[rows] == pytest.approx(sae_at().encode(x).mean(0)[feature].item())
    assert own.total[0, 0] != pytest.approx(theirs.total[0, 0])


def test_no_hook_and_no_gradient_is_left_behind(model):
    ids, sae = pair(model)[0], tiny.topk_sae(32, 96)
    before = model(ids[None], prepend_bos=False)
    attribution_patching(model, sae, ids, **READ)
    activation_patching(model, sae, ids, k=3, **READ)
    direct_logit_attribution(model, sae, ids, **READ)
    assert torch.equal(before, model(ids[None], prepend_bos=False))
    assert all(parameter.grad is None for parameter in [*model.parameters(), *sae.parameters()])
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupted": "The dog"}, r"prompt 0 has \d+ tokens and its corrupted counterpart \d+.*\|.*against"),
        ({"corrupted": PROMPT}, "same tokens: nothing changes"),
        ({"corrupted": [PROMPT, PROMPT]}, "1 clean prompts, but 2 corrupted ones"),
        ({"corrupted": "The dog", "baseline": "zero"}, "either corrupted= prompts or baseline="),
        ({"baseline": "The dog"}, "'zero' or 'mean', not 'The dog'"),
        ({"reference": "The dog"}, "reference= says"),
        ({"method": "shapley"}, "'gradient' or 'integrated', not 'shapley'"),
        ({"steps": 0}, "steps must be a whole number from 1 on, not 0"),
        ({"steps": 2.5}, "steps must be"),
        ({"answer": 9}, "same token"),
    ],
)
def test_questions_without_an_answer_are_refused(model, changes, message):
    with pytest.raises(ModelError, match=message):
        attribution_patching(model, tiny.topk_sae(32, 96), PROMPT, **{**READ, **changes})


def test_nodes_that_do_not_exist_are_refused(model):
    sae, other = tiny.topk_sae(32, 96), tiny.topk_sae(32, 96, hook_name="blocks.0.hook_resid_post")

    def ask(nodes, saes=sae):
        return activation_patching(model, saes, PROMPT, nodes=nodes, **READ)

    with pytest.raises(ModelError, match="no feature 96 in an SAE of 96"):
        ask([96])
    with pytest.raises(ModelError, match="feature 3 of which SAE"):
        ask([3], [sae, other])
    with pytest.raises(ModelError, match="nodes is empty"):
        ask([])
    of_other = attribution_patching(model, other, PROMPT, **READ).top(1)
    with pytest.raises(ModelError, match=r"no SAE at blocks\.0\.hook_resid_post"):
        ask(of_other)
    with pytest.raises(ModelError, match="kind 'rest' cannot be patched"):
        ask(direct_logit_attribution(model, sae, PROMPT, **READ).top(1, kinds=["rest"]))
    with pytest.raises(ModelError, match="k must be a whole number from 1 on, not 0"):
        activation_patching(model, sae, PROMPT, k=0, **READ)
    with pytest.raises(SAEError, match="two SAEs"):
        attribution_patching(model, [sae, sae], PROMPT, **READ)
