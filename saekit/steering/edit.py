"""One edit of the residual stream: of which feature or along which direction, how, and how much."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from saekit.errors import SteeringError

MODES = ("add", "clamp", "ablate", "scale")
UNITS = ("max", "norm", "activation")
LARGEST = 1e9  # what an infinite value is taken as: as strong as any, and still a number in JSON
Positions = Literal["all", "generated"] | tuple[int, int]


@dataclass(frozen=True)
class Edit:
    """What happens to one feature, or along one direction. `Intervention.on` and `Intervention.along` make them.

    With activation f and decoder row d, the residual x becomes ``x + (c - f) d`` (clamp to c), ``x + c d`` (add),
    ``x - f d`` (ablate) or ``x + (c - 1) f d`` (scale by c): what the SAE does not explain stays as it is. Along a
    direction, d has length 1 and f is the projection of x on it.

    Attributes:
        feature: The feature, None for a direction.
        direction: The direction ``[d_model]``, of length 1; () for a feature.
        mode: ``"add"``, ``"clamp"``, ``"ablate"`` or ``"scale"``.
        value: c in ``unit``; not used by ablate.
        unit: Of the value for add and clamp. ``"max"``: multiples of ``maximum``. ``"norm"``: the length of what is
            added (or of what the feature contributes, clamped), in multiples of the residual's own length at that
            position. ``"activation"``: as the SAE counts.
        maximum: The feature's largest activation, for ``"max"``.
        name: What to call it.
    """

    feature: int | None = None
    direction: tuple[float, ...] = ()
    mode: str = "add"
    value: float = 1.0
    unit: str = "max"
    maximum: float | None = None
    name: str = ""

    def __post_init__(self):
        """Check the edit by itself; whether the SAE has the feature is checked where the SAE is known."""
        if (self.feature is None) == (not self.direction):
            raise SteeringError("an edit is of a feature or along a direction: expected one of the two")
        if self.feature is not None and (isinstance(self.feature, bool) or not whole(self.feature)):
            raise SteeringError(f"a feature is a whole number from 0 on, not {self.feature!r}")
        if self.feature is not None:
            object.__setattr__(self, "feature", int(self.feature))
        if not isinstance(self.name, str):
            raise SteeringError(f"the name must be text, not {self.name!r}")
        if self.mode not in MODES:
            raise SteeringError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.unit not in UNITS:
            raise SteeringError(f"unit must be one of {', '.join(UNITS)}, not {self.unit!r}")
        if not all(map(math.isfinite, self.direction)):
            raise SteeringError("the direction has components that are not finite numbers")
        object.__setattr__(self, "value", finite(self.value, "value"))
        if self.unit == "max" and self.mode in ("add", "clamp") and self.maximum is None:
            raise SteeringError(
                f"{self.label} has no known maximum: pass index= (a FeatureIndex knows it) or maximum=, or measure in "
                f"unit='norm' or 'activation'"
            )
        if self.maximum is not None and not 0 < self.maximum < math.inf:
            raise SteeringError(
                f"the maximum of {self.label} is {self.maximum:g}: expected a positive number. A feature that is dead "
                f"in the index has none: measure in unit='norm' or 'activation'"
            )

    @property
    def label(self) -> str:
        """What the edit is of: its name, or the feature's number."""
        return self.name or (f"feature {self.feature}" if self.feature is not None else "direction")

    def __repr__(self) -> str:
        unit = {"max": "x its maximum", "norm": "x the residual's norm", "activation": ""}[self.unit]
        amount = {"add": f"add {self.value:g} {unit}", "clamp": f"clamp to {self.value:g} {unit}",
                  "ablate": "ablate", "scale": f"scale by {self.value:g}"}[self.mode]  # fmt: skip
        return f"{self.label}: {amount}".rstrip()


def checked_positions(positions: Positions) -> Positions:
    """Return positions in their one form, or raise SteeringError."""
    if isinstance(positions, str):
        if positions in ("all", "generated"):
            return positions
    elif isinstance(positions, list | tuple) and len(positions) == 2 and all(map(whole, positions)):
        start, stop = map(int, positions)
        if start < stop:
            return start, stop
    raise SteeringError(
        f"positions must be 'all', 'generated' or (start, stop) with 0 <= start < stop, not {positions!r}"
    )


def whole(value: Any) -> bool:
    """Return whether a value is a whole number from 0 on, of Python or NumPy."""
    try:
        return not isinstance(value, str | float) and int(value) == value and value >= 0
    except (TypeError, ValueError):
        return False


def listed(values: Any, what: str, of: str) -> list:
    """Return several values as a list; raise SteeringError for a single one."""
    several: Any = None if isinstance(values, str) else values
    try:
        return list(several)
    except TypeError:
        raise SteeringError(f"{what} must be a list of {of}, not {values!r:.80}") from None


def checked_seed(seed: Any, what: str = "seed") -> int:
    """Return a seed as a whole number, or raise SteeringError."""
    if isinstance(seed, bool) or not whole(seed) or seed >= 2**63:
        raise SteeringError(f"{what} must be a whole number from 0 on, not {seed!r:.80}")
    return int(seed)


def finite(value: Any, what: str) -> float:
    """Return a value as a number, infinite ones as the largest; raise SteeringError for all else."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SteeringError(f"{what} must be a number, not {value!r}") from error
    if math.isnan(number):
        raise SteeringError(f"{what} is not a number (NaN): expected one. Infinite is taken as {LARGEST:g}")
    return max(-LARGEST, min(LARGEST, number))
