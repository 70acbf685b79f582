"""How good is an SAE: reconstruction, sparsity, dead features, and what the model loses when it is spliced in.

Every number is computed on the same tokens, in float32 with float64 sums, and says what was left out.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saekit._base.checks import whole
from saekit._base.progress import Progress, Step, Stop, progress_of
from saekit._base.table import Column, Table
from saekit.data import Tokens, counted
from saekit.errors import DataError, SAEError
from saekit.models import check_hook, first_block_after, hidden_states_at, logits_from, special_token_ids
from saekit.saes import check_pair, check_rebuilds, decoded, encoded, sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

# log10 of the share of tokens on which a feature fires; the same edges for every SAE, so that histograms compare.
DENSITY_EDGES = tuple(-6 + step / 2 for step in range(13))


@dataclass(frozen=True)
class Evaluation:
    """Quality of an SAE on held-out text.

    Two sets of tokens are counted. *Reconstruction* (FVU, MSE, cosine, length, L0, density) counts ``n_tokens``: all
    but BOS, padding, special tokens and massive activations (`saekit.data.counted`; ``excluded`` says how many).
    *Predictions* (losses, KL) count ``n_loss_tokens`` predictions: positions whose successor is text of the same
    document. In the runs behind it, the counted tokens get something else at the hook point and the excluded ones
    keep their activations.

    Attributes:
        fvu: Fraction of variance unexplained: squared error over squared distance from the mean activation, each
            summed over the ``n_tokens`` first. 0 is perfect, 1 is no better than the mean. Does not depend on scale
            or offset of the activations. 1 - fvu is sae-lens's explained variance where no activation is massive:
            sae-lens counts those, and one among 4,000 tokens of SmolLM2 takes it from 0.86 to 0.75.
        mse: Mean squared error per dimension, in squared units of the residual stream.
        mse_normalised: The same after all activations are scaled by one number, so that the mean length of the
            ``n_tokens`` is sqrt(d_in). Unlike ``fvu`` it depends on the offset: lengths are about zero.
        l0: Mean number of active features per token: features that are not 0.
        active_fraction: Share of the features that are active on a token, on average: l0 / d_sae.
        dead_share: Share of features active on none of these ``n_tokens``. It falls as tokens are added: read it
            with ``n_tokens``.
        density: Histogram of the share of the ``n_tokens`` on which features fire, as `density_histogram` gives it.
        cosine: Mean cosine between an activation and its reconstruction, both about the mean activation.
        l2_ratio: Mean of the reconstruction's length over the activation's, both about zero, as in sae-lens. Below
            1: the SAE shrinks. An activation of length 0 counts as 0.
        loss_clean: Next-token loss of the model, nats per prediction; its exponential is the perplexity.
        loss_spliced: Loss with the reconstruction in place of the activations.
        loss_zero: Loss with zeros in their place.
        loss_mean: Loss with the mean activation of the ``n_tokens`` in their place.
        loss_recovered_zero: (loss_zero - loss_spliced) / (loss_zero - loss_clean).
        loss_recovered_mean: The same against the mean: the harder floor. Both NaN where the floor costs nothing.
        kl_spliced: KL(clean || spliced) between the model's predictions, nats per prediction. It also sees what the
            loss does not: changed predictions that happen to be as good.
        kl_zero: The same with zeros.
        kl_mean: The same with the mean activation.
        kl_recovered_zero: 1 - kl_spliced / kl_zero.
        kl_recovered_mean: 1 - kl_spliced / kl_mean.
        n_tokens: Number of tokens counted.
        excluded: Number of tokens left out, by reason.
        n_loss_tokens: Number of predictions counted in losses and KL.
        n_sequences: Number of rows of the corpus.
        held_out: Corpus and split.
    """

    fvu: float
    mse: float
    mse_normalised: float
    l0: float
    active_fraction: float
    dead_share: float
    density: dict[str, list[float] | list[int] | int]
    cosine: float
    l2_ratio: float
    loss_clean: float
    loss_spliced: float
    loss_zero: float
    loss_mean: float
    loss_recovered_zero: float
    loss_recovered_mean: float
    kl_spliced: float
    kl_zero: float
    kl_mean: float
    kl_recovered_zero: float
    kl_recovered_mean: float
    n_tokens: int
    excluded: dict[str, int]
    n_loss_tokens: int
    n_sequences: int
    held_out: str

    def as_dict(self) -> dict:
        """Return the numbers as plain JSON types."""
        return asdict(self)

    def _counted(self) -> str:
        left_out = ", ".join(f"{count:,} {name}" for name, count in self.excluded.items())
        return f"{self.n_tokens:,} tokens of {self.held_out}; left out: {left_out}"

    def __repr__(self) -> str:
        return (
            f"FVU {self.fvu:.3f}, L0 {self.l0:.1f}, dead {self.dead_share:.1%}, loss recovered "
            f"{self.loss_recovered_zero:.3f} against zero-, {self.loss_recovered_mean:.3f} against mean-ablation "
            f"({self._counted()})"
        )

    def _repr_html_(self) -> str:
        rows = tuple((name, value) for name, value in self.as_dict().items() if isinstance(value, float))
        columns = (Column("measure", lambda row: row[0]), Column("value", lambda row: row[1], ".4g"))
        return Table(rows, columns, self._counted())._repr_html_()


def density_histogram(count: Int[Tensor, " d_sae"], n_tokens: int) -> dict[str, list[float] | list[int] | int]:
    """Return on what share of tokens features fire, as a histogram that is the same for every SAE.

    Args:
        count: Number of tokens on which each feature is active, as `FeatureIndex.count` also has it.
        n_tokens: Number of tokens.

    Returns:
        ``log10_edges``: 13 edges from -6 to 0, half a decade apart; ``features``: how many there are in each bin, its
        left edge inside, rarer ones in the first; ``dead``: how many never fire, in no bin.
    """
    share = torch.log10(count[count > 0].double() / n_tokens).clamp(DENSITY_EDGES[0], DENSITY_EDGES[-1])
    edges = torch.tensor(DENSITY_EDGES, dtype=torch.float64)
    bins = (torch.bucketize(share, edges, right=True) - 1).clamp(max=len(edges) - 2)
    features = torch.bincount(bins, minlength=len(edges) - 1).tolist()
    return {"log10_edges": list(DENSITY_EDGES), "features": features, "dead": int((count == 0).sum())}


def evaluate(
    model: "SAETransformerBridge",
    sae: "SAE[Any]",
    tokens: Tokens,
    *,
    batch_size: int = 8,
    progress: Progress = False,
    stop: Stop = None,
) -> Evaluation:
    """Measure an SAE on a corpus that it was not trained on: `evaluate_many` for one.

    Args:
        model: Model in float32: in bfloat16 rounding alone costs some of the variance.
        sae: The SAE.
        tokens: Held-out text.
        batch_size: Number of sequences in a forward pass.
        progress: Show a progress bar; or a function that is given (done, total) after each part.
        stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.

    Raises:
        DataError: No token, or no prediction, is left to count.
        SAEError, ModelError: The pair does not fit.
    """
    return evaluate_many(model, [sae], tokens, batch_size=batch_size, progress=progress, stop=stop)[0]


@torch.no_grad()
def evaluate_many(
    model: "SAETransformerBridge",
    saes: "Sequence[SAE[Any]]",
    tokens: Tokens,
    *,
    batch_size: int = 8,
    progress: Progress = False,
    stop: Stop = None,
) -> list[Evaluation]:
    """Measure several SAEs, of one or several hook points, on the same tokens; each as `evaluate` alone would.

    They share the pass that collects the activations, the clean run, and the zero- and mean-ablated run of each hook
    point; and whatever is put in place of activations of the residual stream, only the layers above it run. The
    activations of all hook points stay in memory: 4 bytes for each token, dimension and hook point (140 MB for
    60,000 tokens of 576 dimensions).

    Args:
        model: Model in float32: in bfloat16 rounding alone costs some of the variance.
        saes: SAEs that read and rebuild the same hook point.
        tokens: Held-out text.
        batch_size: Number of sequences in a forward pass.
        progress: Show a progress bar; or a function that is given (done, total) after each part.
        stop: Function that is asked between parts; once it returns True, `saekit.errors.Stopped` is raised.

    Returns:
        One evaluation for each SAE, in their order.

    Raises:
        DataError: No token, or no prediction, is left to count.
        SAEError: No SAE; one that does not fit the model, rebuilds another hook point than it reads, or has weights
            that are not finite.
        ModelError: The model has no such hook point, or its activations there are not finite.
    """
    saes = list(saes)
    if not saes:
        raise SAEError("there is no SAE to evaluate: expected at least one")
    whole("batch_size", batch_size, at_least=1, error=DataError)
    for sae in saes:
        check_pair(model, sae, row_length=tokens.ids.shape[1])
        check_rebuilds(model, sae)
    at = [check_hook(model, sae_hook(sae)) for sae in saes]
    names = sorted(set(at), key=lambda hook: first_block_after(model, hook) or -1)
    batches = [tokens[start : start + batch_size] for start in range(0, len(tokens), batch_size)]
    rebuilt = [_Rebuilt(sae.cfg.d_sae) for sae in saes]
    costs: dict[Any, Tensor] = defaultdict(lambda: torch.zeros(2, dtype=torch.float64))  # loss and KL of each run
    predictions = 0
    with progress_of(progress, 2 * len(batches), "batch", stop=stop, title="Evaluating") as step:
        points = _collected(model, names, batches, step)
        highest = points[names[-1]]
        for number, batch in enumerate(batches):
            ids, document = torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.document)
            scored = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
            predictions += int(scored.sum())
            # The clean run goes on from the highest hook point: the layers below have run.
            clean = _CleanRun(logits_from(model, ids, highest.states[number], highest.name), ids, scored)
            costs["clean"] += clean.own()
            for point in points.values():
                for floor, new in (("zero", torch.zeros_like(point.mean)), ("mean", point.mean)):
                    costs[point.name, floor] += clean.compared(_logits_with(model, ids, point, number, new))
            for i, (sae, point) in enumerate(zip(saes, map(points.__getitem__, at), strict=True)):
                x = point.states[number][point.kept[number]]
                features = encoded(sae, x)
                new = decoded(sae, features).float().cpu()
                rebuilt[i].add(x, features.float().cpu(), new, point.mean)
                costs[i] += clean.compared(_logits_with(model, ids, point, number, new))
            step()
    if not predictions:
        raise DataError("no prediction is left to score: every text is a single token")
    means = {run: (cost / predictions).tolist() for run, cost in costs.items()}
    return [
        _evaluation(
            points[name], sums, means["clean"], means[i], means[name, "zero"], means[name, "mean"], predictions, tokens
        )
        for i, (name, sums) in enumerate(zip(at, rebuilt, strict=True))
    ]


@dataclass(frozen=True)
class _HookPoint:
    """What is at one hook point, batch by batch in float32 on the CPU, and sums over what counts of it in float64.

    Attributes:
        name: Name of the hook point.
        states: Activations ``[batch, pos, d_in]`` of each batch.
        kept: Whether a token counts ``[batch, pos]``, of each batch.
        excluded: Number of tokens left out, by reason.
        count: Number of tokens that count.
        mean: Their mean activation.
        mean_norm: Their mean length.
        variance: Sum of their squared distances from the mean, over tokens and dimensions.
    """

    name: str
    states: list[Tensor]
    kept: list[Tensor]
    excluded: dict[str, int]
    count: int
    mean: Float[Tensor, " d_in"]
    mean_norm: float
    variance: float


def _collected(
    model: "SAETransformerBridge", names: list[str], batches: list[Tokens], step: Step
) -> dict[str, _HookPoint]:
    """Run the model up to the highest hook point; keep the activations at each."""
    special = torch.tensor(special_token_ids(model), dtype=torch.long)
    states: dict[str, list[Tensor]] = {name: [] for name in names}
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    excluded: dict[str, dict[str, int]] = {name: {} for name in names}
    for batch in batches:
        for name, x in hidden_states_at(model, torch.from_numpy(batch.ids).long(), names).items():
            x = x.float().cpu()
            keep, left_out = counted(batch, x, special)
            states[name].append(x)
            kept[name].append(keep)
            excluded[name] = {reason: excluded[name].get(reason, 0) + n for reason, n in left_out.items()}
        step()
    return {name: _hook_point(name, states[name], kept[name], excluded[name]) for name in names}


def _hook_point(name: str, states: list[Tensor], kept: list[Tensor], excluded: dict[str, int]) -> _HookPoint:
    pairs = list(zip(states, kept, strict=True))  # what counts of a batch is copied, so one batch at a time
    count = sum(int(keep.sum()) for keep in kept)
    if not count:
        raise DataError("no token is left to count: all are BOS, padding, special or massive")
    zero = torch.zeros((), dtype=torch.float64)
    mean = (sum((x[keep].double().sum(0) for x, keep in pairs), zero) / count).float()
    norm = sum(_total(x[keep].double().norm(dim=-1)) for x, keep in pairs) / count
    variance = sum(_total((x[keep] - mean).double().square()) for x, keep in pairs)
    if not variance:
        raise DataError(f"all {count} activations counted at {name} are equal: expected more text")
    return _HookPoint(name, states, kept, excluded, count, mean, norm, variance)


def _logits_with(model: "SAETransformerBridge", ids: Tensor, point: _HookPoint, number: int, new: Tensor) -> Tensor:
    """Return the logits of a batch when its counted tokens have ``new`` at the hook point: ``[d_in]`` or one each."""
    states = point.states[number].clone()
    states[point.kept[number]] = new
    return logits_from(model, ids, states, point.name)


class _Rebuilt:
    """Sums over counted tokens for one SAE; ``fired`` is the number of tokens on which each feature is active."""

    def __init__(self, d_sae: int) -> None:
        self.error = self.cosine = self.ratio = 0.0
        self.fired = torch.zeros(d_sae, dtype=torch.long)

    def add(
        self,
        x: Float[Tensor, "token d_in"],
        features: Float[Tensor, "token d_sae"],
        rebuilt: Float[Tensor, "token d_in"],
        mean: Float[Tensor, " d_in"],
    ) -> None:
        """Add some counted tokens: activations, features and reconstructions, all in float32 on the CPU."""
        self.error += _total((x - rebuilt).double().square())
        self.cosine += _total(F.cosine_similarity(x - mean, rebuilt - mean, dim=-1))
        norms = x.double().norm(dim=-1)
        ratio = rebuilt.double().norm(dim=-1) / norms.clamp(min=torch.finfo(torch.float64).tiny)
        self.ratio += _total(torch.where(norms > 0, ratio, 0.0))
        self.fired += (features != 0).sum(0)


class _CleanRun:
    """The clean model's predictions on one batch, to which the same batch is compared when something is put in.

    Losses and KL are sums over the predictions that count, in nats: a tensor of the two, float64.

    Args:
        logits: Logits of the clean run, in any dtype.
        ids: The tokens.
        scored: Whether the prediction *after* a position counts ``[batch, pos - 1]``.
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

    def own(self) -> Float[Tensor, "2"]:
        """Return loss, and KL 0, of the clean run itself."""
        losses = [_total(log_p.gather(1, target)) for log_p, target in zip(self._log_p, self._targets, strict=True)]
        return torch.tensor([-sum(losses), 0.0], dtype=torch.float64)

    def compared(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "2"]:
        """Return loss, and KL(clean || this run), of a run with something else at the hook point."""
        loss, kl = 0.0, 0.0
        for log_q, log_p, target in zip(self._log_probabilities(logits), self._log_p, self._targets, strict=True):
            loss -= _total(log_q.gather(1, target))
            kl += _total((log_p.exp() * (log_p - log_q)).sum(-1))
        return torch.tensor([loss, kl], dtype=torch.float64)

    def _log_probabilities(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Iterator[Tensor]:
        """Yield the scored rows, one sequence at a time: a copy of a batch's logits would be the largest thing here.

        With the classes last: torch adds up another order of axes less exactly (1.3e-4 nats off at 49,152 classes).
        """
        return (row[:-1][keep].float().log_softmax(-1) for row, keep in zip(logits, self._scored, strict=True))


def _total(values: Tensor) -> float:
    return values.cpu().double().sum().item()


def _evaluation(
    point: _HookPoint,
    sums: _Rebuilt,
    clean: list[float],
    spliced: list[float],
    zero: list[float],
    mean: list[float],
    predictions: int,
    tokens: Tokens,
) -> Evaluation:
    (d_in,), d_sae = point.mean.shape, len(sums.fired)
    mse, l0 = sums.error / point.count / d_in, int(sums.fired.sum()) / point.count
    return Evaluation(
        fvu=sums.error / point.variance,
        mse=mse,
        mse_normalised=mse * d_in / point.mean_norm**2,
        l0=l0,
        active_fraction=l0 / d_sae,
        dead_share=(sums.fired == 0).double().mean().item(),
        density=density_histogram(sums.fired, point.count),
        cosine=sums.cosine / point.count,
        l2_ratio=sums.ratio / point.count,
        loss_clean=clean[0],
        loss_spliced=spliced[0],
        loss_zero=zero[0],
        loss_mean=mean[0],
        loss_recovered_zero=_recovered(zero[0], spliced[0], clean[0]),
        loss_recovered_mean=_recovered(mean[0], spliced[0], clean[0]),
        kl_spliced=spliced[1],
        kl_zero=zero[1],
        kl_mean=mean[1],
        kl_recovered_zero=_recovered(zero[1], spliced[1], 0.0),
        kl_recovered_mean=_recovered(mean[1], spliced[1], 0.0),
        n_tokens=point.count,
        excluded=point.excluded,
        n_loss_tokens=predictions,
        n_sequences=len(tokens),
        held_out=f"{tokens.name} ({tokens.split})",
    )


def _recovered(floor: float, value: float, clean: float) -> float:
    """Return how much of the way from the floor to the clean model is kept; NaN where the floor costs nothing."""
    return (floor - value) / (floor - clean) if floor != clean else math.nan
