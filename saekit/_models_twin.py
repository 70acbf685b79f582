"""A second set of hook points on the same weights, for work in another thread."""

from copy import deepcopy
from typing import TYPE_CHECKING

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
    made = deepcopy(model, {id(thing): thing for thing in shared if thing is not None})
    for part in made.modules():
        # Blocks hook themselves at their first forward pass, by functions that would still write into the original.
        if hasattr(part, "_teardown_capture_hooks"):
            part._teardown_capture_hooks()
    return made
