"""Which hook points are parts of the residual stream: only those act on the logits directly."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from saekit.errors import ModelError
from saekit.models import FinalRun, check_hook

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
OUTPUTS = ("hook_attn_out", "hook_mlp_out")


def block_of(model: "SAETransformerBridge", hook: str) -> str | None:
    """Return the block whose attention or MLP output a hook point is, None for the residual stream itself."""
    point = check_hook(model, hook)
    block = ".".join(point.split(".")[:2])
    resolved = lambda names: [model._resolve_hook_name(f"{block}.{name}") for name in names]  # noqa: E731
    if point in resolved(STREAM):
        return None
    if point in [*resolved(OUTPUTS), f"{block}.attn.hook_out", f"{block}.mlp.hook_out"]:
        return block
    raise ModelError(
        f"{hook} is neither a point of the residual stream nor an attention or MLP output: its features reach the "
        f"logits through other parts of the layer only. attribution_patching works at every hook point"
    )


def added_at(model: "SAETransformerBridge", hooks: Iterable[str]) -> list[str]:
    """Return the hook points that `check_added` needs."""
    blocks = sorted({block for hook in hooks if (block := block_of(model, hook)) is not None})
    return [f"{block}.{point}" for block in blocks for point in ("hook_resid_pre", "hook_resid_post", *OUTPUTS)]


def check_added(model: "SAETransformerBridge", run: FinalRun, hooks: Iterable[str]) -> None:
    """Check that attention and MLP outputs enter the residual stream as they stand: some models norm them first."""
    for hook in hooks:
        if (block := block_of(model, hook)) is None:
            continue
        before, after, attention, mlp = (
            run.states[f"{block}.{point}"] for point in ("hook_resid_pre", "hook_resid_post", *OUTPUTS)
        )
        normed = check_hook(model, hook) not in [check_hook(model, f"{block}.{point}") for point in OUTPUTS]
        if normed or not torch.allclose(
            before + attention + mlp, after, rtol=1e-3, atol=1e-3 * after.abs().max().item()
        ):
            raise ModelError(
                f"{hook} does not enter the residual stream as it stands: {model.cfg.model_name} changes it on the way "
                f"(a norm after the layer). Use an SAE of {block}.hook_attn_out, hook_mlp_out or hook_resid_post, or "
                f"attribution_patching"
            )
