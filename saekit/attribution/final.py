"""The runs behind an attribution: what is read off the model, exactly, and the final norm with its scale frozen."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.attribution.inputs import Readout
from saekit.models import block_calls, check_hook, final_norm, first_block_after

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def read_from(
    model: "SAETransformerBridge",
    ids: Int[Tensor, "batch pos"],
    states: Float[Tensor, "batch pos d_in"],
    hook_name: str,
    direction: Float[Tensor, "batch d_model"],
    constant: Float[Tensor, "batch"],
    position: Int[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """Return what is read off the model when these states stand at a hook point, float64; gradients flow to states.

    Like `saekit.models.logits_from`, of which it is one number a prompt: the unembedding of 49,152 tokens, a third of
    the work above layer 18 of SmolLM2, is left out.
    """
    hook = check_hook(model, hook_name)
    weight = next(model.parameters())
    states = states.to(weight.device, weight.dtype)
    first = first_block_after(model, hook)
    calls = None if first is None else block_calls(model, ids.shape[1])
    if calls is not None:
        for block, (args, kwargs) in zip(list(model.blocks)[first:], calls[first:], strict=True):
            states = block(states, *args, **kwargs)
            states = states[0] if isinstance(states, tuple) else states
        normed = model.ln_final(states)
    else:
        normed = _whole(model, ids, hook, states)
    at = normed[torch.arange(len(ids)), position.to(normed.device)]
    return (at.double() * direction.to(at.device)).sum(-1) + constant.to(at.device)


def _whole(model: "SAETransformerBridge", ids: Tensor, hook: str, states: Tensor) -> Tensor:
    """Run the whole model with the states put in; return what the final norm gives."""
    seen: list[Tensor] = []
    model.run_with_hooks(
        ids.to(states.device),
        fwd_hooks=[(hook, lambda activation, hook: states), ("ln_final.hook_out", lambda x, hook: seen.append(x))],
        prepend_bos=False,
    )
    return seen[0]


@dataclass(frozen=True)
class FinalRun:
    """One run of a batch, with what is needed to take the readings apart.

    Attributes:
        states: Activations by hook point, as asked.
        residual: What the final norm gets ``[batch, pos, d_model]``.
        normed: What it gives.
        logits: Of the readings' tokens, before any soft cap: answer (and foil) ``[batch, pos, 1 or 2]``; None for a
            direction.
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
    """Run the whole model once and keep what `FinalRun` lists."""
    seen: dict[str, Tensor] = {}

    def keep(name):
        return lambda activation, hook: seen.__setitem__(name, activation)

    def keep_logits(logits, hook, *, tokens):
        seen["logits"] = logits.gather(-1, tokens[:, None].expand(-1, logits.shape[1], -1).to(logits.device))

    points: list[tuple[str | Callable, Callable]] = [(check_hook(model, name), keep(name)) for name in hook_names]
    points += [("ln_final.hook_in", keep("residual")), ("ln_final.hook_out", keep("normed"))]
    if tokens is not None:
        points.append(("unembed.hook_out", partial(keep_logits, tokens=tokens)))
    model.run_with_hooks(ids.to(model.cfg.device), fwd_hooks=points, prepend_bos=False)
    logits = seen["logits"] if tokens is not None else None
    return FinalRun({name: seen[name] for name in hook_names}, seen["residual"], seen["normed"], logits)


@dataclass(frozen=True)
class Frozen:
    """The final norm as a linear map, with the scale that it had at each position of a run.

    Attributes:
        direction: ``residual @ direction + bias`` is the reading ``[batch, pos, d_model]``, float64.
        bias: Of the final norm and the unembedding ``[batch]``, float64.
    """

    direction: Float[Tensor, "batch pos d_model"]
    bias: Float[Tensor, "batch"]


def frozen(
    model: "SAETransformerBridge",
    run: FinalRun,
    direction: Float[Tensor, "batch d_model"],
    constant: Float[Tensor, "batch"],
) -> Frozen:
    """Return the final norm as it acted in a run.

    LayerNorm and RMSNorm are ``linear(x) / scale(x) + bias``. The bias is the norm of zero; the scale is read off the
    run, as the number by which linear(x) has to be divided to give what the norm gave. So no epsilon and no
    convention of a model class has to be known, folded or not; should a norm be of another kind, the completeness
    check fails, for it compares with the logits of the model itself.
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
    return Frozen(pulled[:, None] / scale, (direction * shift[0, 0]).sum(-1) + constant)


def tokens_read(readout: Readout, rows: Int[Tensor, "batch"]) -> Int[Tensor, "batch token"] | None:
    """Return the tokens whose logits are read: answer, or answer and foil."""
    if readout.answers is None:
        return None
    columns = [readout.answers[rows]] + ([] if readout.foils is None else [readout.foils[rows]])
    return torch.stack(columns, 1)


def given(run: FinalRun, readout: Readout, row: int, i: int, at: Tensor) -> np.ndarray:
    """Return the readings as the model gives them: its own logits, or its final norm along the direction."""
    if run.logits is None:
        return (run.normed[i, at].double().cpu() @ readout.direction[row]).numpy()
    logits = run.logits[i, at].double().cpu()
    return (logits[:, 0] - logits[:, 1] if logits.shape[1] == 2 else logits[:, 0]).numpy()
