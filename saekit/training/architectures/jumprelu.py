"""JumpReLU (Rajamanoharan et al. 2024b): each feature learns the threshold above which it is active.

    pre = (x - b_dec) @ W_enc + b_enc           f = pre where pre > threshold, else 0
    loss = |x - x_hat|^2 + coefficient * number of active features

The number has no gradient: a threshold gets a pseudo-derivative from the tokens near it. By sae-lens's training class.
"""

from saekit.training.architectures.architecture import penalised

# Adam moves a number by at most the learning rate per step, and a threshold has to travel as far as a pre-activation is
# large: at the weights' rate a short training would end before it arrives.
_RATES = {"threshold": 10.0}  # in learning rates

JUMPRELU = penalised(
    "jumprelu",
    "Rajamanoharan et al. 2024, arXiv:2407.14435",
    "l0_coefficient",
    dead_features=("none", "resample"),
    rates=_RATES,
)
