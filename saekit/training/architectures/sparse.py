"""One training step of an SAE that chooses its active features by rank: only the encoder product is dense.

Each token has about k active features, so everything after the encoder touches k rows per token: decoding, every
gradient, the bias updates. sae-lens's training classes multiply the full matrices instead; the numbers are the same
(``tests/training/test_sparse.py`` compares each gradient with autograd through sae-lens's classes in float64).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class Weights:
    """Weights of an SAE, both matrices with one feature a row, and their gradients in the same form.

    ``x_hat = sum over the active features of value * W_dec[f], plus b_dec``, where ``value`` is
    ``relu((x - b_dec) @ W_enc[f] + b_enc[f])``.
    """

    W_enc: Float[Tensor, "d_sae d_in"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_enc: Float[Tensor, " d_sae"]
    b_dec: Float[Tensor, " d_in"]

    def tensors(self) -> list[Tensor]:
        """The four tensors, always in this order."""
        return [self.W_enc, self.W_dec, self.b_enc, self.b_dec]


@dataclass(frozen=True)
class Active:
    """The (token, feature) pairs that are active, token by token.

    Attributes:
        token: Number of the token within the batch, in ascending order.
        feature: Number of the feature.
        value: Its activation.
        batch: Number of tokens of the batch.
    """

    token: Int[Tensor, " pair"]
    feature: Int[Tensor, " pair"]
    value: Float[Tensor, " pair"]
    batch: int

    def within(self, low: int, high: int) -> "Active":
        """Keep the features from ``low`` up to, not including, ``high``."""
        keep = (self.feature >= low) & (self.feature < high)
        return Active(self.token[keep], self.feature[keep], self.value[keep], self.batch)

    def decode(self, W_dec: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "batch d_in"]:
        """Return the sum of value times decoder row, for every token."""
        return F.embedding_bag(
            self.feature, W_dec, starts(self.token, self.batch), per_sample_weights=self.value, mode="sum"
        )


def starts(group: Int[Tensor, " pair"], groups: int) -> Int[Tensor, " group"]:
    """Return where each group begins in a sorted list of group numbers."""
    counts = group.bincount(minlength=groups)
    return counts.cumsum(0) - counts


def pre_activations(
    weights: Weights, x: Float[Tensor, "batch d_in"], *, matmul_dtype: torch.dtype | None = None
) -> Float[Tensor, "batch d_sae"]:
    """Return ``(x - b_dec) @ W_enc.T + b_enc``, the one dense product.

    Args:
        weights: The SAE's weights.
        x: Activations.
        matmul_dtype: Dtype of the product alone, for example bfloat16 where the processor is fast at it; None for that
            of the weights.
    """
    centred = x - weights.b_dec
    if matmul_dtype is None:
        return torch.addmm(weights.b_enc, centred, weights.W_enc.T)
    return (centred.to(matmul_dtype) @ weights.W_enc.to(matmul_dtype).T).to(x.dtype).add_(weights.b_enc)


def sparse_gradients(
    weights: Weights, x: Float[Tensor, "batch d_in"], active: Active, *, widths: Sequence[int] = ()
) -> tuple[Float[Tensor, ""], Weights, Float[Tensor, "batch d_in"]]:
    """Return loss, gradients and reconstruction error for one batch.

    The loss is the mean over the batch of the squared error summed over dimensions. With ``widths`` it is the sum of
    that over the nested SAEs of the first ``width`` features (Matryoshka: Bussmann et al. 2025, section 3); the
    returned loss and error are those of the whole SAE.

    Args:
        weights: The SAE's weights.
        x: Activations.
        active: The features that are active on them.
        widths: Widths of the nested SAEs, increasing, the last d_sae; empty for one SAE of all features.
    """
    bounds = [0, *widths] if widths else [0, len(weights.b_enc)]
    parts = [active.within(*pair) for pair in pairwise(bounds)] if widths else [active]
    errors, rebuilt = [], 0
    for part in parts:
        rebuilt = part.decode(weights.W_dec) + rebuilt
        errors.append(rebuilt + weights.b_dec - x)
    loss = errors[-1].square().sum(1).mean()

    # A feature is in every nested SAE from its own part on, so the later errors add up.
    gradients = Weights(*(torch.zeros_like(t) for t in weights.tensors())) if widths else None
    g_out = 0
    for part, error in zip(reversed(parts), reversed(errors), strict=True):
        g_error = error * (2 / len(x))  # d loss / d x_hat, [batch, d_in]
        g_out = g_error + g_out
        own = pair_gradients(weights, x - weights.b_dec, part, g_out)
        own.b_dec += g_error.sum(0)
        if gradients is None:
            gradients = own
        else:
            for total, addition in zip(gradients.tensors(), own.tensors(), strict=True):
                total += addition
    assert gradients is not None  # there is at least one part
    return loss, gradients, errors[-1]


def pair_gradients(
    weights: Weights,
    centred: Float[Tensor, "batch d_in"],
    active: Active,
    g_out: Float[Tensor, "batch d_in"],
    *,
    rectified: bool = True,
) -> Weights:
    """Return the gradients that reach the weights through active pairs.

    Args:
        weights: The SAE's weights.
        centred: Activations minus the decoder bias.
        active: The active pairs.
        g_out: Gradient of the loss with respect to the reconstruction.
        rectified: Whether the values went through relu, so that pairs at zero pass nothing on.
    """
    # d loss / d value is the dot product of g_out with the feature's decoder row: the backward of embedding_bag
    # computes it without gathering the rows.
    value = active.value.detach().requires_grad_()
    with torch.enable_grad():
        bag = replace(active, value=value).decode(weights.W_dec.detach())
    (g_value,) = torch.autograd.grad(bag, value, g_out)
    if rectified:
        g_value = g_value * (active.value > 0)

    # Both weight gradients are sums over the pairs, bagged by feature.
    order = active.feature.argsort()
    token, begin = active.token[order], starts(active.feature, len(weights.b_enc))

    def by_feature(table: Tensor, weight: Tensor) -> Tensor:
        return F.embedding_bag(token, table, begin, mode="sum", per_sample_weights=weight[order])

    g_b_enc = torch.zeros_like(weights.b_enc).index_add_(0, active.feature, g_value)
    return Weights(
        W_enc=by_feature(centred, g_value),
        W_dec=by_feature(g_out, active.value),
        b_enc=g_b_enc,
        b_dec=-(g_b_enc @ weights.W_enc),
    )


def auxk_gradients(
    weights: Weights,
    x: Float[Tensor, "batch d_in"],
    hidden: Float[Tensor, "batch d_sae"],
    error: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, " d_sae"],
) -> tuple[Float[Tensor, ""], Weights]:
    """Return the loss that lets dead features rebuild what the living ones miss, and its gradients (AuxK).

    The k_aux strongest dead features of each token, d_in / 2 or all that there are, predict the residual
    (Gao et al. 2024, appendix A.2); few dead features weigh less, as in sae-lens.

    Args:
        weights: The SAE's weights.
        x: Activations.
        hidden: Pre-activations of all features on them.
        error: Reconstruction minus activation.
        dead: Features that have not fired for long; at least one.
    """
    rows = dead.nonzero().squeeze(1)
    half = x.shape[1] // 2
    values, chosen = hidden[:, rows].topk(min(half, len(rows)), sorted=False)
    token = torch.arange(len(x), device=x.device).repeat_interleave(values.shape[1])
    active = Active(token, rows[chosen.flatten()], values.flatten(), len(x))
    scale = min(len(rows) / half, 1.0)
    missed = active.decode(weights.W_dec) + error  # prediction minus residual; the residual is x - x_hat = -error
    gradients = pair_gradients(weights, x - weights.b_dec, active, missed * (2 * scale / len(x)), rectified=False)
    return scale * missed.square().sum(1).mean(), gradients
