"""Catch an SAE that is fed the layer beside its own: it then rebuilds the neighbour's activations better."""

import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._probes_controls import states_of_some
from saekit.saes import sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

_BETTER = 0.9  # a neighbour must have less than this share of the error to be suspected
_MEANT = 0.8  # FVU above which an SAE fits no layer, and its neighbours say nothing


def hook_alignment(model: "SAETransformerBridge", sae: "SAE[Any]", ids: list[list[int]]) -> dict[str, float]:
    """Return the fraction of variance unexplained at an SAE's hook point and at the same point a layer away.

    An SAE of ``hook_resid_post`` of layer l that is given transformers' ``hidden_states[l]`` reads the layer before:
    its own has the lowest figure here, and a wrong one shows. The first entry is the hook point that the SAE names;
    points that are not in the residual stream have no neighbours.

    Args:
        model: The model.
        sae: The SAE.
        ids: Token ids of some texts, without BOS.
    """
    names = _beside(model, sae)
    states = states_of_some(model, ids, names)
    return {name: _fvu(sae, states[name]) for name in names}


def _beside(model: "SAETransformerBridge", sae: "SAE[Any]") -> list[str]:
    """Return an SAE's hook point and, in the residual stream, the same point a layer before and after."""
    hook = sae_hook(sae)
    match = re.fullmatch(r"blocks\.(\d+)\.(hook_resid_(?:pre|post))", hook)
    near = [] if match is None else [int(match[1]) - 1, int(match[1]) + 1]
    return [hook, *(f"blocks.{layer}.{match[2]}" for layer in near if 0 <= layer < model.cfg.n_layers)]


def warn_if_misaligned(model: "SAETransformerBridge", saes: "dict[str, SAE[Any]]", ids: list[list[int]]) -> None:
    """Warn about each SAE that fits a neighbouring layer better than its own; the texts are read once for all."""
    beside = {name: _beside(model, sae) for name, sae in saes.items()}
    states = states_of_some(model, ids, list(dict.fromkeys(hook for hooks in beside.values() for hook in hooks)))
    for name, sae in saes.items():
        found = {hook: _fvu(sae, states[hook]) for hook in beside[name]}
        own = sae_hook(sae)
        best = min(found, key=found.__getitem__)
        if best != own and found[best] < _MEANT and found[best] < _BETTER * found[own]:
            warnings.warn(
                f"{name} leaves {found[own]:.0%} of the variance at {own} unexplained, but only {found[best]:.0%} at "
                f"{best}: it looks as if it was trained there, one layer off. Check sae.cfg.metadata.hook_name",
                stacklevel=3,
            )


@torch.no_grad()
def _fvu(sae: "SAE[Any]", states: Float[Tensor, "token d_model"]) -> float:
    if len(states) < 2:
        return float("nan")
    rebuilt = sae.decode(sae.encode(states.to(sae.dtype))).float()
    around = (states - states.mean(0)).double().square().sum()
    return float((states - rebuilt).double().square().sum() / around) if around > 0 else float("nan")
