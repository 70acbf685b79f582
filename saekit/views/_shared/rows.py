"""Example rows as plain data for the front-end, their activations end to end in one float32 array."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from saekit.index import Example


class Rows:
    """Collects example rows and lays their activations end to end."""

    def __init__(self) -> None:
        self._windows: list[np.ndarray] = []
        self._length = 0

    def add(self, examples: "Iterable[Example]") -> list[dict[str, Any]]:
        rows = []
        for example in examples:
            window = np.asarray(example.activations, dtype="<f4")
            rows.append(
                {
                    "value": number(example.value),
                    "tokens": [str(token) for token in example.tokens],
                    "at": self._length,
                    "peak": int(example.peak),
                    "duplicates": int(example.duplicates),
                    "sequence": int(example.sequence_id),
                    "position": int(example.position),
                }
            )
            self._windows.append(window)
            self._length += len(window)
        return rows

    def packed(self) -> bytes:
        return pack(np.concatenate(self._windows) if self._windows else np.zeros(0))


def example_rows(examples: "Iterable[Example]") -> tuple[list[dict[str, Any]], bytes]:
    """Return rows and their packed activations, for lists of examples outside a card (search results)."""
    rows = Rows()
    return rows.add(examples), rows.packed()


def pack(values: Any) -> bytes:
    """Return little-endian float32, the form in which arrays travel to the browser."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def number(value: Any) -> float | None:
    """Return a plain float; None for NaN and infinity, which JSON does not have."""
    value = float(value)
    return value if math.isfinite(value) else None
