"""Gated (Rajamanoharan et al. 2024a): whether a feature is active and how much are decided apart.

    gate = (x - b_dec) @ W_enc + b_gate         size = relu(exp(r_mag) * ((x - b_dec) @ W_enc) + b_mag)
    f = size where gate > 0, else 0
    loss = |x - x_hat|^2 + coefficient * sum of relu(gate) * |its row of W_dec| + |x - what relu(gate) rebuilds|^2

The penalty is on the gate alone, so that it does not shrink the activations; the last term trains the gate. By
sae-lens's training class, in which that term moves the decoder too; in the paper the decoder is frozen there.
"""

from saekit.training.architectures.architecture import penalised

GATED = penalised("gated", "Rajamanoharan et al. 2024, arXiv:2404.16014", "l1_coefficient")
