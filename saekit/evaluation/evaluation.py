"""How good is an SAE: reconstruction, sparsity, dead features, and what the model loses when it is spliced in.

Every number is computed on the same tokens, in float32 with float64 sums, and says what was left out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saekit.data import Tokens, counted
from saekit.errors import DataError, ModelError, SAEError
from saekit.evaluation.sums import Behaviour, Clean, Inputs, Rebuilt, recovered
from saekit.models import check_hook, first_block_after, hidden_states_at, logits_from, special_token_ids
from saekit.saes import check_pair, check_rebuilds, sae_hook

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge


@dataclass(frozen=True)
class Evaluation:
    """Quality of an SAE on held-out text.

    Two sets of tokens are counted. *Reconstruction* (FVU, MSE, cosine, length, L0, density) counts ``n_tokens``: all
    but BOS, padding, special tokens and massive activations (`saekit.data.counted`; ``excluded`` says how many).
    *Behaviour* (losses, KL) counts ``n_loss_tokens`` predictions: positions whose successor is text of the same
    document. In the runs behind it, the counted tokens get something else at the hook point and the excluded ones
    keep their activations.

    Attributes:
        fvu: Fraction of variance unexplained: squared error over squared distance from the mean activation, each
            summed over the ``n_tokens`` first. 0 is perfect, 1 is no better than the mean. Does not depend on scale
            or offset of the activations.
        mse: Mean squared error a dimension, in squared units of the residual stream.
        mse_normalised: The same after all activations are scaled by one number, so that the mean length of the
            ``n_tokens`` is sqrt(d_in). Unlike ``fvu`` it depends on the offset: lengths are about zero.
        l0: Mean number of active features a token: features that are not 0.
        active_fraction: l0 / d_sae.
        dead_share: Share of features active on none of these ``n_tokens``. It falls as tokens are added: read it
            with ``n_tokens``.
        density: On what share of the ``n_tokens`` features fire, as a histogram: ``log10_edges`` (13 edges from -6
            to 0, half a decade apart), ``features`` (how many in each bin, left edge in, rarer ones in the first)
            and ``dead`` (how many never fire, in no bin).
        cosine: Mean cosine between an activation and its reconstruction, both about the mean activation.
        l2_ratio: Mean of the reconstruction's length over the activation's, both about zero, as in sae-lens. Below
            1: the SAE shrinks. An activation of length 0 counts as 0.
        loss_clean: Next-token loss of the model, nats a prediction; its exponential is the perplexity.
        loss_spliced: With the reconstruction in place of the activations.
        loss_zero: With zeros in their place.
        loss_mean: With the mean activation of the ``n_tokens`` in their place.
        loss_recovered_zero: (loss_zero - loss_spliced) / (loss_zero - loss_clean).
        loss_recovered_mean: The same against the mean: the harder floor. Both NaN where the floor costs nothing.
        kl_spliced: KL(clean || spliced) between the model's predictions, nats a prediction. It also sees what the
            loss does not: changed predictions that happen to be as good.
        kl_zero: The same with zeros.
        kl_mean: The same with the mean activation.
        kl_recovered_zero: 1 - kl_spliced / kl_zero.
        kl_recovered_mean: 1 - kl_spliced / kl_mean.
        n_tokens: Tokens counted.
        excluded: Tokens left out, by reason.
        n_loss_tokens: Predictions counted in losses and KL.
        n_sequences: Rows of the corpus.
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

    def __repr__(self) -> str:
        left_out = ", ".join(f"{count:,} {name}" for name, count in self.excluded.items())
        return (
            f"FVU {self.fvu:.3f}, L0 {self.l0:.1f}, dead {self.dead_share:.1%}, loss recovered "
            f"{self.loss_recovered_zero:.3f} against zero-, {self.loss_recovered_mean:.3f} against mean-ablation "
            f"({self.n_tokens:,} tokens of {self.held_out}; left out: {left_out})"
        )


def evaluate(model: "SAETransformerBridge", sae: "SAE[Any]", tokens: Tokens, *, batch_size: int = 8) -> Evaluation:
    """Measure an SAE on a corpus that it was not trained on: `evaluate_many` for one.

    Args:
        model: In float32: in bfloat16 rounding alone costs some of the variance.
        sae: The SAE.
        tokens: Held-out text.
        batch_size: Sequences a forward pass.

    Raises:
        DataError: No token, or no prediction, is left to count.
        SAEError, ModelError: The pair does not fit.
    """
    return evaluate_many(model, [sae], tokens, batch_size=batch_size)[0]


