"""L1, the standard SAE (Cunningham et al. 2023): a penalty on the size of the activations makes them sparse.

    f = relu((x - b_dec) @ W_enc + b_enc)
    loss = |x - x_hat|^2 + coefficient * sum over the features of f * |their row of W_dec|

With the norm in the penalty the decoder need not be held at unit norm. By sae-lens's training class.
"""

from typing import TYPE_CHECKING

from saekit.training.architectures.architecture import Architecture, checked_coefficient
from saekit.training.architectures.learners import DenseLearner, Start

if TYPE_CHECKING:
    from saekit.training.config import TrainConfig


def _learner(config: "TrainConfig", start: Start) -> DenseLearner:
    return DenseLearner(start, "standard", l1_coefficient=config.sparsity_coefficient)


STANDARD = Architecture(
    name="standard",
    paper="Cunningham et al. 2023, arXiv:2309.08600",
    takes=("sparsity_coefficient",),
    checked=checked_coefficient,
    dead_features=("resample", "none"),
    learner=_learner,
)
