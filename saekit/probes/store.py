"""Results on disk: one safetensors file, numbers as arrays and the rest as JSON in its header. Never pickle."""

import json
from dataclasses import astuple, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saekit._base.cache import atomic
from saekit.errors import ProbeError

_FORMAT = 1


def write_result(path: Path | str, kind: str, about: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a result; the file is complete or absent, whatever interrupts."""
    from safetensors.numpy import save_file

    header = {"saekit": json.dumps({"format": _FORMAT, "kind": kind, **about})}
    with atomic(Path(path)) as draft:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft, metadata=header)


def write_plain(path: Path | str, kind: str, result: Any) -> None:
    """Write a result that is a dataclass of plain values, intervals among them: there are no arrays to keep."""
    write_result(path, kind, {field.name: _listed(getattr(result, field.name)) for field in fields(result)}, {})


def _listed(value: Any) -> Any:
    """Return a value as JSON knows it; an interval becomes [value, low, high]."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    return list(astuple(value)) if is_dataclass(value) else value


def read_result(path: Path | str, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Read a result back. Raises ProbeError if the file is missing, damaged, or holds something else."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ProbeError(f"no file {path}: expected a saved {kind}")
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {}).get("saekit", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise ProbeError(f"{path} cannot be read ({error}): is it complete, and saved by saekit?") from error
    if about.get("kind") != kind or about.get("format") != _FORMAT:
        held = f"a {about['kind']} of format {about.get('format')}" if "kind" in about else "nothing of saekit's"
        raise ProbeError(f"{path} holds {held}: expected a {kind} of format {_FORMAT}")
    return about, arrays
