"""Direct logit attribution: exact for every norm, folded or not, and where transformer-lens's own tool is not."""

import numpy as np
import pytest
import torch
import transformers

from saekit.attribution import (
    activation_patching,
    attribution_patching,
    direct_logit_attribution,
    logit_attribution_by_component,
)
from saekit.errors import ModelError, SAEError
from saekit.models import check_hook, load_model
from tests import tiny

SIZES = {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1}
WIDE = {
    "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64,
    "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **SIZES),
    "llama": lambda: transformers.LlamaConfig(num_hidden_layers=3, **WIDE, **SIZES),
    "neox": lambda: transformers.GPTNeoXConfig(
        num_hidden_layers=3, hidden_size=32, num_attention_heads=4, intermediate_size=64, max_position_embeddings=64,
        initializer_range=0.3, **SIZES,
    ),
    "gemma2": lambda: transformers.Gemma2Config(num_hidden_layers=3, sliding_window=8, **WIDE, **SIZES),
}  # fmt: skip
# transformers computes RMSNorm in float32 whatever the model's dtype.
CLOSE = {"gpt2": 1e-12, "neox": 1e-12, "llama": 2e-6, "gemma2": 2e-6}
PROMPT = "The cat sat on the mat. A dog"


@pytest.fixture(scope="module")
def load_any(model_folder, tmp_path_factory):
    """Return random models by kind, in float64; every weight, those of norms and biases too, is random."""
    folders = {}

    def load(kind, *, folded=False):
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = transformers.AutoModelForCausalLM.from_config(CONFIGS[kind]())
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.add_(0.2 * torch.randn_like(parameter))
            model.save_pretrained(folders[kind])
            transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(folders[kind])
        model = load_model(str(folders[kind]), dtype=torch.float64)
        model.cfg.default_prepend_bos = True  # as the SAEs want it; GPT-NeoX texts begin without
        model.cfg.model_name = "tiny"
        if folded:
            model.enable_compatibility_mode()
        return model

    return load


def sae_at(hook, seed=0):
    sae = tiny.topk_sae(32, 96, hook_name=hook, seed=seed).to(dtype=torch.float64)
    sae.cfg.dtype = "float64"
    with torch.no_grad():
        sae.b_dec.copy_(torch.randn(32, generator=torch.Generator().manual_seed(seed)))
    return sae


def ids_of(rows, pos=11):
    return torch.from_numpy(tiny.random_tokens(rows, pos, 400).ids).long()


KINDS = [(kind, folded) for kind in CONFIGS for folded in (False, True) if not (kind == "gemma2" and folded)]


@pytest.mark.parametrize(("kind", "folded"), KINDS)
def test_items_add_up_to_the_models_own_logit_in_float64(load_any, kind, folded):
    model = load_any(kind, folded=folded)
    ids = ids_of(2)
    seen = []
    model.run_with_hooks(ids, fwd_hooks=[("unembed.hook_out", lambda x, hook: seen.append(x))], prepend_bos=False)
    saes = [sae_at(f"blocks.{layer}.hook_resid_post", layer) for layer in (0, 2)]
    for foil in (None, 9):
        found = direct_logit_attribution(model, saes, list(ids), answer=7, foil=foil, position="each")
        want = seen[0][..., 7] - (0 if foil is None else seen[0][..., foil])
        assert found.total.shape == (22, 2)
        torch.testing.assert_close(torch.from_numpy(found.clean), want.flatten(), rtol=0, atol=1e-12)
        for hook in range(2):
            got = torch.from_numpy(found.sums[:, hook])
            torch.testing.assert_close(got, want.flatten(), rtol=0, atol=CLOSE[kind] * want.abs().max().item() + 1e-12)
        assert found.complete
        assert "exact" in repr(found)


