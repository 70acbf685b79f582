"""Dictionaries that nobody trained on sparsity: principal components, random directions, neurons.

What an SAE does on a task is measured beside them, for without a rival a small number of features means nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Directions:
    """A dictionary that nobody trained on sparsity: directions, and how far a state lies along each.

    Attributes:
        name: For tables and figures.
        hook_name: Where the states come from.
        rows: Unit directions ``[feature, d_model]``.
        mean: Subtracted from a state first ``[d_model]``.
        rectified: Whether a feature is the positive part only; the negative part is then a feature of its own, so
            that the dictionary has features of one sign like an SAE's.
    """

    name: str
    hook_name: str
    rows: Float[Tensor, "feature d_model"]
    mean: Float[Tensor, "d_model"]
    rectified: bool

    def encode(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch feature"]:
        """Return the features of states."""
        along = (states - self.mean) @ self.rows.T
        return along.clamp(min=0) if self.rectified else along


def principal_directions(
    states: Float[Tensor, "token d_model"], hook_name: str, *, rectified: bool = False
) -> Directions:
    """Return the principal components of activations as a dictionary, largest variance first; centred."""
    states = states.float()
    mean = states.mean(0)
    rows = torch.linalg.svd(states - mean, full_matrices=False).Vh
    return _directions("PCA", hook_name, rows, mean, rectified=rectified)


def random_directions(
    states: Float[Tensor, "token d_model"], hook_name: str, *, seed: int = 0, rectified: bool = False
) -> Directions:
    """Return a random orthonormal basis as a dictionary, centred like `principal_directions`."""
    generator = torch.Generator().manual_seed(seed)
    d_model = states.shape[1]
    rows = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator)).Q
    return _directions("random", hook_name, rows, states.float().mean(0), rectified=rectified)


def neuron_directions(states: Float[Tensor, "token d_model"], hook_name: str, *, rectified: bool = False) -> Directions:
    """Return the coordinates of a hook point, its neurons, as a dictionary; centred like `principal_directions`."""
    states = states.float()
    return _directions("neurons", hook_name, torch.eye(states.shape[1]), states.mean(0), rectified=rectified)


def _directions(name: str, hook_name: str, rows: Tensor, mean: Tensor, *, rectified: bool) -> Directions:
    if rectified:
        rows = torch.stack([rows, -rows], 1).flatten(0, 1)  # + and - of a direction stand side by side
    return Directions(name + (" ±" if rectified else ""), hook_name, rows, mean, rectified)
