"""The training loop: batches in, an SAE out, and in between what can be watched, stopped and taken up again.

1. `TrainConfig` decides what is trained; its `Architecture` makes the learner, which holds weights and optimiser.
2. Activations are scaled to a mean norm of sqrt(d_in); the scale is folded into the weights at the end.
3. At every step the learner moves, and the watch counts which features fired.
4. Dead features learn by AuxK within the step, or are resampled when a window of the watch ends.
5. Now and then a record goes to ``on_step``, and a checkpoint to disk.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import whole
from saekit._base.progress import Progress, Stop, progress_of
from saekit._base.store import Format
from saekit.errors import SAEError, Stopped
from saekit.training.activations import Activations, batch_count
from saekit.training.architectures import ARCHITECTURES, Start, StepResult, resample
from saekit.training.config import TrainConfig, TrainSettings, takes_settings
from saekit.training.harvesting import ActivationStream

if TYPE_CHECKING:
    from sae_lens import SAE

_CHECKPOINT = Format("training checkpoint", 1, SAEError, remedy="delete it to start again")
_SAMPLE = 8192  # activations from which the scale and the first decoder bias are taken


@dataclass(frozen=True)
class TrainingStep:
    """Where training stands: what `train_sae` hands to ``on_step``.

    Attributes:
        step: Number of steps that are done.
        steps: Number of steps of the whole training.
        samples: Number of samples that are done.
        loss: Squared error per token, summed over dimensions, in units of the scaled activations.
        fvu: Fraction of the variance of this batch that is unexplained.
        l0: Mean number of active features per token of this batch.
        dead_share: Share of the features that fired on none of the last ``dead_after`` samples.
        density: Share of the last samples on which each feature fired.
    """

    step: int
    steps: int
    samples: int
    loss: float
    fvu: float
    l0: float
    dead_share: float
    density: Float[Tensor, " d_sae"] = field(repr=False)


OnStep = Callable[[TrainingStep], None] | None


@takes_settings
def train_sae(
    activations: Activations
    | ActivationStream
    | Float[Tensor, "sample d_in"]
    | Float[np.ndarray, "sample d_in"]
    | Sequence[Sequence[float]],
    config: TrainConfig | None = None,
    *,
    device: str = "cpu",
    on_step: OnStep = None,
    report_every: int = 10,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 1000,
    progress: Progress = False,
    stop: Stop = None,
    **settings: Unpack[TrainSettings],
) -> "SAE":
    """Train an SAE and return it as one of sae-lens's inference classes.

    It reads raw activations, and decoder rows have unit norm: an activation is in units of the residual stream.
    Ctrl-C and ``stop`` end training early and return what there is.

    >>> sae = train_sae(activations, d_sae=1152, k=32)                                    # doctest: +SKIP
    >>> sae = train_sae(activations, TrainConfig(d_sae=1152, k=32), seed=1)               # doctest: +SKIP

    Args:
        activations: Activations of `harvest` or `stream_activations`, or any tensor ``[sample, d_in]``.
        config: Settings; None if all are given by name.
        device: "cpu" or "cuda".
        on_step: Function that is given a `TrainingStep` every ``report_every`` steps and after the last. If it raises
            KeyboardInterrupt, training ends early as after Ctrl-C.
        report_every: Steps between two calls of ``on_step``.
        checkpoint: Folder for the state of training, written every ``checkpoint_every`` steps and at the end. Called
            again with the same arguments, training goes on from there and ends at the same weights, bit for bit, as
            without the interruption.
        checkpoint_every: Steps between two checkpoints.
        progress: Show a progress bar; or a function that is given (done, total) after each step.
        stop: Function that is asked between steps; once it returns True, training ends early.
        settings: Fields of `TrainConfig` by name; they win over those of ``config``.

    Raises:
        SAEError: Settings that cannot be used, a checkpoint that is damaged or of another run, or training that
            came to numbers that are not finite.
        DataError: Activations that cannot be used: too few for one batch, or not finite.
    """
    every = {"report_every": report_every, "checkpoint_every": checkpoint_every}
    every = {name: whole(name, steps, at_least=1, error=SAEError) for name, steps in every.items()}
    run = _Run(TrainConfig.of(config, settings), activations, device)
    with (
        run.kept_in(checkpoint, stop) as save,
        suppress(KeyboardInterrupt, Stopped),
    ):  # the docstring promises what there is
        run.train(save, on_step=on_step, progress=progress, stop=stop, **every)
    return run.sae()


def trained(
    config: TrainConfig,
    activations: Activations | ActivationStream | Tensor | np.ndarray,
    checkpoint: Path | str | None,
    *,
    device: str = "cpu",
    report_every: int = 10,
    progress: Progress = False,
    stop: Stop = None,
) -> "SAE":
    """Train like `train_sae`, but whole: what ends it early is raised, and the checkpoint keeps what was done.

    For what goes on with the SAE: a half-trained one must not become a point of a sweep, or be published.
    """
    run = _Run(config, activations, device)
    with run.kept_in(checkpoint, stop) as save:
        run.train(save, report_every=report_every, progress=progress, stop=stop)
    return run.sae()


class _Run:
    """One training, as far as it is."""

    def __init__(
        self,
        config: TrainConfig,
        activations: Activations | ActivationStream | Tensor | np.ndarray | Sequence[Sequence[float]],
        device: str = "cpu",
    ) -> None:
        self.config, self.device, self.done = config.resolved(), device, 0
        config = self.config
        known = isinstance(activations, Activations | ActivationStream)
        self.source = activations if known else Activations.from_rows(activations)
        self.steps = batch_count(len(self.source), config.batch_size, config.epochs)
        sample = next(self.source.batches(min(len(self.source), _SAMPLE), seed=config.seed))
        self.scale = math.sqrt(self.source.d_model) / sample.norm(dim=1).mean().item()
        start = Start(self.source.d_model, config.d_sae, sample * self.scale, config.seed, device, config.encoder_init)
        self.learner = ARCHITECTURES[config.architecture].learner(config, start)
        self.watch = _Watch(config.d_sae, config.dead_after, device)
        self.whole = True  # between two steps: an interrupt within one leaves weights that no checkpoint may hold

    def train(
        self,
        save: Callable[[], None],
        *,
        on_step: OnStep = None,
        report_every: int = 10,
        checkpoint_every: int = 1000,
        progress: Progress = False,
        stop: Stop = None,
    ) -> None:
        """Train to the end; what ends it early is raised."""
        config, watched = self.config, on_step is not None or bool(progress)
        batches = self.source.batches(config.batch_size, epochs=config.epochs, seed=config.seed, start=self.done)
        title = f"Training {config.architecture}"
        with progress_of(progress, self.steps, "step", stop=stop, title=title, start=self.done) as count:
            for batch in batches:
                x, result = self.step(batch)
                if self.done % checkpoint_every == 0:
                    save()
                figures = {}
                if watched and (self.done % report_every == 0 or self.done == self.steps):
                    record = self.record(x, result)
                    figures = {"fvu": f"{record.fvu:.3f}", "dead": f"{record.dead_share:.1%}"}
                    if on_step is not None:
                        on_step(record)
                count(1, **figures)

    def step(self, batch: Float[Tensor, "batch d_in"]) -> tuple[Float[Tensor, "batch d_in"], StepResult]:
        """Move by one batch; return it scaled, and what was seen."""
        config, share = self.config, (self.done + 1) / self.steps
        x = batch.to(self.device) * self.scale
        self.whole = False
        result = self.learner.step(x, config.lr * _schedule(share), min(share / 0.05, 1), self.watch.dead)
        if not math.isfinite(result.loss.item()):
            raise SAEError(_not_finite(self.done + 1, batch, config.lr))
        self.done += 1
        ended = self.watch.count(result.fired, self.done * config.batch_size, config.batch_size)
        if ended and config.dead_features == "resample" and share < 0.8 and self.watch.dead.any():
            resample(self.learner, x, result.error, self.watch.dead, seed=config.seed + self.done)
        self.whole = True
        return x, result

    def record(self, x: Float[Tensor, "batch d_in"], result: StepResult) -> TrainingStep:
        """Return where training stands after a step."""
        variance = (x - x.mean(0)).square().sum(1).mean()
        return TrainingStep(
            step=self.done,
            steps=self.steps,
            samples=self.done * self.config.batch_size,
            loss=result.loss.item(),
            fvu=(result.loss / variance).item(),
            l0=result.fired.sum().item() / self.config.batch_size,
            dead_share=self.watch.dead.double().mean().item(),
            density=self.watch.density(),
        )

    @contextmanager
    def kept_in(self, folder: Path | str | None, stop: Stop = None) -> Generator[Callable[[], None]]:
        """Go on from the checkpoint in a folder, and yield a function that writes one.

        However the block ends, the last whole step is left there. Without a folder nothing is kept.
        """
        if folder is None:
            yield lambda: None
            return
        source, tensors = self.source, {**self.learner.tensors(), **self.watch.tensors()}
        identity = {
            **asdict(self.config),
            "hook_name": source.hook_name,
            "model_name": source.model_name,
            **source.identity().facts,
            "samples": len(source),
            "d_in": source.d_model,
        }
        with _CHECKPOINT.resume(folder, identity, stop=stop) as out:
            if out.state:
                self.done = out.about["step"]
                for name, tensor in tensors.items():
                    tensor.copy_(torch.from_numpy(out.state[name]))
            saved = self.done

            def save() -> None:
                nonlocal saved
                write = out.finish if self.done == self.steps else out.checkpoint
                write({"step": self.done}, {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()})
                saved = self.done

            try:
                yield save
            finally:
                if self.whole and self.done != saved:
                    save()

    def sae(self) -> "SAE":
        """Return the SAE as it is now; its metadata say what it reads and how it was trained."""
        sae = self.learner.sae(self.scale)
        metadata = sae.cfg.metadata
        metadata.model_name, metadata.hook_name = self.source.model_name, self.source.hook_name
        metadata.prepend_bos, metadata.training_architecture = True, self.config.architecture
        for parameter in sae.parameters():
            parameter.requires_grad_(False)
        return sae.eval()


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


def _not_finite(step: int, batch: Tensor, lr: float) -> str:
    bad = int((~batch.isfinite()).any(1).sum())
    if bad:
        return f"batch {step} holds {bad} activations that are not finite: leave them out of the source"
    return f"training diverged at step {step}: the loss is not finite. Try a learning rate lower than {lr}"


def _schedule(share: float) -> float:
    """Learning rate as a share of its peak: up over the first 5 %, down over the last half."""
    return min(share / 0.05, 1, 2 * (1 - share) + 0.01)