def test_each_item_is_the_closed_form_for_layer_norm(load_any):
    """Written out: centre, divide by the standard deviation of the final residual, weigh, unembed."""
    model = load_any("gpt2")
    ids, hook = ids_of(1), "blocks.1.hook_resid_post"
    sae = sae_at(hook)
    seen = {}

    def keep(x, hook):
        return seen.__setitem__(hook.name, x)

    names = [check_hook(model, hook), "ln_final.hook_in"]
    model.run_with_hooks(ids, fwd_hooks=[(name, keep) for name in names], prepend_bos=False)
    x, last = seen[names[0]][0, -1], seen["ln_final.hook_in"][0, -1]
    scale = (last.var(unbiased=False) + 1e-5).sqrt()
    d = model.W_U[:, 7] - model.W_U[:, 9]

    def logit(part):
        return (((part - part.mean()) / scale * model.ln_final.weight) @ d).item()

    features = sae.encode(x[None])[0]
    found = direct_logit_attribution(model, sae, ids[0], answer=7, foil=9)
    by_kind = {item.kind: item for item in found if item.kind != "feature"}
    effects = {item.feature: item.effect for item in found if item.kind == "feature"}
    assert effects.keys() == set(features.nonzero().flatten().tolist())
    for feature, effect in effects.items():
        assert effect == pytest.approx(logit(features[feature] * sae.W_dec[feature]), abs=1e-10)
    assert by_kind["bias"].effect == pytest.approx(logit(sae.b_dec), abs=1e-10)
    assert by_kind["error"].effect == pytest.approx(logit(x - sae.decode(features[None])[0]), abs=1e-10)
    assert by_kind["rest"].effect == pytest.approx(logit(last - x), abs=1e-10)
    bias = model.ln_final.bias @ d + model.b_U[7] - model.b_U[9]
    assert by_kind["output_bias"].effect == pytest.approx(bias.item(), abs=1e-10)


def test_the_rest_is_what_later_heads_and_mlps_write_and_nothing_at_the_last_block(load_any):
    model, ids = load_any("llama"), ids_of(1)
    writes = {}

    def keep(x, hook):
        return writes.__setitem__(hook.name, x[0, -1])

    names = [f"blocks.2.{part}.hook_out" for part in ("attn", "mlp")]
    model.run_with_hooks(ids, fwd_hooks=[(name, keep) for name in names], prepend_bos=False)
    last = direct_logit_attribution(model, sae_at("blocks.2.hook_resid_post"), ids[0], answer=7)
    assert last.top(1, kinds=["rest"])[0].effect == 0
    middle = direct_logit_attribution(model, sae_at("blocks.1.hook_resid_post"), ids[0], answer=7)
    rest = middle.top(1, kinds=["rest"])[0]
    assert rest.activation == pytest.approx(sum(writes.values()).norm().item())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_outputs_of_layers_are_parts_of_the_residual_stream_too(load_any, kind):
    model = load_any(kind)
    saes = [sae_at(f"blocks.1.hook_{point}", i) for i, point in enumerate(("attn_out", "mlp_out", "resid_mid"))]
    found = direct_logit_attribution(model, saes, PROMPT, answer=7, foil=9)
    assert found.complete
    assert found.hook_names == tuple(f"blocks.1.hook_{point}" for point in ("attn_out", "mlp_out", "resid_mid"))
    assert found.only(hook="blocks.1.hook_mlp_out").complete


def test_an_output_that_is_normed_on_its_way_to_the_residual_stream_is_refused(load_any):
    with pytest.raises(ModelError, match="changes it on the way"):
        direct_logit_attribution(load_any("gemma2"), sae_at("blocks.1.mlp.hook_out"), PROMPT, answer=7)
    with pytest.raises(ModelError, match="neither a point of the residual stream"):
        direct_logit_attribution(load_any("gpt2"), sae_at("blocks.1.ln2.hook_out"), PROMPT, answer=7)


def test_any_direction_can_be_read(load_any):
    model = load_any("gpt2")
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = direct_logit_attribution(
        model, sae_at("blocks.1.hook_resid_post"), [PROMPT, "In 1984"], direction=direction
    )
    assert found.complete
    of_token = direct_logit_attribution(model, sae_at("blocks.1.hook_resid_post"), PROMPT, direction=model.W_U[:, 7])
    as_token = direct_logit_attribution(model, sae_at("blocks.1.hook_resid_post"), PROMPT, answer=7)
    assert of_token.agreement(as_token).largest_difference == pytest.approx(model.b_U[7].item(), abs=1e-12)


