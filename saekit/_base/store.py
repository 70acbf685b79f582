"""The one format on disk: named arrays, a manifest that says what they are, and a checksum for each.

A room says once what it stores, which error it raises and what is to be done about one that cannot be used:

    INDEX = Format("feature index", 1, FeatureIndexError, remedy="build it again, or copy it again")

A *folder* holds `manifest.json` and one file of raw little-endian numbers an array (`NAME.bin`), memory-mapped when
read. A *file* holds the same manifest in the header of a safetensors file; one that is called `.json` is the manifest
alone. ``about`` is what the room wants to say besides, as JSON knows it (tuples come back as lists, keys as text).

    INDEX.save_folder(path, {"d_sae": 4608}, {"count": count})     # complete under its name, or as before
    PROBE.save_file(path, {"name": "max"}, {"labels": labels})
    stored = INDEX.load(path)                                      # either; stored.about, stored.arrays

A folder that grows, and goes on where it was after Ctrl-C, a kill or a full disk:

    with ACTIVATIONS.resume(path, identity) as out:    # refused if what lies there is of another identity
        done = out.about.get("sequences", 0)           # out.state: the arrays of the last checkpoint
        for batch in ...:
            out.append("rows", rows)                   # at the end of a growing array
            out.mark({"sequences": done})              # what was appended and this belong together
            if out.due:
                out.checkpoint()                       # safe on disk; again at the end of the block, however it ends
        out.finish({"sequences": done})                # until then `load` refuses it, but for partial=True

`checkpoint(about, arrays)` also replaces whole arrays (weights, counts): a checkpoint of training is nothing else.
`with INDEX.new(path) as out` is for a folder that appears complete: `out.empty(name, dtype, shape)` is a memory-mapped
array in it, to be filled in any order, `out.finish(about, arrays)` the end. One process writes at a time, others wait
(`locked`). Errors are the room's and name the path, what was wrong and the remedy; a full disk is one of them.
"""

import json
import math
import operator
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saekit._base.files import atomic, digest_of, disk_errors, file_digest, free_bytes, pour
from saekit._base.locks import locked
from saekit._base.manifest import (
    MANIFEST,
    NUMBERS,
    OWN,
    checksum,
    differing,
    entry_of,
    file_of,
    little,
    manifest_of,
    part_of,
    read_json,
)
from saekit._base.progress import Stop
from saekit._base.text import byte_size
from saekit._base.writer import Arrays, Writer
from saekit.errors import SaekitError

_TYPES: dict[type, str] = {int: "a whole number, 0 or more", str: "text", dict: "names with values", list: "a list"}


@dataclass(frozen=True)
class Stored:
    """What was on disk: ``about`` as it was given, arrays by name, and whether it was finished."""

    about: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)
    finished: bool = True


