"""The rest of a model from a hook point on: the same logits as the whole model with the states put there."""

import pytest
import torch
import transformers

from saekit.errors import ModelError
from saekit.models import (
    before_blocks,
    check_hook,
    first_block_after,
    hidden_states,
    last_logits_from,
    load_model,
    logits_from,
)
from tests import tiny

SIZES = {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 1}
WIDE = {
    "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64,
    "initializer_range": 0.3,
}  # fmt: skip
# Learned positions; parallel blocks; capped logits; windows and rotations that differ from layer to layer.
OTHERS = {
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, **SIZES),
    "neox": lambda: transformers.GPTNeoXConfig(num_hidden_layers=3, **WIDE, **SIZES),
    "gemma2": lambda: transformers.Gemma2Config(
        num_hidden_layers=4, num_key_value_heads=2, head_dim=8, sliding_window=8, **WIDE, **SIZES
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        num_hidden_layers=7, num_key_value_heads=2, head_dim=8, sliding_window=8, **WIDE, **SIZES
    ),
}


@pytest.fixture(params=["llama", *OTHERS])
def any_model(request, model, model_folder, tmp_path):
    if request.param == "llama":
        return model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(OTHERS[request.param]()).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    return load_model(str(tmp_path))


def ids_of(rows: int, pos: int) -> torch.Tensor:
    return torch.from_numpy(tiny.random_tokens(rows, pos, 400).ids).long()


def changed(model, ids, hook):
    """Return states that no sequence of tokens has."""
    states = hidden_states(model, ids, hook)
    return states + 0.3 * states.std() * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))


def whole(model, ids, states, hook):
    put = lambda activation, hook: states  # noqa: E731
    return model.run_with_hooks(ids, fwd_hooks=[(check_hook(model, hook), put)], prepend_bos=False)


@pytest.mark.parametrize("point", ["hook_resid_pre", "hook_resid_post", "hook_mlp_out", "hook_attn_out"])
def test_the_rest_of_a_model_gives_the_logits_of_the_whole_model(any_model, point):
    for layer in (0, 1, any_model.cfg.n_layers - 1):
        hook, ids = f"blocks.{layer}.{point}", ids_of(3, 21)
        states = changed(any_model, ids, hook)
        got = logits_from(any_model, ids, states, hook)
        torch.testing.assert_close(got, whole(any_model, ids, states, hook), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("point", ["hook_resid_post", "hook_mlp_out"])
def test_the_last_logits_are_those_of_the_whole_model_at_the_last_position(any_model, point):
    hook, ids = f"blocks.1.{point}", ids_of(3, 13)
    states = changed(any_model, ids, hook)
    found = last_logits_from(any_model, ids, states, hook)
    assert found.shape == (3, 400)
    torch.testing.assert_close(found, whole(any_model, ids, states, hook)[:, -1], rtol=1e-4, atol=1e-4)


def test_only_the_blocks_above_run(any_model):
    hook, ids = "blocks.1.hook_resid_post", ids_of(3, 21)
    states = changed(any_model, ids, hook)
    logits_from(any_model, ids, states, hook)  # the first call tries the model
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(any_model.blocks)
    ]
    logits_from(any_model, ids, states, hook)
    for handle in handles:
        handle.remove()
    assert ran == list(range(2, any_model.cfg.n_layers))


def test_the_tokens_below_a_point_of_the_residual_stream_do_not_matter(model):
    hook, ids = "blocks.1.hook_resid_post", ids_of(3, 21)
    states = changed(model, ids, hook)
    assert torch.equal(logits_from(model, ids, states, hook), logits_from(model, ids.flip(0, 1), states, hook))


def test_a_batch_may_be_of_any_size_and_length(model):
    hook = "blocks.0.hook_resid_post"
    for rows, pos in ((1, 1), (5, 3), (2, 60), (5, 3)):
        ids = ids_of(rows, pos)
        torch.testing.assert_close(
            logits_from(model, ids, hidden_states(model, ids, hook), hook), model(ids, prepend_bos=False)
        )


