"""Everything the image view shows of one feature, as plain data for the front-end."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from saekit.views._shared.rows import number, pack
from saekit.vision import ImageExample, ImageFeatures

TOP = 16
INTERVALS, PER_INTERVAL = 4, 8


def image_card(features: ImageFeatures, feature: int, names: Mapping[int, str]) -> dict[str, Any]:
    """Return one feature's card.

    Row ``at`` of an example stands for ``values[at]``, one float32 for each patch, and ``pixels[at]``, one byte for
    each pixel; both arrays lie end to end over all examples.
    """
    found = features.activations(feature)
    active = found[found > 0]
    pictures = _Pictures(features)
    groups = []
    if active.size:
        groups.append({"kind": "top", "rows": pictures.add(features.top(feature, TOP))})
        for interval in features.intervals(feature, INTERVALS, PER_INTERVAL):
            about = {"low": number(interval.low), "high": number(interval.high), "share": number(interval.share)}
            groups.append({"kind": "interval", **about, "rows": pictures.add(interval.examples)})
    edges, counts = features.histogram(feature)
    labelled = len(features.data.label_names) > 1
    return {
        "feature": feature,
        "name": names.get(feature, ""),
        "dead": not active.size,
        "density": number(features.density[feature]),
        "count": int(active.size),
        "images": int((found.max((1, 2)) > 0).sum()),
        "max": number(features.max[feature]) or 0.0,
        "mean": number(active.mean()) if active.size else None,
        "groups": groups,
        "values": pictures.values(),
        "pixels": pictures.pixels(),
        "histogram": {"edges": [number(e) for e in edges], "counts": [int(c) for c in counts]} if active.size else None,
        "classes": [[c.label, c.active, c.images] for c in features.classes(feature)] if labelled else [],
        "places": pack((found > 0).mean(0).ravel()),
    }


def image_facts(features: ImageFeatures) -> dict[str, Any]:
    """Return what is the same for every feature."""
    rows, columns = features.data.images.shape[1:]
    return {
        "d_sae": features.d_sae,
        "n_images": len(features.data),
        "n_patches": features.n_patches,
        "dead": int(features.dead.sum()),
        "l0": number(features.l0),
        "data": features.data.name,
        "hook": features.hook_name,
        "ink": features.data.ink,
        "pixels": [int(rows), int(columns)],
        "grid": [int(n) for n in features.grid],
        "own_text": "off",
    }


class _Pictures:
    """Collects examples and lays their patches and pixels end to end."""

    def __init__(self, features: ImageFeatures) -> None:
        self._images = features.data.images
        self._examples: list[ImageExample] = []

    def add(self, examples: Iterable[ImageExample]) -> list[dict[str, Any]]:
        rows = []
        for example in examples:
            about = {"image": example.image, "value": number(example.value), "label": example.label}
            rows.append({**about, "at": len(self._examples)})
            self._examples.append(example)
        return rows

    def values(self) -> bytes:
        return b"".join(pack(example.activations) for example in self._examples)

    def pixels(self) -> bytes:
        shown = (np.rint(255 * self._images[example.image]).astype(np.uint8) for example in self._examples)
        return b"".join(pixels.tobytes() for pixels in shown)
