"""A whole model taken apart: what the embedding, each head and each MLP write towards a logit."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.attribution.inputs import (
    Answers,
    Direction,
    Prompts,
    batches,
    check_counts,
    given,
    prompts_of,
    read_position,
    readout_of,
    token_text,
    tokens_read,
)
from saekit.attribution.points import OUTPUTS, added_at, check_added
from saekit.attribution.result import ATTENTION, EMBEDDING, HEAD, MLP, OUTPUT_BIAS, Attribution, ItemTable
from saekit.errors import ModelError
from saekit.models import FinalRun, final_run, frozen_norm

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


@torch.no_grad()
def logit_attribution_by_component(
    model: "SAETransformerBridge",
    prompts: Prompts,
    *,
    answer: Answers | None = None,
    foil: Answers | None = None,
    direction: Direction | None = None,
    by: Literal["head", "layer"] = "head",
    position: int = -1,
    batch_size: int = 8,
) -> Attribution:
    """Take a logit apart by the embedding and every head and MLP (direct logit attribution of a whole model).

    The residual stream at the last block is the sum of what each part has written, and with the final norm's scale
    frozen a logit is linear in it; so the parts add up to the logit of the model itself, which
    `Attribution.complete` checks. No part is computed as a remainder. Nor does anything have to be folded:
    transformer-lens's ``direct_logit_attribution`` is right for models with folded norms only, and counts no bias.

    Args:
        model: The model.
        prompts: Text, or token ids ``[pos]``, or several of either.
        answer: The token to explain, text or id: one, or one a prompt.
        foil: What it is compared with.
        direction: In place of a token, any direction of the final norm's output.
        by: "head": every attention head, and each layer's attention bias. "layer": each layer's attention as a whole.
        position: Whose prediction is read.
        batch_size: Prompts of one length run together.

    Returns:
        Items of the kinds "embedding", "head" (``feature`` is its number), "attention", "mlp" and "output_bias", at
        the position read. ``hook_names`` are parts of one account.

    Raises:
        ModelError: A prompt, answer, foil or direction that cannot be used; heads that do not write to the residual
            stream by themselves (a norm follows them), or whose outputs the model class does not show.
    """
    if by not in ("head", "layer"):
        raise ModelError(f"by must be 'head' or 'layer', not {by!r}")
    check_counts(batch_size=batch_size)
    ids = prompts_of(model, prompts)
    readout = readout_of(model, len(ids), answer, foil, direction)
    at = torch.tensor([read_position(one, position) for one in ids])
    outputs = [f"blocks.{layer}.{point}" for layer in range(model.cfg.n_layers) for point in OUTPUTS]
    points = ["blocks.0.hook_resid_pre", *outputs]
    needed = list(dict.fromkeys([*points, *added_at(model, outputs)]))
    if by == "head":
        needed += [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    clean, items = np.zeros(len(ids)), ItemTable()
    for rows in batches(ids, batch_size):
        batch = torch.stack([ids[row] for row in rows.tolist()])
        run = final_run(model, batch, needed, tokens_read(readout, rows))
        check_added(model, run, outputs)
        norm = frozen_norm(model, run, readout.direction[rows], readout.constant[rows])
        here = torch.arange(len(rows))
        v = norm.direction[here, at[rows]]
        place = {"at_read": rows.numpy(), "position": at[rows].numpy()}
        for number, point in enumerate(points):
            written = run.states[point][here, at[rows]].double()
            kind = EMBEDDING if not number else (ATTENTION, MLP)[points[number].endswith(OUTPUTS[1])]
            if kind == ATTENTION and by == "head":
                heads = _heads(model, run, int(point.split(".")[1]), at[rows])
                written = written - heads.sum(1)
                for head in range(heads.shape[1]):
                    _add(items, heads[:, head], v, **place, at_hook=number, kind=HEAD, feature=head)
            _add(items, written, v, **place, at_hook=number, kind=kind)
        items.add(
            **place, at_hook=len(points), kind=OUTPUT_BIAS, activation=norm.bias.abs().cpu(), effect=norm.bias.cpu()
        )
        for i, row in enumerate(rows.tolist()):
            clean[row] = given(run, readout, row, i, at[row : row + 1])[0]
    return Attribution(
        method="direct",
        towards=readout.towards,
        baseline="",
        units="logits" if readout.answers is not None else "units of the direction",
        tokens=tuple(tuple(token_text(model, token) for token in one.tolist()) for one in ids),
        hook_names=(*points, "ln_final"),
        read_prompt=np.arange(len(ids)),
        read_position=at.numpy(),
        clean=clean,
        total=clean[:, None],
        together=True,
        **items.arrays(),
    )


def _add(
    items: ItemTable, written: Float[Tensor, "batch d_model"], v: Float[Tensor, "batch d_model"], **columns
) -> None:
    items.add(**columns, activation=written.norm(dim=-1).cpu(), effect=(written * v).sum(-1).cpu())


def _heads(
    model: "SAETransformerBridge", run: FinalRun, layer: int, at: Int[Tensor, "batch"]
) -> Float[Tensor, "batch head d_model"]:
    """Return what each head writes at the positions read; what is left of the layer must be its bias."""
    attention, z = model.blocks[layer].attn, run.states[f"blocks.{layer}.attn.hook_z"]
    here = torch.arange(len(at))
    weight = attention.W_O.double()  # [head, d_head, d_model]
    heads = torch.einsum("bhd,hdm->bhm", z[here, at].double().reshape(len(at), *weight.shape[:2]), weight)
    whole = run.states[f"blocks.{layer}.hook_attn_out"][here, at].double()
    bias = getattr(attention, "b_O", None)
    left = whole - heads.sum(1) - (0 if bias is None else bias.double())
    if left.abs().max() > 1e-3 * max(whole.abs().max().item(), 1e-6):
        raise ModelError(
            f"the heads of layer {layer} of {model.cfg.model_name} do not add up to its attention output: a norm "
            f"follows them, or the layer is of another kind. Use by='layer'"
        )
    return heads
