"""BatchTopK (Bussmann et al. 2024): the k * batch largest pre-activations of the whole batch are active.

    f = those of relu((x - b_dec) @ W_enc + b_enc) that are among the k * batch largest
    loss = |x - x_hat|^2, plus AuxK

A token that needs more features gets more, at the cost of another one; k is their mean. A single token has no batch, so
the trained SAE has a threshold instead: it is sae-lens's `JumpReLUSAE`.
"""

from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from saekit.training.architectures.architecture import Architecture, checked_mean_k
from saekit.training.architectures.learners import SparseLearner, Start
from saekit.training.architectures.sparse import Active

if TYPE_CHECKING:
    from sae_lens import JumpReLUSAE

    from saekit.training.config import TrainConfig


def batchtopk_active(hidden: Float[Tensor, "batch d_sae"], total: int) -> Active:
    """Return the ``total`` largest positive pre-activations of the batch (Bussmann et al. 2024, section 3).

    Sorting all of them would take longer than the encoder product. A sample of them gives a threshold that surely
    more than ``total`` pass; only those are sorted.
    """
    flat = hidden.flatten()
    stride = max(1, len(flat) // 100_000) | 1  # odd, so that it does not pick the same features again and again
    sample = flat[::stride]
    rank = min(len(sample), int(total / len(flat) * len(sample) * 1.3) + 50)
    floor = max(sample.kthvalue(len(sample) - rank + 1).values.item(), 0.0)
    above = (flat > floor).nonzero().squeeze(1)
    if len(above) < total and floor > 0:  # the sample misled
        above = (flat > 0).nonzero().squeeze(1)
    if len(above) > total:
        best = flat[above].topk(total, sorted=False).indices
        above = above[best.sort().values]  # token by token again
    return Active(above // hidden.shape[1], above % hidden.shape[1], flat[above], len(hidden))


def jumprelu_of(learner: SparseLearner, scale: float) -> "JumpReLUSAE":
    """Return a JumpReLU SAE whose one threshold meets the budget on the sample with the final weights.

    sae-lens takes a running mean from zero over the whole training instead, which is far too low after a short one.
    """
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    sae = JumpReLUSAE(JumpReLUSAEConfig(**learner.start.sae_lens()))
    active = learner.active_on_sample()
    lowest = active.value.min().item() if len(active.value) else 0.0
    sae.threshold.fill_(lowest / scale)
    return sae


def batch_learner(config: "TrainConfig", start: Start, *, widths: tuple[int, ...] = ()) -> SparseLearner:
    """Return a learner that shares a budget of k features per token among the batch."""
    k = config.k
    assert k is not None  # `checked_mean_k` has seen to it

    def choose(hidden: Float[Tensor, "batch d_sae"]) -> Active:
        return batchtopk_active(hidden, int(k * len(hidden)))

    return SparseLearner(start, choose, jumprelu_of, widths=widths, auxk=config.dead_features == "auxk")


BATCHTOPK = Architecture(
    name="batchtopk",
    paper="Bussmann et al. 2024, arXiv:2412.06410",
    takes=("k",),
    checked=checked_mean_k,
    dead_features=("auxk", "resample", "none"),
    learner=batch_learner,
)
