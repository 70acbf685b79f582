"""Whether a model's files hold the whole model: what a folder lacks, and what transformers says of what it read.

transformers fills in at random what a file lacks and says so in a report, which transformer-lens silences.
"""

import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from saekit._base.text import byte_size
from saekit.errors import ModelError

_CONFIG_BYTES = 1 << 24  # a configuration has a few kilobytes
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot hold a model, before anything big is read.

    Args:
        folder: Model directory in transformers' format.

    Raises:
        ModelError: No configuration or one that is not JSON, no weights in safetensors, or a missing shard.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = "; this is a PEFT adapter: merge it into its model (merge_and_unload) and save that" if adapter else ""
        raise ModelError(f"{folder} has no config.json: expected a model directory in transformers' format{hint}")
    _json(folder / "config.json")
    if (folder / _WEIGHTS).is_file():
        return
    if not (folder / _INDEX).is_file():
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        hint = (
            f"; {', '.join(pickled[:3])} may run code when read: save the model again with transformers' "
            f"save_pretrained, which writes safetensors"
            if pickled
            else ""
        )
        raise ModelError(f"{folder} has no weights: expected {_WEIGHTS}, or shards and {_INDEX}{hint}")
    shards = _json(folder / _INDEX).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ModelError(f"{folder / _INDEX} has no weight_map: expected the name of a file for every weight")
    names = sorted(set(shards.values()))
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        raise ModelError(
            f"{folder} lacks {len(absent)} of its {len(names)} files of weights: {_some(absent)}. Download or copy "
            f"it again"
        )


def _json(path: Path) -> dict[str, Any]:
    """Return what a small JSON file holds."""
    if path.stat().st_size > _CONFIG_BYTES:
        raise ModelError(f"{path} has {byte_size(path.stat().st_size)}: expected a configuration of a few kilobytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested without an end
        raise ModelError(f"{path} is not JSON ({error}): is the folder complete?") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}: expected a JSON object")
    return content


class Listening:
    """A stand-in for transformers' class of a model, where upstream loads one: hears the report, and refuses.

    Args:
        source: Name of the model in messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def from_pretrained(self, name: str, **settings: Any) -> Any:
        """Load as transformers does, and refuse a model that is not the one in the files (`check_report`)."""
        from transformer_lens.model_bridge.sources.transformers import (
            determine_architecture_from_hf_config,
            get_hf_model_class_for_architecture,
        )

        kind = get_hf_model_class_for_architecture(determine_architecture_from_hf_config(settings["config"]))
        return loaded(self.source, kind, name, use_safetensors=True, **settings)


def loaded(source: str, kind: Any, name: str | Path, **settings: Any) -> Any:
    """Load a model of transformers and refuse one that is not the one in the files.

    Args:
        source: Name of the model in messages.
        kind: Class of transformers, such as AutoModelForCausalLM.
        name: Folder, or name on the hub.
        **settings: Arguments of its ``from_pretrained``.

    Raises:
        ModelError: A part would be random, or the files hold more than the configuration makes of them.
    """
    # With mismatched shapes ignored transformers lists them, too, instead of raising an error that names none.
    model, report = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True, **settings)
    check_report(source, model, report)
    return model


def check_report(source: str, model: Any, report: dict[str, Any]) -> None:
    """Refuse a model that is not the one in the files, by transformers' report on reading them.

    Args:
        source: Name of the model in messages.
        model: The model of transformers.
        report: Sets of ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``.

    Raises:
        ModelError: Weights are missing or have another shape, so that they would be random; or the files hold weights
            for parts of this model that the configuration leaves out, such as one more layer.

    Warns:
        UserWarning: The files hold weights beside those of the model, such as another head.
    """
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if shapes := sorted(report["mismatched_keys"]):
        several = _some([f"{key} is {list(got)}, not {list(wanted)}" for key, got, wanted in shapes])
        raise ModelError(
            f"{source}: {len(shapes)} weights have another shape than config.json says, and would be random: "
            f"{several}. The configuration is another model's"
        )
    if missing:
        total = len(model.state_dict())
        raise ModelError(
            f"{source}: {len(missing)} of {total} weights are not in its files, and would be random: {_some(missing)}. "
            f"{_advice(missing, unexpected)}"
        )
    if inside := [key for key in unexpected if _inside(model, key)]:
        raise ModelError(
            f"{source}: its files hold {len(inside)} weights that config.json makes no use of: {_some(inside)}. The "
            f"model would be another than the one that was saved: mend config.json, or take the weights out"
        )
    if unexpected:
        warnings.warn(
            f"{source}: its files hold {len(unexpected)} weights beside those of the model, which are not used: "
            f"{_some(unexpected)}",
            stacklevel=2,
        )


def _advice(missing: list[str], unexpected: list[str]) -> str:
    """Say by which part the names of the weights differ from the wanted ones, if that is all."""
    if not unexpected:
        return "Are config.json and the weights of one model?"
    wanted = set(missing)
    matched = {part: len({key.replace(part, "", 1) for key in unexpected} & wanted) for part in _parts(unexpected[0])}
    part = max(matched, key=lambda part: matched[part], default="")
    if not part or 2 * matched[part] < len(unexpected):
        return f"The files hold {len(unexpected)} weights of other names: {_some(unexpected)}"
    return (
        f"The files name {matched[part]} of them with {part!r} in front or within: take it out of the names. For each "
        f"file, weights = safetensors.torch.load_file(path), then safetensors.torch.save_file("
        f'{{name.replace("{part}", "", 1): weight for name, weight in weights.items()}}, path, {{"format": "pt"}})'
    )


def _parts(key: str) -> list[str]:
    """Return the runs of components before the last of a name, each with its dot: "a.b.c" has "a.", "a.b." and "b."."""
    names = key.split(".")[:-1]
    return [".".join(names[i:j]) + "." for i in range(len(names)) for j in range(i + 1, len(names) + 1)]


def _inside(model: Any, key: str) -> bool:
    """Return whether a weight would belong to a part that the model has, or to one more of its layers."""
    base = getattr(model, "base_model_prefix", "")
    known = {_pattern(name) for name, _ in model.named_modules() if name not in ("", base)}
    for full in (key, f"{base}.{key}"):
        above = _pattern(full).split(".")[:-1]
        if any(".".join(above[:n]) in known for n in range(1, len(above) + 1)):
            return True
    return False


def _pattern(name: str) -> str:
    """Return a name with its numbers left open: layer 3 is a layer."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
