"""Results on disk: one safetensors file, numbers as arrays and the rest as JSON in its header. Never pickle."""

import json
from pathlib import Path

import numpy as np

from saekit._cache import atomic
from saekit.errors import ProbeError

_FORMAT = 1


def write_result(path: Path | str, kind: str, about: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a result; the file is complete or absent, whatever interrupts."""
    from safetensors.numpy import save_file

    header = {"saekit": json.dumps({"format": _FORMAT, "kind": kind, **about})}
    with atomic(Path(path)) as draft:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, draft, metadata=header)


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
