"""The setting of the steering view: plain data that goes to JSON and back, and the intervention that it stands for."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from saekit._base.checks import finite, seed_of, whole
from saekit.errors import SteeringError
from saekit.saes import sae_hook, sae_identity, sae_of
from saekit.steering import (
    MODES,
    UNITS,
    Edit,
    Intervention,
    bounded,
    check_feature,
    checked_positions,
)

if TYPE_CHECKING:
    from sae_lens import SAE

    from saekit.index import FeatureIndex

FORMAT = "saekit steering 1"
LONGEST = 1000  # tokens of one output
DEFAULTS: dict[str, Any] = {
    "prompt": "",
    "features": [],
    "unit": "max",
    "positions": "all",
    "temperature": 0.0,
    "seed": 0,
    "max_new_tokens": 40,
    "chat": None,
    "topic": "",
    "concept": "",
}
_ROW = ("feature", "mode", "value", "maximum")
_TEXTS = {"prompt": 100_000, "topic": 200, "concept": 500}  # most characters


def feature_rows(features: int | Iterable | Mapping[int, float], strength: float, mode: str) -> list[dict[str, Any]]:
    """Return features in any form in which they may be given as rows of a setting."""
    if isinstance(features, Mapping):
        return [{"feature": feature, "value": value, "mode": mode} for feature, value in features.items()]
    listed = features if isinstance(features, Iterable) and not isinstance(features, str) else [features]
    return [
        dict(one) if isinstance(one, Mapping) else {"feature": one, "value": strength, "mode": mode} for one in listed
    ]


def checked_setting(
    setting: Mapping[str, Any], model_name: str, sae: "SAE[Any]", index: "FeatureIndex | None"
) -> dict[str, Any]:
    """Return a setting in its full form, what it leaves out by default, its numbers as numbers.

    Raises:
        SteeringError: Something in it is not known, out of range, or of another SAE.
    """
    if not isinstance(setting, Mapping):
        raise SteeringError(f"a setting is a dictionary such as view.setting, not {type(setting).__name__}")
    own = {"format": FORMAT, "model": model_name, "hook_name": sae_hook(sae), "sae": sae_identity(sae).facts}
    unknown = [name for name in setting if name not in DEFAULTS and name not in (*own, "sae_hash")]
    if unknown:
        raise SteeringError(f"a setting has no {unknown[0]!r:.80}: it has {', '.join(DEFAULTS)}")
    if setting.get("format", FORMAT) != FORMAT:
        raise SteeringError(f"this is no setting of the steering view: its format is not {FORMAT!r}")
    if words := _other_sae(setting, sae):
        raise SteeringError(
            f"the setting is for another SAE ({setting.get('model')}, {setting.get('hook_name')}): its feature numbers "
            f"mean nothing in this one ({own['model']}, {own['hook_name']}): {'; '.join(words)} (the setting's against "
            f"the one given). Load the SAE that it was made with"
        )
    full = {**DEFAULTS, **{name: setting[name] for name in setting if name in DEFAULTS}}
    for name, most in _TEXTS.items():
        if not isinstance(full[name], str):
            raise SteeringError(f"{name} must be text, not {full[name]!r:.80}")
        if len(full[name]) > most:
            raise SteeringError(f"{name} has {len(full[name]):,} characters: expected at most {most:,}")
    if full["unit"] not in UNITS:
        raise SteeringError(f"unit must be one of {', '.join(UNITS)}, not {full['unit']!r:.80}")
    if full["chat"] not in (None, True, False):
        raise SteeringError(f"chat must be True, False or None, not {full['chat']!r:.80}")
    positions = checked_positions(full["positions"])
    seed = seed_of(full["seed"], name="the seed", error=SteeringError)
    temperature = finite("the temperature", full["temperature"], at_least=0, at_most=100, error=SteeringError)
    length = whole("the length in tokens", full["max_new_tokens"], at_least=1, at_most=LONGEST, error=SteeringError)
    rows = [_checked_row(row, full["unit"], sae, index) for row in _listed(full["features"])]
    features = [row["feature"] for row in rows]
    for feature in features:
        if features.count(feature) > 1:
            raise SteeringError(
                f"feature {feature} is in the list twice: one intervention a feature. Two pushes along the same "
                f"direction are one push as long as both: add their strengths up"
            )
    return {
        **own,
        **full,
        "features": rows,
        "positions": positions if isinstance(positions, str) else list(positions),
        "seed": seed,
        "temperature": temperature,
        "max_new_tokens": length,
    }


def _other_sae(setting: Mapping[str, Any], sae: "SAE[Any]") -> list[str]:
    """Say in what an SAE differs from that of a setting, whoever wrote it; [] where it does not, or it names none."""
    try:
        held = sae_of({"hook_name": sae_hook(sae), **setting})
    except (TypeError, ValueError) as error:
        raise SteeringError(f"the setting's sae must be a dictionary, not {setting.get('sae')!r:.80}") from error
    return held.difference(sae_identity(sae)) if held else []


def _listed(rows: Any) -> list:
    if not isinstance(rows, list | tuple):
        raise SteeringError(f"features must be a list, not {rows!r:.80}")
    return list(rows)


def _checked_row(row: Any, unit: str, sae: "SAE[Any]", index: "FeatureIndex | None") -> dict[str, Any]:
    row = dict(row) if isinstance(row, Mapping) else {"feature": row}
    if unknown := [name for name in row if name not in _ROW]:
        raise SteeringError(f"a feature of a setting has no {unknown[0]!r:.80}: it has {', '.join(_ROW)}")
    feature: Any = row.get("feature")
    mode = row.get("mode", "add")
    check_feature(sae, feature)
    if mode not in MODES:
        raise SteeringError(f"mode must be one of {', '.join(MODES)}, not {mode!r:.80}")
    maximum = row.get("maximum")
    if maximum is None and index is not None and not index.dead[feature]:
        maximum = float(index.max[feature])
    if maximum is not None:
        maximum = bounded("the maximum", maximum)
    if maximum is None and unit == "max" and mode in ("add", "clamp"):
        why = "it is dead in the index" if index is not None else "there is no index that knows it"
        raise SteeringError(
            f"feature {feature} has no known maximum ({why}), so multiples of it mean nothing: "
            f"measure strength in another unit, 'norm' or 'activation'"
        )
    value = bounded(f"the strength of feature {feature}", row.get("value", 1.0))
    found = {"feature": int(feature), "mode": mode, "value": value, "maximum": maximum}
    _edit(found, unit)  # says what else may be wrong
    return found


def intervention_of(setting: Mapping[str, Any], factor: float = 1.0) -> Intervention | None:
    """Return what a checked setting does; None where it does nothing: no features, or each of strength zero."""
    edits = tuple(_edit(row, setting["unit"]) for row in setting["features"] if not is_off(row))
    if not edits:
        return None
    positions = setting["positions"]
    positions = positions if isinstance(positions, str) else tuple(positions)
    return Intervention(edits, setting["hook_name"], positions, factor, sae_of(setting))


def is_off(row: Mapping[str, Any]) -> bool:
    """Return whether a feature is left alone: adding nothing, or scaling by one. To clamp to 0 is to ablate."""
    return {"add": row["value"] == 0, "scale": row["value"] == 1}.get(row["mode"], False)


def _edit(row: Mapping[str, Any], unit: str) -> Edit:
    needs = unit == "max" and row["mode"] in ("add", "clamp")
    return Edit(row["feature"], (), row["mode"], row["value"], unit, row["maximum"] if needs else None)


def from_json(text: str) -> dict[str, Any]:
    """Read a setting that was saved, whoever sent it; `checked_setting` says whether it can be used.

    Raises:
        SteeringError: The text is no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SteeringError(f"this is no saved setting: {error}. Expected the text that view.to_json() gives") from None
    if not isinstance(found, dict):
        raise SteeringError("this is no saved setting: expected the text that view.to_json() gives")
    return found


def amount_words(row: Mapping[str, Any], unit: str) -> str:
    """Say what is done to one feature, as `widgets/steering/state.js` does.

    >>> amount_words({"feature": 7, "mode": "add", "value": 1.5}, "max")
    'feature 7: add 1.5 × its maximum'
    """
    units = {"max": " × its maximum", "norm": " × the residual's length", "activation": " (activation)"}
    value = f"{row['value']:g}".replace("-", "−")
    what = {
        "add": f"add {value}{units[unit]}",
        "clamp": f"clamp to {value}{units[unit]}",
        "ablate": "ablate",
        "scale": f"scale by {value}",
    }
    return f"feature {row['feature']}: {what[row['mode']]}"


def setting_words(setting: Mapping[str, Any]) -> str:
    """Say what a setting does to the model, in one line."""
    rows = [amount_words(row, setting["unit"]) for row in setting["features"] if not is_off(row)]
    if not rows:
        return "nothing is steered"
    positions = setting["positions"]
    where = (
        {"all": "all tokens", "generated": "generated tokens"}.get(positions) if isinstance(positions, str) else None
    )
    return f"{'; '.join(rows)} · {where or 'tokens {} to {}'.format(*positions)}"
