"""A folder of arrays that is written bit by bit: appended to, checkpointed, finished, and taken up again."""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from saekit._base.files import file_digest, pour, room_for
from saekit._base.manifest import MANIFEST, differing, entry_of, file_of, little, manifest_of, plain, read_json

if TYPE_CHECKING:
    from saekit._base.store import Format

_CHECKPOINT_SECONDS = 60
Arrays = Mapping[str, np.ndarray]


class _Grown(NamedTuple):
    """A growing array: what of it there is, and the SHA-256 of that."""

    file: Any
    dtype: np.dtype
    shape: tuple[int, ...]
    digest: Any

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _Mark(NamedTuple):
    """What belongs together: the room's words, and how long each growing array was then."""

    about: dict[str, Any]
    grown: dict[str, _Grown]


class Writer:
    """Writes one folder; made by `Format.new` and `Format.resume`, which see to its lock and its end.

    Attributes:
        state: Whole arrays of the checkpoint that was taken up, in memory.
        finished: Whether the folder is finished.
    """

    def __init__(self, format: "Format", folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder, self.finished = folder, False
        self.state: dict[str, np.ndarray] = {}
        self._format, self._identity = format, plain(identity)
        self._entries: dict[str, dict] = {}  # of whole arrays
        self._grown: dict[str, _Grown] = {}
        self._mark = self._safe = _Mark({}, {})
        self._saved_at, self._ending = time.monotonic(), False

    @property
    def about(self) -> dict[str, Any]:
        """What the last mark said, the identity among it."""
        return self._mark.about | self._identity

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is a minute old."""
        return time.monotonic() - self._saved_at >= _CHECKPOINT_SECONDS

    def append(self, name: str, rows: np.ndarray) -> None:
        """Write rows to the end of a growing array; they count from the next mark or checkpoint on."""
        rows, grown = little(rows), self._grown.get(name)
        if name in self._entries:
            raise ValueError(f"{name} is written whole, and cannot be appended to")
        if grown is None:
            file = self._file(name).open("w+b", buffering=0)
            grown = self._grown[name] = _Grown(file, rows.dtype, (0, *rows.shape[1:]), hashlib.sha256())
        elif rows.dtype != grown.dtype or rows.shape[1:] != grown.shape[1:]:
            raise ValueError(f"{name} grows by {grown.dtype} {grown.shape[1:]}, not by {rows.dtype} {rows.shape[1:]}")
        digest = grown.digest.copy()
        grown.file.seek(grown.bytes)  # over what an interrupted call has left
        pour(grown.file, rows, digest)
        # One assignment: an interrupt finds the old state or the new one.
        self._grown[name] = grown._replace(shape=(grown.shape[0] + len(rows), *grown.shape[1:]), digest=digest)

    def empty(self, name: str, dtype: Any, shape: int | tuple[int, ...]) -> np.ndarray:
        """Return an array that lies in the folder, to be filled in any order and given to `finish`."""
        file, dtype = self._file(name), np.dtype(dtype).newbyteorder("<")
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        needed = math.prod(shape) * dtype.itemsize
        if not needed:
            return np.zeros(shape, dtype)
        with file.open("wb") as out, room_for(needed):
            if hasattr(os, "posix_fallocate"):  # without it a full disk would kill the process at some later write
                os.posix_fallocate(out.fileno(), 0, needed)
            else:
                out.truncate(needed)
        return np.memmap(file, dtype, "r+", shape=shape)

    def mark(self, about: Mapping[str, Any]) -> None:
        """Say that ``about`` and what was appended so far belong together: the next checkpoint keeps both."""
        self._mark = _Mark(plain(about), dict(self._grown))

    def checkpoint(self, about: Mapping[str, Any] | None = None, arrays: Arrays | None = None) -> None:
        """Make the last mark safe on disk: from here on the work goes on after whatever happens.

        Args:
            about: Mark this first.
            arrays: Whole arrays in place of those of the checkpoint before; None leaves those as they are.
        """
        mark = self._mark if about is None else _Mark(plain(about), dict(self._grown))
        self._write(mark, arrays, finished=False)

    def finish(self, about: Mapping[str, Any], arrays: Arrays | None = None) -> None:
        """Write the last checkpoint: ``about``, all growing arrays and ``arrays``; from here on `load` opens it."""
        self._write(_Mark(plain(about), dict(self._grown)), arrays or {}, finished=True)

    def _write(self, mark: _Mark, arrays: Arrays | None, *, finished: bool) -> None:
        entries = self._entries if arrays is None else {name: self._put(name, array) for name, array in arrays.items()}
        for grown in mark.grown.values():
            if finished or self._ending:
                grown.file.truncate(grown.bytes)  # what does not count takes room, perhaps the last that there was
            os.fsync(grown.file.fileno())
        grows = {
            name: entry_of(one.dtype, one.shape, one.digest.hexdigest()) | {"grows": True}
            for name, one in mark.grown.items()
        }
        about = {**mark.about, **self._identity}
        manifest = manifest_of(self._format.name, about, {**entries, **grows}, finished=finished)
        draft = self.folder / f"{MANIFEST}.part"
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the rename that makes it count must not reach the disk before it
        draft.replace(self.folder / MANIFEST)
        old = {file_of(name, entry) for name, entry in self._entries.items()}
        # Not before: what an interrupt or a full disk keeps from being written whole does not count.
        self._mark = self._safe = mark
        self._entries, self.finished, self._saved_at = entries, finished, time.monotonic()
        for file in old - {file_of(name, entry) for name, entry in {**entries, **grows}.items()}:
            (self.folder / file).unlink(missing_ok=True)

    def _put(self, name: str, array: np.ndarray) -> dict:
        """Write a whole array beside that of the last checkpoint, and describe it."""
        file, array = self._file(name), little(array)
        if name in self._grown:
            raise ValueError(f"{name} is appended to, and cannot be replaced")
        if isinstance(array, np.memmap) and Path(str(array.filename)) == file.resolve():  # from `empty`
            array.flush()
            return entry_of(array.dtype, array.shape, file_digest(file, array.nbytes).hexdigest())
        if name in self._entries and file_of(name, self._entries[name]) == file.name:
            file = self.folder / f"{name}~.bin"
        digest = hashlib.sha256()
        with file.open("wb", buffering=0) as out:
            pour(out, array, digest)
            os.fsync(out.fileno())
        entry = entry_of(array.dtype, array.shape, digest.hexdigest())
        return entry if file.name == f"{name}.bin" else {**entry, "file": file.name}

    def take_up(self) -> None:
        """Go on from the checkpoint in the folder; if there is none, write one that says whose it is."""
        if not (self.folder / MANIFEST).is_file():
            return self.checkpoint()
        stored = self._format.load(self.folder, verify=False, partial=True)
        if differs := differing(stored.about, self._identity):
            raise self._format.error(
                f"{self.folder} holds a {self._format.kind} of another {'; '.join(differs)} (what is asked for against "
                f"what is there). Choose another path, or delete it to start again"
            )
        for name, entry in read_json(self.folder / MANIFEST)["arrays"].items():
            array, file = stored.arrays[name], self.folder / file_of(name, entry)
            digest = file_digest(file, array.nbytes)
            if digest.hexdigest() != entry["sha256"]:
                raise self._format.damaged(self.folder, f"{file.name} was altered: its SHA-256 differs")
            if entry.get("grows"):
                opened = file.open("r+b", buffering=0)
                opened.truncate(array.nbytes)  # what came after the last checkpoint is done again
                self._grown[name] = _Grown(opened, array.dtype, array.shape, digest)
            else:
                self._entries[name], self.state[name] = entry, np.array(array)
        held = {file_of(name, entry) for name, entry in self._entries.items()} | {f"{name}.bin" for name in self._grown}
        for file in self.folder.glob("*.bin"):
            if file.name not in held and not file.is_symlink():  # of a checkpoint that a kill kept from counting
                file.unlink()
        self.finished = stored.finished
        self._mark = self._safe = _Mark(stored.about, dict(self._grown))

    def _file(self, name: str) -> Path:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{name!r} cannot be the name of an array: letters, digits, '_', '-' and '.' can")
        return self.folder / f"{name}.bin"

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, problem: object, trace: object) -> None:
        """Keep the last mark; the error that ends the block is more important than one on the way."""
        self._ending = True
        try:
            if self._mark is not self._safe:
                with nullcontext() if problem is None else suppress(OSError):
                    self.checkpoint()
        finally:
            for grown in self._grown.values():
                grown.file.close()
