"""Copies of a model: one with hook points of its own and the same weights, one that has learned nothing."""

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def twin(model: "SAETransformerBridge") -> "SAETransformerBridge":
    """Return the model with hook points of its own and the same weights; nothing big is copied.

    Hooks change what a model computes for everyone who runs it meanwhile: two threads need two sets of hook points.
    """
    shared = [*model.parameters(), *model.buffers(), model.tokenizer]
    # States that a forward pass under way keeps for a moment: they have a gradient and cannot be copied.
    shared += [thing for part in model.modules() for thing in vars(part).values() if isinstance(thing, Tensor)]
    other = deepcopy(model, {id(thing): thing for thing in shared if thing is not None})
    for part in other.modules():
        # Blocks hook themselves at their first forward pass, by functions that would still write into the original.
        if teardown := getattr(part, "_teardown_capture_hooks", None):
            teardown()
    return other


def shuffled_model(model: "SAETransformerBridge", *, seed: int = 0) -> "SAETransformerBridge":
    """Return a copy of a model in which the entries of every weight matrix are shuffled among themselves.

    The copy has learned nothing, yet every matrix keeps its distribution (Heap et al. 2025 compare SAEs on such
    models). Vectors (norms, biases) stay as they are, so activations keep about their size. It takes as much memory
    as the model.

    Args:
        model: The model to copy.
        seed: Seed of the shuffling.
    """
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # A tied unembedding is the embedding itself: shuffled once.
        for weight in {id(parameter): parameter for parameter in copy.parameters()}.values():
            if weight.dim() > 1:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return copy