def test_a_direction_may_be_an_array_or_a_list(load_any):
    model, sae = load_any("gpt2"), sae_at("blocks.1.hook_resid_post")
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for shape in (rows, rows[0]):
        expected = direct_logit_attribution(model, sae, [PROMPT, "In 1984"], direction=shape)
        for given in (shape.numpy(), shape.tolist(), shape.flip(-1).numpy()[..., ::-1]):
            found = direct_logit_attribution(model, sae, [PROMPT, "In 1984"], direction=given)
            assert np.array_equal(found.effect, expected.effect)


def test_a_batch_has_at_least_one_prompt(model):
    sae = tiny.topk_sae(32, 96)
    for ask in (
        lambda size: direct_logit_attribution(model, sae, PROMPT, answer=7, batch_size=size),
        lambda size: attribution_patching(model, sae, PROMPT, answer=7, batch_size=size),
        lambda size: activation_patching(model, sae, PROMPT, answer=7, k=2, batch_size=size),
        lambda size: logit_attribution_by_component(model, PROMPT, answer=7, batch_size=size),
    ):
        for size in (0, -1, 2.5, "many"):
            with pytest.raises(ModelError, match=f"batch_size must be a whole number from 1 on, not {size!r}"):
                ask(size)
        assert len(ask(np.int64(1))) == len(ask(4)) > 0


def test_prompts_of_different_length_run_together_with_an_answer_each(load_any):
    model, sae = load_any("gpt2"), sae_at("blocks.1.hook_resid_post")
    prompts = [PROMPT, "In 1984", "The cat sat on the mat. A cat"]
    together = direct_logit_attribution(model, sae, prompts, answer=[7, 8, 9], foil=20)
    assert together.complete
    for number, prompt in enumerate(prompts):
        alone = direct_logit_attribution(model, sae, prompt, answer=7 + number, foil=20)
        assert together.only(prompt=number).towards == alone.towards
        assert together.only(prompt=number).agreement(alone).largest_difference < 1e-12
        assert len(together.only(prompt=number)) == len(alone)


def test_the_reading_of_one_position_is_taken_out_of_those_of_all(load_any):
    model, sae = load_any("gpt2"), sae_at("blocks.1.hook_resid_post")
    each = direct_logit_attribution(model, sae, PROMPT, answer=7, foil=20, position="each")
    for position in (2, len(each.tokens[0]) - 1):
        alone = direct_logit_attribution(model, sae, PROMPT, answer=7, foil=20, position=position)
        taken = each.only(position=position)
        assert taken.complete
        assert (len(taken), taken.read_position.tolist()) == (len(alone), [position])
        assert taken.agreement(alone).largest_difference < 1e-12
    with pytest.raises(ModelError, match="a position that is read"):
        each.only(position=99)


