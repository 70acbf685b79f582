"""The training loop: batches in, an SAE out, and in between what can be watched, stopped and taken up again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit.errors import SAEError
from saekit.training.activations import Activations, Samples, batch_count, samples
from saekit.training.learners import PENALISED, RANKED, DenseLearner, Learner, SparseLearner, Start, resample, scale_of
from saekit.training.state import load_state, save_state
from saekit.training.stream import ActivationStream

if TYPE_CHECKING:
    from sae_lens import SAE

ARCHITECTURES = (*RANKED, *PENALISED)
_REMEDIES = ("auxk", "resample", "none")


@dataclass(frozen=True)
class Progress:
    """Where training stands: what `train_sae` hands to its callback."""

    step: int
    steps: int
    samples: int
    loss: float  # squared error a token, summed over dimensions, in units of the scaled activations
    fvu: float  # of this batch
    l0: float  # of this batch
    dead_share: float  # of features that fired on none of the last `dead_after` samples
    density: Float[Tensor, " d_sae"] = field(repr=False)  # share of the last samples on which each feature fired


def train_sae(
    activations: "Activations | ActivationStream | Float[Tensor, 'sample d_in'] | Float[np.ndarray, 'sample d_in']",
    *,
    architecture: str = "topk",
    d_sae: int,
    k: float | None = None,
    coefficient: float | None = None,
    widths: Sequence[int] | None = None,
    passes: float = 1,
    batch_size: int = 2048,
    lr: float = 1e-3,
    seed: int = 0,
    remedy: str | None = None,
    dead_after: int = 1_000_000,
    encoder_init: str = "transposed",
    device: str = "cpu",
    on_step: Callable[[Progress], None] | None = None,
    report_every: int = 10,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 1000,
) -> "SAE":
    """Train an SAE and return it as one of sae-lens's inference classes.

    Activations are scaled to a mean norm of sqrt(d_in) for training and the scale is folded into the weights at the
    end, so the SAE reads raw activations. Decoder rows come out with unit norm: an activation is in units of the
    residual stream. ``Ctrl-C`` ends training early and returns what there is.

    Args:
        activations: From `harvest` or `stream_activations`, or any tensor ``[sample, d_in]``.
        architecture: ``"topk"`` (Gao et al. 2024), ``"batchtopk"`` (Bussmann et al. 2024), ``"matryoshka_batchtopk"``
            (Bussmann et al. 2025), ``"standard"`` (L1; Cunningham et al. 2023), ``"gated"`` (Rajamanoharan et al.
            2024a) or ``"jumprelu"`` (Rajamanoharan et al. 2024b).
        d_sae: Number of features.
        k: Active features a token; for the batch architectures on average. Not for the other three.
        coefficient: Of the sparsity penalty (L1 of activation times decoder norm; for JumpReLU of L0), on the scaled
            activations with squared error summed over dimensions. It warms up over the first 5 %. Not for the first
            three.
        widths: Of the nested SAEs of a Matryoshka SAE, increasing, the last d_sae; default d_sae / 16, 8, 4, 2, 1.
        passes: Over the activations; may be a fraction.
        batch_size: Samples a step.
        lr: Peak learning rate of Adam, warmed up over 5 % and decayed linearly over the last half.
        seed: Of the initialisation and of the order of the data.
        remedy: Against dead features. ``"auxk"``: they learn to rebuild what the others miss (Gao et al. 2024;
            default of the architectures with k). ``"resample"``: every ``dead_after`` samples they start anew at
            badly rebuilt inputs (Bricken et al. 2023; default of "standard" and "gated"). ``"none"``.
        dead_after: A feature counts as dead after so many samples without firing.
        encoder_init: ``"transposed"``: the encoder starts as the decoder's transpose. ``"random"``: at directions of
            its own, which makes many dead features.
        device: "cpu" or "cuda".
        on_step: Called every ``report_every`` steps and after the last. If it raises KeyboardInterrupt, training
            ends early as after Ctrl-C.
        report_every: Steps between two calls of ``on_step``.
        checkpoint: A folder for the state of training, written every ``checkpoint_every`` steps and at the end.
            Called again with the same arguments, training goes on from there and ends at the same weights, bit for
            bit, as without the interruption.
        checkpoint_every: Steps between two checkpoints.

    Raises:
        SAEError: Arguments that cannot be used, a checkpoint that is damaged or of another run, or training that
            came to numbers that are not finite.
        DataError: Activations that cannot be used: too few for one batch, or not finite.
    """
    source = activations if isinstance(activations, Activations | ActivationStream | Samples) else samples(activations)
    widths = _check(architecture, d_sae, k, coefficient, widths, remedy, encoder_init)
    if remedy is None:
        remedy = "auxk" if architecture in RANKED else "none" if architecture == "jumprelu" else "resample"
    for name, value in {"lr": lr, "dead_after": dead_after, "report_every": report_every}.items():
        if not (math.isfinite(value) and value > 0):
            raise SAEError(f"{name} must be more than 0, not {value}")
    steps = batch_count(len(source), batch_size, passes)
    sample = next(source.batches(min(len(source), 8192), seed=seed))
    scale = scale_of(sample)
    start = Start(source.d_model, d_sae, sample * scale, seed, device, encoder_init)
    learner: Learner
    if k is not None:
        learner = SparseLearner(start, architecture=architecture, k=k, widths=widths, auxk=remedy == "auxk")
    else:
        assert coefficient is not None  # `_check` lets one of the two pass
        learner = DenseLearner(start, architecture=architecture, coefficient=coefficient)

    watch = _Watch(d_sae, dead_after, device)
    tensors = {**learner.tensors(), **watch.tensors()}
    done = 0
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        settings = {
            "architecture": architecture, "d_sae": d_sae, "k": k, "coefficient": coefficient, "widths": widths,
            "passes": passes, "batch_size": batch_size, "lr": lr, "seed": seed, "remedy": remedy,
            "dead_after": dead_after, "encoder_init": encoder_init, "d_in": source.d_model, "samples": len(source),
            "hook_name": source.hook_name, "model_name": source.model_name, "tokens": source.tokens_fingerprint,
        }  # fmt: skip
        done = (load_state(checkpoint, settings, tensors) or {"step": 0})["step"]

    def save() -> None:
        if checkpoint is not None:
            save_state(checkpoint, settings, {"step": done}, tensors)

    whole = True  # between two steps: an interrupt within one leaves weights that no checkpoint may hold
    try:
        for batch in source.batches(batch_size, passes=passes, seed=seed, start=done):
            x = batch.to(device) * scale
            share = (done + 1) / steps
            whole = False
            dead = watch.dead if remedy != "none" or architecture == "jumprelu" else None
            seen = learner.step(x, lr * _schedule(share), min(share / 0.05, 1), dead)
            if not math.isfinite(seen.loss.item()):
                raise SAEError(_not_finite(done + 1, batch, lr))
            done += 1
            if watch.count(seen.fired, done * batch_size, batch_size) and remedy == "resample" and share < 0.8:
                if watch.dead.any():
                    resample(learner, x, seen.error, watch.dead, seed=seed + done)
            whole = True
            if checkpoint is not None and done % checkpoint_every == 0:
                save()
            if on_step is not None and (done % report_every == 0 or done == steps):
                variance = (x - x.mean(0)).square().sum(1).mean()
                fvu, l0 = (seen.loss / variance).item(), seen.fired.sum().item() / batch_size
                report = (seen.loss.item(), fvu, l0, watch.dead.double().mean().item(), watch.density())
                on_step(Progress(done, steps, done * batch_size, *report))
    except KeyboardInterrupt:
        pass  # the docstring promises what there is
    if whole:
        save()
    return _described(learner.sae(scale), source, architecture)


class _Watch:
    """Which features fired, and when."""

    def __init__(self, d_sae: int, dead_after: int, device: str) -> None:
        self.dead_after = dead_after
        self.last = torch.zeros(d_sae, dtype=torch.long, device=device)  # the sample at which each fired last
        self.dead = torch.zeros(d_sae, dtype=torch.bool, device=device)
        # Two windows: the present one and the one before, so that the density is never that of a few tokens.
        self.fired = torch.zeros(2, d_sae, device=device)
        self.seen = torch.zeros(2, dtype=torch.float64, device=device)

    def tensors(self) -> dict[str, Tensor]:
        return {f"watch.{name}": value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def count(self, fired: Float[Tensor, " d_sae"], now: int, batch_size: int) -> bool:
        """Add a batch; return whether a window ended with it."""
        self.last[fired > 0] = now
        torch.less(self.last, now - self.dead_after, out=self.dead)
        self.fired[0] += fired
        self.seen[0] += batch_size
        if self.seen[0] < self.dead_after:
            return False
        for pair in (self.fired, self.seen):
            pair[1] = pair[0]
            pair[0] = 0
        return True

    def density(self) -> Float[Tensor, " d_sae"]:
        return (self.fired.sum(0) / self.seen.sum().float()).cpu()


def _check(
    architecture: str,
    d_sae: int,
    k: float | None,
    coefficient: float | None,
    widths: Sequence[int] | None,
    remedy: str | None,
    encoder_init: str,
) -> tuple[int, ...]:
    """Check the arguments that depend on each other; return the widths of a Matryoshka SAE."""
    if "transcoder" in architecture:
        raise SAEError(
            f"{architecture!r} cannot be trained: sae-lens has classes that run transcoders and none that trains them. "
            f"Load a trained one with load_sae, or choose one of {', '.join(ARCHITECTURES)}"
        )
    if architecture not in ARCHITECTURES:
        raise SAEError(f"architecture must be one of {', '.join(ARCHITECTURES)}, not {architecture!r}")
    if d_sae < 2:
        raise SAEError(f"d_sae must be at least 2, not {d_sae}")
    ranked = architecture in RANKED
    if ranked:
        if coefficient is not None or k is None:
            raise SAEError(f"{architecture!r} takes k, the number of active features, and no coefficient")
        if not 0 < k < d_sae:
            raise SAEError(f"k must be between 1 and d_sae - 1 (here {d_sae - 1}), not {k}")
        if architecture == "topk" and k != int(k):
            raise SAEError(f"k must be a whole number for 'topk', not {k}; 'batchtopk' takes an average")
    else:
        if k is not None or coefficient is None:
            raise SAEError(f"{architecture!r} takes coefficient, the weight of its sparsity penalty, and no k")
        if not (math.isfinite(coefficient) and coefficient >= 0):
            raise SAEError(f"coefficient must be 0 or more, not {coefficient}")
    if remedy is not None and remedy not in _REMEDIES:
        raise SAEError(f"remedy must be one of {', '.join(_REMEDIES)}, not {remedy!r}")
    if remedy == "auxk" and not ranked:
        raise SAEError(f"remedy 'auxk' is for {', '.join(RANKED)}; for {architecture!r} use 'resample' or 'none'")
    if encoder_init not in ("transposed", "random"):
        raise SAEError(f"encoder_init must be 'transposed' or 'random', not {encoder_init!r}")
    if architecture != "matryoshka_batchtopk":
        if widths is not None:
            raise SAEError(f"widths are for 'matryoshka_batchtopk', not for {architecture!r}")
        return ()
    if widths is None:
        widths = list(dict.fromkeys(max(1, d_sae // n) for n in (16, 8, 4, 2, 1)))
    chosen = tuple(widths)
    if not chosen or chosen[0] < 1 or chosen[-1] != d_sae or any(a >= b for a, b in pairwise(chosen)):
        raise SAEError(f"widths must increase from at least 1 to d_sae = {d_sae}, not {list(chosen)}")
    return chosen


def _not_finite(step: int, batch: Tensor, lr: float) -> str:
    bad = int((~batch.isfinite()).any(1).sum())
    if bad:
        return f"batch {step} holds {bad} activations that are not finite: leave them out of the source"
    return f"training diverged at step {step}: the loss is not finite. Try a learning rate lower than {lr}"


def _schedule(progress: float) -> float:
    """Learning rate as a share of its peak: up over the first 5 %, down over the last half."""
    return min(progress / 0.05, 1, 2 * (1 - progress) + 0.01)


def _described(sae: "SAE", source: "Activations | ActivationStream | Samples", architecture: str) -> "SAE":
    """Say in the SAE's metadata what it reads and how it was trained."""
    metadata = sae.cfg.metadata
    metadata.model_name, metadata.hook_name = source.model_name, source.hook_name
    metadata.prepend_bos, metadata.training_architecture = True, architecture
    for parameter in sae.parameters():
        parameter.requires_grad_(False)
    return sae.eval()
