"""A control for every claim about features: a model of the same shape and weights of the same sizes, in no order."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def shuffled_model(model: "SAETransformerBridge", *, seed: int = 0) -> "SAETransformerBridge":
    """Return a copy of a model in which the entries of every weight matrix are shuffled among themselves.

    The copy has learned nothing, yet every matrix keeps its distribution (Heap et al. 2025 compare SAEs on such
    models). Vectors (norms, biases) stay as they are, so activations keep about their size. It takes as much memory
    as the model.
    """
    from copy import deepcopy

    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # A tied unembedding is the embedding itself: shuffled once.
        for weight in {id(parameter): parameter for parameter in copy.parameters()}.values():
            if weight.dim() > 1:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return copy
