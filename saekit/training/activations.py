"""Activations on disk: one folder a hook point, raw half precision beside a manifest that says what they are."""

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saekit.errors import DataError

_MANIFEST = "manifest.json"
_ROWS = "activations.f16"  # raw little-endian float16, [token, d_model]
_FORMAT = "saekit activations 2"
_CHUNK = 1 << 26


@dataclass(frozen=True)
class Activations:
    """Activations of one hook point, memory-mapped, ``[token, d_model]`` in float16.

    BOS, separators, padding, special tokens and massive-norm tokens are not among them; ``excluded`` counts them.
    """

    path: Path
    rows: Float[np.ndarray, "token d_model"]
    hook_name: str
    model_name: str
    tokens_fingerprint: str
    excluded: dict[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.rows.shape[1]

    def batches(
        self, batch_size: int, *, passes: float = 1, seed: int = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "batch d_model"]]:
        """Yield float32 batches in an order that depends on the seed alone, a new one for every pass.

        Rows are drawn without replacement within a pass; an incomplete last batch is dropped. ``start`` leaves out
        the first batches, at no cost.
        """
        return shuffled(self.rows, batch_size, passes=passes, seed=seed, start=start)


def shuffled(
    rows: np.ndarray, batch_size: int, *, passes: float = 1, seed: int = 0, start: int = 0
) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Yield batches of an array's rows as `Activations.batches` does."""
    total = batch_count(len(rows), batch_size, passes)
    per_pass = len(rows) // batch_size
    turn = -1
    for number in range(start, total):
        if number // per_pass != turn:
            turn = number // per_pass
            order = np.random.default_rng((seed, turn)).permutation(len(rows))
        within = number % per_pass
        chosen = np.sort(order[within * batch_size : (within + 1) * batch_size])  # in file order: fewer page faults
        yield torch.from_numpy(rows[chosen].astype(np.float32))


def batch_count(samples: int, batch_size: int, passes: float) -> int:
    """Return how many whole batches there are, or raise DataError if there is none in a pass."""
    if batch_size < 2:
        raise DataError(f"batch_size must be at least 2, not {batch_size}: the variance of one sample is zero")
    if not passes > 0:
        raise DataError(f"passes must be more than 0, not {passes}")
    if samples < batch_size:
        raise DataError(f"{samples} activations are fewer than one batch of {batch_size}: use a smaller batch_size")
    if not (total := int(samples * passes) // batch_size):
        raise DataError(f"{passes} passes over {samples} activations are less than one batch of {batch_size}")
    return total


def load_activations(path: Path | str, *, verify: bool = True) -> Activations:
    """Open a folder written by `harvest`; one that was interrupted opens with what it has.

    Args:
        path: The folder.
        verify: Read it all once and compare its checksum (about a second a gigabyte).

    Raises:
        DataError: Not such a folder, a truncated or a damaged one.
    """
    path = Path(path)
    try:
        state = json.loads((path / _MANIFEST).read_text())
        size = (path / _ROWS).stat().st_size
        needed = state["rows"] * state["d_model"] * 2
        checksum = state["crc32"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is not a folder of activations that saekit wrote ({error!r})") from error
    if size < needed:
        raise DataError(f"{path} is truncated: {size} bytes of at least {needed}. Delete it and harvest again")
    if verify and (found := _crc32(path / _ROWS, needed)) != checksum:
        raise DataError(
            f"{path} is damaged: its checksum is {found:08x}, its manifest says {checksum:08x}. Delete it and harvest "
            f"again"
        )
    shape = (state["rows"], state["d_model"])
    rows = np.memmap(path / _ROWS, "<f2", "r", shape=shape) if state["rows"] else np.zeros(shape, "<f2")
    return Activations(
        path, rows, state["hook_name"], state["model_name"], state["tokens_fingerprint"], state["excluded"]
    )


def _crc32(path: Path, size: int) -> int:
    value = 0
    with path.open("rb") as file:
        while size > 0:
            chunk = file.read(min(_CHUNK, size))
            value, size = zlib.crc32(chunk, value), size - len(chunk)
    return value


class Writer:
    """Appends to one folder; ``sequences`` of the corpus are in it. Interrupted, it goes on from its checkpoint."""

    def __init__(self, path: Path, identity: dict) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.file: BinaryIO
        self.state: dict[str, Any] = self._resume({"format": _FORMAT, **identity})

    def _resume(self, identity: dict) -> dict[str, Any]:
        fresh = {**identity, "sequences": 0, "rows": 0, "crc32": 0, "excluded": {}}
        if not (self.path / _MANIFEST).exists():
            return fresh
        state = json.loads((self.path / _MANIFEST).read_text())
        differs = [key for key, value in identity.items() if state.get(key) != value]
        if differs:
            raise DataError(
                f"{self.path} holds activations of another {', '.join(differs)}: expected {identity[differs[0]]!r}, "
                f"found {state.get(differs[0])!r}. Choose another folder"
            )
        return state

    @property
    def sequences(self) -> int:
        """How many sequences of the corpus are done."""
        return self.state["sequences"]

    def open(self) -> BinaryIO:
        """Open the rows for appending; what came after the last checkpoint is dropped, to be done again."""
        rows = self.path / _ROWS
        self.file = rows.open("r+b" if rows.exists() else "w+b")
        self.file.truncate(self.state["rows"] * 2 * self.state["d_model"])
        self.file.seek(0, os.SEEK_END)
        return self.file

    def append(self, rows: Float[np.ndarray, "token d_model"], left_out: dict[str, int], sequences: int) -> None:
        """Add the rows of some sequences."""
        data = rows.tobytes()
        self.file.write(data)
        # One assignment: an interrupt finds the old state or the new one.
        self.state = self.state | {
            "sequences": self.state["sequences"] + sequences,
            "rows": self.state["rows"] + len(rows),
            "crc32": zlib.crc32(data, self.state["crc32"]),
            "excluded": {reason: n + self.state["excluded"].get(reason, 0) for reason, n in left_out.items()},
        }

    def checkpoint(self) -> None:
        """Make the rows safe first, then say that they are there."""
        self.file.flush()
        os.fsync(self.file.fileno())
        draft = self.path / f"{_MANIFEST}.part"
        draft.write_text(json.dumps(self.state, indent=1))
        draft.replace(self.path / _MANIFEST)


@dataclass(frozen=True)
class Samples:
    """Activations in memory, of whatever origin: what `train_sae` makes of a tensor."""

    rows: Float[np.ndarray, "sample d_in"]
    hook_name: None = None
    model_name: None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.rows.shape[1]

    @property
    def tokens_fingerprint(self) -> str:
        """A checksum of the numbers."""
        return f"{zlib.crc32(np.ascontiguousarray(self.rows).data):08x}"

    def batches(
        self, batch_size: int, *, passes: float = 1, seed: int = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Yield batches as `Activations.batches` does."""
        return shuffled(self.rows, batch_size, passes=passes, seed=seed, start=start)


def samples(activations: Tensor | np.ndarray) -> Samples:
    """Check a tensor of activations ``[sample, d_in]``."""
    rows = activations.detach().float().cpu().numpy() if isinstance(activations, Tensor) else np.asarray(activations)
    if rows.ndim != 2:
        raise DataError(f"activations must be [sample, d_in], not an array of shape {list(rows.shape)}")
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} of {len(rows)} activations hold a number that is not finite, the first in row "
            f"{int(bad.argmax())}: leave those rows out"
        )
    return Samples(rows)
