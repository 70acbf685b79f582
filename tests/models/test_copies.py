"""A model's twin: the same weights, other hook points, nothing that one's forward pass writes into the other."""

import threading

import torch

from saekit.models import check_hook, twin

LOW = "blocks.0.hook_resid_post"
IDS = torch.tensor([[0, 5, 6, 7]])


def test_a_twin_shares_the_weights_and_the_tokenizer(model):
    other = twin(model)
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert other.tokenizer is model.tokenizer
    assert torch.equal(other(IDS), model(IDS))
    assert not {id(part) for part in model.modules()} & {id(part) for part in other.modules()}


def test_a_hook_on_one_is_not_heard_by_the_other(model):
    plain = model(IDS)
    other = twin(model)
    inside = {}

    def zero(state, hook):
        thread = threading.Thread(target=lambda: inside.update(other=other(IDS)))
        thread.start()
        thread.join()
        return state * 0

    changed = model.run_with_hooks(IDS, fwd_hooks=[(check_hook(model, LOW), zero)])
    assert torch.equal(inside["other"], plain)
    assert not torch.equal(changed, plain)


def kept(model):
    """Everything that modules keep outside of parameters and buffers."""
    parts = dict(model.named_modules())
    return {
        (where, name): thing
        for where, part in parts.items()
        for name, thing in vars(part).items()
        if isinstance(thing, torch.Tensor)
    }


def test_nothing_of_a_twins_forward_pass_reaches_the_original(model):
    model(IDS)  # blocks hook themselves at their first pass
    other = twin(model)
    before, seen, own = kept(model), [], []

    def look(state, hook):
        seen.append(kept(model).keys())
        own.append(len(kept(other).keys()))

    hooks = [(f"blocks.{block}.{point}", look) for block in (0, 1) for point in ("attn.hook_out", "mlp.hook_in")]
    other.run_with_hooks(IDS, fwd_hooks=hooks)
    assert seen == [before.keys()] * 4
    assert max(own) > len(before), "the twin itself keeps states meanwhile: the test looks in the right place"


def test_a_twin_can_be_made_while_the_model_is_running(model):
    made = []
    model.run_with_hooks(IDS, fwd_hooks=[("blocks.0.attn.hook_out", lambda state, hook: made.append(twin(model)))])
    assert len(made) == 1
