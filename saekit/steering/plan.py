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
from saekit.saes import check_rebuilds, encoded, sae_hook
from saekit.steering.edit import Edit
from saekit.steering.intervention import Intervention, check_feature, check_sae

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

MOST = 1e6  # an edit is at most so many times as long as the residual: above, float32 no longer sees the residual


@dataclass(frozen=True)
class Site:
    """What happens at one hook point to a batch.

    Attributes:
        rows: Which rows are edited here ``[row]``.
        span: First edited position and the one after the last, of each row ``[row, 2]``.
        directions: Decoder rows and directions ``[edit, d_model]``.
        features: Which of them are features, by their number; -1 for a direction ``[edit]``.
        constant: a of each row and edit, in activations ``[row, edit]``.
        by_norm: n, in activations for a residual of length 1 ``[row, edit]``.
        by_feature: m ``[row, edit]``.
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
        sites: By canonical hook point.
        first: First position that any row edits; before it all rows are alike.
        sae: Encodes where a feature's activation is needed.
        shares: Where not None, the length of every edit relative to the residual is collected here, by row.
    """

    sites: dict[str, Site]
    first: int
    sae: "SAE[Any] | None"
    shares: list[list[float]] | None = field(default=None)

    def hooked(self, model: "SAETransformerBridge", offset: int = 0) -> AbstractContextManager[None]:
        """Steer what this thread runs inside; ``offset``: how many tokens the KV cache holds already.

        The hooks come off however the block ends. Another thread that runs the model meanwhile gets it unsteered.
        """
        edits = {name: partial(self._edited, site=site, offset=offset) for name, site in self.sites.items()}
        return hooked(model, edits)

    def edited(self, x: Float[Tensor, "row pos d_model"], hook: str) -> Float[Tensor, "row pos d_model"]:
        """Return the states at a canonical hook point as they stand after the edit."""
        return self._edited(x, self.sites[hook], 0)

    @torch.no_grad()
    def _edited(self, x: Float[Tensor, "row pos d_model"], site: Site, offset: int) -> Tensor:
        if len(x) != len(site.rows):
            raise SteeringError(f"the plan is for {len(site.rows)} rows, the batch has {len(x)}")
        if x.shape[-1] != site.directions.shape[-1]:
            raise SteeringError(
                f"the directions have {site.directions.shape[-1]} dimensions, but the model has {x.shape[-1]} there"
            )
        at = torch.arange(offset, offset + x.shape[1], device=x.device)
        here = site.rows[:, None] & (at >= site.span[:, :1]) & (at < site.span[:, 1:])
        if not here.any():
            return x
        rows = here.nonzero()[:, 0]
        states = x[here].float()  # only these are encoded: [token, d_model]
        norm = states.norm(dim=-1, keepdim=True)
        coefficient = site.constant[rows] + site.by_norm[rows] * norm
        if site.by_feature.any():
            coefficient = coefficient + site.by_feature[rows] * self._activations(states, site)
        change = coefficient @ site.directions
        # Longer than this, it would only overflow: the next norm divides by the length anyway.
        longest = torch.clamp(MOST * norm.clamp_min(1), max=torch.finfo(x.dtype).max / 4)
        length = change.double().norm(dim=-1, keepdim=True)
        change = (change * (longest / length.clamp_min(1e-30)).clamp(max=1)).float()
        if self.shares is not None:
            share = (torch.minimum(length, longest) / norm.clamp_min(1e-30))[:, 0]
            for row, value in zip(rows.tolist(), share.tolist(), strict=True):
                self.shares[row].append(value)
        edited = x.clone()
        edited[here] = (states + change).to(x.dtype)
        return edited

    def _activations(self, states: Float[Tensor, "token d_model"], site: Site) -> Float[Tensor, "token edit"]:
        found = states @ site.directions.T
        of_sae = site.features >= 0
        if of_sae.any():
            assert self.sae is not None
            features = encoded(self.sae, states).float().to(states.device)
            found[:, of_sae] = features[:, site.features[of_sae]]
        return found


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
        interventions: One a row; None, or one of strength 0, leaves its row alone.
        prompt: The tokens that all rows begin with.
        sae: Of the features; not needed for directions only.
        end: The longest that the text can become, in tokens; None for the model's context.

    Raises:
        SteeringError: A feature without its SAE, of another SAE or out of range; positions that the text cannot
            reach.
        ModelError: No such hook point.
    """
    end = model.cfg.n_ctx if end is None else end
    device = next(model.parameters()).device
    first, names = end, {}
    for row, intervention in enumerate(interventions):
        if intervention is not None:
            names.setdefault(check_fits(model, intervention, sae), []).append(row)
    sites = {}
    for name, members in names.items():
        active = {row: interventions[row] for row in members if interventions[row].strength != 0}
        spans = {row: _span(model, one, prompt, end) for row, one in ((r, interventions[r]) for r in members)}
        if active:
            first = min(first, *(spans[row][0] for row in active))
            sites[name] = _site(sae, name, active, spans, len(interventions), device)
    return Plan(sites, first, sae)


def check_fits(model: "SAETransformerBridge", intervention: Intervention, sae: "SAE[Any] | None") -> str:
    """Return the canonical hook point of an intervention that fits model and SAE, or say why it does not."""
    name = check_hook(model, intervention.hook_name)
    features = [edit.feature for edit in intervention.edits if edit.feature is not None]
    if not features:
        return name
    if sae is None:
        raise SteeringError(f"{intervention.label} needs the SAE: pass sae=")
    check_sae(intervention, sae)
    for feature in features:
        check_feature(sae, feature)
    if check_hook(model, sae_hook(sae)) != name:
        raise SteeringError(
            f"the intervention is at {intervention.hook_name}, but the SAE reads {sae_hook(sae)}: expected the SAE "
            f"that it was made with"
        )
    hint = "one of its decoder rows can be added with Intervention.along(sae.W_dec[feature], ...)"
    check_rebuilds(model, sae, error=SteeringError, hint=hint)
    if sae.cfg.normalize_activations != "none":
        raise SteeringError(
            f"the SAE rescales its input ({sae.cfg.normalize_activations!r}), so that its decoder rows are not in "
            f"units of the residual stream: fold the scaling in first (sae.fold_activation_norm_scaling_factor)"
        )
    return name


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


def _site(sae, name: str, active: dict, spans: dict, n_rows: int, device) -> Site:
    """Gather the edits of all rows at one hook point; one column for each feature or direction."""
    columns: dict[tuple, Edit] = {}
    for intervention in active.values():
        columns.update({_key(edit): edit for edit in intervention.edits})
    order = list(columns)
    found = [_direction(sae, edit) for edit in columns.values()]
    if len({len(direction) for direction in found}) > 1:
        raise SteeringError(f"directions at {name} differ in dimensions: {sorted({len(one) for one in found})}")
    rows = torch.stack(found)
    amounts = torch.zeros(3, n_rows, len(order), dtype=torch.float64)
    for row, intervention in active.items():
        for edit in intervention.edits:
            column = order.index(_key(edit))
            amounts[:, row, column] += torch.tensor(
                _coefficients(edit, intervention.strength, float(rows[column].norm())), dtype=torch.float64
            )
    constant, by_norm, by_feature = amounts.clamp(-1e30, 1e30).float().to(device)
    is_active = torch.zeros(n_rows, dtype=torch.bool)
    is_active[list(active)] = True
    span = torch.tensor([spans.get(row, (0, 0)) for row in range(n_rows)])
    features = torch.tensor([-1 if edit.feature is None else edit.feature for edit in columns.values()])
    return Site(
        is_active.to(device), span.to(device), rows.to(device), features.to(device), constant, by_norm, by_feature
    )


def _key(edit: Edit) -> tuple:
    return (edit.feature, edit.direction)


def _direction(sae, edit: Edit) -> Float[Tensor, " d_model"]:
    """Return what is written for one unit of activation."""
    if edit.feature is None:
        return torch.nn.functional.normalize(torch.tensor(edit.direction, dtype=torch.float64), dim=0).float()
    row = sae.W_dec[edit.feature].detach().float().cpu()
    # TopK SAEs with this option divide by the row's length when they decode.
    return row / row.norm() if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else row


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
