"""What simple weights would cost: the candidates that the phase diagrams of toy models are compared with."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def dedicated_loss(density: "float | np.ndarray", importance: "float | np.ndarray" = 1.0) -> "float | np.ndarray":
    """Return the loss for n = 2, m = 1 if one feature has the dimension to itself, and the other its best constant.

    The first feature is stored exactly; the other, of the given importance, is answered by its mean p / 2:
    ``importance * (p / 3 - p^2 / 4)``.
    """
    return importance * (density / 3 - density**2 / 4)


def antipodal_loss(density: "float | np.ndarray", importance: "float | np.ndarray" = 1.0) -> "float | np.ndarray":
    """Return the loss for n = 2, m = 1 with W = [1, -1] and b = 0: only both at once go wrong.

    With both on, the larger keeps the difference d = |x1 - x2| and the other comes out as 0, so each is off by the
    smaller value: ``p^2 * (1 + importance) * E[min^2] = p^2 (1 + importance) / 6``.
    """
    return density**2 * (1 + importance) / 6


def ideal_loss(
    W: Float[Tensor, "m n"], density: float, importance: Float[Tensor, " n"], *, samples: int = 100_000, seed: int = 0
) -> float:
    """Return the loss of a relu model with given weights and the best bias, found by search.

    Features answer to their own bias alone, so each is searched on a grid from -1 to 1 in steps of 0.02.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, W.shape[1], generator=generator)
    x = x * (torch.rand(x.shape, generator=generator) < density)
    out = x @ W.T @ W
    grid = torch.linspace(-1, 1, 101)
    error = torch.stack([(x - (out + b).relu()).square().mean(0) for b in grid])  # [bias, n]
    return (error.amin(0) * importance).sum().item()
