"""Everything the top-activations view shows of one feature, as plain data for the front-end."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from saekit.views._shared.rows import Rows, number

if TYPE_CHECKING:
    from saekit.index import FeatureIndex

TOP = 20
INTERVALS, PER_INTERVAL = 5, 4
LOGITS = 10
NEIGHBOURS = 8


def feature_card(index: "FeatureIndex", feature: int, names: Mapping[int, str]) -> dict[str, Any]:
    """Return one feature's card. Activations of all windows stand in ``values``, float32 one after the other.

    Every example row says where its window begins in ``values`` (``at``), so that the front-end reads one array.
    """
    dead = bool(index.dead[feature])
    rows = Rows()
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
