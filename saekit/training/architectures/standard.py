"""L1, the standard SAE (Cunningham et al. 2023): a penalty on the size of the activations makes them sparse.

    f = relu((x - b_dec) @ W_enc + b_enc)
    loss = |x - x_hat|^2 + coefficient * sum over the features of f * |their row of W_dec|

With the norm in the penalty the decoder need not be held at unit norm. By sae-lens's training class.
"""

from saekit.training.architectures.architecture import penalised

STANDARD = penalised("standard", "Cunningham et al. 2023, arXiv:2309.08600", "l1_coefficient")
