"""States at a hook point as an SAE splits them: features, what it misses, and its bias.

Features come as a dense matrix (`encoded`), or as a list of those that are active (`active_entries`): no other place
asks which of the two layouts an SAE answers in, or how it takes heads. What comes out of an SAE is where that is
which went in, wherever the SAE itself may be: no other place moves states to an SAE and back.
"""

import copy
import inspect
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit.errors import SAEError
from saekit.models import check_finite

if TYPE_CHECKING:
    from sae_lens import SAE

_RESHAPING = ("reshape_fn_in", "reshape_fn_out", "d_head", "hook_z_reshaping_mode")


@dataclass(frozen=True)
class Nodes:
    """``states = decode(features) + error``; decode is affine, so each feature's part is a vector of its own.

    Attributes:
        features: ``[batch, pos, d_sae]`` in the SAE's dtype.
        error: Part of the states that the SAE misses ``[batch, pos, d_in]``, float64.
        bias: Reconstruction without any feature ``[batch, pos, d_in]``, float64.
    """

    features: Float[Tensor, "batch pos d_sae"]
    error: Float[Tensor, "batch pos d_in"]
    bias: Float[Tensor, "batch pos d_in"]


@torch.no_grad()
def nodes_of(sae: "SAE[Any]", states: Float[Tensor, "batch pos d_in"]) -> Nodes:
    """Split states."""
    features = encoded(sae, states)
    return Nodes(features, error_of(sae, states, features), decoded(sae, torch.zeros_like(features)))


