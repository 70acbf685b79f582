"""The residual stream between attention and MLP, where what is put there has to go on in two ways.

transformer-lens's bridge has ``hook_resid_mid`` at the entrance of the MLP's branch. What a hook puts there reaches the
MLP, but not the stream that goes around it, to which the MLP's output is added; in a HookedTransformer it reaches both.
`saekit.models.hooks.hooked` therefore adds the change to the block's output as well. That is right for a block whose
output is its middle plus the MLP's output, which is looked at once.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from saekit.errors import ModelError
from saekit.models.door import run

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_ADDS_UP: "WeakKeyDictionary[SAETransformerBridge, dict[str, bool]]" = WeakKeyDictionary()


def end_of_block(model: "SAETransformerBridge", point: str) -> str | None:
    """Return the hook point behind the block in whose middle a canonical hook point stands, None for any other."""
    block = re.match(r"blocks\.\d+(?=\.)", point)
    if block is None or point != model._resolve_hook_name(f"{block[0]}.hook_resid_mid"):
        return None
    return model._resolve_hook_name(f"{block[0]}.hook_resid_post")


def check_adds_up(model: "SAETransformerBridge", middle: str, end: str) -> None:
    """Raise ModelError unless a block's output is its middle plus the MLP's output.

    The model reads a few tokens for it, once, also where it is in the midst of others.

    Args:
        model: The model.
        middle: Canonical hook point in the middle of the block.
        end: Canonical hook point behind the block.
    """
    known = _ADDS_UP.setdefault(model, {})
    if middle not in known:
        added = model._resolve_hook_name(end.replace("hook_out", "hook_mlp_out"))
        known[middle] = _adds_up(model, [middle, added, end])
    if not known[middle]:
        raise ModelError(
            f"{model.cfg.model_name} does not add what its MLP writes to what stands at {middle} (hook_resid_mid), so "
            f"that what is put there cannot go on as the residual stream. Expected hook_resid_pre or hook_resid_post, "
            f"or what attention or the MLP writes"
        )


@torch.no_grad()
def _adds_up(model: "SAETransformerBridge", points: list[str]) -> bool:
    seen: dict[str, Tensor] = {}

    def keep(point, args, output, *, name):
        seen[name] = output.float()

    with without_hooks(model):
        handles = [model.hook_dict[name].register_forward_hook(partial(keep, name=name)) for name in points]
        try:
            run(model, torch.arange(1, 5)[None] % model.W_E.shape[0])
        finally:
            for handle in handles:
                handle.remove()
    before, added, after = (seen[name] for name in points)
    close = 1e-3 if model.W_E.dtype in (torch.float32, torch.float64) else 5e-2
    return torch.allclose(before + added, after, rtol=close, atol=close * after.abs().max().item())


@contextmanager
def without_hooks(model: "SAETransformerBridge") -> Generator[None]:
    """Let no hook of the caller see made-up sequences: a patch has the shape of the caller's batch."""
    held = [(point, point._forward_hooks) for point in set(model.hook_dict.values())]
    try:
        for point, hooks in held:
            point._forward_hooks = type(hooks)()
        yield
    finally:
        for point, hooks in held:
            point._forward_hooks = hooks
