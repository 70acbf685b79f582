"""What to change in the residual stream, as plain data: it compares, prints, and goes to JSON and back.

An `Edit` is of one feature or along one direction; an `Intervention` is one or several of them, and where they hold.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit._base.checks import finite, listed, one_of, real_tensor, whole
from saekit._base.identity import Identity
from saekit.errors import SteeringError
from saekit.index import check_belongs
from saekit.saes import check_rebuilds, decoder_rows, sae_hook, sae_identity, sae_of

if TYPE_CHECKING:
    from sae_lens import SAE

    from saekit.index import FeatureIndex

FORMAT = "saekit intervention 1"
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
        unit: Unit of the value for add and clamp. ``"max"``: multiples of ``maximum``. ``"norm"``: the length of what
            is added (or of what the feature contributes, clamped), in multiples of the residual's own length at that
            position. ``"activation"``: as the SAE counts.
        maximum: The feature's largest activation, for ``"max"``.
        name: What to call it.
        row: d of a feature ``[d_model]``, so that adding it takes no SAE; None where only the SAE knows it. It is
            the SAE's, so that it neither counts when two edits are compared nor goes to JSON.
    """

    feature: int | None = None
    direction: tuple[float, ...] = ()
    mode: str = "add"
    value: float = 1.0
    unit: str = "max"
    maximum: float | None = None
    name: str = ""
    row: Float[Tensor, " d_model"] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the edit by itself; whether the SAE has the feature is checked where the SAE is known."""
        if (self.feature is None) == (not self.direction):
            raise SteeringError("an edit is of a feature or along a direction: expected one of the two")
        if self.feature is not None:
            feature = whole("the feature", self.feature, at_least=0, error=SteeringError)
            object.__setattr__(self, "feature", feature)
        if not isinstance(self.name, str):
            raise SteeringError(f"the name must be text, not {self.name!r}")
        one_of("mode", self.mode, MODES, error=SteeringError)
        one_of("unit", self.unit, UNITS, error=SteeringError)
        if not all(map(math.isfinite, self.direction)):
            raise SteeringError("the direction has components that are not finite numbers")
        object.__setattr__(self, "value", bounded("value", self.value))
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
        unit = {"max": " x its maximum", "norm": " x the residual's norm", "activation": ""}[self.unit]
        amounts = {
            "add": f"add {self.value:g}{unit}",
            "clamp": f"clamp to {self.value:g}{unit}",
            "ablate": "ablate",
            "scale": f"scale by {self.value:g}",
        }
        return f"{self.label}: {amounts[self.mode]}"


@dataclass(frozen=True)
class Intervention:
    """Edits of one hook point, where in the text they hold, and how strong they are as a whole.

    Attributes:
        edits: At least one, each of another feature.
        hook_name: Where the residual stream is changed.
        positions: ``"all"``: every token but BOS, which no SAE of saekit was trained on. ``"generated"``: from the
            last token of the prompt on, so that every generated token is chosen under the intervention and the
            prompt is read as it is. ``(start, stop)``: these tokens, counted from 0 over prompt and output, BOS
            and markers of a chat template included.
        strength: Multiplies the value of add and clamp, and the change that ablate and scale make. At 0 the whole
            intervention is off, in every mode, and the output is that of the model left alone, bit for bit. To
            clamp to 0 is to ablate.
        sae_identity: What decides the numbers of the SAE that the features are of; None if there are only directions.
    """

    edits: tuple[Edit, ...]
    hook_name: str
    positions: Positions = "all"
    strength: float = 1.0
    sae_identity: Identity | None = None

    def __post_init__(self) -> None:
        """Check everything that can be checked without model and SAE."""
        object.__setattr__(self, "edits", tuple(self.edits))
        object.__setattr__(self, "strength", bounded("strength", self.strength))
        object.__setattr__(self, "positions", checked_positions(self.positions))
        if not self.edits:
            raise SteeringError("an intervention without edits: expected at least one. None stands for no intervention")
        features = self.features
        if twice := {feature for feature in features if features.count(feature) > 1}:
            raise SteeringError(
                f"feature {min(twice)} is edited twice: expected one edit per feature. Add their values up, or leave "
                f"one out"
            )
        widths = {len(edit.direction) for edit in self.edits if edit.direction}
        if len(widths) > 1:
            raise SteeringError(f"the directions have {sorted(widths)} components: expected the same number")

    # --- make one ----------------------------------------------------------------------------------------------

    @classmethod
    def on(
        cls,
        sae: "SAE[Any]",
        features: int | Iterable[int] | Mapping[int, float],
        value: float = 1.0,
        *,
        mode: str = "add",
        unit: str = "max",
        index: "FeatureIndex | None" = None,
        maximum: float | None = None,
        positions: Positions = "all",
        strength: float = 1.0,
    ) -> "Intervention":
        """Intervene on features of an SAE.

        Args:
            sae: The SAE; says the hook point, and gives the decoder rows.
            features: One feature, several, or a dictionary from features to their values.
            value: Value of each feature for which ``features`` gives none; see `Edit`.
            mode: ``"add"``, ``"clamp"``, ``"ablate"`` or ``"scale"``; see `Edit`.
            unit: ``"max"``, ``"norm"`` or ``"activation"``; see `Edit`.
            index: The SAE's index, which knows the features' largest activations, for ``unit="max"``.
            maximum: Largest activation of all these features, in place of the index's.
            positions: Where in the text the edits hold; see `Intervention`.
            strength: Strength of the whole.

        Raises:
            SteeringError: No such feature, mode, unit or position; no maximum to measure in; an SAE whose decoder
                rows are not what is added where it reads.
        """
        if isinstance(features, Mapping) and features:
            values = dict(features)
        else:
            wanted = list(features) if isinstance(features, Iterable) else [features]
            if len(set(wanted)) < len(wanted):
                raise SteeringError(f"a feature is named twice in {wanted}: expected each once")
            values = dict.fromkeys(wanted, value)
        if index is not None:
            check_belongs(index, sae=sae, error=SteeringError)
        edits = []
        for feature, amount in values.items():
            row = decoder_row(sae, feature)
            most = float(index.max[feature]) if index is not None and maximum is None else maximum
            needs = unit == "max" and mode in ("add", "clamp")
            edits.append(Edit(feature, (), mode, amount, unit, most if needs else None, row=row))
        return cls(tuple(edits), sae_hook(sae), positions, strength, sae_identity(sae))

    @classmethod
    def along(
        cls,
        direction: Tensor | np.ndarray | Sequence[float],
        hook_name: str,
        value: float = 1.0,
        *,
        mode: str = "add",
        unit: str = "norm",
        maximum: float | None = None,
        positions: Positions = "all",
        strength: float = 1.0,
        name: str = "direction",
    ) -> "Intervention":
        """Intervene along any direction: a difference of means, a probe's weights, a random one.

        Args:
            direction: A tensor, an array or a list ``[d_model]``; only where it points counts, not its length.
            hook_name: Where the residual stream is changed.
            value: How much; see `Edit`.
            mode: ``"add"``, ``"clamp"``, ``"ablate"`` or ``"scale"``; see `Edit`.
            unit: ``"max"``, ``"norm"`` or ``"activation"``; see `Edit`.
            maximum: Largest projection on the direction, for ``unit="max"``.
            positions: Where in the text the edit holds; see `Intervention`.
            strength: Strength of the whole.
            name: What to call the direction.

        Raises:
            SteeringError: The direction is no vector, zero or not finite, or no such mode, unit or position.
        """
        given = real_tensor("the direction", direction, shape="[d_model]", error=SteeringError)
        if not given.ndim or given.shape[-1] != given.numel():
            raise SteeringError(f"the direction must be a vector [d_model], not {list(given.shape)}")
        vector = given.detach().double().flatten()
        length = vector.norm()
        if not torch.isfinite(length) or not length:
            raise SteeringError("the direction is zero or not finite: expected a vector that points somewhere")
        unit_length = tuple((vector / length).float().tolist())
        return cls((Edit(None, unit_length, mode, value, unit, maximum, name),), hook_name, positions, strength)

    # --- change and combine ------------------------------------------------------------------------------------

    def scaled(self, strength: float) -> "Intervention":
        """Return this intervention with another strength as a whole."""
        return replace(self, strength=strength)

    def with_rows(self, sae: "SAE[Any]") -> "Intervention":
        """Return this intervention with the decoder rows of its features, for one that was made by hand or loaded.

        Raises:
            SteeringError: The features are of another SAE, or not of one to steer with.
        """
        check_sae(self, sae)
        edits = [
            edit if edit.feature is None else replace(edit, row=decoder_row(sae, edit.feature)) for edit in self.edits
        ]
        return replace(self, edits=tuple(edits))

    def __add__(self, other: "Intervention") -> "Intervention":
        """Return both at once. They must agree in hook point, positions and strength."""
        for name in ("hook_name", "positions", "strength"):
            if getattr(self, name) != getattr(other, name):
                raise SteeringError(
                    f"two interventions with {name} {getattr(self, name)!r} and {getattr(other, name)!r} cannot be "
                    f"one: expected the same"
                )
        mine, theirs = self.sae_identity, other.sae_identity
        if mine and theirs and (words := mine.difference(theirs)):
            raise SteeringError(
                f"these interventions are on features of two SAEs ({'; '.join(words)}): expected one SAE"
            )
        return replace(self, edits=self.edits + other.edits, sae_identity=mine or theirs)

    @property
    def features(self) -> list[int]:
        """The features that are edited, in order; [] where there are only directions."""
        return [edit.feature for edit in self.edits if edit.feature is not None]

    @property
    def label(self) -> str:
        """What is edited, in short."""
        return " + ".join(edit.label for edit in self.edits)

    def __repr__(self) -> str:
        where = self.positions if isinstance(self.positions, str) else "tokens {} to {}".format(*self.positions)
        times = "" if self.strength == 1 else f", strength {self.strength:g}"
        return f"{'; '.join(map(repr, self.edits))} (at {self.hook_name}, {where}{times})"

    # --- JSON --------------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain types, but for the decoder rows: ``"sae"`` says whose they are."""
        data = asdict(self)
        identity = data.pop("sae_identity")
        data["sae"] = identity and identity["facts"]
        for edit in data["edits"]:
            del edit["row"]
        return data

    def to_json(self) -> str:
        """Return the intervention as JSON text, without the decoder rows; `from_json` takes them from the SAE."""
        return json.dumps({"format": FORMAT, **self.as_dict()}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, sae: "SAE[Any] | None" = None) -> "Intervention":
        """Read what `to_json` wrote, whoever sent it.

        Args:
            text: The JSON text.
            sae: The SAE that the features must be of; it gives the decoder rows. None to check nothing, and to need
                the SAE where the intervention is used.

        Raises:
            SteeringError: The text is not an intervention, or it is one on another SAE.
        """
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
                raise ValueError(f"it has no format {FORMAT!r}")
            if not {"sae", "sae_hash"} & data.keys():
                raise ValueError("it does not say of which SAE its features are")
            data["sae_identity"] = sae_of(data)
            for name in ("sae", "sae_hash"):
                data.pop(name, None)
            _check_names(data, cls)
            for edit in data["edits"]:
                _check_names(edit, Edit)
                edit["direction"] = tuple(map(float, edit["direction"]))
            data["edits"] = tuple(Edit(**edit) for edit in data["edits"])
            data["hook_name"] = str(data["hook_name"])
            intervention = cls(**data)
        except SteeringError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SteeringError(
                f"this is not a saved intervention: {error}. Expected the text that Intervention.to_json returns"
            ) from error
        return intervention if sae is None else intervention.with_rows(sae)

    def save(self, path: Path | str) -> None:
        """Write the intervention to a JSON file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str, *, sae: "SAE[Any] | None" = None) -> "Intervention":
        """Read a file that `save` wrote; arguments and errors are those of `from_json`."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SteeringError(f"{path} cannot be read: {error}") from error
        return cls.from_json(text, sae=sae)


