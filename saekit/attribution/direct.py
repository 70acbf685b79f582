"""What features, heads and MLPs write towards a logit themselves: direct logit attribution.

1. One run of the model keeps the residual stream before and after the final norm, and the states at the hook points
   asked for (`saekit.models.final_run`).
2. The final norm is frozen at the scale that it had, so that the reading is linear in the residual stream
   (`saekit.models.frozen_norm`): ``logit = v · residual + bias``.
3. `direct_logit_attribution` splits the states at an SAE's hook point into features, error and bias, and the residual
   stream into these states and the rest; `logit_attribution_by_component` splits it into all that was ever written.
4. Each part's effect is its product with v. They add up to the logit that the model itself gives, which is checked.

Only parts of the residual stream act on the logits directly: the stream itself, and attention and MLP outputs that
enter it as they stand.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit._base.checks import one_of, whole
from saekit._base.progress import Progress, Stop, tracked
from saekit.attribution.inputs import (
    Answers,
    Direction,
    Prompts,
    Readout,
    SAEs,
    made_with,
    prompts_of,
    read_position,
    readings_in,
    readout_of,
    saes_of,
    tokens_read,
)
from saekit.attribution.result import Attribution, ItemTable
from saekit.errors import ModelError
from saekit.models import FinalRun, FrozenNorm, batches_of_one_length, check_hook, final_run, frozen_norm, token_texts
from saekit.saes import nodes_of, pulled_back

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
OUTPUTS = ("hook_attn_out", "hook_mlp_out")


def direct_logit_attribution(
    model: "SAETransformerBridge",
    saes: SAEs,
    prompts: Prompts,
    *,
    answer: Answers | None = None,
    foil: Answers | None = None,
    direction: Direction | None = None,
    position: int | str = -1,
    batch_size: int = 16,
    progress: Progress = False,
    stop: Stop = None,
) -> Attribution:
    """Take a logit apart by what each feature writes to the residual stream (direct logit attribution).

    A logit is linear in the residual stream after the last block, once the final norm's scale is frozen at what it
    was: ``logit = v · residual + bias``, v being the token's unembedding pulled back through the norm. The residual
    stream at the last block is that at an SAE's hook point plus what later heads and MLPs wrote. So, at one position,

        logit  =  sum of v · feature  +  v · error  +  v · SAE bias  +  v · rest  +  output bias

    holds exactly for any hook point, and `Attribution.complete` says so after comparing with the logit that the model
    itself gives. What it means depends on the **rest**, all that is not at the hook point: later heads and MLPs for
    the residual stream, everything else for one layer's attention or MLP output. At the last block's output the rest
    is zero and the account is of the whole logit. At an earlier one the direct part may be small beside the rest, and
    the rest was computed *from* the features: a feature with no direct effect may do all its work there. Features
    at earlier positions can act on a later prediction in no other way; they are therefore no items of that reading.
    `attribution_patching` and `activation_patching` measure what goes through later layers.

    Several SAEs give one such account each. They are not to be added up: the residual streams of two layers hold much
    of the same.

    Args:
        model: The model.
        saes: One SAE, several, or ``{hook name: SAE}``, which is checked; at points of the residual stream, or at
            attention or MLP outputs that are added to it as they stand.
        prompts: Text, or token ids ``[pos]``, or several of either.
        answer: The token to explain, text or id: one, or one per prompt.
        foil: Token that the answer is compared with; the logit difference is explained, in which the final norm's
            scale and the prediction's overall confidence matter less.
        direction: Any direction of the final norm's output, in place of a token's ``[d_model]``, or one per prompt.
        position: Position whose prediction is read: -1, the prompt's last token; "each": every position's own, towards
            the same answer.
        batch_size: Number of prompts of one length that run together.
        progress: Show a progress bar; or a function that is given (done, total) prompts after each batch.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Returns:
        Items of the kinds "feature" (active ones), "error", "bias", "rest", "output_bias". Effects in logits, before
        the soft cap that some models put on them; in units of the direction otherwise.

    Raises:
        ModelError: A prompt, answer, foil, direction or hook point that cannot be used (the message says why).
        SAEError: An SAE that does not fit, two on one hook point, or one on another hook point than asked.
    """
    batch_size = whole("batch_size", batch_size, at_least=1, error=ModelError)
    by_hook = saes_of(model, saes)
    ids = prompts_of(model, prompts)
    readout = readout_of(model, len(ids), answer, foil, direction)
    reads = [list(range(len(one))) if position == "each" else [read_position(one, position)] for one in ids]
    first = np.cumsum([0, *map(len, reads)])
    clean, items = np.zeros(first[-1]), ItemTable()
    for rows in tracked(
        batches_of_one_length(ids, batch_size), progress, "prompt", total=len(ids), size=len, stop=stop
    ):
        run, norm = _runs(model, ids, rows, readout, list(by_hook), added=list(by_hook))
        for i, row in enumerate(rows.tolist()):
            at = torch.tensor(reads[row])
            numbers = np.arange(first[row], first[row + 1])
            clean[numbers] = readings_in(run, readout, row, i, at)
            for number, (hook, sae) in enumerate(by_hook.items()):
                _take_apart(items, run, norm, sae, hook, i, at, at_hook=number, numbers=numbers)
    return Attribution(
        method="direct",
        towards=readout.towards,
        baseline="",
        units=readout.units,
        tokens=tuple(token_texts(model, one) for one in ids),
        hook_names=tuple(by_hook),
        read_prompt=np.repeat(np.arange(len(ids)), np.diff(first)),
        read_position=np.concatenate([np.array(positions) for positions in reads]),
        clean=clean,
        total=np.repeat(clean[:, None], len(by_hook), 1),
        made_with=made_with(model, by_hook),
        **items.arrays(),
    )


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
    progress: Progress = False,
    stop: Stop = None,
) -> Attribution:
    """Take a logit apart by the embedding and every head and MLP (direct logit attribution of a whole model).

    The residual stream at the last block is the sum of what each part has written, and with the final norm's scale
    frozen a logit is linear in it; so the parts add up to the logit of the model itself, which
    `Attribution.complete` checks. No part is computed as a remainder. Nor does anything have to be folded:
    transformer-lens's ``direct_logit_attribution`` is right for models with folded norms only, and counts no bias.

    Args:
        model: The model.
        prompts: Text, or token ids ``[pos]``, or several of either.
        answer: The token to explain, text or id: one, or one per prompt.
        foil: Token that the answer is compared with.
        direction: Any direction of the final norm's output, in place of a token's ``[d_model]``, or one per prompt.
        by: "head": every attention head, and each layer's attention bias. "layer": each layer's attention as a whole.
        position: Position whose prediction is read; -1 is the last.
        batch_size: Number of prompts of one length that run together.
        progress: Show a progress bar; or a function that is given (done, total) prompts after each batch.
        stop: Function that is asked between batches; once it returns True, `saekit.errors.Stopped` is raised.

    Returns:
        Items of the kinds "embedding", "head" (``feature`` is its number), "attention", "mlp" and "output_bias", at
        the position read. ``hook_names`` are parts of one account.

    Raises:
        ModelError: A prompt, answer, foil or direction that cannot be used; heads that do not write to the residual
            stream by themselves (a norm follows them), or whose outputs the model class does not show.
    """
    by = one_of("by", by, ("head", "layer"), error=ModelError)
    batch_size = whole("batch_size", batch_size, at_least=1, error=ModelError)
    ids = prompts_of(model, prompts)
    readout = readout_of(model, len(ids), answer, foil, direction)
    at = torch.tensor([read_position(one, position) for one in ids])
    outputs = [f"blocks.{layer}.{point}" for layer in range(model.cfg.n_layers) for point in OUTPUTS]
    points = ["blocks.0.hook_resid_pre", *outputs]
    values = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)] if by == "head" else []
    clean, items = np.zeros(len(ids)), ItemTable()
    for rows in tracked(
        batches_of_one_length(ids, batch_size), progress, "prompt", total=len(ids), size=len, stop=stop
    ):
        run, norm = _runs(model, ids, rows, readout, [*points, *values], added=outputs)
        here = torch.arange(len(rows))
        v = norm.direction[here, at[rows]]
        place = {"at_read": rows.numpy(), "position": at[rows].numpy()}
        for number, point in enumerate(points):
            written = run.states[point][here, at[rows]].double()
            kind = "embedding" if not number else "mlp" if point.endswith(OUTPUTS[1]) else "attention"
            if kind == "attention" and by == "head":
                heads = _heads(model, run, int(point.split(".")[1]), at[rows])
                written = written - heads.sum(1)
                for head in range(heads.shape[1]):
                    _add(items, "head", heads[:, head], v, **place, at_hook=number, feature=head)
            _add(items, kind, written, v, **place, at_hook=number)
        bias = norm.bias.cpu()
        items.add("output_bias", **place, at_hook=len(points), activation=bias.abs(), effect=bias)
        for i, row in enumerate(rows.tolist()):
            clean[row] = readings_in(run, readout, row, i, at[row : row + 1])[0]
    return Attribution(
        method="direct",
        towards=readout.towards,
        baseline="",
        units=readout.units,
        tokens=tuple(token_texts(model, one) for one in ids),
        hook_names=(*points, "ln_final"),
        read_prompt=np.arange(len(ids)),
        read_position=at.numpy(),
        clean=clean,
        total=clean[:, None],
        together=True,
        made_with=made_with(model, {}),
        **items.arrays(),
    )


# --- one batch ---------------------------------------------------------------------------------------------------


def _runs(
    model: "SAETransformerBridge",
    ids: tuple[Int[Tensor, "_pos"], ...],
    rows: Int[Tensor, "batch"],
    readout: Readout,
    hooks: list[str],
    *,
    added: list[str],
) -> tuple[FinalRun, FrozenNorm]:
    """Run some prompts; ``added`` are hook points whose activations must enter the residual stream as they stand."""
    blocks = sorted({block for hook in added if (block := _block_of(model, hook)) is not None})
    around = [f"{block}.{point}" for block in blocks for point in ("hook_resid_pre", "hook_resid_post", *OUTPUTS)]
    batch = torch.stack([ids[row] for row in rows.tolist()])
    run = final_run(model, batch, list(dict.fromkeys([*hooks, *around])), tokens_read(readout, rows))
    _check_added(model, run, added)
    return run, frozen_norm(model, run, readout.direction[rows], readout.constant[rows])


def _take_apart(
    items: ItemTable,
    run: FinalRun,
    norm: FrozenNorm,
    sae: "SAE[Any]",
    hook: str,
    i: int,
    at: Int[Tensor, "read"],
    *,
    at_hook: int,
    numbers: Int[np.ndarray, "read"],
) -> None:
    """Add the items of one prompt and one hook point; ``at`` are the positions read, ``numbers`` their readings."""
    states, v = run.states[hook][i : i + 1, at], norm.direction[i : i + 1, at]
    nodes = nodes_of(sae, states)
    gradient = pulled_back(sae, nodes.features, v).double()
    rest = run.residual[i : i + 1, at].double() - states.double()
    where, feature = nodes.features[0].nonzero(as_tuple=True)
    value = nodes.features[0, where, feature].double()
    effect = (value * gradient[0, where, feature]).cpu()
    where, positions = where.cpu().numpy(), at.numpy()
    place = {"at_read": numbers[where], "at_hook": at_hook, "position": positions[where]}
    items.add("feature", **place, feature=feature.cpu(), activation=value.cpu(), effect=effect)
    place = {"at_read": numbers, "at_hook": at_hook, "position": positions}
    for kind, vector in (("error", nodes.error), ("bias", nodes.bias), ("rest", rest)):
        _add(items, kind, vector[0].to(v.device), v[0], **place)
    bias = norm.bias[i].item()
    items.add("output_bias", **place, activation=abs(bias), effect=np.full(len(numbers), bias))


def _add(
    items: ItemTable,
    kind: str,
    written: Float[Tensor, "item d_model"],
    v: Float[Tensor, "item d_model"],
    **columns: Any,
) -> None:
    """Add vectors that were written to the residual stream; their activation is their length."""
    items.add(kind, **columns, activation=written.norm(dim=-1).cpu(), effect=(written * v).sum(-1).cpu())


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


# --- which hook points act on the logits directly --------------------------------------------------------------------


def _block_of(model: "SAETransformerBridge", hook: str) -> str | None:
    """Return the block whose attention or MLP output a hook point is, None for the residual stream itself."""
    point = check_hook(model, hook)
    block = ".".join(point.split(".")[:2])
    stream, outputs = ([model._resolve_hook_name(f"{block}.{name}") for name in names] for names in (STREAM, OUTPUTS))
    if point in stream:
        return None
    if point in [*outputs, f"{block}.attn.hook_out", f"{block}.mlp.hook_out"]:
        return block
    raise ModelError(
        f"{hook} is neither a point of the residual stream nor an attention or MLP output: its features reach the "
        f"logits through other parts of the layer only. attribution_patching works at every hook point"
    )


def _check_added(model: "SAETransformerBridge", run: FinalRun, hooks: Iterable[str]) -> None:
    """Check that attention and MLP outputs enter the residual stream as they stand: some models norm them first."""
    for hook in hooks:
        if (block := _block_of(model, hook)) is None:
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
