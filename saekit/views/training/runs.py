"""The runs of the training view: their options, states and records, and what of these is drawn."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saekit.errors import SAEError

if TYPE_CHECKING:
    from sae_lens import SAE

    from saekit.training import TrainingStep

CURVES = ("loss", "fvu", "l0", "dead_share")
MOST_POINTS = 150  # of a curve: as many as a chart is wide
BINS, LOWEST = 30, -6  # of the density histogram: log10 density from LOWEST to 0
Trainer = Callable[..., "SAE"]


@dataclass
class Run:
    """A run: ``state`` is waiting, training, done, stopped or failed."""

    name: str
    options: dict[str, Any]
    own: dict[str, Any]  # those of the options that this run does not share with all
    state: str = "waiting"
    error: str = ""
    sae: "SAE | None" = None
    history: list["TrainingStep"] = field(default_factory=list)
    points: tuple[list[float], ...] = field(default_factory=lambda: tuple([] for _ in ("samples", *CURVES)))

    def begin(self) -> None:
        """Forget what an earlier training left, and be in training."""
        fresh = Run(self.name, self.options, self.own, state="training")
        vars(self).update(vars(fresh))

    def record(self, progress: "TrainingStep") -> None:
        """Keep one record; of the densities only the newest, which is all that is drawn."""
        if self.history:
            self.history[-1] = replace(self.history[-1], density=torch.empty(0))
        self.history.append(progress)
        for curve, value in zip(self.points, (progress.samples, *(getattr(progress, c) for c in CURVES)), strict=True):
            curve.append(value)

    @property
    def last(self) -> "TrainingStep | None":
        """The newest record."""
        return self.history[-1] if self.history else None

    def curves(self) -> Float[np.ndarray, "curve point"]:
        """Return samples, loss, FVU, L0 and dead share, one a row, at most `MOST_POINTS` points of each."""
        kept = thinned(len(self.points[-1]), MOST_POINTS).tolist()
        return np.array([[curve[i] for i in kept] for curve in self.points], dtype=np.float32)

    @property
    def all_samples(self) -> int:
        """Samples of the whole run, which has as many a step as its beginning; 0 before there is a record."""
        last = self.last
        return round(last.samples / last.step * last.steps) if last is not None and last.step else 0


def thinned(count: int, most: int) -> Int[np.ndarray, " kept"]:
    """Return which of ``count`` points to draw: at most ``most``, the first and the last always among them.

    Every n-th point, n a power of two: as points come in, those drawn stay drawn, and the curve does not shimmer.
    """
    apart = 1
    while math.ceil(count / apart) > most - 1:
        apart *= 2
    kept = np.arange(0, count, apart)
    return kept if not count or kept[-1] == count - 1 else np.append(kept, count - 1)


def histogram(density: Float[Tensor, " d_sae"]) -> dict[str, Any]:
    """Return how many features there are at each log10 density, those that never fired by themselves."""
    values = np.asarray(density.detach().float().cpu())
    fired = values[values > 0]
    exponents = np.clip(np.log10(fired), LOWEST, -1e-6)
    counts, _ = np.histogram(exponents, bins=BINS, range=(LOWEST, 0))
    return {"counts": counts.tolist(), "never": len(values) - len(fired), "features": len(values)}


def in_short(options: Mapping[str, Any]) -> str:
    """Return options as a short text that is the same in every session: no object shows its address."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in options.items())


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    text = str(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 40 else f"{text[:39]}…"


def checked_runs(
    runs: Mapping[str, Mapping[str, Any]] | Iterable[tuple[str, Mapping[str, Any]]],
    common: Mapping[str, Any],
    train: Trainer,
) -> list[Run]:
    """Return the runs, each with its options.

    Raises:
        SAEError: No run; a blank or repeated name; an option that the trainer does not know, or one that it lacks.
    """
    pairs = list(runs.items() if isinstance(runs, Mapping) else runs)
    if not pairs:
        raise SAEError('got no run to train: give at least one, for example {"TopK": dict(d_sae=1152, k=46)}')
    made: list[Run] = []
    for name, own in pairs:
        if not isinstance(name, str) or not name.strip():
            raise SAEError(f"the name of a run must be a text that is not blank, not {name!r}")
        if not isinstance(own, Mapping):
            raise SAEError(f"run {name!r} needs its options as a dict, for example dict(k=46), not {own!r}")
        name = name.strip()
        if name in [run.name for run in made]:
            raise SAEError(f"two runs are called {name!r}: give each a name of its own")
        options = {**common, **own}
        _check_options(name, options, train)
        made.append(Run(name, options, dict(own)))
    return made


def _check_options(run: str, options: Mapping[str, Any], train: Trainer) -> None:
    parameters = list(inspect.signature(train).parameters.values())[1:]  # the first is the activations
    if "on_step" in options:
        raise SAEError(f"run {run!r} has the option 'on_step', with which the view itself listens: leave it out")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.name != "on_step"]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise SAEError(f"run {run!r} has the option {option!r}, which the trainer does not take: {hint}")
    lacking = [p.name for p in parameters if p.default is p.empty and p.name not in options and p.name != "on_step"]
    if lacking:
        raise SAEError(f"run {run!r} lacks {', '.join(lacking)}: give it in the run's options, or as a keyword to all")
