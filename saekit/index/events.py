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


class Held:
    """Events of several batches, end to end in buffers that stay: memory given back in small pieces is not given back.

    Attributes:
        sequences: How many are in it.
        excluded: How many of their tokens are not.
    """

    def __init__(self):
        self._buffers: dict[str, np.ndarray] = {"place": np.zeros(0, np.int64), "length": np.zeros(0, np.int64)}
        self._buffers |= {"feature": np.zeros(0, np.int32), "value": np.zeros(0, np.float32)}
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._used = dict.fromkeys(self._buffers, 0)
        self.sequences, self.excluded = 0, {}

    def __len__(self) -> int:
        return self._used["value"]

    def add(self, batch: BatchEvents) -> None:
        """Append a batch."""
        used = {}
        for name, buffer in self._buffers.items():
            new, old = getattr(batch, name), self._used[name]
            used[name] = old + len(new)
            if used[name] > len(buffer):
                self._buffers[name] = grown = np.zeros(used[name] * 3 // 2, buffer.dtype)
                grown[:old] = buffer[:old]
            self._buffers[name][old : used[name]] = new
        # Nothing above counts until this line: an interrupt leaves what was there before.
        self._used, self.sequences, self.excluded = (
            used, self.sequences + batch.sequences,
            {key: self.excluded.get(key, 0) + count for key, count in batch.excluded.items()},
        )  # fmt: skip

    def columns(self) -> list[np.ndarray]:
        """Return places, lengths, features and values; valid until the next `add` or `clear`."""
        return [buffer[: self._used[name]] for name, buffer in self._buffers.items()]


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