def test_upstreams_tool_agrees_where_the_norm_is_folded_and_is_wrong_where_it_is_not(load_any):
    """transformer-lens counts neither the norm's weight nor any bias; ours adds up either way."""
    from transformer_lens.tools import analysis

    ids, hook = ids_of(1), "blocks.2.hook_resid_post"
    gaps = {}
    for folded in (True, False):
        model = load_any("gpt2", folded=folded)
        ours = direct_logit_attribution(model, sae_at(hook), ids[0], answer=7, foil=9)
        if not folded:
            with pytest.raises(ValueError, match="compatibility"):
                analysis.direct_logit_attribution(model, ids, 7, 9)
        _, cache = model.run_with_cache(ids, prepend_bos=False)
        written = [f"blocks.{layer}.{part}.hook_out" for layer in range(3) for part in ("attn", "mlp")]
        stack = torch.stack([cache[name][:, -1] for name in ("embed.hook_out", "pos_embed.hook_out", *written)])
        theirs = cache.logit_attrs(stack, tokens=torch.tensor(7), incorrect_tokens=torch.tensor(9), pos_slice=-1)
        output_bias = ours.top(1, kinds=["output_bias"])[0].effect
        gaps[folded] = abs(theirs.sum().item() + output_bias - ours.clean[0])
        assert ours.gap < 1e-10
    assert gaps[True] < 1e-5
    assert gaps[False] > 0.1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": " zebra"}, r"answer ' zebra' is \d+ tokens for this tokenizer \(' .*first piece is"),
        ({"answer": 7, "foil": 7}, "answer and foil are the same token"),
        ({"answer": 7, "foil": ""}, r"foil '' is 0 tokens"),
        ({"answer": 400}, "token id from 0 to 399"),
        ({"answer": [7, 8]}, "2 answers for 1 prompts"),
        ({}, "either answer= .* or direction="),
        ({"answer": 7, "direction": torch.ones(32)}, "either answer="),
        ({"direction": torch.ones(31)}, r"direction is \[31\]: expected \[32\]"),
        ({"direction": np.ones((2, 32))}, r"direction is \[2, 32\]: expected \[32\]"),
        ({"direction": [1.0] * 31}, r"direction is \[31\]: expected \[32\]"),
        ({"direction": "north"}, "direction must be a tensor, array or list of real numbers .*, not 'north'"),
        ({"direction": [[1.0], [1.0, 2.0]]}, "direction must be"),
        ({"direction": np.ones(32) * 1j}, "direction must be"),
        ({"direction": torch.zeros(32)}, "is zero"),
        ({"direction": torch.ones(32), "foil": 3}, "foil= goes with answer="),
        ({"answer": 7, "prompts": ""}, "empty"),
        ({"answer": 7, "prompts": []}, "no prompt"),
        (
            {"answer": 7, "prompts": torch.zeros(0, dtype=torch.long)},
            "prompt 0 has no tokens",
        ),
        ({"answer": 7, "prompts": torch.tensor([400])}, "prompt 0 has token ids from 400 to 400, outside 0 to 399"),
        ({"answer": 7, "prompts": [3]}, "prompt 0 must be text or one row of token ids"),
        ({"answer": 7, "prompts": "cat " * 300}, r"has \d+ tokens, the model's context holds 256"),
        ({"answer": 7, "prompts": "cat " * 3000}, r"has 12,000 characters, the model's context holds 256 tokens"),
        ({"answer": 7, "position": "last"}, "position must be a number, not 'last'"),
        ({"answer": 7, "position": 99}, "position 99 is outside a prompt of"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(model, changes, message):
    arguments = {"prompts": PROMPT} | changes
    with pytest.raises(ModelError, match=message):
        direct_logit_attribution(model, tiny.topk_sae(32, 96), arguments.pop("prompts"), **arguments)


def test_a_prompt_that_just_fits_the_context_is_read_at_its_last_token(model):
    ids = ids_of(1, 256)[0]
    found = direct_logit_attribution(model, tiny.topk_sae(32, 96), ids, answer=7)
    assert found.read_position.tolist() == [255]
    assert found.complete
    with pytest.raises(ModelError, match="257 tokens, the model's context holds 256"):
        direct_logit_attribution(model, tiny.topk_sae(32, 96), ids_of(1, 257)[0], answer=7)


def test_saes_that_do_not_belong_are_refused(model):
    one, other = tiny.topk_sae(32, 96), tiny.topk_sae(32, 64, seed=1)

    def ask(saes):
        return direct_logit_attribution(model, saes, PROMPT, answer=7)

    with pytest.raises(SAEError, match=r"two SAEs read blocks\.1\.hook_resid_post"):
        ask([one, other])
    with pytest.raises(SAEError, match=r"two SAEs read blocks\.1\.hook_resid_post"):
        ask([one, tiny.topk_sae(32, 64, hook_name="blocks.1.hook_out")])
    with pytest.raises(SAEError, match=r"asked for blocks\.0\.hook_resid_post, but this SAE reads blocks\.1\."):
        ask({"blocks.0.hook_resid_post": one})
    with pytest.raises(SAEError, match="no SAE"):
        ask([])
    with pytest.raises(ModelError, match="no hook point"):
        ask(tiny.topk_sae(32, 96, hook_name="blocks.9.hook_resid_post"))
    transcoder = tiny.topk_sae(32, 96)
    transcoder.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
    with pytest.raises(SAEError, match="transcoder"):
        ask(transcoder)
    assert ask({"blocks.1.hook_out": one}).complete
