"""Hooks: what functions see and replace, in which order, for whom, and that nothing stays behind."""

import threading

import pytest
import torch

from saekit.errors import ModelError
from saekit.models import (
    before_blocks,
    check_hook,
    forward,
    hidden_states,
    hidden_states_at,
    hooked,
    load_model,
    reading,
)
from tests import tiny

HOOK = "blocks.1.hook_resid_post"


def ids_of(rows: int, pos: int) -> torch.Tensor:
    return torch.from_numpy(tiny.random_tokens(rows, pos, 400).ids).long()


def n_hooks(model) -> int:
    points = set(model.hook_dict.values())
    return sum(len(p._forward_hooks) for p in points) + sum(len(block._forward_pre_hooks) for block in model.blocks)


def test_a_replacement_acts_as_it_does_under_transformer_lens(model):
    ids = ids_of(2, 9)
    with hooked(model, {HOOK: lambda states: 2 * states}):
        got = forward(model, ids)

    def double(states, hook):
        return 2 * states

    want = model.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_out", double)], prepend_bos=False)
    assert torch.equal(got, want)
    assert not torch.equal(got, forward(model, ids))


@pytest.mark.parametrize("point", ["z", "q", "k", "v"])
def test_heads_are_shown_one_after_the_other_and_put_back_as_they_were(model, point):
    """transformer-lens shows them as [batch, pos, head, d_head]; keys and values have two heads, shared by four."""
    ids, hook = ids_of(2, 9), f"blocks.1.attn.hook_{point}"
    heads = 2 if point in "kv" else 4
    silent = torch.ones(heads)
    silent[1] = 0

    with hooked(model, {hook: lambda flat: flat * silent.repeat_interleave(8)}), reading(model, [hook]) as seen:
        got = forward(model, ids)
    assert seen[hook].shape == (2, 9, 8 * heads)
    assert not seen[hook][..., 8:16].any()

    def silence(apart, hook):
        assert apart.shape == (2, 9, heads, 8)
        return apart * silent[:, None]

    want = model.run_with_hooks(ids, fwd_hooks=[(check_hook(model, hook), silence)], prepend_bos=False)
    assert torch.equal(got, want)
    assert not torch.allclose(got, forward(model, ids))


def test_the_last_hook_runs_last_on_what_the_others_made(model):
    ids = ids_of(1, 5)
    clean = hidden_states(model, ids, HOOK)
    with (
        hooked(model, {HOOK: lambda states: states + 1, "blocks.1.hook_out": lambda states: 2 * states}),
        hooked(model, {HOOK: lambda states: None}),
        reading(model, [HOOK]) as seen,
    ):
        forward(model, ids)
    torch.testing.assert_close(seen[HOOK], 2 * (clean + 1))


def test_gradients_flow_through_what_was_put_in_and_read_out(model):
    ids = ids_of(1, 5)
    start = hidden_states(model, ids, "blocks.0.hook_resid_post").requires_grad_()
    with hooked(model, {"blocks.0.hook_resid_post": lambda _: start}), reading(model, [HOOK]) as seen:
        forward(model, ids, up_to=[HOOK])
    (gradient,) = torch.autograd.grad(seen[HOOK].sum(), start)
    assert gradient.abs().max() > 0


def test_a_pass_ends_above_the_highest_point_that_is_asked_for(model):
    ran = []
    with hooked(
        model, {f"blocks.{layer}.hook_mlp_out": lambda _, layer=layer: ran.append(layer) for layer in range(3)}
    ):
        hidden_states_at(model, ids_of(1, 4), ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"])
    assert ran == [0, 1]


def test_generation_is_edited_step_by_step(model):
    ids, sizes = ids_of(1, 6), []
    with hooked(model, {HOOK: lambda states: sizes.append(states.shape[1])}):
        model.generate(ids, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False, return_type="tokens")
    assert len(sizes) == 3
    assert sizes[0] == 6


def test_hooks_come_off_however_the_block_ends(model):
    before = n_hooks(model)
    with pytest.raises(KeyError), hooked(model, {HOOK: lambda states: {}["no such"]}):
        forward(model, ids_of(1, 4))
    with pytest.raises(ModelError, match=r"no hook point 'blocks\.9"), reading(model, [HOOK, "blocks.9.hook_in"]):
        pass
    with pytest.raises(KeyError), before_blocks(model, lambda args, kwargs: {}["stop"]):
        forward(model, ids_of(1, 4))
    assert n_hooks(model) == before


def test_another_thread_gets_the_model_as_it_is(model):
    ids, got = ids_of(1, 4), []
    clean = forward(model, ids)
    asked = []
    with hooked(model, {HOOK: lambda states: 0 * states}), before_blocks(model, lambda *_: asked.append(1)):
        other = threading.Thread(target=lambda: got.append(forward(model, ids)))
        other.start()
        other.join()
    assert torch.equal(got[0], clean)
    assert asked == []


def test_layers_above_the_hook_do_not_run(model):
    ran = []
    handle = model.blocks[2].mlp.register_forward_hook(lambda *args: ran.append(1))
    try:
        hidden_states(model, torch.tensor([[0, 5, 6]]), "blocks.1.hook_resid_post")
    finally:
        handle.remove()
    assert ran == []
    handle = model.blocks[1].mlp.register_forward_hook(lambda *args: ran.append(1))
    hidden_states(model, torch.tensor([[0, 5, 6]]), "blocks.1.hook_resid_post")
    handle.remove()
    assert ran == [1], "the count sees a layer that does run"


def test_a_missing_hook_point_is_an_error_that_names_the_nearest(model):
    with pytest.raises(ModelError, match=r"no hook point 'blocks\.7\.hook_resid_post' \(3 layers.*Nearest: blocks"):
        hidden_states(model, torch.tensor([[0, 1]]), "blocks.7.hook_resid_post")


def test_what_is_no_model_of_ours_is_refused_with_how_to_get_one(model_folder):
    from sae_lens import SAETransformerBridge
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    ids, hook = torch.tensor([[0, 5, 9]]), "blocks.1.hook_resid_post"
    plain = TransformerBridge.boot_transformers(str(model_folder), device="cpu")
    for other in (plain, AutoModelForCausalLM.from_pretrained(model_folder), "smollm2-135m", None):
        for use in (check_hook, lambda model, name: hidden_states(model, ids, name)):
            with pytest.raises(ModelError, match=r"the model is .*: expected what load_model returns"):
                use(other, hook)
    theirs = SAETransformerBridge.boot_transformers(str(model_folder), device="cpu")
    want = hidden_states(load_model(model_folder), ids, hook)
    torch.testing.assert_close(hidden_states(theirs, ids, hook), want)
