"""TopK (Gao et al. 2024): on each token, the k features with the largest pre-activations are active.

    f = relu of the k largest of (x - b_dec) @ W_enc + b_enc         loss = |x - x_hat|^2, plus AuxK

There is no penalty: k is the sparsity. The trained SAE is sae-lens's `TopKSAE`.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import whole
from saekit.errors import SAEError
from saekit.training.architectures.architecture import Architecture
from saekit.training.architectures.learners import SparseLearner, Start
from saekit.training.architectures.sparse import Active

if TYPE_CHECKING:
    from sae_lens import TopKSAE

    from saekit.training.config import TrainConfig


def topk_active(hidden: Float[Tensor, "batch d_sae"], k: int) -> Active:
    """Return the k largest of each token, after relu (Gao et al. 2024, section 2.3)."""
    values, chosen = hidden.topk(k, sorted=False)
    token = torch.arange(len(hidden), device=hidden.device).repeat_interleave(k)
    return Active(token, chosen.flatten(), values.relu().flatten(), len(hidden))


def _checked(config: "TrainConfig") -> dict[str, Any]:
    k = config.k
    if isinstance(k, float) and k.is_integer():  # the command reads 46 as 46.0, for the others take a mean
        k = int(k)
    return {"k": whole("k", k, at_least=1, at_most=config.d_sae - 1, error=SAEError)}


def _learner(config: "TrainConfig", start: Start) -> SparseLearner:
    assert config.k is not None  # `_checked` has seen to it
    k = int(config.k)

    def choose(hidden: Float[Tensor, "batch d_sae"]) -> Active:
        return topk_active(hidden, k)

    def inference(learner: SparseLearner, scale: float) -> "TopKSAE":
        from sae_lens import TopKSAE, TopKSAEConfig

        return TopKSAE(TopKSAEConfig(k=k, **start.sae_lens()))

    return SparseLearner(start, choose, inference, auxk=config.dead_features == "auxk")


TOPK = Architecture(
    name="topk",
    paper="Gao et al. 2024, arXiv:2406.04093",
    takes=("k",),
    checked=_checked,
    dead_features=("auxk", "resample", "none"),
    learner=_learner,
)