@dataclass(frozen=True)
class Format:
    """One kind of thing that is stored.

    Attributes:
        kind: What it is called in messages: "feature index".
        version: Number of the layout, raised when an older saekit could not read it.
        error: Class of every error about it.
        remedy: What to do about one that is damaged or of another version: "build it again".
        fields: What ``about`` has to say in a finished one, and of which type; whole numbers are 0 or more.
    """

    kind: str
    version: int
    error: type[SaekitError]
    remedy: str
    fields: Mapping[str, type] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The format's name in the manifest."""
        return f"saekit {self.kind} {self.version}"

    # --- write -------------------------------------------------------------------------------------------------

    def save_file(self, path: Path | str, about: Mapping[str, Any], arrays: Arrays | None = None) -> None:
        """Write one file: safetensors, or JSON if its name ends in .json and there are no arrays.

        Raises ``error`` if the disk is full or ``path`` is a folder; what was there before is then untouched.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            raise self.error(f"{path} is a folder: name a file in it")
        ready = {name: little(array) for name, array in (arrays or {}).items()}
        entries = {name: entry_of(array.dtype, array.shape, digest_of(array)) for name, array in ready.items()}
        manifest = manifest_of(self.name, about, entries, finished=True)
        if path.suffix == ".json" and not ready:
            data = (json.dumps(manifest, indent=1) + "\n").encode()
        else:
            from safetensors.numpy import save

            data = save(ready, {"saekit": json.dumps(manifest)})
        with disk_errors(path, "nothing was written", error=self.error), atomic(path) as draft:
            with draft.open("wb", buffering=0) as file:
                pour(file, np.frombuffer(data, np.uint8))
                os.fsync(file.fileno())

    def save_folder(self, path: Path | str, about: Mapping[str, Any], arrays: Arrays) -> None:
        """Write a folder: complete under its name, or not at all. Raises like `new`."""
        with self.new(path) as out:
            out.finish(about, arrays)

    @contextmanager
    def new(self, path: Path | str, *, wait_seconds: float = -1, stop: Stop = None) -> "Generator[Writer]":
        """Yield a `Writer` of a folder that takes its name, and the place of one of its kind, once it is finished.

        Waits like `resume`. Raises ``error`` if something else is there, or the disk is full or cannot be written.
        """
        path = Path(path).expanduser().absolute()
        with locked(path, error=self.error, wait_seconds=wait_seconds, stop=stop):
            self.check_free(path)
            with disk_errors(path, "nothing was written", error=self.error), atomic(path) as draft:
                draft.mkdir()
                with Writer(self, draft, {}) as out:
                    yield out
                if not out.finished:
                    raise RuntimeError(f"the block that writes {path} ended without finish()")

    @contextmanager
    def resume(
        self, path: Path | str, identity: Mapping[str, Any], *, wait_seconds: float = -1, stop: Stop = None
    ) -> "Generator[Writer]":
        """Yield a `Writer` of a folder that grows in its place: from its last checkpoint, or from nothing.

        Args:
            path: The folder.
            identity: Everything that decides what is written. It becomes part of ``about``.
            wait_seconds: How long to wait for another process that writes there; -1 until it is done.
            stop: Function that is asked while it waits; once it returns True, `saekit.errors.Stopped` is raised.

        Raises:
            SaekitError: The format's ``error``: something else is there, or one of another identity, a damaged one, one
                that another process writes; or the disk is full, and the folder keeps its last checkpoint.
        """
        path = Path(path).expanduser().absolute()
        with locked(path, error=self.error, wait_seconds=wait_seconds, stop=stop):
            self.check_free(path)
            kept = "it keeps what was done up to the last checkpoint: call again with the same arguments to go on"
            with disk_errors(path, kept, error=self.error), Writer(self, path, identity) as out:
                path.mkdir(exist_ok=True)
                out.take_up()
                yield out

    def check_free(self, path: Path) -> None:
        """Raise ``error`` if something else than such a folder, of whatever version or state, is in the way."""
        begun = {f"{MANIFEST}.part"}  # the first thing that is written, in a folder whose writer was killed over it
        if not path.exists() or (path.is_dir() and {file.name for file in path.iterdir()} <= begun):
            return
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            if read_json(path / MANIFEST)["format"].rpartition(" ")[0] == f"saekit {self.kind}":
                return
        raise self.error(f"{path} is there already and is not a saekit {self.kind}: choose another path, or move it")

    def check_room(self, path: Path, needed: int) -> None:
        """Raise ``error`` if the disk has less than ``needed`` bytes left: before an hour's work, not after it."""
        if needed > (free := free_bytes(path)):
            raise self.error(
                f"{path} needs another {byte_size(needed)}, and its disk has {byte_size(free)} left: free some space, "
                f"or choose another path"
            )

    # --- read --------------------------------------------------------------------------------------------------

    def load(self, path: Path | str, *, verify: bool = True, partial: bool = False) -> Stored:
        """Read a file, or open a folder, whose arrays are memory-mapped and read-only.

        Args:
            path: The folder or file.
            verify: Compare every array with its checksum: a folder is read once, about a second a gigabyte.
            partial: Whether one that was not finished is opened too, as far as its last checkpoint.

        Raises:
            SaekitError: The format's ``error``: absent, foreign, of another version, unfinished, truncated or altered.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            manifest, read = self._folder(path), None
        elif path.is_file():
            manifest, read = self._file(path)
        else:
            raise self.error(f"there is no saekit {self.kind} at {path}")
        self._check(path, manifest)
        finished = bool(manifest.get("finished", True))
        if not finished and not partial:
            raise self.error(
                f"{path} is an unfinished {self.kind}{part_of(manifest, ', ')}: call what writes it again with the "
                f"same arguments to go on"
            )
        arrays = {} if read is None else read
        for name, entry in manifest.get("arrays", {}).items():
            if read is None:
                arrays[name] = self._mapped(path, name, entry, verify, finished)
            elif verify and entry != entry_of(read[name].dtype, read[name].shape, digest_of(read[name])):
                raise self.damaged(path, f"{name} is not what its manifest says")
        if read is None and self._folder(path) != manifest:  # replaced meanwhile: these are the arrays of another
            return self.load(path, verify=verify, partial=partial)
        return Stored({key: value for key, value in manifest.items() if key not in OWN}, arrays, finished)

    def holds(self, path: Path | str, identity: Mapping[str, Any]) -> bool:
        """Say whether a finished and undamaged one of exactly this identity is at ``path``."""
        try:
            about = self.load(path).about
        except self.error:
            return False
        return not differing(about, identity)

    def _folder(self, path: Path) -> dict:
        if not (path / MANIFEST).is_file():
            raise self.error(f"{path} is not a saekit {self.kind}: it has no {MANIFEST}")
        try:
            return read_json(path / MANIFEST)
        except (OSError, ValueError, RecursionError) as problem:
            raise self.damaged(path / MANIFEST, f"it cannot be read ({problem})") from problem

    def _file(self, path: Path) -> tuple[dict, dict[str, np.ndarray]]:
        from safetensors import SafetensorError, safe_open

        try:
            with path.open("rb") as file:
                head = file.read(9)
            if head[8:] != b"{":  # a safetensors file begins with the eight bytes of a length
                return read_json(path), {}
            with safe_open(path, framework="np") as file:
                manifest = json.loads((file.metadata() or {}).get("saekit", "{}"))
                return manifest, {name: file.get_tensor(name) for name in manifest.get("arrays", ())}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as problem:
            raise self.damaged(path, f"it cannot be read ({problem})") from problem

    def _check(self, path: Path, manifest: Any) -> None:
        """Raise ``error`` unless a manifest is of this format and as it was written."""
        held = manifest.get("format") if isinstance(manifest, dict) else None
        if held != self.name:
            kind, _, version = str(held).rpartition(" ")
            if kind == f"saekit {self.kind}":
                raise self.error(
                    f"{path} is a {self.kind} of version {version}, and this saekit reads version {self.version}: "
                    f"{self.remedy}"
                )
            if held is None:
                raise self.error(f"{path} holds nothing that saekit wrote, expected a saekit {self.kind}")
            raise self.error(
                f"{path} holds a {held!r}, expected a saekit {self.kind}. If an earlier saekit wrote it: {self.remedy}"
            )
        # The indexes that come with saekit are older than the manifest's own checksum, and than "finished".
        if {"finished", "checksum"} & manifest.keys() and checksum(manifest) != manifest.get("checksum"):
            raise self.damaged(path, "its manifest was altered")
        for name, wanted in self.fields.items():
            value = manifest.get(name)
            sound = isinstance(value, wanted) and not isinstance(value, bool) and not (wanted is int and value < 0)
            if not sound and (name in manifest or manifest.get("finished", True)):
                raise self.damaged(path, f"its manifest says {name} = {value!r}, expected {_TYPES[wanted]}")

    def _mapped(self, folder: Path, name: str, entry: dict, verify: bool, finished: bool) -> np.ndarray:
        """Map one array of a folder, if the manifest names numbers within the folder and they are there."""
        try:
            file, dtype = folder / file_of(name, entry), np.dtype(entry["dtype"])
            shape = tuple(map(operator.index, entry["shape"]))
            if file.parent != folder or "\\" in file.name or dtype.kind not in NUMBERS or min(shape, default=0) < 0:
                raise ValueError(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise self.damaged(folder, f"its manifest says of {name!r} what cannot be ({problem!r})") from problem
        size, needed = file.stat().st_size if file.is_file() else None, math.prod(shape) * dtype.itemsize
        if size is None or size < needed or (finished and size != needed):
            got = "is missing" if size is None else f"has {size:,} bytes"
            raise self.damaged(folder, f"{file.name} {got}, expected {needed:,}")
        if verify and "sha256" in entry and file_digest(file, needed).hexdigest() != entry["sha256"]:
            raise self.damaged(folder, f"{file.name} was altered: its SHA-256 differs from the manifest's")
        return np.memmap(file, dtype, "r", shape=shape) if needed else np.zeros(shape, dtype)

    def damaged(self, path: Path, why: str) -> SaekitError:
        """Return the error to raise about one that is not as it was written."""
        return self.error(f"{path} is damaged or foreign: {why}. Remedy: {self.remedy}")
