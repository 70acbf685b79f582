"""Matryoshka BatchTopK (Bussmann et al. 2025): the first features alone must rebuild as much as they can.

    loss = sum over the widths m of |x - x_hat of the first m features|^2, plus AuxK

The activations are those of BatchTopK. General features come first, and special ones cannot replace them: less is
absorbed (Chanin et al. 2024). The trained SAE is sae-lens's `JumpReLUSAE`.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from saekit.errors import SAEError
from saekit.training.architectures.architecture import Architecture, checked_mean_k
from saekit.training.architectures.batchtopk import batch_learner
from saekit.training.architectures.learners import SparseLearner, Start

if TYPE_CHECKING:
    from saekit.training.config import TrainConfig


def _checked(config: "TrainConfig") -> dict[str, Any]:
    d_sae, widths = config.d_sae, config.matryoshka_widths
    if widths is None:
        widths = dict.fromkeys(max(1, d_sae // n) for n in (16, 8, 4, 2, 1))
    widths = tuple(widths)
    if not widths or widths[0] < 1 or widths[-1] != d_sae or any(a >= b for a, b in pairwise(widths)):
        raise SAEError(f"matryoshka_widths must increase from at least 1 to d_sae = {d_sae}, not {list(widths)}")
    return {**checked_mean_k(config), "matryoshka_widths": widths}


def _learner(config: "TrainConfig", start: Start) -> SparseLearner:
    return batch_learner(config, start, widths=tuple(config.matryoshka_widths or ()))


MATRYOSHKA = Architecture(
    name="matryoshka_batchtopk",
    paper="Bussmann et al. 2025, arXiv:2503.17547",
    takes=("k", "matryoshka_widths"),
    checked=_checked,
    dead_features=("auxk", "resample", "none"),
    learner=_learner,
)
