"""Catch an SAE that is fed the layer beside its own: it then rebuilds the neighbour's activations better."""

import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit.saes import check_pair, decoded, encoded, sae_hook, states_of_some

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_BETTER = 0.85  # a neighbour must have less than this share of the error to be suspected
_MEANT = 0.8  # share unexplained above which an SAE fits no layer, and its neighbours say nothing
_TOKENS = 16  # fewer say nothing


def hook_alignment(model: "SAETransformerBridge", sae: "SAE[Any]", ids: list[list[int]]) -> dict[str, float]:
    """Return the share of a token's variance unexplained at an SAE's hook point and at the same point a layer away.

    An SAE of ``hook_resid_post`` of layer l that is given transformers' ``hidden_states[l]`` reads the layer before:
    its own has the lowest figure here, and a wrong one shows. The first entry is the hook point that the SAE names;
    points that are not in the residual stream have no neighbours.

    The share of each token is taken first, then the geometric mean over tokens, so that all tokens count the same. In
    the quotient of sums a few tokens of large variance decide, which an SAE may rebuild better a layer away.

    It sees that an SAE fits another layer clearly better than the one it names, by the activations alone. It does not
    see an SAE whose layers it fits about equally well, one of another model, or one that is two layers off. NaN for
    fewer than 16 tokens.

    Args:
        model: Model that reads the texts.
        sae: SAE to try.
        ids: Token ids of some texts, without BOS.

    Raises:
        SAEError: The SAE does not fit the model.
    """
    check_pair(model, sae)
    names = _beside(model, sae)
    states = states_of_some(model, ids, names)
    return {name: _unexplained(sae, states[name]) for name in names}


def _beside(model: "SAETransformerBridge", sae: "SAE[Any]") -> list[str]:
    """Return an SAE's hook point and, in the residual stream, the same point a layer before and after."""
    hook = sae_hook(sae)
    match = re.fullmatch(r"blocks\.(\d+)\.(hook_resid_(?:pre|post))", hook)
    if match is None:
        return [hook]
    near = [int(match[1]) - 1, int(match[1]) + 1]
    return [hook, *(f"blocks.{layer}.{match[2]}" for layer in near if 0 <= layer < model.cfg.n_layers)]


def warn_if_misaligned(model: "SAETransformerBridge", saes: "dict[str, SAE[Any]]", ids: list[list[int]]) -> None:
    """Warn about each SAE that fits a neighbouring layer better than its own; the texts are read once for all."""
    beside = {name: _beside(model, sae) for name, sae in saes.items()}
    states = states_of_some(model, ids, list(dict.fromkeys(hook for hooks in beside.values() for hook in hooks)))
    for name, sae in saes.items():
        left = {hook: _unexplained(sae, states[hook]) for hook in beside[name]}
        own = sae_hook(sae)
        best = min(left, key=left.__getitem__)
        if best != own and left[best] < _MEANT and left[best] < _BETTER * left[own]:
            warnings.warn(
                f"{name} leaves {left[own]:.0%} of a token's variance at {own} unexplained, but only "
                f"{left[best]:.0%} at {best}: it looks as if it was trained there, one layer off. Check "
                f"sae.cfg.metadata.hook_name",
                stacklevel=3,
            )


@torch.no_grad()
def _unexplained(sae: "SAE[Any]", states: Float[Tensor, "token d_model"]) -> float:
    """Return the geometric mean over tokens of squared error over squared distance to the mean."""
    if len(states) < _TOKENS:
        return float("nan")
    rebuilt = decoded(sae, encoded(sae, states)).float().to(states.device)
    error = (states - rebuilt).double().square().sum(1)
    around = (states - states.mean(0)).double().square().sum(1)
    share = error[around > 0] / around[around > 0]
    return share.clamp_min(1e-12).log().mean().exp().item() if len(share) else float("nan")
