"""What is added up, batch by batch, to say how good a reconstruction is and what it costs the model."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# log10 of the share of tokens on which a feature fires; the same edges for every SAE, so that histograms compare.
DENSITY_EDGES = tuple(-6 + step / 2 for step in range(13))


@dataclass
class Inputs:
    """Sums over the activations that an SAE is to rebuild, at one hook point.

    Attributes:
        mean: Of the counted activations, ``[d_in]``.
        count: Counted tokens.
        mean_norm: Mean length of a counted activation.
        variance: Sum of squared distances from the mean, over counted tokens and dimensions.
    """

    mean: Float[Tensor, " d_in"]
    count: int
    mean_norm: float
    variance: float

    @classmethod
    def of(cls, states: list[Tensor], kept: list[Tensor]) -> "Inputs":
        """Add up batches of states ``[batch, pos, d_in]`` where ``kept [batch, pos]`` says so, in float64."""
        count = sum(int(keep.sum()) for keep in kept)
        pairs = list(zip(states, kept, strict=True))
        zero = torch.zeros((), dtype=torch.float64)
        mean = (sum((x[keep].double().sum(0) for x, keep in pairs), zero) / count).float()
        norm = sum(x[keep].double().norm(dim=-1).sum().item() for x, keep in pairs) / count
        variance = sum((x[keep] - mean).double().square().sum().item() for x, keep in pairs)
        return cls(mean, count, norm, variance)


@dataclass
class Rebuilt:
    """Sums over counted tokens for one SAE; ``fired`` is the number of tokens on which each feature is active."""

    d_sae: int
    error: float = 0.0
    cosine: float = 0.0
    ratio: float = 0.0
    fired: Int[Tensor, " d_sae"] = field(init=False)

    def __post_init__(self) -> None:
        self.fired = torch.zeros(self.d_sae, dtype=torch.long)

    def add(
        self,
        x: Float[Tensor, "token d_in"],
        features: Float[Tensor, "token d_sae"],
        rebuilt: Float[Tensor, "token d_in"],
        mean: Float[Tensor, " d_in"],
    ) -> None:
        """Add some counted tokens: activations, features and reconstructions, all in float32 on the CPU."""
        self.error += (x - rebuilt).double().square().sum().item()
        self.cosine += F.cosine_similarity(x - mean, rebuilt - mean, dim=-1).double().sum().item()
        norms = x.double().norm(dim=-1)
        ratio = rebuilt.double().norm(dim=-1) / norms.clamp(min=torch.finfo(torch.float64).tiny)
        self.ratio += torch.where(norms > 0, ratio, 0.0).sum().item()
        self.fired += (features != 0).sum(0)

    def density(self, count: int) -> dict[str, list[float] | list[int] | int]:
        """Return the histogram that `Evaluation.density` describes."""
        share = torch.log10(self.fired[self.fired > 0].double() / count).clamp(DENSITY_EDGES[0], DENSITY_EDGES[-1])
        edges = torch.tensor(DENSITY_EDGES, dtype=torch.float64)
        bins = (torch.bucketize(share, edges, right=True) - 1).clamp(max=len(edges) - 2)
        features = torch.bincount(bins, minlength=len(edges) - 1).tolist()
        return {"log10_edges": list(DENSITY_EDGES), "features": features, "dead": int((self.fired == 0).sum())}


@dataclass
class Behaviour:
    """Sums over scored predictions for one way to run the model: next-token loss and KL from the clean run, in nats."""

    loss: float = 0.0
    kl: float = 0.0


class Clean:
    """The clean model's predictions on one batch, to which the same batch is compared when something is put in.

    Args:
        logits: Of the clean run, in any dtype.
        ids: The tokens.
        scored: Whether the prediction *after* a position counts, ``[batch, pos - 1]``.
    """

    def __init__(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        ids: Int[Tensor, "batch pos"],
        scored: Bool[Tensor, "batch next"],
    ) -> None:
        self._scored = scored.to(logits.device)
        targets = ids[:, 1:].to(logits.device)
        self._targets = [row[keep][:, None] for row, keep in zip(targets, self._scored, strict=True)]
        self._log_p = list(self._log_probabilities(logits))

    def add_own(self, sums: Behaviour) -> None:
        """Add the loss of the clean run itself."""
        for log_p, target in zip(self._log_p, self._targets, strict=True):
            sums.loss -= _total(log_p.gather(1, target))

    def add(self, logits: Float[Tensor, "batch pos d_vocab"], sums: Behaviour) -> None:
        """Add loss and KL(clean || this run) of a run with something else at the hook point."""
        for log_q, log_p, target in zip(self._log_probabilities(logits), self._log_p, self._targets, strict=True):
            sums.loss -= _total(log_q.gather(1, target))
            sums.kl += _total((log_p.exp() * (log_p - log_q)).sum(-1))

    def _log_probabilities(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Iterator[Tensor]:
        """Return the scored rows, one sequence at a time: a copy of a batch's logits would be the largest thing here.

        With the classes last: torch adds up another order of axes less exactly (1.3e-4 nats off at 49,152 classes).
        """
        return (row[:-1][keep].float().log_softmax(-1) for row, keep in zip(logits, self._scored, strict=True))


def _total(values: Tensor) -> float:
    return values.cpu().double().sum().item()


def recovered(floor: float, value: float, clean: float) -> float:
    """Return how much of the way from the floor to the clean model is kept; NaN where the floor costs nothing."""
    return (floor - value) / (floor - clean) if floor != clean else math.nan
