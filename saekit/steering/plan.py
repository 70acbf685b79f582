"""Interventions at work: one batch, a row with its own intervention each, and hooks that never outlive a pass.

Every mode is of one form: at each position the residual x gets ``(a + n |x| + m f(x)) d``, with f(x) the feature's
activation there and d its decoder row. So all rows and features of a batch are one small matrix product.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.errors import SteeringError
from saekit.models import bos_token_id, check_hook, hooked
from saekit.saes import check_pair, encoded, sae_hook
from saekit.steering.intervention import Edit, Intervention, check_sae, decoder_row

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

MOST = 1e6  # an edit is at most so many times as long as the residual: above, float32 no longer sees the residual


@dataclass(frozen=True)
class HookEdits:
    """What happens to a batch at one hook point.

    Attributes:
        rows: Whether each row is edited here ``[row]``.
        span: First edited position of each row, and the one after the last ``[row, 2]``.
        directions: Decoder rows and directions ``[edit, d_model]``.
        features: Number of the feature of each edit, -1 for a direction ``[edit]``.
        constant: a of each row and edit, in activations ``[row, edit]``.
        by_norm: n of each row and edit, in activations for a residual of length 1 ``[row, edit]``.
        by_feature: m of each row and edit ``[row, edit]``.
    """

    rows: Bool[Tensor, "row"]
    span: Int[Tensor, "row 2"]
    directions: Float[Tensor, "edit d_model"]
    features: Int[Tensor, "edit"]
    constant: Float[Tensor, "row edit"]
    by_norm: Float[Tensor, "row edit"]
    by_feature: Float[Tensor, "row edit"]


@dataclass
class Plan:
    """The interventions of a batch, ready to be hooked: `planned` makes one.

    Attributes:
        edits: What happens at each canonical hook point.
        first: First position that any row edits; before it all rows are alike.
        sae: The SAE that encodes where a feature's activation is needed.
        shares: Where not None, the length of every edit relative to the residual is collected here, by row.
    """

    edits: dict[str, HookEdits]
    first: int
    sae: "SAE[Any] | None"
    shares: list[list[float]] | None = field(default=None)

    def hooked(self, model: "SAETransformerBridge", offset: int = 0) -> AbstractContextManager[None]:
        """Steer what this thread runs on the model inside.

        The hooks come off however the block ends. Another thread that runs the model meanwhile gets it unsteered.

        Args:
            model: The model.
            offset: Number of tokens that the KV cache holds already.
        """
        return hooked(model, {name: partial(self.edited, name, offset=offset) for name in self.edits})

    @torch.no_grad()
    def edited(
        self, hook_name: str, x: Float[Tensor, "row pos d_model"], *, offset: int = 0
    ) -> Float[Tensor, "row pos d_model"]:
        """Return the states at a canonical hook point as they stand after the edit."""
        at = self.edits[hook_name]
        if len(x) != len(at.rows):
            raise SteeringError(f"the plan is for {len(at.rows)} rows, the batch has {len(x)}")
        if x.shape[-1] != at.directions.shape[-1]:
            raise SteeringError(
                f"the directions have {at.directions.shape[-1]} dimensions, but the model has {x.shape[-1]} there"
            )
        positions = torch.arange(offset, offset + x.shape[1], device=x.device)
        here = at.rows[:, None] & (positions >= at.span[:, :1]) & (positions < at.span[:, 1:])
        if not here.any():
            return x
        rows = here.nonzero()[:, 0]
        states = x[here].float()  # only these are encoded: [token, d_model]
        norm = states.norm(dim=-1, keepdim=True)
        coefficient = at.constant[rows] + at.by_norm[rows] * norm
        if at.by_feature.any():
            coefficient = coefficient + at.by_feature[rows] * self._activations(states, at)
        change = coefficient @ at.directions
        # Longer than this, it would only overflow: the next norm divides by the length anyway.
        most = min(torch.finfo(dtype).max for dtype in (x.dtype, norm.dtype))
        longest = torch.clamp(MOST * norm.clamp_min(1), max=most / 4)
        length = change.double().norm(dim=-1, keepdim=True)
        change = (change * (longest / length.clamp_min(1e-30)).clamp(max=1)).float()
        if self.shares is not None:
            share = (torch.minimum(length, longest) / norm.clamp_min(1e-30))[:, 0]
            for row, value in zip(rows.tolist(), share.tolist(), strict=True):
                self.shares[row].append(value)
        edited = x.clone()
        edited[here] = (states + change).to(x.dtype)
        return edited

    def _activations(self, states: Float[Tensor, "token d_model"], at: HookEdits) -> Float[Tensor, "token edit"]:
        """Return f of each edit. Where no row needs that of a feature there may be no SAE to tell it."""
        activations = states @ at.directions.T
        read = (at.features >= 0) & at.by_feature.any(0)
        if read.any():
            assert self.sae is not None
            activations[:, read] = encoded(self.sae, states).float().to(states.device)[:, at.features[read]]
        return activations


def planned(
    model: "SAETransformerBridge",
    interventions: Sequence[Intervention | None],
    prompt: Int[Tensor, " pos"],
    *,
    sae: "SAE[Any] | None" = None,
    end: int | None = None,
) -> Plan:
    """Check interventions against model, SAE and prompt, and make one plan of them, a row each.

    Args:
        model: The model.
        interventions: Intervention of each row; None, or one of strength 0, leaves its row alone.
        prompt: Tokens that all rows begin with.
        sae: The SAE of the features; not needed to add them, nor for directions.
        end: Largest number of tokens that the text can come to; None for the model's context.

    Raises:
        SteeringError: A feature without its SAE, of another SAE or out of range; positions that the text cannot
            reach.
        ModelError: No such hook point.
    """
    end = model.cfg.n_ctx if end is None else end
    device = next(model.parameters()).device
    by_hook: dict[str, dict[int, Intervention]] = {}
    for row, intervention in enumerate(interventions):
        if intervention is not None:
            by_hook.setdefault(check_fits(model, intervention, sae), {})[row] = intervention
    first, edits = end, {}
    for name, members in by_hook.items():
        spans = {row: _span(model, one, prompt, end) for row, one in members.items()}
        active = {row: one for row, one in members.items() if one.strength != 0}
        if active:
            first = min(first, *(spans[row][0] for row in active))
            edits[name] = _hook_edits(sae, name, active, spans, len(interventions), device)
    return Plan(edits, first, sae)


def check_fits(model: "SAETransformerBridge", intervention: Intervention, sae: "SAE[Any] | None") -> str:
    """Return the canonical hook point of an intervention that fits model and SAE, or say why it does not.

    Raises:
        SteeringError: A feature without its SAE, of another SAE or out of range.
        ModelError: No such hook point.
    """
    name = check_hook(model, intervention.hook_name)
    if not intervention.features:
        return name
    if sae is None:
        _check_needs_no_sae(intervention)
        return name
    check_sae(intervention, sae)
    for feature in intervention.features:
        decoder_row(sae, feature)  # or the reason why there is none
    check_pair(model, sae)
    if check_hook(model, sae_hook(sae)) != name:
        raise SteeringError(
            f"the intervention is at {intervention.hook_name}, but the SAE reads {sae_hook(sae)}: expected the SAE "
            f"that it was made with"
        )
    return name


def _check_needs_no_sae(intervention: Intervention) -> None:
    for edit in intervention.edits:
        if edit.feature is None:
            continue
        if edit.mode != "add":
            raise SteeringError(f"to {edit.mode} {edit.label}, its activation is read at every token: pass sae=")
        if edit.row is None:
            raise SteeringError(
                f"the intervention does not carry the decoder row of {edit.label} (it was made by hand, or read from "
                f"JSON): pass sae="
            )


def _span(
    model: "SAETransformerBridge", intervention: Intervention, prompt: Int[Tensor, " pos"], end: int
) -> tuple[int, int]:
    """Return the first edited position and the one after the last."""
    if intervention.positions == "generated":
        return len(prompt) - 1, model.cfg.n_ctx
    if intervention.positions == "all":
        bos = bos_token_id(model)
        return int(bos is not None and bool(prompt[0] == bos)), model.cfg.n_ctx
    start, stop = intervention.positions
    if start >= end:
        raise SteeringError(
            f"positions {start} to {stop} lie outside of the text: the prompt has {len(prompt)} tokens, and with the "
            f"output it has {end} at most, numbered from 0"
        )
    return start, stop


def _hook_edits(
    sae: "SAE[Any] | None",
    name: str,
    active: dict[int, Intervention],
    spans: dict[int, tuple[int, int]],
    n_rows: int,
    device: torch.device,
) -> HookEdits:
    """Gather the edits of all rows at one hook point; a feature or direction that several rows edit is one column."""
    columns: dict[tuple, int] = {}
    vectors, features, terms = [], [], []
    for row, intervention in active.items():
        for edit in intervention.edits:
            vector = _direction(sae, edit)
            # Without an SAE at hand two rows may have features of one number, and of two SAEs.
            column = columns.setdefault((edit.feature, *vector.tolist()), len(vectors))
            if column == len(vectors):
                vectors.append(vector)
                features.append(-1 if edit.feature is None else edit.feature)
            terms.append((row, column, _coefficients(edit, intervention.strength, float(vector.norm()))))
    if len(widths := {len(vector) for vector in vectors}) > 1:
        raise SteeringError(f"directions at {name} differ in dimensions: {sorted(widths)}")
    amounts = torch.zeros(3, n_rows, len(vectors), dtype=torch.float64)
    for row, column, coefficients in terms:
        amounts[:, row, column] += torch.tensor(coefficients, dtype=torch.float64)
    constant, by_norm, by_feature = amounts.clamp(-1e30, 1e30).float().to(device)
    rows = torch.zeros(n_rows, dtype=torch.bool)
    rows[list(active)] = True
    span = torch.tensor([spans.get(row, (0, 0)) for row in range(n_rows)])
    return HookEdits(
        rows.to(device),
        span.to(device),
        torch.stack(vectors).to(device),
        torch.tensor(features, device=device),
        constant,
        by_norm,
        by_feature,
    )


def _direction(sae: "SAE[Any] | None", edit: Edit) -> Float[Tensor, " d_model"]:
    """Return what is written for one unit of activation: by the SAE at hand, else by the one that made the edit."""
    if edit.feature is None:
        return torch.nn.functional.normalize(torch.tensor(edit.direction, dtype=torch.float64), dim=0).float()
    if sae is not None:
        return decoder_row(sae, edit.feature)
    assert edit.row is not None
    return edit.row


def _coefficients(edit: Edit, strength: float, length: float) -> tuple[float, float, float]:
    """Return (a, n, m) of the module's formula for one edit."""
    if edit.mode == "ablate":
        return 0.0, 0.0, -strength
    if edit.mode == "scale":
        return 0.0, 0.0, strength * (edit.value - 1)
    amount, keep = edit.value * strength, -1.0 if edit.mode == "clamp" else 0.0
    if edit.unit == "norm":
        return 0.0, amount / max(length, 1e-30), keep
    return amount * (1.0 if edit.unit != "max" or edit.maximum is None else edit.maximum), 0.0, keep