def encode(sae: "SAE[Any]", states: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
    """Return the features of states, dense, in the SAE's dtype and on the states' device; gradients flow to them.

    An SAE that normalises each input decodes with the last input's scale.

    Raises:
        SAEError: A feature is infinite or not a number.
    """
    with _flat(sae):
        features = sae.encode(_for(sae, states))
    return _checked(features.to_dense() if features.is_sparse else features).to(states.device)


def _for(sae: "SAE[Any]", states: Tensor) -> Tensor:
    """Return states on the device and in the dtype of the SAE's weights."""
    weight = next(sae.parameters())
    if (sae.device, sae.dtype) != (weight.device, weight.dtype):  # after `half()`, sae-lens would cast to the old one
        sae.to(weight.device, weight.dtype)
    of = inspect.getclosurevars(sae.run_time_activation_norm_fn_in).nonlocals.get("self", sae)
    if of is not sae:  # a deep copy: sae-lens would keep the scale of its inputs in the SAE that it was copied from
        sae._setup_activation_normalization()
    return states.to(weight)


def _checked(features: Tensor) -> Tensor:
    return check_finite(features, "features of the SAE", error=SAEError)


@contextmanager
def _flat(sae: "SAE[Any]") -> Generator[None]:
    """Let an SAE of ``hook_z`` take and give states with heads one after the other: all of saekit has them so."""
    if not getattr(sae, "hook_z_reshaping_mode", False):
        yield
        return
    own = {name: sae.__dict__[name] for name in _RESHAPING if name in sae.__dict__}
    sae.turn_off_forward_pass_hook_z_reshaping()
    try:
        yield
    finally:
        sae.__dict__.update(own)


@torch.no_grad()
def decoder_rows(sae: "SAE[Any]") -> Float[Tensor, "feature d_in"]:
    """Return what one unit of each feature writes, float32, on the SAE's device.

    That is ``W_dec``, but for TopK SAEs that divide by the length of a row when they decode. Where an SAE scales each
    input (``normalize_activations``), a feature writes its row times the scale of the state at hand.
    """
    rows = sae.W_dec.detach().float()
    return rows / rows.norm(dim=1, keepdim=True) if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else rows


def sparse_form(sae: "SAE[Any]") -> "SAE[Any]":
    """Return the SAE, or for a TopK SAE a view of it whose ``encode`` names the active features itself.

    It has found them already; laying them out as a dense matrix and searching that takes as long as finding them.
    The view shares all weights, and the SAE itself stays as it is.
    """
    from sae_lens.saes.topk_sae import TopK

    activation = getattr(sae, "activation_fn", None)
    if type(activation) is not TopK or sae.hook_sae_acts_post._forward_hooks:
        return sae
    view = copy.copy(sae)
    view._modules = dict(sae._modules)
    view.activation_fn = TopK(activation.k, use_sparse_activations=True)
    return view


@torch.no_grad()
def active_entries(
    sae: "SAE[Any]", states: Float[Tensor, "token d_in"], keep: Bool[Tensor, " token"]
) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"], Float[Tensor, " entry"]]:
    """Return the features that are not 0, token by token: the token, the feature and the value of each.

    Args:
        sae: The SAE, or its `sparse_form`, which answers sooner.
        states: Activations at its hook point.
        keep: Whether a token counts; the others have no entries.

    Returns:
        Three tensors on the SAE's device, in the order of tokens; values in its dtype.
    """
    with torch.sparse.check_sparse_tensor_invariants(False):  # said explicitly, or torch warns that it is the default
        with _flat(sae):
            features = sae.encode(_for(sae, states))
    keep = keep.to(features.device)
    if features.is_sparse:
        (row, feature), value = features._indices(), features._values()
        active = ((value != 0) & keep[row]).nonzero().squeeze(1)
        return row[active], feature[active], _checked(value[active])
    features[~keep] = 0
    flat = features.reshape(-1)
    where = flat.nonzero().squeeze(1)  # the one look at the dense matrix
    return where // features.shape[1], where % features.shape[1], _checked(flat[where])


@torch.no_grad()
def encoded(sae: "SAE[Any]", states: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
    """Return `encode` without gradients."""
    return encode(sae, states)


@torch.no_grad()
def decoded(sae: "SAE[Any]", features: Tensor) -> Tensor:
    """Return reconstructions, float64, on the features' device."""
    return _decode(sae, _for(sae, features)).double().to(features.device)


def _decode(sae: "SAE[Any]", features: Tensor) -> Tensor:
    """Decode, as often as wanted: sae-lens forgets the scale of the encoded input once it has decoded with it."""
    scales = {name: sae.__dict__[name] for name in ("x_norm_coeff", "ln_mu", "ln_std") if name in sae.__dict__}
    try:
        with _flat(sae):
            return sae.decode(features)
    finally:
        sae.__dict__.update(scales)


@torch.no_grad()
def error_of(sae: "SAE[Any]", states: Tensor, features: Tensor) -> Tensor:
    """Return what the SAE misses, float64."""
    return states.double() - decoded(sae, features).to(states.device)


def pulled_back(
    sae: "SAE[Any]", features: Float[Tensor, "batch pos d_sae"], gradient: Float[Tensor, "batch pos d_in"]
) -> Float[Tensor, "batch pos d_sae"]:
    """Return the gradient with respect to features from that with respect to the states, through the decoder.

    Without the decoder's weights being named: sae-lens has some that scale them, or the output.
    """
    with torch.enable_grad():
        leaf = _for(sae, features.detach()).clone().requires_grad_()
        (out,) = torch.autograd.grad(_decode(sae, leaf), leaf, _for(sae, gradient))
    return out.to(gradient.device)


@torch.no_grad()
def changes(
    sae: "SAE[Any]",
    features: Float[Tensor, "batch pos d_sae"],
    baseline: Float[Tensor, "batch pos d_sae"],
    rows: Int[Tensor, "node"],
    positions: Int[Tensor, "node"],
    columns: Int[Tensor, "node"],
) -> Float[Tensor, "node pos d_in"]:
    """Return how the reconstruction changes when one feature goes to its baseline, float64.

    Args:
        sae: The SAE, after `encoded` on the states at hand.
        features: The features as they are.
        baseline: The features as they would be.
        rows: Row of each node in the batch.
        positions: Position of each node, -1 for all positions at once.
        columns: Feature of each node.
    """
    amount = (baseline - features)[rows, :, columns].double()
    everywhere = torch.arange(features.shape[1], device=positions.device)
    here = (positions[:, None] < 0) | (positions[:, None] == everywhere)
    amount = torch.where(here.to(amount.device), amount, 0.0)
    if sae.cfg.normalize_activations == "none":  # a feature's vector is the same everywhere
        each, which = columns.unique(return_inverse=True)
        units = torch.zeros(len(each), features.shape[2], device=features.device, dtype=features.dtype)
        units[torch.arange(len(each)), each] = 1
        vectors = decoded(sae, units) - decoded(sae, torch.zeros_like(units))
        return amount[..., None] * vectors[which][:, None]
    before = decoded(sae, features)
    out = []
    for node, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        changed = features.clone()
        changed[row, :, column] += amount[node].to(features.dtype)
        out.append((decoded(sae, changed) - before)[row])
    return torch.stack(out)
