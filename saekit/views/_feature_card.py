"""Everything the top-activations view shows of one feature, as plain data for the front-end."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from saekit.index import Example, FeatureIndex

TOP = 20
INTERVALS, PER_INTERVAL = 5, 4
LOGITS = 10
NEIGHBOURS = 8


def feature_card(index: "FeatureIndex", feature: int, names: Mapping[int, str]) -> dict[str, Any]:
    """Return one feature's card. Activations of all windows stand in ``values``, float32 one after the other.

    Every example row says where its window begins in ``values`` (``at``), so that the front-end reads one array.
    """
    dead = bool(index.dead[feature])
    rows = _Rows()
    groups = []
    if not dead:
        groups.append({"kind": "top", "rows": rows.add(index.top(feature, TOP))})
        for interval in index.intervals(feature, INTERVALS, PER_INTERVAL):
            groups.append(
                {
                    "kind": "interval",
                    "low": number(interval.low),
                    "high": number(interval.high),
                    "share": number(interval.share),
                    "rows": rows.add(interval.examples),
                }
            )
    return {
        "feature": feature,
        "name": names.get(feature, ""),
        "dead": dead,
        "density": number(index.density[feature]),
        "count": int(index.count[feature]),
        "max": number(index.max[feature]) or 0.0,
        "mean": number(index.mean_active[feature]),
        "groups": groups,
        "values": rows.packed(),
        "histogram": None if dead else _histogram(index, feature),
        "logits": _logits(index, feature),
        "neighbours": {
            by: [
                {
                    "feature": int(n.feature),
                    "score": number(n.score),
                    "name": names.get(int(n.feature), ""),
                }
                for n in _or_none(index.neighbours, feature, by=by, k=NEIGHBOURS)
            ]
            for by in ("decoder", "coactivation")
        },
    }


class _Rows:
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
    rows = _Rows()
    return rows.add(examples), rows.packed()


def pack(values: Any) -> bytes:
    """Return little-endian float32, the form in which arrays travel to the browser."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def number(value: Any) -> float | None:
    """Return a plain float; None for NaN and infinity, which JSON does not have."""
    value = float(value)
    return value if math.isfinite(value) else None


def _histogram(index: "FeatureIndex", feature: int) -> dict[str, list]:
    histogram = index.histogram(feature)
    return {
        "edges": [number(e) for e in histogram.edges],
        "counts": [int(c) for c in histogram.counts],
    }


def _logits(index: "FeatureIndex", feature: int) -> dict[str, list]:
    logits = _or_none(index.logits, feature, k=LOGITS)
    if not logits:
        return {"promoted": [], "suppressed": []}
    return {
        side: [[int(token), str(text), number(value)] for token, text, value in getattr(logits, side)]
        for side in ("promoted", "suppressed")
    }


def _or_none(query: Any, *args: Any, **kwargs: Any) -> Any:
    """Ask the index for something that not every index holds; the view then leaves that panel out."""
    from saekit.errors import FeatureIndexError

    try:
        return query(*args, **kwargs)
    except FeatureIndexError:
        return ()
