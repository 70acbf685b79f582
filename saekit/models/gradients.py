"""The gradient of what is read off a model by the states at a hook point, averaged on the line between two runs.

1. `Points` say where on the straight line from one run's states to the other's gradients are taken, and what each
   counts: at its start alone (`AT_START`: attribution patching), or all along it (integrated gradients, Sundararajan
   et al. 2017), at `midpoints` of equal pieces or at `gauss_legendre` points.
2. The states of several points stand in one batch, and the caller's ``metric`` is read off each of them.
3. Runs do not see each other, so the gradient of the sum of the readings holds every run's own gradient.
4. `integrated_gradient` adds the gradients up with their weights, in float64.

Times (start - end) and summed over all coordinates, the result is ``metric(start) - metric(end)``: exactly where the
metric is linear between the two, at most as nearly as the points sample the line where it is not.

It stands here, below SAEs, because it needs none: `saekit.attribution` reads logits through the decoder of an SAE,
`saekit.circuits` logit differences and KL divergences of tasks through rows of SAEs and of other directions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.models.door import check_finite

RUNS_TOGETHER = 32  # runs of one forward and backward pass; more are faster, and take memory for their graph

Metric = Callable[[Float[Tensor, "run pos d_in"], Int[Tensor, "run"]], Float[Tensor, "run"]]


@dataclass(frozen=True)
class Points:
    """Where on a line gradients are taken.

    Attributes:
        shares: Share of the way from the start (0) to the end (1) ``[point]``.
        weights: Weight of each point in the mean ``[point]``; they sum to 1.
    """

    shares: Float[np.ndarray, "point"]
    weights: Float[np.ndarray, "point"]


AT_START = Points(np.zeros(1), np.ones(1))


def midpoints(n: int) -> Points:
    """Return the middles of ``n`` equal pieces of the line."""
    return Points((np.arange(n) + 0.5) / n, np.full(n, 1 / n))


def gauss_legendre(n: int) -> Points:
    """Return the ``n`` points whose mean is exact for polynomials of degree 2n - 1."""
    points, weights = np.polynomial.legendre.leggauss(n)
    return Points((points + 1) / 2, weights / 2)


def integrated_gradient(
    metric: Metric,
    start: Float[Tensor, "batch pos d_in"],
    end: Float[Tensor, "batch pos d_in"],
    points: Points = AT_START,
) -> tuple[Float[Tensor, "batch pos d_in"], Float[Tensor, "point batch"]]:
    """Return the mean gradient of a metric on the line between two runs' states, and the metric at each point.

    Args:
        metric: Function that is given states ``[run, pos, d_in]`` and, for each run, its number in the batch
            ``[run]``; it returns one number per run ``[run]``, through which gradients flow.
        start: States of the run that the effects are about, usually the clean one.
        end: States of the run with which it is compared.
        points: Where on the line gradients are taken; by default at its start alone.

    Returns:
        The gradient, float64, and the metric's values without a graph.

    Raises:
        ModelError: A gradient is not finite: half precision overflows on the way back, too.
    """
    gradient = torch.zeros_like(start, dtype=torch.float64)
    share, weight = torch.from_numpy(points.shares).to(start), torch.from_numpy(points.weights).to(gradient)
    values = []
    with torch.enable_grad():
        for some in torch.arange(len(share)).split(max(1, RUNS_TOGETHER // len(start))):
            states = start + share[some, None, None, None] * (end - start)
            states = states.flatten(0, 1).detach().requires_grad_()
            value = metric(states, torch.arange(len(start)).repeat(len(some)))
            (slope,) = torch.autograd.grad(value.sum(), states)
            check_finite(slope, "gradients")
            gradient += (weight[some, None, None, None] * slope.unflatten(0, (len(some), -1)).double()).sum(0)
            values.append(value.detach().unflatten(0, (len(some), -1)))
    return gradient, torch.cat(values)
