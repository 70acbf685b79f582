"""What a steering sweep found: points, curves, the best of each, and where fluency breaks."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from saekit.errors import SteeringError
from saekit.steering.intervention import Intervention

UNSTEERED = "unsteered"


@dataclass(frozen=True)
class SweepPoint:
    """One method at one strength: means over the prompts.

    Attributes:
        method: The target's label, the kind of baseline, or ``"unsteered"``.
        matched_to: The target whose edit this baseline is as long as; "" for anything else.
        strength: Of the target, or of the one it is matched to; 0 for unsteered, NaN for the prompt baseline.
        kl: See `SideEffects`; 0 for the prompt baseline, which does not change the model.
        perplexity: Geometric mean, each text judged after the plain prompt, also that of the prompt baseline, which
            was asked for with more words.
        repetition: See `SideEffects`.
        feature_share: See `SideEffects`.
        concept_share: See `SideEffects`.
        concept_hit: Share of texts with the concept in them at least once: by the criterion if there is one, else by
            the target features.
        edit_norm: See `SideEffects`.
        fluency: 0 to 1: perplexity of the unsteered text over that of this one, at most 1, times one minus the
            repetition that the unsteered text does not have. A measure of saekit's own, no judge as in AxBench.
        score: Harmonic mean of ``concept_hit`` and ``fluency``: 0 if one of them is.
        intervention: What was done; None where the model was left alone.
        texts: The output to each prompt.
    """

    method: str
    matched_to: str
    strength: float
    kl: float
    perplexity: float
    repetition: float
    feature_share: float
    concept_share: float
    concept_hit: float
    edit_norm: float
    fluency: float
    score: float
    intervention: Intervention | None
    texts: tuple[str, ...]


@dataclass(frozen=True)
class SteeringSweep:
    """Points of a sweep, and what could not be run.

    Attributes:
        prompts: The prompts.
        points: Unsteered first, then targets and baselines.
        skipped: Baselines that did not run, and why.
        complete: Whether the sweep ran to its end.
    """

    prompts: tuple[str, ...]
    points: tuple[SweepPoint, ...]
    skipped: dict[str, str]
    complete: bool = True

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of everything that was run, in order."""
        return tuple(dict.fromkeys(point.method for point in self.points))

    def curve(self, method: str, *, matched_to: str | None = None) -> tuple[SweepPoint, ...]:
        """Return the points of a method by strength, the unsteered one among them at 0.

        Args:
            method: One of ``methods``.
            matched_to: Of a baseline, where there are several targets: beside which one.

        Raises:
            SteeringError: No such method.
        """
        if method not in self.methods:
            raise SteeringError(f"no method {method!r} in this sweep: there are {', '.join(self.methods)}")
        found = [p for p in self.points if p.method == method and matched_to in (None, p.matched_to)]
        if not any(math.isnan(p.strength) for p in found):
            found += [p for p in self.points if p.method == UNSTEERED != method]
        return tuple(sorted(found, key=lambda p: p.strength))

    def best(self, method: str) -> SweepPoint:
        """Return the point with the highest score; of equal ones the weakest."""
        return max(self.curve(method), key=lambda p: (p.score, -abs(p.strength)))

    def breaks_at(self, method: str, *, fluency: float = 0.5) -> float | None:
        """Return the weakest strength above 0 at which fluency is below a limit, None if it holds throughout."""
        broken = [p.strength for p in self.curve(method) if p.strength > 0 and p.fluency < fluency]
        return min(broken, default=None)

    def as_dict(self) -> dict:
        """Return everything as plain types for JSON; numbers that do not exist as None."""
        return _plain(asdict(self))

    def __repr__(self) -> str:
        head = "method                       strength  edit     KL  perpl. repet. concept score"
        rows = [
            f"{p.method[:28]:28} {p.strength:8.2f} {p.edit_norm:5.2f} {p.kl:6.2f} {p.perplexity:7.1f} "
            f"{p.repetition:6.0%} {p.concept_hit:7.0%} {p.score:5.2f}"
            for p in self.points
        ]
        left = [f"not run: {name} ({why})" for name, why in self.skipped.items()]
        return "\n".join([head, *rows, *left, *([] if self.complete else ["stopped before its end"])])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