@torch.no_grad()
def evaluate_many(
    model: "SAETransformerBridge", saes: "Sequence[SAE[Any]]", tokens: Tokens, *, batch_size: int = 8
) -> list[Evaluation]:
    """Measure several SAEs, of one or several hook points, on the same tokens; each as `evaluate` alone would.

    They share the pass that collects the activations, the clean run, and the zero- and mean-ablated run of each hook
    point; and whatever is put in place of activations of the residual stream, only the layers above it run. The
    activations of all hook points stay in memory: 4 bytes for each token, dimension and hook point (140 MB for
    60,000 tokens of 576 dimensions).

    Args:
        model: In float32: in bfloat16 rounding alone costs some of the variance.
        saes: SAEs that read and rebuild the same hook point.
        tokens: Held-out text.
        batch_size: Sequences a forward pass.

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
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, not {batch_size}")
    for sae in saes:
        _check(model, sae)
    at = [check_hook(model, sae_hook(sae)) for sae in saes]
    batches = [tokens[start : start + batch_size] for start in range(0, len(tokens), batch_size)]
    hooks = _collected(model, sorted(set(at), key=lambda hook: first_block_after(model, hook) or -1), batches)

    rebuilt = [Rebuilt(sae.cfg.d_sae) for sae in saes]
    spliced = [Behaviour() for _ in saes]
    clean, zero, mean = Behaviour(), {name: Behaviour() for name in hooks}, {name: Behaviour() for name in hooks}
    highest = list(hooks.values())[-1]
    predictions = 0
    for number, batch in enumerate(batches):
        ids, document = torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.document)
        scored = (document[:, 1:] == document[:, :-1]) & (document[:, 1:] >= 0)
        predictions += int(scored.sum())
        # The clean run goes on from the highest hook point: the layers below have run.
        reference = Clean(logits_from(model, ids, highest.states[number], highest.name), ids, scored)
        reference.add_own(clean)
        for hook in hooks.values():
            reference.add(_run(model, ids, hook, number, torch.zeros_like(hook.inputs.mean)), zero[hook.name])
            reference.add(_run(model, ids, hook, number, hook.inputs.mean), mean[hook.name])
        for sae, name, sums, behaviour in zip(saes, at, rebuilt, spliced, strict=True):
            hook = hooks[name]
            x = hook.states[number][hook.kept[number]]
            features = sae.encode(x.to(sae.device))
            new = sae.decode(features).float().cpu()
            sums.add(x, features.float().cpu(), new, hook.inputs.mean)
            reference.add(_run(model, ids, hook, number, new), behaviour)
    if not predictions:
        raise DataError("no prediction is left to score: every text is a single token")
    for sums in (clean, *spliced, *zero.values(), *mean.values()):
        sums.loss, sums.kl = sums.loss / predictions, sums.kl / predictions
    return [
        _evaluation(hooks[name], sums, (clean, behaviour, zero[name], mean[name]), predictions, tokens)
        for name, sums, behaviour in zip(at, rebuilt, spliced, strict=True)
    ]


def _check(model: "SAETransformerBridge", sae: "SAE[Any]") -> None:
    check_pair(model, sae)
    check_rebuilds(model, sae)
    broken = [name for name, weight in sae.state_dict().items() if not torch.isfinite(weight).all()]
    if broken:
        raise SAEError(f"not all weights of the SAE are finite numbers: {', '.join(broken)}. Was its training stable?")


@dataclass(frozen=True)
class _Hook:
    """What stands at one hook point, by batch, and what counts of it."""

    name: str
    states: list[Tensor]
    kept: list[Tensor]
    excluded: dict[str, int]
    inputs: Inputs


def _collected(model: "SAETransformerBridge", names: list[str], batches: list[Tokens]) -> dict[str, _Hook]:
    """Run the model up to the highest hook point; keep the activations at each, in float32 on the CPU."""
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
    for name in names:
        if not any(keep.any() for keep in kept[name]):
            raise DataError("no token is left to count: all are BOS, padding, special or massive")
        if not all(torch.isfinite(x[keep]).all() for x, keep in zip(states[name], kept[name], strict=True)):
            raise ModelError(f"the model's activations at {name} are not finite: was it loaded in half precision?")
    hooks = {
        name: _Hook(name, states[name], kept[name], excluded[name], Inputs.of(states[name], kept[name]))
        for name in names
    }
    for hook in hooks.values():
        if not hook.inputs.variance:
            raise DataError(f"all {hook.inputs.count} activations counted at {hook.name} are equal: expected more text")
    return hooks


def _run(model: "SAETransformerBridge", ids: Tensor, hook: _Hook, number: int, new: Tensor) -> Tensor:
    """Return the logits of a batch when its counted tokens have ``new`` at the hook point: ``[d_in]`` or one each."""
    states = hook.states[number].clone()
    states[hook.kept[number]] = new
    return logits_from(model, ids, states, hook.name)


def _evaluation(
    hook: _Hook, sums: Rebuilt, runs: tuple[Behaviour, ...], predictions: int, tokens: Tokens
) -> Evaluation:
    clean, spliced, zero, mean = runs
    inputs, (d_in,) = hook.inputs, hook.inputs.mean.shape
    mse, l0 = sums.error / inputs.count / d_in, int(sums.fired.sum()) / inputs.count
    return Evaluation(
        fvu=sums.error / inputs.variance,
        mse=mse,
        mse_normalised=mse * d_in / inputs.mean_norm**2,
        l0=l0,
        active_fraction=l0 / sums.d_sae,
        dead_share=(sums.fired == 0).double().mean().item(),
        density=sums.density(inputs.count),
        cosine=sums.cosine / inputs.count,
        l2_ratio=sums.ratio / inputs.count,
        loss_clean=clean.loss,
        loss_spliced=spliced.loss,
        loss_zero=zero.loss,
        loss_mean=mean.loss,
        loss_recovered_zero=recovered(zero.loss, spliced.loss, clean.loss),
        loss_recovered_mean=recovered(mean.loss, spliced.loss, clean.loss),
        kl_spliced=spliced.kl,
        kl_zero=zero.kl,
        kl_mean=mean.kl,
        kl_recovered_zero=recovered(zero.kl, spliced.kl, 0.0),
        kl_recovered_mean=recovered(mean.kl, spliced.kl, 0.0),
        n_tokens=inputs.count,
        excluded=hook.excluded,
        n_loss_tokens=predictions,
        n_sequences=len(tokens),
        held_out=f"{tokens.name} ({tokens.split})",
    )