def decoder_row(sae: "SAE[Any]", feature: int) -> Float[Tensor, " d_model"]:
    """Return what one unit of a feature's activation writes into the residual stream: a copy, in float32.

    Raises:
        SteeringError: There is no such feature, or the SAE does not write where it reads, or not in its units.
    """
    check_feature(sae, feature)
    hint = "one of its decoder rows can be added with Intervention.along(sae.W_dec[feature], ...)"
    check_rebuilds(None, sae, error=SteeringError, hint=hint)
    if sae.cfg.normalize_activations != "none":
        raise SteeringError(
            f"the SAE rescales each input ({sae.cfg.normalize_activations!r}), so that its decoder rows have no length "
            f"in units of the residual stream: fold the scaling in first where it is one number for all inputs "
            f"(sae.fold_activation_norm_scaling_factor); else {hint}, with a length that you choose"
        )
    return decoder_rows(sae)[feature].cpu().clone()


def check_sae(intervention: Intervention, sae: "SAE[Any]") -> None:
    """Raise SteeringError if the features are of another SAE; one made by hand may not say of which they are."""
    held = intervention.sae_identity
    if held and (words := held.difference(sae_identity(sae))):
        raise SteeringError(
            f"the intervention on {intervention.label} is on features of another SAE, or of this one before it was "
            f"changed: {'; '.join(words)} (the intervention's against the one given). Pass the SAE that it was made "
            f"with, or make it anew: Intervention.on(sae, ...)"
        )


