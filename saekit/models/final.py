"""The output side of a model: the final norm, as a linear map or with its scale frozen, and the unembedding."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.models.blocks import run_blocks
from saekit.models.door import check_finite
from saekit.models.hooks import forward, hooked, reading

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def unembedding(model: "SAETransformerBridge") -> Float[Tensor, "d_model d_vocab"]:
    """Return W_U, which turns the normalised residual stream into logits."""
    return model.W_U


def final_norm(
    model: "SAETransformerBridge", direction: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """Apply the linear part of the final norm: centre (LayerNorm only) and multiply by its weight.

    The division by the residual's own scale is left out (frozen at 1): it is one positive number for each
    position, so signs and ranks of logits stay as they are. In units of the residual stream.
    """
    norm = model.ln_final
    if not model.cfg.uses_rms_norm:
        direction = direction - direction.mean(-1, keepdim=True)
    weight = norm.weight.to(direction.dtype)
    return direction * (1 + weight if getattr(model.cfg, "rmsnorm_uses_offset", False) else weight)


def readout_from(
    model: "SAETransformerBridge",
    ids: Int[Tensor, "batch pos"],
    states: Float[Tensor, "batch pos d_in"],
    hook_name: str,
    direction: Float[Tensor, "batch d_model"],
    constant: Float[Tensor, "batch"],
    position: Int[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """Return ``normed @ direction + constant`` when these states stand at a hook point, one number a prompt.

    `logits_from` for one logit or a difference of two: the unembedding of 49,152 tokens, a third of the work above
    layer 18 of SmolLM2, is left out. In float64; gradients flow to ``states``.

    Args:
        model: The model.
        ids: The tokens.
        states: States to put at the hook point.
        hook_name: The hook point.
        direction: Direction of the final norm's output, such as a column of the unembedding.
        constant: Number that is added, such as the unembedding's bias.
        position: Position of each prompt that is read.

    Raises:
        ModelError: No such hook point, or the model cannot be run on the tokens, as in `forward`.
    """
    last = run_blocks(model, ids, states, hook_name)
    if last is not None:
        normed = model.ln_final(last)
    else:
        after = "ln_final.hook_out"
        with hooked(model, {hook_name: lambda _: states}), reading(model, [after]) as seen:
            forward(model, ids)
        normed = seen[after]
    check_finite(normed, "outputs of the final norm")
    at = normed[torch.arange(len(ids)), position.to(normed.device)]
    return (at.double() * direction.to(at.device)).sum(-1) + constant.to(at.device)


@dataclass(frozen=True)
class FinalRun:
    """One run of a batch, with what is needed to take the readings apart.

    Attributes:
        states: Activations by hook point, as asked.
        residual: Input of the final norm ``[batch, pos, d_model]``.
        normed: Output of the final norm ``[batch, pos, d_model]``.
        logits: Logits of the tokens that were asked for, before any soft cap ``[batch, pos, token]``; None without.
    """

    states: dict[str, Tensor]
    residual: Float[Tensor, "batch pos d_model"]
    normed: Float[Tensor, "batch pos d_model"]
    logits: Float[Tensor, "batch pos token"] | None


@torch.no_grad()
def final_run(
    model: "SAETransformerBridge",
    ids: Int[Tensor, "batch pos"],
    hook_names: list[str],
    tokens: Int[Tensor, "batch token"] | None,
) -> FinalRun:
    """Run the whole model once and keep what `FinalRun` lists.

    Args:
        model: The model.
        ids: The tokens.
        hook_names: Hook points whose activations are kept.
        tokens: Token ids whose logits are kept, for each prompt; None for no logits.
    """
    chosen: list[Tensor] = []

    def choose(logits, *, tokens):  # all of them are most of the memory of a run
        index = tokens[:, None].expand(-1, logits.shape[1], -1)
        chosen.append(logits.gather(-1, index.to(logits.device)))

    before, after = "ln_final.hook_in", "ln_final.hook_out"
    unembedded = {} if tokens is None else {"unembed.hook_out": partial(choose, tokens=tokens)}
    with reading(model, [*hook_names, before, after]) as seen, hooked(model, unembedded):
        forward(model, ids)
    states = {name: seen[name] for name in hook_names}
    return FinalRun(states, seen[before], seen[after], chosen[0] if chosen else None)


@dataclass(frozen=True)
class FrozenNorm:
    """The final norm as a linear map, with the scale that it had at each position of a run.

    Attributes:
        direction: ``residual @ direction + bias`` is the reading ``[batch, pos, d_model]``, float64.
        bias: Bias of the final norm and the unembedding together ``[batch]``, float64.
    """

    direction: Float[Tensor, "batch pos d_model"]
    bias: Float[Tensor, "batch"]


def frozen_norm(
    model: "SAETransformerBridge",
    run: FinalRun,
    direction: Float[Tensor, "batch d_model"],
    constant: Float[Tensor, "batch"],
) -> FrozenNorm:
    """Return the final norm as it acted in a run.

    LayerNorm and RMSNorm are ``linear(x) / scale(x) + bias``. The bias is the norm of zero; the scale is read off the
    run, as the number by which linear(x) has to be divided to give what the norm gave. So no epsilon and no
    convention of a model class has to be known, folded or not; should a norm be of another kind, the completeness
    check fails, for it compares with the logits of the model itself.

    Args:
        model: The model.
        run: The run, from `final_run`.
        direction: Direction of the norm's output that is read, by prompt.
        constant: Number that is added to the reading, by prompt.
    """
    residual = run.residual.double()
    with torch.no_grad():
        shift = model.ln_final(torch.zeros_like(run.residual[:1, :1])).double()
        linear = final_norm(model, residual)
        given = run.normed.double() - shift
        scale = linear.square().sum(-1, keepdim=True) / (linear * given).sum(-1, keepdim=True)
    direction, constant = direction.to(residual.device), constant.to(residual.device)
    with torch.enable_grad():  # the transpose of the linear part, by its gradient
        probe = torch.zeros_like(direction, requires_grad=True)
        (pulled,) = torch.autograd.grad((final_norm(model, probe) * direction).sum(), probe)
    return FrozenNorm(pulled[:, None] / scale, (direction * shift[0, 0]).sum(-1) + constant)
