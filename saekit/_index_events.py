"""From a batch of tokens to events: which features are active where, and which tokens do not count."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saekit.data import Tokens, counted
from saekit.errors import FeatureIndexError

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True)
class BatchEvents:
    """The events of some sequences, token by token, without the tokens that are left out."""

    place: np.ndarray  # int64 [token]
    length: np.ndarray  # int64 [token]: features active on it
    feature: np.ndarray  # int32 [event]
    value: np.ndarray  # float32 [event]
    excluded: dict[str, int]
    sequences: int


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
def batch_events(
    states: torch.Tensor, sae: "SAE[Any]", batch: Tokens, special: torch.Tensor, n_pos: int
) -> BatchEvents:
    """Return the events of one batch, given the model's activations ``[batch, pos, ...]``.

    Raises FeatureIndexError for an SAE with negative activations.
    """
    with torch.sparse.check_sparse_tensor_invariants(False):  # said explicitly, or torch warns that it is the default
        features = sae.encode(states.flatten(0, 1).to(sae.dtype))
    keep, excluded = counted(batch, states, special)
    keep = keep.flatten()
    if features.is_sparse:
        (row, feature), value = features._indices(), features._values()
        active = ((value != 0) & keep.to(value.device)[row]).nonzero().squeeze(1)
        row, feature, value = row[active], feature[active], value[active]
    else:
        features[~keep.to(features.device)] = 0
        flat = features.reshape(-1)
        where = flat.nonzero().squeeze(1)  # the one look at the dense matrix
        value = flat[where]
        row, feature = where // features.shape[1], where % features.shape[1]
    if value.numel() and value.min() < 0:
        raise FeatureIndexError(
            "this SAE has negative activations; the index holds features that are active above zero"
        )
    kept = keep.numpy()
    return BatchEvents(
        place=(batch.sequence_ids[:, None] * n_pos + np.arange(n_pos)).ravel()[kept],
        length=np.bincount(row.cpu().numpy(), minlength=len(kept))[kept],
        feature=feature.cpu().numpy().astype(np.int32),
        value=value.float().cpu().numpy(),
        excluded=excluded,
        sequences=len(batch),
    )
