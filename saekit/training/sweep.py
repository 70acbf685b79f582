"""Many SAEs on the same activations, measured on the same held-out tokens: the data of a Pareto plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saekit.data import Tokens
from saekit.errors import DataError, SAEError
from saekit.training.learners import RANKED
from saekit.training.loop import train_sae

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge

_FORMAT = "saekit sweep 1"


@dataclass(frozen=True)
class SweepPoint:
    """One SAE of a sweep; measures as in `Evaluation`."""

    architecture: str
    setting: float  # k, or the coefficient of the sparsity penalty
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
    """Points of a sweep, and what they have in common."""

    points: tuple[SweepPoint, ...]
    provenance: dict[str, Any]  # model, hook point, corpus, tokens counted and left out, the command

    def __repr__(self) -> str:
        architectures = ", ".join(dict.fromkeys(point.architecture for point in self.points))
        seeds = len({point.seed for point in self.points})
        return f"Sweep of {len(self.points)} SAEs, {seeds} seeds: {architectures}"

    def save(self, path: Path | str) -> None:
        """Write the sweep as JSON."""
        rows = [list(asdict(point).values()) for point in self.points]
        content = {"format": _FORMAT, "provenance": self.provenance, "columns": [f.name for f in fields(SweepPoint)]}
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        text = json.dumps(content, indent=1)[:-2] + f',\n "points": [\n{lines}\n ]\n}}\n'
        Path(path).write_text(text, encoding="utf-8")


def load_sweep(path: Path | str | None = None) -> Sweep:
    """Read a sweep; without a path the one that comes with saekit (its provenance says how it was made).

    Raises DataError if the file is not a sweep.
    """
    path = Path(__file__).parents[1] / "assets/smollm2-135m/sweep.json" if path is None else Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {_FORMAT!r}")
        points = tuple(SweepPoint(**dict(zip(content["columns"], row, strict=True))) for row in content["points"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a sweep that saekit wrote ({error})") from error
    return Sweep(points, content["provenance"])


def train_sweep(
    activations: Any,
    runs: Sequence[Mapping[str, Any]],
    model: "SAETransformerBridge",
    held_out: Tokens,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    checkpoints: Path | str | None = None,
    progress: bool = True,
    **common: Any,
) -> Sweep:
    """Train every run with every seed on the same activations, and measure all on the same held-out tokens.

    Args:
        activations: As for `train_sae`; they must say their hook point (`Activations` or `ActivationStream`).
        runs: Arguments of `train_sae`, one dictionary an SAE: architecture, and k or coefficient.
        model: In float32.
        held_out: Text that the SAEs were not trained on.
        seeds: Each run is repeated with each.
        checkpoints: A folder; interrupted, the same call goes on where it was.
        progress: Show a progress bar.
        **common: Arguments of `train_sae` that all runs share, for example d_sae and passes.

    Raises:
        SAEError: A run cannot be used; said before anything is trained where that is possible.
    """
    from tqdm.auto import tqdm

    from saekit.evaluation import evaluate_many

    if not runs or not seeds:
        raise SAEError(f"a sweep needs at least one run and one seed, not {len(runs)} and {len(seeds)}")
    wanted: list[dict[str, Any]] = [{**common, **run, "seed": seed} for run in runs for seed in seeds]
    saes = []
    for number, options in enumerate(tqdm(wanted, desc="Sweep", unit="SAE", disable=not progress)):
        where = None if checkpoints is None else Path(checkpoints) / f"{number:03}"
        saes.append(train_sae(activations, **options, checkpoint=where))
    measured = evaluate_many(model, saes, held_out)
    points = []
    for options, found in zip(wanted, measured, strict=True):
        architecture = options.get("architecture", "topk")
        points.append(
            SweepPoint(
                architecture=architecture,
                setting=options["k" if architecture in RANKED else "coefficient"],
                seed=options["seed"],
                d_sae=options["d_sae"],
                samples=int(len(activations) * options.get("passes", 1)),
                l0=round(found.l0, 3),
                fvu=round(found.fvu, 5),
                dead_share=round(found.dead_share, 5),
                loss_recovered_zero=round(found.loss_recovered_zero, 5),
                loss_recovered_mean=round(found.loss_recovered_mean, 5),
            )
        )
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
