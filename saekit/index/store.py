"""A folder of named arrays: ``manifest.json`` and one raw little-endian file an array, memory-mapped when read."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saekit._base.cache import atomic
from saekit.errors import FeatureIndexError
from saekit.saes import ASSETS, DEFAULT, bundled, sae_fingerprint

if TYPE_CHECKING:
    from sae_lens import SAE

FORMAT = "saekit feature index 1"
# Two kinds of array are mostly redundancy: offsets are stored as the lengths between them, sorted owners as how many
# rows each has.
_OFFSETS = ("top_start", "sampled_start", "vocabulary_start")
_OWNERS = ("top_feature", "sampled_feature")
_CHECKED = 64_000_000  # bytes: files up to this size carry a SHA-256 that is compared on opening


def write_folder(path: Path, manifest: dict, arrays: Mapping[str, np.ndarray]) -> None:
    """Write manifest and arrays to ``path``: complete, or not at all."""
    with atomic(path) as draft:
        draft.mkdir()
        write_arrays(draft, manifest, arrays)


def write_arrays(folder: Path, manifest: dict, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into an existing folder, then the manifest that makes them count."""
    described = {}
    for name, array in arrays.items():
        stored = _packed(name, array)
        described[name] = describe(write_array(folder, name, stored), stored)
    text = json.dumps({**manifest, "format": FORMAT, "arrays": described}, indent=1)
    draft = folder / "manifest.json.part"
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(folder / "manifest.json")


def write_array(folder: Path, name: str, array: np.ndarray) -> Path:
    """Write one array as raw little-endian bytes, unless it lies there already as a memory map."""
    file = folder / f"{name}.bin"
    if isinstance(array, np.memmap) and Path(str(array.filename)) == file.resolve():
        array.flush()
    else:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        with file.open("wb") as out:
            out.write(np.ascontiguousarray(little).data if little.size else b"")
            out.flush()
            os.fsync(out.fileno())  # the rename that makes it count must not reach the disk before it
    return file


def new_array(folder: Path, name: str, dtype: str, size: int) -> np.ndarray:
    """Return an array of ``size`` numbers that lies in the folder, to be filled in any order.

    Raises OSError if there is no room: without asking first, a full disk would kill the process at some later write.
    """
    if not size:
        return np.zeros(0, dtype)
    with (folder / f"{name}.bin").open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size * np.dtype(dtype).itemsize)
        else:
            file.truncate(size * np.dtype(dtype).itemsize)
    return np.memmap(folder / f"{name}.bin", dtype, "r+", shape=(size,))


def describe(file: Path, array: np.ndarray) -> dict:
    """Return what the manifest says of one array."""
    about = {"dtype": array.dtype.newbyteorder("<").str, "shape": list(array.shape), "bytes": file.stat().st_size}
    if about["bytes"] <= _CHECKED:
        about["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return about


def writable(path: Path | str | None) -> tuple[Path, "tempfile.TemporaryDirectory | None"]:
    """Return where to write an index, and the owner of that place if it is a temporary one (``path`` None).

    Raises FeatureIndexError if something else stands there, which writing would replace.
    """
    if path is None:
        owner = tempfile.TemporaryDirectory(prefix="saekit-index-")
        return Path(owner.name) / "index", owner
    target = Path(path).expanduser().absolute()
    if target.exists() and not (target.is_dir() and (_is_index(target) or not any(target.iterdir()))):
        raise FeatureIndexError(f"{target} is there already and is no feature index: choose another path, or move it")
    return target, None


def holds(path: Path, identity: dict) -> bool:
    """Say whether a complete index of exactly this identity stands at ``path``."""
    if not _is_index(path):
        return False
    try:
        manifest, arrays = read_folder(path)
    except FeatureIndexError:
        return False
    if "coactivation_ids" in arrays:  # compacted since
        return False
    return all(manifest.get(key) == json.loads(json.dumps(value)) for key, value in identity.items())


def _is_index(folder: Path) -> bool:
    """Say whether a folder is an index, of whatever format and in whatever state."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return str(manifest["format"]).startswith("saekit feature index")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def bundled_index(sae: "SAE[Any] | None") -> str:
    """Return the name of the bundled SAE whose index this SAE has; if there is none, the default's."""
    wanted = None if sae is None else sae_fingerprint(sae)
    for name in bundled():
        manifest = ASSETS / name / "index/manifest.json"
        if manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["sae_hash"] == wanted:
            return name
    return DEFAULT


def read_folder(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Open a folder written by `write_folder`, arrays memory-mapped.

    Raises:
        FeatureIndexError: It is absent, foreign, of another format, truncated or altered; the message says which.
    """
    manifest_file = path / "manifest.json"
    if not manifest_file.is_file():
        unfinished = path.with_name(path.name + ".partial")
        hint = (
            f" {unfinished.name} beside it is an unfinished build: call build again with the same arguments to go on"
            if unfinished.is_dir()
            else ""
        )
        raise FeatureIndexError(f"{path} is not a feature index: it has no manifest.json.{hint}")
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        described = manifest["arrays"]
    except (ValueError, KeyError, TypeError) as error:
        raise FeatureIndexError(f"{manifest_file} cannot be read ({error}): it is damaged or foreign") from error
    if manifest.get("format") != FORMAT:
        raise FeatureIndexError(f"{path} has format {manifest.get('format')!r}, expected {FORMAT!r}: build it again")
    return manifest, {name: _unpacked(name, _read_array(path, name, about)) for name, about in described.items()}


def _packed(name: str, array: np.ndarray) -> np.ndarray:
    if name in _OFFSETS:
        array = np.diff(array)
    elif name in _OWNERS:
        array = np.bincount(array)
    else:
        return array
    return array.astype(np.min_scalar_type(array.max(initial=0)))


def _unpacked(name: str, array: np.ndarray) -> np.ndarray:
    if name in _OFFSETS:
        return np.concatenate([[0], np.cumsum(array, dtype=np.int64)])
    if name in _OWNERS:
        return np.repeat(np.arange(len(array), dtype=np.int32), array)
    return array


def _read_array(path: Path, name: str, about: dict) -> np.ndarray:
    if Path(name).name != name:
        raise FeatureIndexError(f"{path} names an array {name!r}: it would be read from outside the folder")
    file = path / f"{name}.bin"
    size = file.stat().st_size if file.is_file() else None
    dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size != expected:
        found = "is missing" if size is None else f"has {size:,} bytes"
        raise FeatureIndexError(
            f"{file} {found}, expected {expected:,}: the index is incomplete, build or copy it again"
        )
    if "sha256" in about and hashlib.sha256(file.read_bytes()).hexdigest() != about["sha256"]:
        raise FeatureIndexError(f"{file} was altered: its SHA-256 differs from the manifest. Build or copy it again")
    return np.memmap(file, dtype, "r", shape=shape) if expected else np.zeros(shape, dtype)
