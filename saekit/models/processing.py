"""How transformer-lens treated a model's weights when it was loaded: read off the weights, not off what was asked."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_ROWS = 64  # of the embedding that are looked at
_TREATED = ("fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")


@torch.no_grad()
def processing_of(model: "SAETransformerBridge") -> dict[str, bool]:
    """Return, by the names of transformer-lens, which treatments change what hook points hold, and were applied.

    One that cannot be told is left out, and so is centring in a model whose norms do not subtract the mean:
    transformer-lens does not centre it.
    """
    found = {} if model._weights_processed else dict.fromkeys(_TREATED, False)
    if model.cfg.normalization_type in ("LN", "LNPre"):
        rows = model.W_E[:_ROWS].float()
        found["center_writing_weights"] = bool(rows.mean(-1).abs().max() <= 1e-3 * rows.std(-1).max())
    return found
