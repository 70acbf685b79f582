"""Many SAEs on the same activations, measured on the same held-out tokens: the data of a Pareto plot."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from saekit._base.progress import Progress, Stop, tracked
from saekit._base.store import Format
from saekit.data import Tokens
from saekit.errors import DataError, SAEError
from saekit.models import model_identity, other_than
from saekit.training.activations import Activations
from saekit.training.architectures import ARCHITECTURES
from saekit.training.config import TrainConfig, TrainSettings
from saekit.training.harvesting import ActivationStream
from saekit.training.loop import trained

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_SWEEP = Format("sweep", 1, DataError, remedy="make it again with train_sweep")
_BUNDLED = Path(__file__).parents[1] / "assets/smollm2-135m/sweep.json"
_DIGITS = {"l0": 3, "fvu": 5, "dead_share": 5, "loss_recovered_zero": 5, "loss_recovered_mean": 5}


@dataclass(frozen=True)
class SweptSAE:
    """One SAE of a sweep; its measures are those of `Evaluation`.

    Attributes:
        architecture: Name of the architecture.
        setting: Its k, or its sparsity_coefficient.
        seed: Seed of the training.
        d_sae: Number of features.
        samples: Number of activations that it was trained on, each counted as often as it was seen.
        l0: Mean number of active features per token.
        fvu: Fraction of variance unexplained.
        dead_share: Share of the features that are active on no held-out token.
        loss_recovered_zero: Loss recovered when it is spliced in, against zeros.
        loss_recovered_mean: The same, against the mean activation.
    """

    architecture: str
    setting: float
    seed: int
    d_sae: int
    samples: int
    l0: float
    fvu: float
    dead_share: float
    loss_recovered_zero: float
    loss_recovered_mean: float


@dataclass(frozen=True)
class Sweep:
    """SAEs of a sweep, and what they have in common.

    Attributes:
        points: The SAEs.
        provenance: Model, hook point, corpus, tokens counted and left out, and settings that all runs share.
    """

    points: tuple[SweptSAE, ...]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        architectures = ", ".join(dict.fromkeys(point.architecture for point in self.points))
        seeds = len({point.seed for point in self.points})
        return f"Sweep of {len(self.points)} SAEs, {seeds} seeds: {architectures}"

    def save(self, path: Path | str) -> None:
        """Write the sweep to one file; JSON if its name ends in ``.json``."""
        points = [list(asdict(point).values()) for point in self.points]
        columns = [field.name for field in fields(SweptSAE)]
        _SWEEP.save_file(path, {"provenance": self.provenance, "columns": columns, "points": points})

    @classmethod
    def load(cls, path: Path | str | None = None) -> "Sweep":
        """Read a sweep.

        Args:
            path: File that `save` wrote; None for the sweep that comes with saekit (its provenance says how it was
                made).

        Raises:
            DataError: The file is not a sweep, or damaged.
        """
        path = _BUNDLED if path is None else Path(path)
        about = _SWEEP.load(path).about
        try:
            points = (SweptSAE(**dict(zip(about["columns"], row, strict=True))) for row in about["points"])
            return cls(tuple(points), about["provenance"])
        except (KeyError, TypeError, ValueError) as problem:
            raise _SWEEP.damaged(path, f"its columns and points do not agree ({problem})") from problem


def train_sweep(
    model: "SAETransformerBridge",
    activations: Activations | ActivationStream,
    runs: Sequence[Mapping[str, Any]],
    held_out: Tokens,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    checkpoints: Path | str | None = None,
    progress: Progress = True,
    stop: Stop = None,
    **common: Unpack[TrainSettings],
) -> Sweep:
    """Train every run with every seed on the same activations, and measure all on the same held-out tokens.

    Args:
        model: The language model, in float32.
        activations: Activations that say their model and hook point.
        runs: Fields of `TrainConfig`, one dictionary per SAE: architecture, and k or sparsity_coefficient.
        held_out: Text that the SAEs were not trained on.
        seeds: Seeds; each run is repeated with each of them.
        checkpoints: Folder for the states of training; interrupted, the same call goes on where it was.
        progress: Show a progress bar; or a function that is given (done, total) after each SAE.
        stop: Function that is asked between steps and while all are measured; once it returns True,
            `saekit.errors.Stopped` is raised.
        common: Fields of `TrainConfig` that all runs share, for example d_sae and epochs.

    Raises:
        SAEError: No run or no seed, settings that cannot be used (before anything is trained), or a training that
            failed.
    """
    from saekit.evaluation import evaluate_many

    if not runs or not seeds:
        raise SAEError(f"a sweep needs at least one run and one seed, not {len(runs)} and {len(seeds)}")
    if getattr(activations, "hook_name", None) is None:
        raise SAEError("activations must say their hook point: take those of harvest, or Activations.from_rows(x, ...)")
    held = activations.model_identity
    if held and (words := other_than(held, model_identity(model), "the harvest")):
        raise SAEError(
            f"the activations are of another model than the one that the SAEs are measured on: {'; '.join(words)} (the "
            f"activations' against the one given). Pass the model that was harvested"
        )
    configs = [TrainConfig.of(None, {**common, **run, "seed": seed}) for run in runs for seed in seeds]
    saes = []
    for number, config in enumerate(tracked(configs, progress, "SAE", stop=stop, title="Sweep")):
        where = None if checkpoints is None else Path(checkpoints) / f"{number:03}"
        saes.append(trained(config, activations, where, stop=stop))
    measured = evaluate_many(model, saes, held_out, stop=stop)
    points = [
        SweptSAE(
            architecture=config.architecture,
            setting=getattr(config, ARCHITECTURES[config.architecture].sparsity),
            seed=config.seed,
            d_sae=config.d_sae,
            samples=int(len(activations) * config.epochs),
            **{name: round(getattr(scores, name), digits) for name, digits in _DIGITS.items()},
        )
        for config, scores in zip(configs, measured, strict=True)
    ]
    provenance = {
        "model": activations.model_name,
        "hook_name": activations.hook_name,
        "activations": len(activations),
        "held_out": measured[0].held_out,
        "n_tokens": measured[0].n_tokens,
        "excluded": measured[0].excluded,
        **common,
    }
    return Sweep(tuple(points), provenance)
