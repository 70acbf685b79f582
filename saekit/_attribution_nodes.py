"""States at a hook point as an SAE splits them: features, what it misses, and its bias."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True)
class Nodes:
    """``states = decode(features) + error``; decode is affine, so each feature's part is a vector of its own.

    Attributes:
        features: ``[batch, pos, d_sae]`` in the SAE's dtype.
        error: What the SAE misses ``[batch, pos, d_in]``, float64.
        bias: What it gives without any feature ``[batch, pos, d_in]``, float64.
    """

    features: Float[Tensor, "batch pos d_sae"]
    error: Float[Tensor, "batch pos d_in"]
    bias: Float[Tensor, "batch pos d_in"]


@torch.no_grad()
def nodes_of(sae: "SAE[Any]", states: Float[Tensor, "batch pos d_in"]) -> Nodes:
    """Split states."""
    features = encoded(sae, states)
    return Nodes(features, error_of(sae, states, features), decoded(sae, torch.zeros_like(features)))


@torch.no_grad()
def encoded(sae: "SAE[Any]", states: Tensor) -> Tensor:
    """Return the features of states. An SAE that normalises each input decodes with the last input's scale."""
    features = sae.encode(states.to(sae.device, sae.dtype))
    return features.to_dense() if features.is_sparse else features


@torch.no_grad()
def decoded(sae: "SAE[Any]", features: Tensor) -> Tensor:
    """Return reconstructions, float64."""
    return sae.decode(features).double()


@torch.no_grad()
def error_of(sae: "SAE[Any]", states: Tensor, features: Tensor) -> Tensor:
    """Return what the SAE misses, float64."""
    return states.to(sae.device).double() - decoded(sae, features)


def pulled_back(
    sae: "SAE[Any]", features: Float[Tensor, "batch pos d_sae"], gradient: Float[Tensor, "batch pos d_in"]
) -> Float[Tensor, "batch pos d_sae"]:
    """Return the gradient with respect to features from that with respect to the states, through the decoder.

    Without the decoder's weights being named: sae-lens has some that scale them, or the output.
    """
    with torch.enable_grad():
        leaf = features.detach().clone().requires_grad_()
        (out,) = torch.autograd.grad(sae.decode(leaf), leaf, gradient.to(sae.device, sae.dtype))
    return out


@torch.no_grad()
def moves(
    sae: "SAE[Any]", shape: torch.Size, rows: Tensor, positions: Tensor, features: Tensor
) -> Float[Tensor, "node d_in"]:
    """Return by how much the reconstruction moves if one feature grows by 1, float64.

    Args:
        sae: The SAE, after `encoded` on the states at hand.
        shape: Of the features at hand ``[batch, pos, d_sae]``.
        rows: Of each node, in the batch.
        positions: Of each node; -1 counts as 0.
        features: Of each node.
    """
    if sae.cfg.normalize_activations == "none":  # the same everywhere
        each, which = features.unique(return_inverse=True)
        units = torch.zeros(len(each), shape[2], device=sae.device, dtype=sae.dtype)
        units[torch.arange(len(each)), each] = 1
        return (decoded(sae, units) - decoded(sae, torch.zeros_like(units)))[which]
    zero = torch.zeros(shape, device=sae.device, dtype=sae.dtype)
    base = decoded(sae, zero)
    out = []
    for row, position, feature in zip(rows.tolist(), positions.tolist(), features.tolist(), strict=True):
        one = zero.clone()
        one[row, position, feature] = 1
        out.append((decoded(sae, one) - base)[row, position])
    return torch.stack(out)
