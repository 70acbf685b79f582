"""Are two dictionaries the same? Learned directions against known ones, or two trainings against each other."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.errors import SAEError


@dataclass(frozen=True)
class DictionaryMatch:
    """How well the true directions are found among the learned ones. Cosines have signs: opposite is -1, not a match.

    Attributes:
        mmcs: Mean over **true** features of the greatest cosine with any learned one (Sharkey et al. 2022). One
            learned feature may serve several true ones; learned features that match nothing do not count. Turned
            round (``compare_dictionaries(true, learned)``) it asks how many learned features are real.
        share_found: Share of true features whose greatest cosine is above ``threshold``.
        best: For each true feature the greatest cosine, ``[n_true]``.
        best_learned: The learned feature that has it, ``[n_true]``.
        matched_mean: Mean cosine of the one-to-one matching with the greatest sum (Hungarian method), over
            ``min(n_learned, n_true)`` pairs. The same for both orders.
        matched_share: Share of ``max(n_learned, n_true)`` features that have a partner above ``threshold``: 1 only
            for the same dictionary, permuted.
        matched_learned: The learned feature matched to each true one, -1 for none, ``[n_true]``.
        threshold: Cosine above which a feature counts as found, for both shares.
    """

    mmcs: float
    share_found: float
    best: Float[Tensor, " n_true"]
    best_learned: Int[Tensor, " n_true"]
    matched_mean: float
    matched_share: float
    matched_learned: Int[Tensor, " n_true"]
    threshold: float

    def __repr__(self) -> str:
        return (
            f"MMCS {self.mmcs:.3f}, {self.share_found:.1%} of {len(self.best):,} above {self.threshold:g}; "
            f"one to one: mean cosine {self.matched_mean:.3f}, {self.matched_share:.1%} above {self.threshold:g}"
        )


def compare_dictionaries(
    learned: Float[Tensor, "n_learned d_in"], true: Float[Tensor, "n_true d_in2"], *, threshold: float = 0.9
) -> DictionaryMatch:
    """Compare learned directions with known ones, as Cunningham et al. (2023) do with synthetic data.

    Not ``sae_lens.synthetic.mean_correlation_coefficient``: that takes the absolute value of the cosine, which is
    right for components without a sign (PCA, ICA), and only the one-to-one matching. An SAE's feature points one way.
    For components without a sign pass ``torch.cat([rows, -rows])``. In float64: 170 MB and some seconds for 4,608
    against 4,608.

    Args:
        learned: Directions of any length but 0, usually ``sae.W_dec``.
        true: The known directions.
        threshold: Cosine above which a feature counts as found.

    Raises:
        SAEError: Nothing to compare, different widths, or a direction that is zero or not finite.
    """
    from scipy.optimize import linear_sum_assignment

    cosine = _cosines(learned, true)
    best, best_learned = cosine.max(1)
    rows, columns = (torch.from_numpy(found) for found in linear_sum_assignment(cosine.numpy(), maximize=True))
    pairs = cosine[rows, columns]
    matched = torch.full((len(cosine),), -1, dtype=torch.long)
    matched[rows] = columns
    return DictionaryMatch(
        mmcs=best.mean().item(),
        share_found=(best > threshold).double().mean().item(),
        best=best.float(),
        best_learned=best_learned,
        matched_mean=pairs.mean().item(),
        matched_share=int((pairs > threshold).sum()) / max(cosine.shape),
        matched_learned=matched,
        threshold=threshold,
    )


def mmcs(learned: Float[Tensor, "n_learned d_in"], true: Float[Tensor, "n_true d_in2"]) -> float:
    """Return the mean over true features of the greatest cosine with any learned one; signs count.

    The order matters: see `DictionaryMatch`. Random directions do not score 0: with many of them in few dimensions
    some are always near (about .41 for 64 random ones against 64 random ones in 32 dimensions).

    Raises:
        SAEError: Nothing to compare, different widths, or a direction that is zero or not finite.
    """
    return _cosines(learned, true).max(1).values.mean().item()


def _cosines(
    learned: Float[Tensor, "n_learned d_in"], true: Float[Tensor, "n_true d_in2"]
) -> Float[Tensor, "n_true n_learned"]:
    units = {}
    for which, rows in (("learned", learned), ("true", true)):
        if rows.ndim != 2 or not rows.numel():
            raise SAEError(f"the {which} directions are {list(rows.shape)}: expected [feature, d_in], at least one")
        norms = rows.detach().double().cpu().norm(dim=1, keepdim=True)
        nowhere = int((~torch.isfinite(norms) | (norms == 0)).sum())
        if nowhere:
            raise SAEError(f"{nowhere} of the {which} directions are zero or not finite: leave them out")
        units[which] = rows.detach().double().cpu() / norms
    if learned.shape[1] != true.shape[1]:
        raise SAEError(
            f"the learned directions have {learned.shape[1]} dimensions and the true ones {true.shape[1]}: expected "
            f"directions in the same space, as rows"
        )
    return units["true"] @ units["learned"].T