def test_arguments_are_kept_for_a_few_lengths_only(model):
    """One block stands above the hook point; a length that is new runs a made-up sequence through all three first."""
    hook, ran = "blocks.1.hook_resid_post", []

    def run(pos):
        states = hidden_states(model, ids_of(1, pos), hook)
        ran.clear()
        with before_blocks(model, lambda *_: ran.append(1)):
            logits_from(model, ids_of(1, pos), states, hook)
        return len(ran)

    for pos in range(2, 20):
        run(pos)
    assert run(19) == 1
    assert run(2) == 4


def test_gradients_flow_to_the_states(model):
    hook, ids = "blocks.1.hook_resid_post", ids_of(2, 8)
    states = hidden_states(model, ids, hook)
    gradients = []
    for run in (logits_from(model, ids, rest := states.clone().requires_grad_(), hook),
                whole(model, ids, full := states.clone().requires_grad_(), hook)):  # fmt: skip
        run[:, -1, 5].sum().backward()
    gradients = [rest.grad, full.grad]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_hooks_of_the_caller_count_and_see_only_the_callers_batch(model_folder):
    """The first call tries the model on made-up sequences; a patch of the caller's shape must not meet them."""
    model = load_model(str(model_folder))
    hook, ids = "blocks.0.hook_resid_post", ids_of(3, 11)
    states = hidden_states(model, ids, hook)
    patch = torch.randn(3, 11, 32, generator=torch.Generator().manual_seed(0))
    seen = []

    def add(activation, hook):
        seen.append(activation.shape)
        return activation + patch

    with model.hooks(fwd_hooks=[("blocks.2.hook_in", add)]):
        got = logits_from(model, ids, states, hook)
    assert seen == [(3, 11, 32)]
    want = model.run_with_hooks(ids, fwd_hooks=[("blocks.2.hook_in", add)], prepend_bos=False)
    torch.testing.assert_close(got, want)
    assert torch.equal(model(ids, prepend_bos=False), logits_from(model, ids, states, hook)), "no hook is left behind"


def test_a_model_that_cannot_be_called_block_by_block_runs_as_a_whole(model_folder, monkeypatch):
    """What a model does after the unembedding and does not say would be missed: the trial finds it out."""
    model = load_model(str(model_folder))
    monkeypatch.setattr(model.adapter, "apply_output_logits_transform", lambda logits: 2 * logits)
    hook, ids = "blocks.1.hook_resid_post", ids_of(2, 9)
    assert first_block_after(model, check_hook(model, hook)) == 2
    states = changed(model, ids, hook)
    torch.testing.assert_close(logits_from(model, ids, states, hook), whole(model, ids, states, hook))

    other = load_model(str(model_folder))
    monkeypatch.setattr(type(other.adapter), "apply_output_logits_transform", None)
    torch.testing.assert_close(logits_from(other, ids, states, hook), whole(model, ids, states, hook))


def test_wrong_states_and_hook_points_are_refused(model):
    ids = ids_of(2, 9)
    with pytest.raises(ModelError, match=r"states are for \[2, 8\].*tokens for \[2, 9\]"):
        logits_from(model, ids, torch.zeros(2, 8, 32), "blocks.1.hook_resid_post")
    with pytest.raises(ModelError, match=r"no hook point"):
        logits_from(model, ids, torch.zeros(2, 9, 32), "blocks.9.hook_resid_post")


def test_half_precision_goes_the_same_way(model_folder):
    model = load_model(str(model_folder), dtype=torch.bfloat16)
    hook, ids = "blocks.1.hook_resid_post", ids_of(3, 21)
    states = changed(model, ids, hook).bfloat16()
    got = logits_from(model, ids, states.float(), hook)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, whole(model, ids, states, hook))
    ran = []
    with before_blocks(model, lambda *_: ran.append(1)):
        logits_from(model, ids, states, hook)
    assert len(ran) == model.cfg.n_layers - 2, "the blocks below do not run"
