"""What to change in the residual stream, as plain data: it compares, prints, and goes to JSON and back."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saekit._base.checks import real_tensor
from saekit.errors import SteeringError
from saekit.saes import sae_fingerprint, sae_hook
from saekit.steering.edit import Edit, Positions, checked_positions, finite, whole

if TYPE_CHECKING:
    from sae_lens import SAE

    from saekit.index import FeatureIndex

FORMAT = "saekit intervention 1"


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
        sae_hash: Which SAE the features are of, "" if there are only directions.
    """

    edits: tuple[Edit, ...]
    hook_name: str
    positions: Positions = "all"
    strength: float = 1.0
    sae_hash: str = ""

    def __post_init__(self):
        """Check everything that can be checked without model and SAE."""
        object.__setattr__(self, "edits", tuple(self.edits))
        object.__setattr__(self, "strength", finite(self.strength, "strength"))
        object.__setattr__(self, "positions", checked_positions(self.positions))
        if not self.edits:
            raise SteeringError("an intervention without edits: expected at least one. None stands for no intervention")
        features = [edit.feature for edit in self.edits if edit.feature is not None]
        if twice := {feature for feature in features if features.count(feature) > 1}:
            raise SteeringError(
                f"feature {min(twice)} is edited twice: expected one edit a feature. Add their values up, or leave "
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
            sae: The SAE; says the hook point.
            features: One, several, or a dictionary from features to their values.
            value: Of each feature, where ``features`` does not say: see `Edit`.
            mode: ``"add"``, ``"clamp"``, ``"ablate"`` or ``"scale"``, see `Edit`.
            unit: ``"max"``, ``"norm"`` or ``"activation"``, see `Edit`.
            index: Knows the features' largest activations, for ``unit="max"``.
            maximum: Stands for it where there is no index, for all features.
            positions: See `Intervention`.
            strength: Of the whole.

        Raises:
            SteeringError: No such feature, mode, unit or position; no maximum to measure in.
        """
        values = dict(features) if isinstance(features, Mapping) else {}
        if not values:
            wanted = [features] if not isinstance(features, Iterable) else list(features)
            if len(set(wanted)) < len(wanted):
                raise SteeringError(f"a feature is named twice in {wanted}: expected each once")
            values = dict.fromkeys(wanted, value)
        if index is not None:
            check_index(index, sae)
        edits = []
        for feature, amount in values.items():
            check_feature(sae, feature)
            most = float(index.max[feature]) if index is not None and maximum is None else maximum
            needs = unit == "max" and mode in ("add", "clamp")
            edits.append(Edit(int(feature), (), mode, amount, unit, most if needs else None))
        return cls(tuple(edits), sae_hook(sae), positions, strength, sae_fingerprint(sae))

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

        Only where it points counts, not its length: a tensor, an array or a list ``[d_model]``.

        Raises:
            SteeringError: The direction is no vector, zero or not finite, or no such mode, unit or position.
        """
        found = real_tensor("the direction", direction, shape="[d_model]", error=SteeringError)
        if not found.ndim or found.shape[-1] != found.numel():
            raise SteeringError(f"the direction must be a vector [d_model], not {list(found.shape)}")
        direction = found.detach().double().flatten()
        length = direction.norm()
        if not torch.isfinite(length) or not length:
            raise SteeringError("the direction is zero or not finite: expected a vector that points somewhere")
        unit_length = tuple((direction / length).float().tolist())
        return cls((Edit(None, unit_length, mode, value, unit, maximum, name),), hook_name, positions, strength)

    # --- change and combine ------------------------------------------------------------------------------------

    def scaled(self, strength: float) -> "Intervention":
        """Return this intervention with another strength as a whole."""
        return replace(self, strength=strength)

    def __add__(self, other: "Intervention") -> "Intervention":
        """Return both at once. They must agree in hook point, positions and strength."""
        for name in ("hook_name", "positions", "strength"):
            if getattr(self, name) != getattr(other, name):
                raise SteeringError(
                    f"two interventions with {name} {getattr(self, name)!r} and {getattr(other, name)!r} cannot be "
                    f"one: expected the same"
                )
        if self.sae_hash and other.sae_hash and self.sae_hash != other.sae_hash:
            raise SteeringError("these interventions are on features of two SAEs: expected one SAE")
        return replace(self, edits=self.edits + other.edits, sae_hash=self.sae_hash or other.sae_hash)

    @property
    def label(self) -> str:
        """What is edited, in short."""
        return " + ".join(edit.label for edit in self.edits)

    def __repr__(self) -> str:
        where = self.positions if isinstance(self.positions, str) else "tokens {} to {}".format(*self.positions)
        times = "" if self.strength == 1 else f", strength {self.strength:g}"
        return f"{'; '.join(map(repr, self.edits))} (at {self.hook_name}, {where}{times})"

    # --- JSON --------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """Return the intervention as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, sae: "SAE[Any] | None" = None) -> "Intervention":
        """Read what `to_json` wrote, whoever sent it.

        Args:
            text: The JSON text.
            sae: If given, the features must be of this SAE.

        Raises:
            SteeringError: The text is not an intervention, or it is one on another SAE.
        """
        try:
            data = json.loads(text)
            if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
                raise ValueError(f"it has no format {FORMAT!r}")
            _only(data, cls)
            for edit in data["edits"]:
                _only(edit, Edit)
                edit["direction"] = tuple(map(float, edit["direction"]))
            data["edits"] = tuple(Edit(**edit) for edit in data["edits"])
            data["hook_name"] = str(data["hook_name"])
            found = cls(**data)
        except SteeringError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SteeringError(
                f"this is not a saved intervention: {error}. Expected the text that Intervention.to_json returns"
            ) from error
        if sae is not None:
            check_sae(found, sae)
        return found

    def save(self, path: Path | str) -> None:
        """Write the intervention to a JSON file."""
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str, *, sae: "SAE[Any] | None" = None) -> "Intervention":
        """Read a file that `save` wrote; errors as in `from_json`."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SteeringError(f"{path} cannot be read: {error}") from error
        return cls.from_json(text, sae=sae)


def check_sae(intervention: Intervention, sae: "SAE[Any]") -> None:
    """Raise SteeringError if the features are of another SAE; one made by hand may not say of which they are."""
    if intervention.sae_hash and intervention.sae_hash != (got := sae_fingerprint(sae)):
        raise SteeringError(
            f"the intervention on {intervention.label} is on features of another SAE, or of this one before "
            f"its weights changed: got the SAE {got[:12]}, expected {intervention.sae_hash[:12]}. Pass the SAE that it "
            f"was made with, or make it anew: Intervention.on(sae, ...)"
        )


def check_index(index: "FeatureIndex", sae: "SAE[Any]") -> None:
    """Raise SteeringError if the index is of another SAE."""
    if index.sae_hash != sae_fingerprint(sae):
        raise SteeringError("the index is of another SAE: what it knows is of other features. Load the SAE's own index")


def check_feature(sae: "SAE[Any]", feature: int) -> None:
    """Raise SteeringError if the SAE has no such feature."""
    if isinstance(feature, bool) or not whole(feature) or feature >= sae.cfg.d_sae:
        raise SteeringError(
            f"there is no feature {feature!r}: the SAE has {sae.cfg.d_sae:,}, numbered from 0 to {sae.cfg.d_sae - 1:,}"
        )


def _only(data: dict, kind: type[Intervention | Edit]) -> None:
    names = {field.name for field in fields(kind)}
    if set(data) != names:
        odd = sorted(set(data) ^ names)
        raise ValueError(f"{kind.__name__.lower()} with unknown or missing {', '.join(map(str, odd))}")