def check_feature(sae: "SAE[Any]", feature: Any) -> None:
    """Raise SteeringError if the SAE has no such feature."""
    try:
        whole("feature", feature, at_least=0, at_most=sae.cfg.d_sae - 1, error=SteeringError)
    except SteeringError:
        raise SteeringError(
            f"there is no feature {feature!r}: the SAE has {sae.cfg.d_sae:,}, numbered from 0 to {sae.cfg.d_sae - 1:,}"
        ) from None


def checked_positions(positions: Any) -> Positions:
    """Return positions in their one form, or raise SteeringError."""
    if isinstance(positions, str) and positions in ("all", "generated"):
        return positions
    try:
        start, stop = listed("positions", positions, "two numbers", error=SteeringError)
        start = whole("start", start, at_least=0, error=SteeringError)
        return start, whole("stop", stop, at_least=start + 1, error=SteeringError)
    except (SteeringError, ValueError):
        raise SteeringError(
            f"positions must be 'all', 'generated' or (start, stop) with 0 <= start < stop, not {positions!r:.80}"
        ) from None


def bounded(name: str, value: Any) -> float:
    """Return a number as a float, an infinite one as the largest; raise SteeringError for all else."""
    return max(-LARGEST, min(LARGEST, finite(name, value, infinite=True, error=SteeringError)))


def _check_names(data: dict, kind: type[Intervention | Edit]) -> None:
    names = {one.name for one in fields(kind)} - {"row"}
    if set(data) != names:
        odd = sorted(set(data) ^ names)
        raise ValueError(f"{kind.__name__.lower()} with unknown or missing {', '.join(map(str, odd))}")
