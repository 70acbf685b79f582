"""What a manifest says: names, dtypes, shapes and checksums of arrays, and JSON in one form."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saekit._base.identity import differences

MANIFEST = "manifest.json"
OWN = ("format", "finished", "arrays", "checksum")  # keys of the manifest that are not the room's
NUMBERS = "biufc"  # kinds of dtypes that are stored; never objects, whose bytes are addresses


def manifest_of(format: str, about: Mapping[str, Any], entries: dict[str, dict], *, finished: bool) -> dict:
    """Return a whole manifest as plain data, with a checksum of itself."""
    if taken := set(OWN) & set(about):
        raise ValueError(f"{', '.join(sorted(taken))}: the manifest uses these keys itself")
    manifest = plain({"format": format, "finished": finished, **about, "arrays": entries})
    return manifest | {"checksum": checksum(manifest)}


def checksum(manifest: dict) -> str:
    """Return the SHA-256 of all that a manifest says."""
    said = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back: tuples as lists, keys as text, NumPy's numbers as Python's."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not plain data: give arrays as arrays, the rest as JSON knows it")


def differing(about: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Say in what ``about`` differs from an identity, and what of it is not recorded; [] for nothing."""
    return differences(plain(identity), about, whole=True)


def part_of(about: Mapping[str, Any], before: str = "") -> str:
    """Return how much of an unfinished one there is, where its room counts "sequences" out of "of".

    Args:
        about: What it says.
        before: Text before the words, if there are any.
    """
    done, total = about.get("sequences"), about.get("of")
    return f"{before}{done:,} of {total:,} sequences" if isinstance(done, int) and isinstance(total, int) else ""


def entry_of(dtype: np.dtype, shape: tuple[int, ...], sha256: str) -> dict:
    """Return what the manifest says of one array."""
    return {"dtype": dtype.str, "shape": list(shape), "bytes": math.prod(shape) * dtype.itemsize, "sha256": sha256}


def file_of(name: str, entry: dict) -> str:
    """Return the name of the file that holds an array of a folder."""
    return entry.get("file", f"{name}.bin")


def little(array: Any) -> np.ndarray:
    """Return an array as it lies on disk: numbers, little-endian, in C order; a memory map stays one."""
    array = np.asanyarray(array)
    if array.dtype.kind not in NUMBERS:
        raise ValueError(f"only arrays of numbers are stored, not {array.dtype}")
    return array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
